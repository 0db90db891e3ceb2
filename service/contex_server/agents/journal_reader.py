"""Reads agents' journals: what an agent knew at a moment, and who was sent what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from contex_server.agents.journal import (
    AgentKnowledge,
    RegistrationNote,
    SentDatum,
    SentMessage,
    decode_note,
    fold_journal,
    made_ms,
    note_pages,
    read_note,
)
from contex_server.kernel.errors import ContexError, Reason, agent_not_found
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Range, Sequence, utf8_bytes
from contex_server.kernel.scope import Scope
from contex_server.kernel.slices import sliced
from contex_server.log.agents import AgentStore, JournalStore
from contex_server.log.audit import Note
from contex_server.match.agent_codec import AgentDamaged, decode_agent

_PAGE = 256
_AGENTS = 200
"""Number of agents whose notes are fetched together."""

_RESENDS = 32
"""Messages with an event that are looked at: the first, and the newest."""

_TEXTS_BYTES = 512 * 1024

NeedTexts = dict[int, list[str]]
"""The texts of an agent's needs, by when the registration was made."""


@dataclass(frozen=True, slots=True)
class DeliveredNeed:
    """A need that an event was sent for; `need` is "" if it is not on record, or has no room."""

    need_index: int
    need: str
    score: float


@dataclass(slots=True)
class TextRoom:
    """Bytes that a response has for the texts of needs."""

    left: int = _TEXTS_BYTES

    def take(self, text: str) -> str:
        """The text, or "" if there is no room for it."""
        size = utf8_bytes(text)
        if size > self.left:
            return ""
        self.left -= size
        return text


@dataclass(frozen=True, slots=True)
class RecordedDelivery:
    """An event that was sent to an agent, and the message that carried it."""

    agent_id: str
    message: SentMessage
    datum: SentDatum
    needs: tuple[DeliveredNeed, ...]


@dataclass(frozen=True, slots=True)
class JournalReader:
    """Reads agents' journals."""

    agents: AgentStore
    store: JournalStore

    async def knowledge_at(self, project: str, agent_id: str, until_ms: int) -> AgentKnowledge:
        """What an agent knew at the end of a millisecond.

        Raises:
            ContexError: AGENT_NOT_FOUND if it was not registered then; RECORDS_EXPIRED.
        """
        until = Sequence(until_ms, END_OF_TIME.n)
        notes = await self._since_checkpoint(project, agent_id, until)
        if notes is None:
            return await self._knowledge_without_journal(project, agent_id, until)
        knowledge = await asyncio.to_thread(fold_journal, notes)
        if not knowledge.record:
            raise _not_registered(project, agent_id, until_ms)
        return knowledge

    async def deliveries_to(
        self,
        project: str,
        agent_id: str,
        span: Range,
        count: int,
        scope: Scope,
    ) -> tuple[list[RecordedDelivery], Sequence | None]:
        """What an agent was sent in a range of its journal, and where to continue.

        The events of a message stay together, so there may be more than `count`.

        Raises:
            ContexError: AGENT_NOT_FOUND if it has neither a journal nor a registration.
        """
        messages: list[SentMessage] = []
        events, place = 0, None
        async for note in self._notes(project, agent_id, span):
            message = await read_note(note, decode_note, note)
            if isinstance(message, SentMessage):
                messages.append(message)
                events += len(message.events)
                if events >= count:
                    place = message.place
                    break
        if not messages and await self._is_unknown(project, agent_id):
            raise agent_not_found(project, agent_id)
        return await self._deliveries(project, agent_id, messages, scope, TextRoom()), place

    async def recipients(
        self, project: str, event: Sequence, after: str, count: int, scope: Scope
    ) -> tuple[list[RecordedDelivery], str]:
        """Who was sent an event: all its deliveries, to agents with ids greater than `after`.

        Returns:
            About `count` deliveries, by agent, and the agent to continue after, or "".
        """
        places = await self.store.receivers(project, event)
        agent_ids = sorted(agent_id for agent_id in places if agent_id > after)
        recorded: list[RecordedDelivery] = []
        room = TextRoom()
        for start in range(0, len(agent_ids), _AGENTS):
            part = agent_ids[start : start + _AGENTS]
            pairs = [(agent_id, place) for agent_id in part for place in places[agent_id]]
            notes = await self.store.journal_notes(project, pairs)
            by_agent: dict[str, list[SentMessage]] = {agent_id: [] for agent_id in part}
            for (agent_id, _), note in zip(pairs, notes, strict=True):
                message = None if note is None else decode_note(note)
                if isinstance(message, SentMessage):
                    by_agent[agent_id].append(message)
            for agent_id, messages in by_agent.items():
                deliveries = await self._deliveries(project, agent_id, messages, scope, room)
                recorded += [d for d in deliveries if d.datum.event == event]
                if len(recorded) >= count and agent_id != agent_ids[-1]:
                    return recorded, agent_id
        return recorded, ""

    async def sent_by(
        self, project: str, agent_id: str, event: Sequence, scope: Scope
    ) -> list[tuple[SentDatum, bytes]]:
        """The registrations by which an agent was sent an event, oldest first.

        Each comes with what was sent; those that are no longer on record are left out.
        """
        places = (await self.store.receivers(project, event)).get(agent_id, [])
        if len(places) > _RESENDS:
            places = places[:1] + places[1 - _RESENDS :]
        notes = await self.store.journal_notes(project, [(agent_id, place) for place in places])
        decoded = [decode_note(note) for note in notes if note is not None]
        first: dict[int, tuple[SentDatum, Sequence]] = {}
        for message in decoded:
            if not isinstance(message, SentMessage):
                continue
            for sent in message.events:
                if sent.event == event and scope.admits(sent.data_key):
                    first.setdefault(sent.registration, (sent, message.place))
        records: dict[int, bytes] = {}
        for registration, (_, place) in first.items():
            if registration not in records:
                before = await self._since_checkpoint(project, agent_id, place)
                for _, record in _records_in(before or ()):
                    if record:
                        records[made_ms(record)] = record
        return [(sent, records[made]) for made, (sent, _) in first.items() if made in records]

    async def registration_at(self, project: str, agent_id: str, event: Sequence) -> bytes:
        """The registration as of an event; the first one on record if that is later.

        b"" if none is on record.
        """
        until = Sequence(event.ms, END_OF_TIME.n)
        before = await self._since_checkpoint(project, agent_id, until)
        held = b""
        for registered, record in _records_in(before or ()):
            if registered is None or registered <= event:
                held = record
        if held:
            return held
        since = Range(Sequence(event.ms, 0).prev()) if event > BEGINNING else Range()
        async for note in self._notes(project, agent_id, since):
            for registered, record in _records_in([note]):
                if record and (registered is None or registered > event):
                    return record
        return b""

    async def _deliveries(
        self,
        project: str,
        agent_id: str,
        messages: list[SentMessage],
        scope: Scope,
        room: TextRoom,
    ) -> list[RecordedDelivery]:
        texts = await self._texts(project, agent_id, messages)
        return [
            RecordedDelivery(agent_id, message, datum, delivered_needs(datum, texts, room))
            for message in messages
            async for datum in sliced(message.events)
            if scope.admits(datum.data_key)
        ]

    async def _texts(self, project: str, agent_id: str, messages: list[SentMessage]) -> NeedTexts:
        """The needs that messages refer to, as far as they are on record."""
        if not messages:
            return {}
        registrations = {sent.registration for message in messages for sent in message.events}
        places = [message.place for message in messages]
        stored = await self.agents.agent(project, agent_id)
        texts = {} if stored is None else need_texts([stored.record])
        for place in (max(places), min(places)):
            if not registrations <= texts.keys():
                notes = await self._since_checkpoint(project, agent_id, place)
                texts |= _texts_in(notes or ())
        if not registrations <= texts.keys():
            between = await self.store.journal(
                project, agent_id, Range(min(places), max(places)), len(places) + 10 * _PAGE
            )
            texts |= _texts_in(between)
        return texts

    async def _since_checkpoint(
        self, project: str, agent_id: str, until: Sequence
    ) -> list[Note] | None:
        """The notes from the newest checkpoint up to a place; None if there is no checkpoint."""
        notes: list[Note] = []
        span = Range(until=until, backwards=True)
        async for note in self._notes(project, agent_id, span):
            notes.append(note)
            if b"k" in note.fields and isinstance(decode_note(note), AgentKnowledge):
                return notes[::-1]
        return None

    async def _knowledge_without_journal(
        self, project: str, agent_id: str, until: Sequence
    ) -> AgentKnowledge:
        """What an agent knew whose journal has no checkpoint up to a place."""
        async for note in self._notes(project, agent_id, Range()):
            if b"k" in note.fields:
                if note.sequence > until and not note.fields.get(b"record"):
                    raise _not_registered(project, agent_id, until.ms)
                raise ContexError(
                    Reason.RECORDS_EXPIRED,
                    f"what agent {agent_id!r} knew is on record from {_iso(note.sequence)} on",
                    metadata={"earliest_time": _iso(note.sequence)},
                )
        stored = await self.agents.agent(project, agent_id)
        if stored is None:
            raise agent_not_found(project, agent_id)
        # Registered before there were journals, and not active since.
        return AgentKnowledge(record=stored.record, cursor=stored.cursor)

    async def _notes(self, project: str, agent_id: str, span: Range) -> AsyncGenerator[Note, None]:
        async for page in note_pages(partial(self.store.journal, project, agent_id), span, _PAGE):
            for note in page:
                yield note

    async def _is_unknown(self, project: str, agent_id: str) -> bool:
        if await self.store.journal(project, agent_id, Range(), 1):
            return False
        return await self.agents.agent(project, agent_id) is None


def need_texts(records: Iterable[bytes]) -> NeedTexts:
    """The texts of the needs of stored registrations; none of those that are damaged."""
    texts: NeedTexts = {}
    for record in records:
        try:
            agent = decode_agent(record)
        except AgentDamaged:
            continue
        texts[made_ms(record)] = [need.text for need in agent.needs]
    return texts


def delivered_needs(
    datum: SentDatum, texts: NeedTexts, room: TextRoom
) -> tuple[DeliveredNeed, ...]:
    """The needs that a datum was sent for, with their texts."""
    known = texts.get(datum.registration, [])
    return tuple(
        DeliveredNeed(index, room.take(known[index]) if index < len(known) else "", score)
        for index, score in datum.needs
    )


def _records_in(notes: Iterable[Note]) -> Iterator[tuple[Sequence | None, bytes]]:
    """The registrations in notes, in their order, each with its event; b"" where there is none.

    That of a checkpoint, which is written before a change, has no event.
    """
    for note in notes:
        if b"k" in note.fields or b"r" in note.fields:
            decoded = decode_note(note)
            if isinstance(decoded, AgentKnowledge):
                yield None, decoded.record
            elif isinstance(decoded, RegistrationNote):
                yield decoded.event, decoded.record


def _texts_in(notes: Iterable[Note]) -> NeedTexts:
    texts: NeedTexts = {}
    for note in notes:
        if b"k" in note.fields or b"r" in note.fields:
            decoded = decode_note(note)
            if isinstance(decoded, AgentKnowledge):
                texts |= decoded.texts
            if isinstance(decoded, AgentKnowledge | RegistrationNote) and decoded.record:
                texts |= need_texts([decoded.record])
    return texts


def _not_registered(project: str, agent_id: str, unix_ms: int) -> ContexError:
    error = agent_not_found(project, agent_id)
    return ContexError(
        error.reason,
        f"agent {agent_id!r} was not registered in project {project!r} at "
        f"{_iso(Sequence(unix_ms, 0))}",
        metadata=error.metadata,
        field=error.field,
    )


def _iso(place: Sequence) -> str:
    return datetime.fromtimestamp(place.ms / 1000, UTC).isoformat(timespec="milliseconds")

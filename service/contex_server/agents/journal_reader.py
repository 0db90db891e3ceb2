"""Reads agents' journals: what an agent knew at a moment, and who was sent what.

What an agent was sent is the part of its inbox up to which the journal says that it was sent. Of
answers, and of what earlier versions sent, the journal itself says what it was.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from contex_server.agents.journal import (
    AgentKnowledge,
    DeliveredNeed,
    InboxSent,
    RegistrationNote,
    SentDatum,
    SentMessage,
    decode_note,
    fold_journal,
    made_ms,
    note_pages,
    read_note,
)
from contex_server.agents.visibility import Viewer, visible_among
from contex_server.inbox.entry import Decision
from contex_server.inbox.reader import InboxReader
from contex_server.inbox.subscriber import Subscriber
from contex_server.kernel.errors import ContexError, Reason, agent_not_found
from contex_server.kernel.inbox_ids import LAST_ENTRY, event_of, inbox_id, last_place
from contex_server.kernel.model import (
    BEGINNING,
    END_OF_TIME,
    Change,
    Range,
    Sequence,
    utf8_bytes,
)
from contex_server.kernel.scope import Scope
from contex_server.kernel.slices import sliced
from contex_server.log.agents import AgentStore, JournalStore
from contex_server.log.audit import Note
from contex_server.log.inboxes import InboxEntry
from contex_server.match.agent_codec import AgentDamaged, decode_agent

_PAGE = 256
_INBOX_PAGE = 500
_SEARCHED = 4_096
"""Notes of a journal that are searched for those that tell when an entry was sent."""
_STREAM = "stream"
_AGENTS = 200
"""Number of agents whose notes are fetched together."""

_RESENDS = 32
"""Messages with an event that are looked at: the first, and the newest."""

_TEXTS_BYTES = 512 * 1024

NeedTexts = dict[int, list[str]]
"""The texts of an agent's needs, by when the registration was made."""


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
    inboxes: InboxReader

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
        await self._add_inbox(project, agent_id, knowledge, until)
        return knowledge

    async def _add_inbox(
        self, project: str, agent_id: str, knowledge: AgentKnowledge, until: Sequence
    ) -> None:
        """What an agent knew by its inbox."""
        made = made_ms(knowledge.record)
        trimmed = (await self.inboxes.store.inbox_end(project, agent_id)).trimmed.upto
        if BEGINNING < knowledge.inbox < trimmed:
            raise _expired(agent_id, trimmed)
        sent: dict[str, tuple[Sequence, Decision]] = {}
        span = Range(until=min(knowledge.inbox, inbox_id(until)))
        async for place, decision in self._decisions(project, agent_id, span):
            if not decision.data_key:
                continue
            before = sent.get(decision.data_key)
            if (
                decision.change is Change.ERASED
                and before
                and before[1].revision > decision.revision
            ):
                continue  # It holds a later revision than those that it was told to forget.
            sent[decision.data_key] = place, decision
        async for name, (place, decision) in sliced(sent.items()):
            last = knowledge.deliveries.get(name)
            if last is None or last.revision <= decision.revision:
                knowledge.deliveries[name] = _sent_datum(decision, made, place.ms, place=place)

    async def unsent(
        self, project: str, agent_id: str, knowledge: AgentKnowledge, until: Sequence
    ) -> dict[str, Decision]:
        """What an agent's inbox was still to tell it of each datum in the end, by events up to
        one."""
        span = Range(knowledge.inbox, last_place(until))
        last: dict[str, Decision] = {}
        if span.is_empty:
            return last
        async for _, decision in self._decisions(project, agent_id, span):
            if decision.data_key:
                last[decision.data_key] = decision
        return last

    async def sent_times(
        self, project: str, agent_id: str, places: Iterable[Sequence]
    ) -> dict[Sequence, int]:
        """When entries of an agent's inbox were sent first, in unix milliseconds, by their ids."""
        times: dict[Sequence, int] = {}
        left = sorted(places)
        since = Range(Sequence(left[0].ms, 0).prev()) if left and left[0].ms else Range()
        async for note in self._notes(project, agent_id, since):
            part = decode_note(note) if b"s" in note.fields else None
            if isinstance(part, InboxSent):
                first, last = bisect_right(left, part.after), bisect_right(left, part.upto)
                times |= dict.fromkeys(left[first:last], part.note.ms)
                del left[first:last]
            if not left:
                break
        return times

    async def _sendings(
        self, project: str, agent_id: str, place: Sequence
    ) -> AsyncGenerator[InboxSent, None]:
        """The parts of its inbox that an agent was sent with an entry in them."""
        count = 0
        since = Range(Sequence(place.ms, 0).prev()) if place.ms else Range()
        async for note in self._notes(project, agent_id, since):
            if b"s" in note.fields:
                part = decode_note(note)
                if isinstance(part, InboxSent) and part.after < place <= part.upto:
                    yield part
            count += 1
            if count == _SEARCHED:
                return

    async def _decisions(
        self, project: str, agent_id: str, span: Range
    ) -> AsyncGenerator[tuple[Sequence, Decision], None]:
        """What was decided for an agent in a range of its inbox; of what was trimmed, the latest of
        each data key."""
        subscriber = await self.inboxes.subscriber(project, agent_id)
        texts = {} if subscriber is None else subscriber.texts
        if subscriber is not None and span.after < subscriber.first_place <= span.until:
            # What comes before was an earlier agent's of the id.
            span = Range(subscriber.first_place, span.until)
        async with aclosing(self.inboxes.entries(project, agent_id, span)) as source:
            async for place, head in source:
                if head.change is not Change.REGISTERED:
                    yield place, await self.inboxes.decision(project, texts, head)

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
        parts: list[SentMessage | list[RecordedDelivery]] = []
        room = TextRoom()
        events, place = 0, None
        async for note in self._notes(project, agent_id, span):
            message = await read_note(note, decode_note, note)
            if isinstance(message, SentMessage):
                parts.append(message)
                events += sum(scope.admits(sent.data_key) for sent in message.events)
            elif isinstance(message, InboxSent):
                found = await self.inbox_sent(project, agent_id, message, scope, room)
                parts.append(found[::-1] if span.backwards else found)
                events += len(found)
            if events >= count:
                place = note.sequence
                break
        if not parts and await self._is_unknown(project, agent_id):
            raise agent_not_found(project, agent_id)
        messages = [part for part in parts if isinstance(part, SentMessage)]
        recorded = await self._deliveries(project, agent_id, messages, scope, room)
        by_message: dict[Sequence, list[RecordedDelivery]] = {}
        for delivery in recorded:
            by_message.setdefault(delivery.message.place, []).append(delivery)
        return [
            delivery
            for part in parts
            for delivery in (
                by_message.get(part.place, []) if isinstance(part, SentMessage) else part
            )
        ], place

    async def inbox_sent(
        self, project: str, agent_id: str, part: InboxSent, scope: Scope, room: TextRoom
    ) -> list[RecordedDelivery]:
        """The deliveries of a part of an inbox."""
        recorded: list[RecordedDelivery] = []
        async for place, decision in self._decisions(
            project, agent_id, Range(part.after, part.upto)
        ):
            if scope.admits(decision.data_key):
                recorded.append(_recorded(agent_id, part, place, decision, room))
        return recorded

    async def recipients(
        self, project: str, event: Sequence, after: str, count: int, viewer: Viewer
    ) -> tuple[list[RecordedDelivery], str]:
        """Who was sent an event: all its deliveries, to agents with ids greater than `after`, of
        those that the viewer sees.

        Returns:
            About `count` deliveries, by agent, and the agent to continue after, or "".
        """
        places = await self.store.receivers(project, event)
        scope, journals = viewer.scope, await self.store.journals(project)
        if not viewer.sees_all:
            seen = await visible_among(self.agents, project, {*places, *journals}, viewer)
            places = {agent_id: places[agent_id] for agent_id in places.keys() & seen}
            journals = [agent_id for agent_id in journals if agent_id in seen]
        held = await self._inboxes_with(project, event, journals)
        agent_ids = sorted(agent_id for agent_id in {*places, *held} if agent_id > after)
        recorded: list[RecordedDelivery] = []
        room = TextRoom()
        for start in range(0, len(agent_ids), _AGENTS):
            part = agent_ids[start : start + _AGENTS]
            pairs = [(agent_id, place) for agent_id in part for place in places.get(agent_id, ())]
            notes = await self.store.journal_notes(project, pairs)
            by_agent: dict[str, list[SentMessage]] = {agent_id: [] for agent_id in part}
            for (agent_id, _), note in zip(pairs, notes, strict=True):
                message = None if note is None else decode_note(note)
                if isinstance(message, SentMessage):
                    by_agent[agent_id].append(message)
            for agent_id, messages in by_agent.items():
                deliveries = await self._deliveries(project, agent_id, messages, scope, room)
                recorded += [d for d in deliveries if d.datum.event == event]
                for place, decision in held.get(agent_id, ()):
                    if scope.admits(decision.data_key):
                        async for sending in self._sendings(project, agent_id, place):
                            recorded.append(_recorded(agent_id, sending, place, decision, room))
                if len(recorded) >= count and agent_id != agent_ids[-1]:
                    return recorded, agent_id
        return recorded, ""

    async def _inboxes_with(
        self, project: str, event: Sequence, agent_ids: Iterable[str]
    ) -> dict[str, list[tuple[Sequence, Decision]]]:
        """The entries of some agents' inboxes that are about an event."""
        found: dict[str, list[tuple[Sequence, Decision]]] = {}
        spans = {agent_id: _entries_of(event) for agent_id in agent_ids}
        subscribers = await self.inboxes.subscribers(project)
        steps = [
            (agent_id, step)
            for agent_id, subscriber in subscribers.items()
            for step in subscriber.steps
            if step > event and agent_id in spans
        ]
        agents = list(spans.items())
        for start in range(0, len(agents), _AGENTS):
            some = dict(agents[start : start + _AGENTS])
            pages = await self.inboxes.store.inboxes(project, some, _INBOX_PAGE)
            for agent_id, page in pages.items():
                if page:
                    found[agent_id] = await self._about(project, subscribers, agent_id, page, event)
        for agent_id, step in steps:
            span = _entries_of(step)
            while page := await self.inboxes.store.inbox(project, agent_id, span, _INBOX_PAGE):
                about = await self._about(project, subscribers, agent_id, page, event)
                found.setdefault(agent_id, []).extend(about)
                if len(page) < _INBOX_PAGE:
                    break
                span = span.rest(page[-1].id)
        return found

    async def _about(
        self,
        project: str,
        subscribers: Mapping[str, Subscriber],
        agent_id: str,
        page: list[InboxEntry],
        event: Sequence,
    ) -> list[tuple[Sequence, Decision]]:
        """The entries that are about an event."""
        texts = subscribers[agent_id].texts if agent_id in subscribers else {}
        decisions = await self.inboxes.decisions(project, texts, page)
        return [
            (place, decision)
            for (place, _), decision in zip(page, decisions, strict=True)
            if decision.event == event and decision.change is not Change.REGISTERED
        ]

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
        found = await self._sent_of_inbox(project, agent_id, event, scope)
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
        before_inboxes = [(s, records[made]) for made, (s, _) in first.items() if made in records]
        return before_inboxes + found

    async def _sent_of_inbox(
        self, project: str, agent_id: str, event: Sequence, scope: Scope
    ) -> list[tuple[SentDatum, bytes]]:
        """The same of its inbox."""
        found: list[tuple[SentDatum, bytes]] = []
        held = await self._inboxes_with(project, event, [agent_id])
        for place, decision in held.get(agent_id, ()):
            if decision.matches and scope.admits(decision.data_key):
                record = await self.registration_at(project, agent_id, event_of(place))
                if record:
                    found.append((_sent_datum(decision, made_ms(record), 0, place=place), record))
        return found

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
                raise _expired(agent_id, note.sequence)
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


def _entries_of(event: Sequence) -> Range:
    """What an event brought an agent."""
    before = inbox_id(event).prev() if event > BEGINNING else BEGINNING
    return Range(before, inbox_id(event, LAST_ENTRY))


def _sent_datum(
    decision: Decision, registration: int, sent_ms: int, *, place: Sequence, resend: bool = False
) -> SentDatum:
    needs = tuple((match.need_index, match.score) for match in decision.matches)
    gone = decision.change not in (Change.MATCHED, Change.UPDATED)
    return SentDatum(
        decision.event,
        decision.data_key,
        decision.revision,
        gone,
        needs,
        registration,
        sent_ms,
        resend,
        decision.change,
        place,
        tuple(DeliveredNeed(m.need_index, m.need, m.score, m.need_id) for m in decision.matches),
    )


def _recorded(
    agent_id: str, part: InboxSent, place: Sequence, decision: Decision, room: TextRoom
) -> RecordedDelivery:
    """An entry of an inbox, as it was sent."""
    datum = _sent_datum(decision, 0, part.note.ms, place=place, resend=place <= part.before)
    message = SentMessage(part.note, part.stream_id, _STREAM, event_of(part.upto), (datum,))
    needs = tuple(replace(need, need=room.take(need.need)) for need in datum.told)
    return RecordedDelivery(agent_id, message, datum, needs)


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
    if datum.place is not None:
        return tuple(replace(need, need=room.take(need.need)) for need in datum.told)
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


def _expired(agent_id: str, begin: Sequence) -> ContexError:
    return ContexError(
        Reason.RECORDS_EXPIRED,
        f"what agent {agent_id!r} knew is on record from {_iso(begin)} on",
        metadata={"earliest_time": _iso(begin)},
    )


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

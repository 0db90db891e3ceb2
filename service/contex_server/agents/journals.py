"""Reads agents' journals: what an agent knew at a moment, and who was sent what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from contex_server.agents.journal import (
    Checkpoint,
    Knowledge,
    Needs,
    Registered,
    SentDatum,
    SentMessage,
    fold,
    read_note,
)
from contex_server.kernel.errors import ContexError, Reason, agent_not_found
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Sequence
from contex_server.kernel.scope import Scope
from contex_server.log.agents import AgentStore, JournalStore
from contex_server.log.notes import Note

_PAGE = 256
_AGENTS = 200
"""Agents whose notes are fetched together."""


@dataclass(frozen=True, slots=True)
class Why:
    """A need that an event was sent for; its text is "" where it is no longer on record."""

    need_index: int
    need: str
    score: float


@dataclass(frozen=True, slots=True)
class Sending:
    """An event that was sent to an agent.

    Attributes:
        place: The note in the agent's journal; its time is when it was sent.
        message: The message that carried it.
        needs: Why.
    """

    agent_id: str
    place: Sequence
    message: SentMessage
    datum: SentDatum
    needs: tuple[Why, ...]


class Journals:
    """Reads agents' journals."""

    def __init__(self, agents: AgentStore, store: JournalStore) -> None:
        self._agents = agents
        self._store = store

    async def knowledge(self, project: str, agent_id: str, until_ms: int) -> Knowledge:
        """What an agent knew at the end of a millisecond, from the newest checkpoint on.

        Raises:
            ContexError: AGENT_NOT_FOUND: it was not registered; RECORDS_EXPIRED.
        """
        until = Sequence(until_ms, END_OF_TIME.n)
        notes = await self._since_checkpoint(project, agent_id, until)
        if notes is None:
            return await self._before_its_journal(project, agent_id, until)
        knowledge = fold(notes)
        if not knowledge.record:
            raise _not_registered(project, agent_id, until_ms)
        return knowledge

    async def sent_to(
        self,
        project: str,
        agent_id: str,
        after: Sequence,
        until: Sequence,
        count: int,
        *,
        backwards: bool,
        scope: Scope,
    ) -> tuple[list[Sending], Sequence | None]:
        """What an agent was sent in (after, until] of its journal, and where to go on.

        At least `count` events where there are so many; those of a message stay together.

        Raises:
            ContexError: AGENT_NOT_FOUND: there is no journal and no registration.
        """
        found: list[tuple[Sequence, SentMessage]] = []
        events, place = 0, None
        while events < count:
            if backwards:
                page = await self._store.journal_back(project, agent_id, until, after, _PAGE)
            else:
                page = await self._store.journal(project, agent_id, after, until, _PAGE)
            for note in page:
                place = note.sequence
                read = read_note(note)
                if isinstance(read, SentMessage):
                    found.append((place, read))
                    events += len(read.events)
                    if events >= count:
                        break
            else:
                if len(page) < _PAGE:
                    place = None
                    break
            assert place is not None
            if backwards:
                until = place.prev()
            else:
                after = place
        if not found and await self._is_unknown(project, agent_id):
            raise agent_not_found(project, agent_id)
        sendings = await self._told(project, agent_id, found)
        return [sending for sending in sendings if scope.admits(sending.datum.data_key)], place

    async def receivers(
        self, project: str, event: Sequence, after: str, count: int, scope: Scope
    ) -> tuple[list[Sending], str]:
        """Who was sent an event: all sends to the first agents whose ids come after one.

        Returns:
            About `count` sends, by agent, and the agent after which to go on, or "".
        """
        places = await self._store.receivers(project, event)
        wanted = sorted(agent_id for agent_id in places if agent_id > after)
        found: list[Sending] = []
        for start in range(0, len(wanted), _AGENTS):
            some = wanted[start : start + _AGENTS]
            pairs = [(agent_id, place) for agent_id in some for place in places[agent_id]]
            notes = await self._store.journal_notes(project, pairs)
            by_agent: dict[str, list[tuple[Sequence, SentMessage]]] = {a: [] for a in some}
            for (agent_id, place), note in zip(pairs, notes, strict=True):
                read = None if note is None else read_note(note)
                if isinstance(read, SentMessage):
                    by_agent[agent_id].append((place, read))
            for agent_id in some:
                sendings = await self._told(project, agent_id, by_agent[agent_id])
                found += [
                    sending
                    for sending in sendings
                    if sending.datum.event == event and scope.admits(sending.datum.data_key)
                ]
                if len(found) >= count and agent_id != wanted[-1]:
                    return found, agent_id
        return found, ""

    async def _told(
        self, project: str, agent_id: str, found: list[tuple[Sequence, SentMessage]]
    ) -> list[Sending]:
        if not found:
            return []
        texts = await self._texts(
            project,
            agent_id,
            {message.registration for _, message in found},
            [place for place, _ in found],
        )
        return [
            Sending(agent_id, place, message, datum, why(datum.needs, texts, message.registration))
            for place, message in found
            for datum in message.events
        ]

    async def _texts(
        self, project: str, agent_id: str, wanted: set[int], places: list[Sequence]
    ) -> dict[int, list[str]]:
        """The needs of registrations of an agent, as far as they are on record."""
        stored = await self._agents.agent(project, agent_id)
        texts: dict[int, list[str]] = {}
        if stored is not None:
            texts = texts_of([stored.record])
        for place in (max(places), min(places)):
            if not wanted <= texts.keys():
                notes = await self._since_checkpoint(project, agent_id, place)
                if notes is not None:
                    texts |= _texts_in(notes)
        if not wanted <= texts.keys():
            between = await self._store.journal(
                project, agent_id, min(places), max(places), len(places) + 10 * _PAGE
            )
            texts |= _texts_in(between)
        return texts

    async def _since_checkpoint(
        self, project: str, agent_id: str, until: Sequence
    ) -> list[Note] | None:
        """The notes up to a place, from the newest checkpoint on; None if there is none."""
        notes: list[Note] = []
        while page := await self._store.journal_back(project, agent_id, until, BEGINNING, _PAGE):
            for note in page:
                notes.append(note)
                if b"k" in note.fields:
                    return notes[::-1]
            until = page[-1].sequence.prev()
        return None

    async def _before_its_journal(self, project: str, agent_id: str, until: Sequence) -> Knowledge:
        """An agent of which nothing is on record up to a place."""
        after = BEGINNING
        while page := await self._store.journal(project, agent_id, after, END_OF_TIME, _PAGE):
            for note in page:
                if b"k" in note.fields:
                    if note.sequence > until and not note.fields[b"record"]:
                        raise _not_registered(project, agent_id, until.ms)
                    raise ContexError(
                        Reason.RECORDS_EXPIRED,
                        f"what agent {agent_id!r} knew is on record from {_iso(note.sequence)} on",
                        metadata={"earliest_time": _iso(note.sequence)},
                    )
            after = page[-1].sequence
        stored = await self._agents.agent(project, agent_id)
        if stored is None:
            raise agent_not_found(project, agent_id)
        # Registered before journals were kept, and neither sent nor asked anything since.
        return Knowledge(record=stored.record, cursor=stored.cursor)

    async def _is_unknown(self, project: str, agent_id: str) -> bool:
        if await self._store.journal(project, agent_id, BEGINNING, END_OF_TIME, 1):
            return False
        return await self._agents.agent(project, agent_id) is None


def texts_of(records: Iterable[bytes]) -> dict[int, list[str]]:
    """The needs of registrations, by when they were made."""
    fields = [orjson.loads(record) for record in records]
    return {record["updated_ms"]: [need[0] for need in record["needs"]] for record in fields}


def why(needs: Needs, texts: dict[int, list[str]], registration: int) -> tuple[Why, ...]:
    """The needs of a delivery with their texts."""
    known = texts.get(registration, [])
    return tuple(
        Why(index, known[index] if index < len(known) else "", score) for index, score in needs
    )


def _texts_in(notes: Iterable[Note]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for note in notes:
        if b"k" in note.fields or b"r" in note.fields:
            read = read_note(note)
            if isinstance(read, Checkpoint):
                found |= read.texts
            if isinstance(read, Checkpoint | Registered) and read.record:
                found |= texts_of([read.record])
    return found


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

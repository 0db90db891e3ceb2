"""Who did what, when and from where: the audit, and the journals of agents, as rows.

Publishes, registrations and exports lie in the project's audit, deliveries and
acknowledgements in the agents' journals. Both are streams in the order of time; they are
merged as they are read.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum

import orjson

from contex_server.agents.journal import (
    Acknowledged,
    Closed,
    Opened,
    SentMessage,
    read_note,
)
from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    MATCH_FEEDBACK,
    MODEL_CHANGED,
    Event,
    EventFilter,
    Origin,
    Sequence,
)
from contex_server.kernel.scope import EVERYTHING, Scope
from contex_server.log.agents import JournalStore
from contex_server.log.audit import AuditStore
from contex_server.log.notes import Note
from contex_server.log.port import EventLog

_AUDIT = ""
"""The source that is no agent's journal."""
_PAGE_NOTES = 100
_EVENTS = 2_000
"""Events that are read together for the publishes of a page."""
_SOURCES = 32
"""Journals that are read at the same time."""
_SERVICE = "contex"


class Action(StrEnum):
    """What was done; the names are those of `contex.v1.AuditAction`."""

    PUBLISHED = "PUBLISHED"
    DELETED = "DELETED"
    REGISTERED = "REGISTERED"
    UNREGISTERED = "UNREGISTERED"
    DELIVERED = "DELIVERED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    SUBSCRIBED = "SUBSCRIBED"
    UNSUBSCRIBED = "UNSUBSCRIBED"
    EXPORTED = "EXPORTED"
    JUDGED = "JUDGED"
    ADMINISTERED = "ADMINISTERED"
    IMPORTED = "IMPORTED"
    REFUSED = "REFUSED"


_OF_JOURNALS = {
    Action.DELIVERED,
    Action.ACKNOWLEDGED,
    Action.SUBSCRIBED,
    Action.UNSUBSCRIBED,
}
_OF_AUDIT = set(Action) - {Action.DELIVERED, Action.ACKNOWLEDGED}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a row stands in the order of all.

    Attributes:
        note: The note, in its stream.
        source: The agent whose journal that is; "" for the audit.
        index: The row in the note.
    """

    note: Sequence
    source: str
    index: int

    def __str__(self) -> str:
        return f"{self.note}:{self.index}" + (f":{self.source}" if self.source else "")

    @classmethod
    def parse(cls, text: str) -> Place:
        """Reads what `str` wrote.

        Raises:
            ValueError: It is none.
        """
        note, index, *source = text.split(":", 2)
        return cls(Sequence.parse(note), source[0] if source else _AUDIT, int(index))


@dataclass(frozen=True, slots=True)
class Row:
    """One action; see `contex.v1.AuditRecord`."""

    place: Place
    action: Action
    actor: str = ""
    peer: str = ""
    client: str = ""
    request_id: str = ""
    agent_id: str = ""
    data_key: str = ""
    sequence: str = ""
    revision: int = 0
    event_type: str = ""
    count: int = 0
    stream_id: str = ""
    detail: str = ""
    verified: bool = False
    """Whether the actor is who it says: so far, the service itself only."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows; each part that is not empty must fit."""

    actions: frozenset[Action] = frozenset()
    actors: frozenset[str] = frozenset()
    agent_ids: frozenset[str] = frozenset()
    data_keys: frozenset[str] = frozenset()
    request_id: str = ""
    scope: Scope = EVERYTHING
    """What the reader may see: of rows about a datum, only those about data of the scope."""

    def passes(self, row: Row) -> bool:
        """Whether the row is wanted."""
        return (
            (not self.actions or row.action in self.actions)
            and (not self.actors or row.actor in self.actors)
            and (not self.agent_ids or row.agent_id in self.agent_ids)
            and (not self.request_id or row.request_id == self.request_id)
            and EventFilter(data_keys=self.data_keys).admits_key(row.data_key)
            and (self.scope.is_open or not row.data_key or self.scope.admits(row.data_key))
        )

    def of_journals(self) -> bool:
        """Whether some of them may be in journals."""
        possible = self.actions or set(Action)
        if self.data_keys:
            possible = possible & {Action.DELIVERED}
        return bool(possible & _OF_JOURNALS) and not self.request_id

    def of_audit(self) -> bool:
        """Whether some of them may be in the audit."""
        return bool((self.actions or _OF_AUDIT) & _OF_AUDIT)


class AuditTrail:
    """Reads rows."""

    def __init__(self, log: EventLog, store: AuditStore, journals: JournalStore) -> None:
        self._log = log
        self._store = store
        self._journals = journals

    async def rows(
        self,
        project: str,
        after: Sequence,
        until: Sequence,
        wanted: Wanted,
        *,
        backwards: bool = False,
        resume: Place | None = None,
    ) -> AsyncGenerator[tuple[Row, bool], None]:
        """Every row in (after, until], in order, and whether it is wanted.

        Args:
            project: The project.
            after: After this place in time.
            until: Up to and including this one.
            wanted: Which rows. Of others, not all are looked at.
            backwards: Newest first.
            resume: Only what comes after this row.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        names = [_AUDIT] if wanted.of_audit() else []
        if wanted.of_journals():
            names += sorted(wanted.agent_ids) or await self._journals.journals(project)
        reading = asyncio.Semaphore(_SOURCES)
        sources = [
            self._source(project, name, *_rest(after, until, name, backwards, resume), backwards)
            for name in names
        ]

        async def first(source: AsyncGenerator[Row, None]) -> Row | None:
            async with reading:
                return await anext(source, None)

        try:
            heads = await asyncio.gather(*map(first, sources))
            heap = [
                (_Order(row.place, backwards), index)
                for index, row in enumerate(heads)
                if row is not None
            ]
            heapq.heapify(heap)
            while heap:
                _, index = heap[0]
                row = heads[index]
                assert row is not None
                if resume is None or _Order(resume, backwards) < _Order(row.place, backwards):
                    yield row, wanted.passes(row)
                heads[index] = following = await anext(sources[index], None)
                if following is None:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (_Order(following.place, backwards), index))
        finally:
            for source in sources:
                await source.aclose()

    async def _source(
        self, project: str, name: str, after: Sequence, until: Sequence, backwards: bool
    ) -> AsyncGenerator[Row, None]:
        """The rows of one stream."""
        while True:
            page = await self._page(project, name, after, until, backwards)
            groups = [page] if name else _groups(page)
            for group in groups:
                events = {} if name else await self._events(project, group)
                for note in group:
                    rows = _of_journal(note, name) if name else _of_audit(note, events)
                    for row in reversed(rows) if backwards else rows:
                        yield row
            if len(page) < _PAGE_NOTES:
                return
            if backwards:
                until = page[-1].sequence.prev()
            else:
                after = page[-1].sequence

    async def _page(
        self, project: str, name: str, after: Sequence, until: Sequence, backwards: bool
    ) -> list[Note]:
        count = _PAGE_NOTES
        if name and backwards:
            return await self._journals.journal_back(project, name, until, after, count)
        if name:
            return await self._journals.journal(project, name, after, until, count)
        if backwards:
            return await self._store.audit_back(project, until, after, count)
        return await self._store.audit(project, after, until, count)

    async def _events(self, project: str, notes: list[Note]) -> dict[Sequence, Event]:
        """The events that the notes' publishes appended, as far as they can be read."""
        spans = [span for note in notes if (span := _span(note)) is not None]
        found: dict[Sequence, Event] = {}
        if not spans:
            return found
        after, until = min(spans)[0].prev(), max(last for _, last in spans)
        while after < until:
            entries = await self._log.read(project, after, until, _EVENTS)
            for entry in entries:
                event = event_codec.decode(entry)
                found[event.sequence] = replace(event, payload=_told(event))
            if len(entries) < _EVENTS:
                break
            after = entries[-1].sequence
        return found


@dataclass(frozen=True, slots=True)
class _Order:
    """Compares places, or the other way round."""

    place: Place
    backwards: bool

    def __lt__(self, other: _Order) -> bool:
        return other.place < self.place if self.backwards else self.place < other.place


def _rest(
    after: Sequence, until: Sequence, name: str, backwards: bool, resume: Place | None
) -> tuple[Sequence, Sequence]:
    """What is left of a source; the note of the last row is read again."""
    if resume is None:
        return after, until
    if backwards:
        return after, min(until, resume.note)
    return max(after, resume.note.prev() if resume.note > BEGINNING else BEGINNING), until


def _groups(notes: list[Note]) -> list[list[Note]]:
    """Parts of a page whose publishes have not too many events together."""
    groups: list[list[Note]] = [[]]
    events = 0
    for note in notes:
        span = _span(note)
        size = span[1].n - span[0].n + 1 if span else 0
        if groups[-1] and events + size > _EVENTS:
            groups.append([])
            events = 0
        groups[-1].append(note)
        events += size
    return groups


def _span(note: Note) -> tuple[Sequence, Sequence] | None:
    """First and last event of a publish."""
    said = note.fields.get(b"p")
    if said is None:
        return None
    first, count, _ = said.split(b" ", 2)
    begin = Sequence.parse(first.decode())
    return begin, Sequence(begin.ms, begin.n + int(count) - 1)


def _told(event: Event) -> bytes:
    """What is needed of a payload."""
    return event.payload if event.event_type == MATCH_FEEDBACK else b""


def _of_audit(note: Note, events: dict[Sequence, Event]) -> list[Row]:
    kind, body = next(iter(note.fields.items()))
    place = Place(note.sequence, _AUDIT, 0)
    if kind == b"x":
        said = orjson.loads(body)
        origin = Origin(*said["origin"])
        return [
            Row(
                place,
                Action(said["action"]),
                *origin,
                sequence=said["sequence"],
                stream_id=said["stream_id"],
                count=said["count"],
                detail=said["detail"],
            )
        ]
    text, _, raw_origin = body.decode().partition("\t")
    origin = Origin.parse(raw_origin)
    if kind == b"p":
        return _published(note, text.split(" ")[2], origin, events)
    if kind == b"r":
        sequence, mark, agent_id = text.split(" ")
        action = Action.REGISTERED if mark == "L" else Action.UNREGISTERED
        return [Row(place, action, *origin, agent_id=agent_id, sequence=sequence)]
    return [
        Row(
            place,
            Action.ADMINISTERED,
            *origin,
            sequence=text,
            event_type=MODEL_CHANGED,
            verified=True,
        )
    ]


def _published(
    note: Note, request_id: str, origin: Origin, events: dict[Sequence, Event]
) -> list[Row]:
    span = _span(note)
    assert span is not None
    (ms, first), last = span
    rows = []
    for index, n in enumerate(range(first, last.n + 1)):
        sequence = Sequence(ms, n)
        row = Row(
            Place(note.sequence, _AUDIT, index),
            Action.PUBLISHED,
            *origin,
            request_id=request_id,
            sequence=str(sequence),
        )
        event = events.get(sequence)
        if event is None:
            row = replace(row, detail="the event can no longer be read")
        elif event.event_type == MATCH_FEEDBACK:
            said = orjson.loads(event.payload)
            row = replace(
                row,
                action=Action.JUDGED,
                agent_id=said["agent_id"],
                data_key=said["data_key"],
                sequence=said["sequence"],
                event_type=event.event_type,
                detail="useful" if said["useful"] else "not useful",
            )
        else:
            row = replace(
                row,
                action=Action.DELETED if event.event_type == DATA_DELETED else Action.PUBLISHED,
                actor=event.publisher,
                data_key=event.data_key,
                revision=event.revision,
                event_type=event.event_type,
            )
        rows.append(row)
    return rows


def _of_journal(note: Note, agent_id: str) -> list[Row]:
    place = Place(note.sequence, agent_id, 0)
    match read_note(note):
        case SentMessage() as message:
            return [
                Row(
                    replace(place, index=index),
                    Action.DELIVERED,
                    _SERVICE,
                    agent_id=agent_id,
                    data_key=sent.data_key,
                    sequence=str(sent.event),
                    revision=sent.revision,
                    stream_id=message.stream_id,
                    detail=f"{message.kind}, resend" if sent.resend else message.kind,
                    verified=True,
                )
                for index, sent in enumerate(message.events)
            ]
        case Acknowledged() as said:
            position = str(said.position)
            return [
                Row(place, Action.ACKNOWLEDGED, *said.origin, agent_id=agent_id, sequence=position)
            ]
        case Opened() as stream:
            return [
                Row(
                    place,
                    Action.SUBSCRIBED,
                    *stream.origin,
                    agent_id=agent_id,
                    sequence=str(stream.start),
                    stream_id=stream.stream_id,
                    detail="Listen",
                )
            ]
        case Closed(stream_id):
            return [
                Row(
                    place,
                    Action.UNSUBSCRIBED,
                    agent_id=agent_id,
                    stream_id=stream_id,
                    detail="Listen",
                )
            ]
    return []


async def wanted_rows(
    rows: AsyncGenerator[tuple[Row, bool], None],
) -> AsyncGenerator[Row, None]:
    """The rows that are wanted."""
    async with aclosing(rows):
        async for row, is_wanted in rows:
            if is_wanted:
                yield row

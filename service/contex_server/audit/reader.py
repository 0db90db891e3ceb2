"""Reads the audit: merges the project's audit and its agents' journals as they are read.

Publishes, registrations and exports are in the project's audit, deliveries and acknowledgements
in the agents' journals. All of these are streams in the order of time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial

from contex_server.agents import journal
from contex_server.agents.journal_reader import JournalReader, RecordedDelivery, TextRoom
from contex_server.audit.records import (
    AUDIT,
    REFUSALS,
    AuditAction,
    AuditFilter,
    AuditRecord,
    RecordId,
    by,
    decode_action,
)
from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    BACKGROUND_CHANGED,
    BEGINNING,
    MATCH_FEEDBACK,
    MODEL_CHANGED,
    SERVICE,
    Change,
    Event,
    Origin,
    Range,
    Sequence,
)
from contex_server.kernel.scope import EVERYTHING
from contex_server.kernel.slices import Slices, sliced
from contex_server.log.agents import JournalStore
from contex_server.log.audit import AuditStore, Note
from contex_server.log.port import READ_BYTES, EventLog
from contex_server.match.service_events import readable_feedback

_PAGE_NOTES = 100
_INLINE_EVENTS = 100
"""The records of a publish of more events are made in a thread."""
_MAX_EVENTS = 2_000
"""Maximum number of events that are read together for the publishes of a page."""
_CONCURRENT_SOURCES = 32


@dataclass(frozen=True, slots=True)
class AuditReader:
    """Reads records."""

    log: EventLog
    store: AuditStore
    journals: JournalStore
    agents: JournalReader

    async def read(
        self,
        project: str,
        span: Range,
        record_filter: AuditFilter,
        *,
        resume: RecordId | None = None,
    ) -> AsyncGenerator[tuple[AuditRecord, bool], None]:
        """The records of a range of times that the reader may see, in its direction; each with
        whether it passes.

        Skips sources that hold no record that passes.

        Args:
            span: A range of the times of the notes.
            resume: Only what comes after this record.
        """
        backwards = span.backwards
        names = [AUDIT] if record_filter.needs_audit else []
        if record_filter.needs_refusals:
            names.append(REFUSALS)
        if record_filter.needs_journals:
            agent_ids = sorted(record_filter.agent_ids) or await self.journals.journals(project)
            seen = record_filter.seen
            names += [each for each in agent_ids if seen is None or each in seen]
        if resume is not None:
            # The note of the last record is read again: it may have more.
            if backwards:
                span = span._replace(until=min(span.until, resume.note))
            elif resume.note > BEGINNING:
                span = span._replace(after=max(span.after, resume.note.prev()))
        slots = asyncio.Semaphore(_CONCURRENT_SOURCES)
        sources = [self._source(project, name, span) for name in names]

        async def first(source: AsyncGenerator[AuditRecord, None]) -> AuditRecord | None:
            async with slots:
                return await anext(source, None)

        try:
            heads = await asyncio.gather(*map(first, sources))
            heap = [
                (_Order(record.id, backwards), index)
                for index, record in enumerate(heads)
                if record is not None
            ]
            heapq.heapify(heap)
            slices = Slices()
            while heap:
                await slices.pause()
                order, index = heap[0]
                record = heads[index]
                assert record is not None
                is_next = resume is None or _Order(resume, backwards) < order
                if is_next and record_filter.admits(record):
                    yield record, record_filter.passes(record)
                heads[index] = following = await anext(sources[index], None)
                if following is None:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (_Order(following.id, backwards), index))
        finally:
            for source in sources:
                await source.aclose()

    async def _source(
        self, project: str, name: str, span: Range
    ) -> AsyncGenerator[AuditRecord, None]:
        """The records of one stream."""
        is_journal = name not in (AUDIT, REFUSALS)
        if is_journal:
            read = partial(self.journals.journal, project, name)
        else:
            read = partial(self.store.refusals if name else self.store.audit, project)
        async for page in journal.note_pages(read, span, _PAGE_NOTES):
            for group in [page] if name else _groups(page):
                events = {} if name else await self._events(project, group)
                for note in group:
                    if is_journal and b"s" in note.fields:
                        records = await self._sent(project, note, name)
                    elif is_journal:
                        records = await journal.read_note(note, _journal_records, note, name)
                    elif _published(note) > _INLINE_EVENTS:
                        records = await asyncio.to_thread(_audit_records, note, name, events)
                    else:
                        records = _audit_records(note, name, events)
                    for record in reversed(records) if span.backwards else records:
                        yield record

    async def _sent(self, project: str, note: Note, agent_id: str) -> list[AuditRecord]:
        """What an agent was sent of its inbox."""
        part = journal.decode_note(note)
        if not isinstance(part, journal.InboxSent):
            return []
        room = TextRoom(0)
        sent = await self.agents.inbox_sent(project, agent_id, part, EVERYTHING, room)
        return [
            AuditRecord(
                RecordId(note.sequence, agent_id, index),
                AuditAction.DELIVERED,
                **by(SERVICE),
                agent_id=agent_id,
                data_key=delivery.datum.data_key,
                sequence=str(delivery.datum.event),
                revision=delivery.datum.revision,
                stream_id=part.stream_id,
                detail=_delivered(delivery),
            )
            for index, delivery in enumerate(sent)
        ]

    async def _events(self, project: str, notes: list[Note]) -> dict[Sequence, Event]:
        """The events that the notes' publishes appended, as far as they can be read."""
        spans = [span for note in notes if (span := _span(note)) is not None]
        events: dict[Sequence, Event] = {}
        if not spans:
            return events
        unread = Range(min(spans)[0].prev(), max(last for _, last in spans))
        while not unread.is_empty:
            part = await self.log.read_part(project, unread, _MAX_EVENTS, READ_BYTES)
            async for entry in sliced(part.entries):
                event = event_codec.decode(entry)
                if event.event_type != MATCH_FEEDBACK:
                    event = replace(event, payload=b"")
                events[event.sequence] = event
            if part.ended:
                break
            unread = unread.rest(part.entries[-1].sequence)
        return events


@dataclass(frozen=True, slots=True)
class _Order:
    """Orders records forwards or backwards."""

    record_id: RecordId
    backwards: bool

    def __lt__(self, other: _Order) -> bool:
        first, second = self.record_id, other.record_id
        return second < first if self.backwards else first < second


def _groups(notes: list[Note]) -> list[list[Note]]:
    """Splits a page so that the publishes of a part have at most `_MAX_EVENTS` events."""
    groups: list[list[Note]] = [[]]
    events = 0
    for note in notes:
        size = _published(note)
        if groups[-1] and events + size > _MAX_EVENTS:
            groups.append([])
            events = 0
        groups[-1].append(note)
        events += size
    return groups


def _published(note: Note) -> int:
    """How many events a publish has; 0 for other notes."""
    span = _span(note)
    return span[1].n - span[0].n + 1 if span else 0


def _span(note: Note) -> tuple[Sequence, Sequence] | None:
    """The first and the last event of a publish."""
    body = note.fields.get(b"p")
    if body is None:
        return None
    first, count, _ = body.split(b" ", 2)
    begin = Sequence.parse(first.decode())
    return begin, Sequence(begin.ms, begin.n + int(count) - 1)


def _audit_records(note: Note, source: str, events: dict[Sequence, Event]) -> list[AuditRecord]:
    kind, body = next(iter(note.fields.items()))
    record_id = RecordId(note.sequence, source, 0)
    if kind == b"x":
        return [decode_action(record_id, body)]
    text, _, raw_origin = body.decode().partition("\t")
    origin = Origin.parse(raw_origin)
    if kind == b"p":
        return _publish_records(note, text.split(" ")[2], origin, events)
    if kind == b"r":
        sequence, mark, agent_id = text.split(" ")
        action = AuditAction.REGISTERED if mark == "L" else AuditAction.UNREGISTERED
        return [AuditRecord(record_id, action, **by(origin), agent_id=agent_id, sequence=sequence)]
    return [
        AuditRecord(
            record_id,
            AuditAction.ADMINISTERED,
            **by(origin),
            sequence=text,
            event_type=BACKGROUND_CHANGED if kind == b"b" else MODEL_CHANGED,
        )
    ]


def _publish_records(
    note: Note, request_id: str, origin: Origin, events: dict[Sequence, Event]
) -> list[AuditRecord]:
    span = _span(note)
    assert span is not None
    (ms, first), last = span
    records = []
    for index, n in enumerate(range(first, last.n + 1)):
        sequence = Sequence(ms, n)
        record = AuditRecord(
            RecordId(note.sequence, AUDIT, index),
            AuditAction.PUBLISHED,
            **by(origin),
            request_id=request_id,
            sequence=str(sequence),
        )
        event = events.get(sequence)
        if event is None:
            record = replace(record, detail="the event can no longer be read")
        elif feedback := readable_feedback(event):
            record = replace(
                record,
                action=AuditAction.JUDGED,
                agent_id=feedback["agent_id"],
                data_key=feedback["data_key"],
                sequence=feedback["sequence"],
                event_type=event.event_type,
                detail="useful" if feedback["useful"] else "not useful",
            )
        else:
            record = replace(
                record,
                action=AuditAction.DELETED if event.deletes else AuditAction.PUBLISHED,
                actor=event.publisher,
                claimed_actor=event.claimed_publisher,
                data_key=event.data_key,
                revision=event.revision,
                event_type=event.event_type,
            )
        records.append(record)
    return records


def _delivered(delivery: RecordedDelivery) -> str:
    told = f"stream, {Change(delivery.datum.change).name.lower()}"
    return f"{told}, resend" if delivery.datum.resend else told


def _journal_records(note: Note, agent_id: str) -> list[AuditRecord]:
    record_id = RecordId(note.sequence, agent_id, 0)
    match journal.decode_note(note):
        case journal.SentMessage() as message:
            return [
                AuditRecord(
                    replace(record_id, index=index),
                    AuditAction.DELIVERED,
                    **by(SERVICE),
                    agent_id=agent_id,
                    data_key=sent.data_key,
                    sequence=str(sent.event),
                    revision=sent.revision,
                    stream_id=message.stream_id,
                    detail=f"{message.kind}, resend" if sent.resend else message.kind,
                )
                for index, sent in enumerate(message.events)
            ]
        case journal.Acknowledgement(position, _, origin):
            record = AuditRecord(
                record_id, AuditAction.ACKNOWLEDGED, **by(origin), sequence=str(position)
            )
        case journal.Stream(stream_id, start=start, origin=origin):
            record = AuditRecord(
                record_id,
                AuditAction.SUBSCRIBED,
                **by(origin),
                sequence=str(start),
                stream_id=stream_id,
                detail="Listen",
            )
        case journal.StreamClosed(stream_id):
            record = AuditRecord(
                record_id, AuditAction.UNSUBSCRIBED, stream_id=stream_id, detail="Listen"
            )
        case _:
            return []
    return [replace(record, agent_id=agent_id)]

"""An agent's journal: what was sent to it, what it acknowledged, when it was connected.

The store writes the notes; `log/redis/functions/agents.lua` defines their format. What the agent
knew at a moment is the fold of its journal, from the newest checkpoint before the moment on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar, TypeVarTuple

import orjson

from contex_server.kernel import work
from contex_server.kernel.inbox_ids import event_of
from contex_server.kernel.model import BEGINNING, UNKNOWN, Origin, Range, Sequence
from contex_server.log.audit import Note
from contex_server.match.agent_codec import decode_agent

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Needs = tuple[tuple[int, float], ...]

_INLINE_BYTES = 16 * 1024
"""Larger notes, of several hundred events, are read in a thread."""


@dataclass(frozen=True, slots=True)
class RegistrationNote:
    """The agent was registered or changed, or, if not `live`, unregistered.

    Attributes:
        event: The event that says so.
        record: The registration as it is stored.
    """

    event: Sequence
    live: bool
    origin: Origin
    cursor: Sequence
    record: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of the agent; `closed_ms` is 0 while it is open, or if its server died."""

    stream_id: str
    opened_ms: int
    closed_ms: int
    start: Sequence
    origin: Origin


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """A stream ended."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class DeliveredNeed:
    """A need that an event was sent for; `need` is "" if it is not on record, or has no room."""

    need_index: int
    need: str
    score: float
    need_id: str = ""


@dataclass(frozen=True, slots=True)
class SentDatum:
    """An event that the agent was sent.

    Attributes:
        needs: The needs that it met: position in the agent's list, and score.
        registration: When the registration with these needs was made, unix ms.
        resend: Whether the agent had been sent it before.
        change: What it told the agent; 0 of answers, and of what earlier versions sent.
        place: Where it is in the agent's inbox; None of those.
        told: The needs as they were told with it.
    """

    event: Sequence
    data_key: str
    revision: int
    deleted: bool
    needs: Needs
    registration: int
    sent_ms: int
    resend: bool = False
    change: int = 0
    place: Sequence | None = None
    told: tuple[DeliveredNeed, ...] = ()


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message to the agent.

    Attributes:
        place: Its note in the journal.
        stream_id: The stream that carried it; "" for a response.
        position: The stream's position with it.
    """

    place: Sequence
    stream_id: str
    kind: str
    position: Sequence
    events: tuple[SentDatum, ...]


@dataclass(frozen=True, slots=True)
class InboxSent:
    """A part of its inbox that the agent was sent.

    Attributes:
        note: Its note in the journal.
        after: The id after which it begins.
        upto: The id up to which it goes.
        before: The id up to which anything was sent before.
    """

    note: Sequence
    stream_id: str
    after: Sequence
    upto: Sequence
    before: Sequence


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The agent acknowledged a position; its cursor has been at `cursor` since."""

    position: Sequence
    cursor: Sequence
    origin: Origin


@dataclass(slots=True)
class AgentKnowledge:
    """What an agent knew.

    Attributes:
        record: Its registration as it is stored; empty if there is none.
        registered: The event of its registration; None if that was before the checkpoint.
        deliveries: The newest event of each data key that it was sent, as sent first.
        records: The registrations seen, by when they were made.
        texts: The needs of earlier registrations that `deliveries` refers to.
        sent: The newest event that it was sent.
        sent_ms: When it was last sent anything; 0: never.
        inbox: The id up to which it was sent its inbox.
    """

    record: bytes = b""
    registered: Sequence | None = None
    cursor: Sequence = BEGINNING
    deliveries: dict[str, SentDatum] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    records: dict[int, bytes] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=dict)
    sent: Sequence = BEGINNING
    sent_ms: int = 0
    inbox: Sequence = BEGINNING

    def add_record(self, record: bytes) -> None:
        """Remembers a registration by when it was made."""
        self.records[made_ms(record)] = record


@dataclass(frozen=True, slots=True)
class DamagedNote:
    """What can't be read: it is passed over, and what it told is not known."""


JournalNote = (
    DamagedNote
    | RegistrationNote
    | Stream
    | StreamClosed
    | SentMessage
    | InboxSent
    | Acknowledgement
    | AgentKnowledge
)
"""A checkpoint is what the agent knew: the fold of everything before it."""


def fold_journal(notes: Iterable[Note]) -> AgentKnowledge:
    """What the notes come to, in their order; the first should be a checkpoint."""
    knowledge = AgentKnowledge()
    for note in notes:
        match decode_note(note):
            case AgentKnowledge() as checkpoint:
                knowledge = checkpoint
            case SentMessage() as message:
                knowledge.sent_ms = message.place.ms
                for sent in message.events:
                    knowledge.sent = max(knowledge.sent, sent.event)
                    last = knowledge.deliveries.get(sent.data_key)
                    if sent.data_key and (last is None or last.revision < sent.revision):
                        knowledge.deliveries[sent.data_key] = sent
            case InboxSent() as part:
                knowledge.sent_ms = part.note.ms
                knowledge.inbox = max(knowledge.inbox, part.upto)
                knowledge.sent = max(knowledge.sent, event_of(part.upto))
            case Acknowledgement(cursor=cursor):
                knowledge.cursor = cursor
            case Stream() as stream:
                knowledge.streams[stream.stream_id] = stream
            case StreamClosed(stream_id) if stream_id in knowledge.streams:
                closed = replace(knowledge.streams[stream_id], closed_ms=note.sequence.ms)
                knowledge.streams[stream_id] = closed
            case RegistrationNote(live=False):
                # A later registration of the same id is another agent, and knows nothing.
                knowledge = AgentKnowledge(streams=knowledge.streams)
            case RegistrationNote() as registration:
                knowledge.record = registration.record
                knowledge.cursor = registration.cursor
                knowledge.registered = registration.event
                knowledge.add_record(registration.record)
    return knowledge


def made_ms(record: bytes) -> int:
    """When a registration that can be read was made; see `match/agent_codec.py`."""
    return int(orjson.loads(record)["updated_ms"])


async def note_pages(
    read: Callable[[Range, int], Awaitable[list[Note]]], span: Range, count: int
) -> AsyncGenerator[list[Note], None]:
    """The notes of a range, `count` at a time.

    Args:
        read: `JournalStore.journal` of an agent, or `AuditStore.audit` of a project.
    """
    while page := await read(span, count):
        work.looked_at(len(page))
        yield page
        await work.pace()
        if len(page) < count:
            return
        span = span.rest(page[-1].sequence)


async def read_note(note: Note, read: Callable[[*Ts], T], *args: *Ts) -> T:
    """What a function makes of a note; a large one holds the event loop for too long."""
    large = sum(map(len, note.fields.values())) > _INLINE_BYTES
    return await asyncio.to_thread(read, *args) if large else read(*args)


def decode_note(note: Note) -> JournalNote:
    """Decodes a note of a journal; one that is damaged costs no more than itself."""
    try:
        return _decode_note(note)
    except (ValueError, KeyError, TypeError):
        return DamagedNote()


def _decode_note(note: Note) -> JournalNote:
    kind, body = next(iter(note.fields.items()))
    if kind == b"d":
        return _decode_message(body.decode(), note.sequence)
    if kind == b"k":
        return _decode_checkpoint(note.fields)
    if kind == b"c":
        return StreamClosed(body.decode())
    text, _, raw_origin = body.decode().partition("\t")
    match kind, text.split(" "):
        case b"s", [stream_id, *places]:
            after, upto, before = map(Sequence.parse, places)
            return InboxSent(note.sequence, stream_id, after, upto, before)
        case b"a", [position, cursor]:
            return Acknowledgement(
                Sequence.parse(position), Sequence.parse(cursor), Origin.parse(raw_origin)
            )
        case b"o", [stream_id, start]:
            opened_ms, origin = note.sequence.ms, Origin.parse(raw_origin)
            return Stream(stream_id, opened_ms, 0, Sequence.parse(start), origin)
        case b"r", [event, mark, cursor]:
            record = note.fields.get(b"record", b"")
            if record:
                decode_agent(record)
            return RegistrationNote(
                Sequence.parse(event),
                mark == "L",
                Origin.parse(raw_origin),
                _decode_cursor(cursor),
                record,
            )
    raise ValueError(f"{kind!r} is not a note of a journal")


def _decode_cursor(text: str) -> Sequence:
    return Sequence.parse(text) if text else BEGINNING


def _decode_message(text: str, place: Sequence) -> SentMessage:
    head, *lines = text.split("\n")
    stream_id, _, kind, registration, position = head.split(" ")
    events = []
    for line in lines:
        sent, event, revision, mark, needs, data_key = line.split(" ", 5)
        datum = _decode_datum(data_key, event, revision, mark, place.ms, registration, needs)
        events.append(replace(datum, resend=True) if sent == "R" else datum)
    stream_id = "" if stream_id == "-" else stream_id
    return SentMessage(place, stream_id, kind, Sequence.parse(position), tuple(events))


def _decode_datum(
    data_key: str,
    event: str,
    revision: str,
    mark: str,
    sent_ms: str | int,
    registration: str,
    needs: str,
) -> SentDatum:
    pairs = [pair.split(":") for pair in needs.split(",")] if needs != "-" else []
    return SentDatum(
        Sequence.parse(event),
        data_key,
        int(revision),
        mark == "D",
        tuple((int(index), float(score)) for index, score in pairs),
        int(registration),
        int(sent_ms),
    )


def _decode_checkpoint(fields: dict[bytes, bytes]) -> AgentKnowledge:
    deliveries: dict[str, SentDatum] = {}
    texts: dict[int, list[str]] = {}
    for line in fields[b"k"].decode().split("\n"):
        if line.startswith("\2"):
            name, _, value = line.partition(" ")
            texts[int(name[1:])] = orjson.loads(value)
        elif line:
            # A data key may have spaces, what is said of it has none in its six parts.
            name, *said = line.rsplit(" ", 6)
            deliveries[name] = _decode_datum(name, *said)
    streams: dict[str, Stream] = {}
    for line in fields[b"streams"].decode().split("\n"):
        text, _, origin = line.partition("\t")
        if text:
            stream_id, opened_ms, closed_ms, start = text.split(" ")
            streams[stream_id] = Stream(
                stream_id,
                int(opened_ms),
                int(closed_ms),
                Sequence.parse(start),
                Origin.parse(origin) if origin else UNKNOWN,
            )
    inbox = _decode_cursor(fields.get(b"sent", b"").decode())
    knowledge = AgentKnowledge(
        inbox=inbox,
        record=fields[b"record"],
        cursor=_decode_cursor(fields[b"cursor"].decode()),
        deliveries=deliveries,
        streams=streams,
        texts=texts,
        sent=max([event_of(inbox), *(delivery.event for delivery in deliveries.values())]),
        sent_ms=max((delivery.sent_ms for delivery in deliveries.values()), default=0),
    )
    if knowledge.record:
        decode_agent(knowledge.record)
        knowledge.add_record(knowledge.record)
    return knowledge

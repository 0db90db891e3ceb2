"""An agent's journal, read: what was sent to it, what it acknowledged, when it was connected.

The store writes the notes; `log/redis/functions/agents.lua` says how. What the agent knew at a
moment is the fold of its journal, from the newest checkpoint before the moment on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import orjson

from contex_server.kernel.model import BEGINNING, UNKNOWN, Origin, Sequence
from contex_server.log.notes import Note

Needs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """The agent was registered anew or changed, or, where not live, unregistered.

    Attributes:
        event: The event that tells it.
        record: The registration, as it is stored.
    """

    event: Sequence
    live: bool
    origin: Origin
    cursor: Sequence
    record: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream was opened at a position."""

    stream_id: str
    start: Sequence
    origin: Origin


@dataclass(frozen=True, slots=True)
class Closed:
    """A stream ended."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class SentDatum:
    """An event of a message.

    Attributes:
        resend: Whether the agent had been sent this event before.
        needs: The needs that it met: position in the agent's list, and score.
    """

    resend: bool
    event: Sequence
    revision: int
    deleted: bool
    needs: Needs
    data_key: str


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message to the agent.

    Attributes:
        stream_id: The stream that carried it; "" for an answer.
        registration: When the registration, whose needs are meant, was made: unix ms.
        position: Where the stream stood with it.
    """

    stream_id: str
    kind: str
    registration: int
    position: Sequence
    events: tuple[SentDatum, ...]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The agent acknowledged a position; its cursor stands at `cursor` since."""

    position: Sequence
    cursor: Sequence
    origin: Origin


@dataclass(frozen=True, slots=True)
class Known:
    """What the agent was sent of a data key.

    Attributes:
        event: The newest event of the key that it was sent.
        sent_ms: When it was sent that first, unix ms.
    """

    event: Sequence
    revision: int
    deleted: bool
    sent_ms: int
    registration: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of the agent.

    Attributes:
        closed_ms: When it ended; 0 while it is open, or where its server died.
    """

    stream_id: str
    opened_ms: int
    closed_ms: int
    start: Sequence
    origin: Origin


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything up to here.

    Attributes:
        record: The registration; empty: not registered.
        texts: The needs of earlier registrations that `known` refers to.
    """

    record: bytes
    cursor: Sequence
    known: dict[str, Known]
    streams: dict[str, Stream]
    texts: dict[int, list[str]]


JournalNote = Registered | Opened | Closed | SentMessage | Acknowledged | Checkpoint


@dataclass(slots=True)
class Knowledge:
    """What an agent knew, and what is known of it.

    Attributes:
        record: Its registration, as it is stored; empty: not registered.
        registered: The event of its registration; None if that was before the checkpoint.
        records: Registrations by when they were made, of those seen.
        sent: The newest event that it was sent, ...
        sent_ms: ... and when it was sent anything last; 0: never.
    """

    record: bytes = b""
    registered: Sequence | None = None
    cursor: Sequence = BEGINNING
    known: dict[str, Known] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    records: dict[int, bytes] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=dict)
    sent: Sequence = BEGINNING
    sent_ms: int = 0


def read_note(note: Note) -> JournalNote:
    """Reads a note of a journal.

    Raises:
        ValueError: It is none.
    """
    kind = next(iter(note.fields))
    body = note.fields[kind]
    match kind:
        case b"d":
            return _message(body.decode())
        case b"a":
            said, _, origin = body.decode().partition("\t")
            position, cursor = said.split(" ")
            return Acknowledged(
                Sequence.parse(position), Sequence.parse(cursor), Origin.parse(origin)
            )
        case b"o":
            said, _, origin = body.decode().partition("\t")
            stream_id, start = said.split(" ")
            return Opened(stream_id, Sequence.parse(start), Origin.parse(origin))
        case b"c":
            return Closed(body.decode())
        case b"r":
            said, _, origin = body.decode().partition("\t")
            event, mark, cursor = said.split(" ")
            return Registered(
                Sequence.parse(event),
                mark == "L",
                Origin.parse(origin),
                Sequence.parse(cursor) if cursor else BEGINNING,
                note.fields.get(b"record", b""),
            )
        case b"k":
            return _checkpoint(note.fields)
    raise ValueError(f"{kind!r} is no note of a journal")


def fold(notes: Iterable[Note]) -> Knowledge:
    """What follows from notes in their order; the first should be a checkpoint."""
    knowledge = Knowledge()
    for note in notes:
        read = read_note(note)
        if isinstance(read, Registered) and not read.live:
            # A registration of the same id is another agent, and knows nothing.
            knowledge = Knowledge(streams=knowledge.streams)
        else:
            _apply(knowledge, note.sequence.ms, read)
    return knowledge


def _apply(knowledge: Knowledge, ms: int, note: JournalNote) -> None:
    match note:
        case SentMessage():
            _learn(knowledge, ms, note)
        case Acknowledged():
            knowledge.cursor = note.cursor
        case Opened():
            knowledge.streams[note.stream_id] = Stream(
                note.stream_id, ms, 0, note.start, note.origin
            )
        case Closed():
            stream = knowledge.streams.get(note.stream_id)
            if stream is not None:
                knowledge.streams[note.stream_id] = replace(stream, closed_ms=ms)
        case Registered():
            knowledge.record = note.record
            knowledge.cursor = note.cursor
            knowledge.registered = note.event
            knowledge.records[_made(note.record)] = note.record
        case Checkpoint():
            knowledge.record = note.record
            knowledge.cursor = note.cursor
            knowledge.known = dict(note.known)
            knowledge.streams = dict(note.streams)
            knowledge.texts = note.texts
            if note.record:
                knowledge.records[_made(note.record)] = note.record
            for known in note.known.values():
                knowledge.sent = max(knowledge.sent, known.event)
                knowledge.sent_ms = max(knowledge.sent_ms, known.sent_ms)


def _learn(knowledge: Knowledge, ms: int, message: SentMessage) -> None:
    knowledge.sent_ms = ms
    for sent in message.events:
        knowledge.sent = max(knowledge.sent, sent.event)
        held = knowledge.known.get(sent.data_key)
        if sent.data_key and (held is None or held.revision < sent.revision):
            knowledge.known[sent.data_key] = Known(
                sent.event, sent.revision, sent.deleted, ms, message.registration, sent.needs
            )


def _made(record: bytes) -> int:
    """When a registration was made; see `match/registration.py`."""
    return int(orjson.loads(record)["updated_ms"])


def _message(text: str) -> SentMessage:
    head, *lines = text.split("\n")
    stream_id, _, kind, registration, position = head.split(" ")
    return SentMessage(
        "" if stream_id == "-" else stream_id,
        kind,
        int(registration),
        Sequence.parse(position),
        tuple(_sent_datum(line) for line in lines),
    )


def _sent_datum(line: str) -> SentDatum:
    sent, event, revision, mark, needs, data_key = line.split(" ", 5)
    return SentDatum(
        sent == "R", Sequence.parse(event), int(revision), mark == "D", _needs(needs), data_key
    )


def _needs(text: str) -> Needs:
    if text == "-":
        return ()
    pairs = (pair.split(":") for pair in text.split(","))
    return tuple((int(index), float(score)) for index, score in pairs)


def _checkpoint(fields: dict[bytes, bytes]) -> Checkpoint:
    known: dict[str, Known] = {}
    texts: dict[int, list[str]] = {}
    for line in fields[b"k"].decode().split("\n"):
        name, _, value = line.partition(" ")
        if name.startswith("\2"):
            texts[int(name[1:])] = orjson.loads(value)
        elif name:
            event, revision, mark, sent_ms, registration, needs = value.split(" ")
            known[name] = Known(
                Sequence.parse(event),
                int(revision),
                mark == "D",
                int(sent_ms),
                int(registration),
                _needs(needs),
            )
    streams: dict[str, Stream] = {}
    for line in fields[b"streams"].decode().split("\n"):
        said, _, origin = line.partition("\t")
        if said:
            stream_id, opened_ms, closed_ms, start = said.split(" ")
            streams[stream_id] = Stream(
                stream_id,
                int(opened_ms),
                int(closed_ms),
                Sequence.parse(start),
                Origin.parse(origin) if origin else UNKNOWN,
            )
    cursor = fields[b"cursor"]
    return Checkpoint(
        fields[b"record"],
        Sequence.parse(cursor.decode()) if cursor else BEGINNING,
        known,
        streams,
        texts,
    )

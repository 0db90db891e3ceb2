"""An agent's journal: what was sent to it, what it acknowledged, when it was connected.

The store writes the notes; `log/redis/functions/agents.lua` defines their format. What the agent
knew at a moment is the fold of its journal, from the newest checkpoint before the moment on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import orjson

from contex_server.kernel.model import BEGINNING, UNKNOWN, Origin, Sequence
from contex_server.log.audit import Note

Needs = tuple[tuple[int, float], ...]
"""The needs that an event met: position in the agent's list, and score."""


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
class StreamOpened:
    """A stream was opened at a position."""

    stream_id: str
    start: Sequence
    origin: Origin


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """A stream ended."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class SentDatum:
    """An event of a message; a `resend` if the agent had been sent it before."""

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
        stream_id: The stream that carried it; "" for a response.
        registration: When the registration whose needs it names was made, unix ms.
        position: The stream's position with it.
    """

    stream_id: str
    kind: str
    registration: int
    position: Sequence
    events: tuple[SentDatum, ...]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The agent acknowledged a position; its cursor has been at `cursor` since."""

    position: Sequence
    cursor: Sequence
    origin: Origin


@dataclass(frozen=True, slots=True)
class LastDelivery:
    """The newest event of a data key that the agent was sent, and when that was first."""

    event: Sequence
    revision: int
    deleted: bool
    sent_ms: int
    registration: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of the agent; `closed_ms` is 0 while it is open, or if its server died."""

    stream_id: str
    opened_ms: int
    closed_ms: int
    start: Sequence
    origin: Origin


@dataclass(slots=True)
class AgentKnowledge:
    """What an agent knew.

    Attributes:
        record: Its registration as it is stored; empty if there is none.
        registered: The event of its registration; None if that was before the checkpoint.
        deliveries: The last delivery of each data key.
        records: The registrations seen, by when they were made.
        texts: The needs of earlier registrations that `deliveries` refers to.
        sent: The newest event that it was sent.
        sent_ms: When it was last sent anything; 0: never.
    """

    record: bytes = b""
    registered: Sequence | None = None
    cursor: Sequence = BEGINNING
    deliveries: dict[str, LastDelivery] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    records: dict[int, bytes] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=dict)
    sent: Sequence = BEGINNING
    sent_ms: int = 0

    def add_record(self, record: bytes) -> None:
        """Remembers a registration by when it was made; see `match/agent_codec.py`."""
        self.records[int(orjson.loads(record)["updated_ms"])] = record


JournalNote = (
    RegistrationNote | StreamOpened | StreamClosed | SentMessage | Acknowledgement | AgentKnowledge
)
"""A checkpoint is what the agent knew: the fold of everything before it."""


def fold_journal(notes: Iterable[Note]) -> AgentKnowledge:
    """What the notes come to, in their order; the first should be a checkpoint."""
    knowledge = AgentKnowledge()
    for note in notes:
        decoded = decode_note(note)
        if isinstance(decoded, AgentKnowledge):
            knowledge = decoded
        elif isinstance(decoded, RegistrationNote) and not decoded.live:
            # A later registration of the same id is another agent, and knows nothing.
            knowledge = AgentKnowledge(streams=knowledge.streams)
        else:
            _apply(knowledge, note.sequence.ms, decoded)
    return knowledge


def _apply(knowledge: AgentKnowledge, ms: int, note: JournalNote) -> None:
    match note:
        case SentMessage():
            _apply_message(knowledge, ms, note)
        case Acknowledgement():
            knowledge.cursor = note.cursor
        case StreamOpened(stream_id, start, origin):
            knowledge.streams[stream_id] = Stream(stream_id, ms, 0, start, origin)
        case StreamClosed(stream_id):
            stream = knowledge.streams.get(stream_id)
            if stream is not None:
                knowledge.streams[stream_id] = replace(stream, closed_ms=ms)
        case RegistrationNote():
            knowledge.record = note.record
            knowledge.cursor = note.cursor
            knowledge.registered = note.event
            knowledge.add_record(note.record)


def _apply_message(knowledge: AgentKnowledge, ms: int, message: SentMessage) -> None:
    knowledge.sent_ms = ms
    for sent in message.events:
        knowledge.sent = max(knowledge.sent, sent.event)
        last = knowledge.deliveries.get(sent.data_key)
        if sent.data_key and (last is None or last.revision < sent.revision):
            knowledge.deliveries[sent.data_key] = LastDelivery(
                sent.event, sent.revision, sent.deleted, ms, message.registration, sent.needs
            )


# -- the format --------------------------------------------------------------


def decode_note(note: Note) -> JournalNote:
    """Decodes a note of a journal.

    Raises:
        ValueError: It is not one.
    """
    kind, body = next(iter(note.fields.items()))
    if kind == b"d":
        return _decode_message(body.decode())
    if kind == b"k":
        return _decode_checkpoint(note.fields)
    if kind == b"c":
        return StreamClosed(body.decode())
    text, _, raw_origin = body.decode().partition("\t")
    match kind, text.split(" "):
        case b"a", [position, cursor]:
            return Acknowledgement(
                Sequence.parse(position), Sequence.parse(cursor), Origin.parse(raw_origin)
            )
        case b"o", [stream_id, start]:
            return StreamOpened(stream_id, Sequence.parse(start), Origin.parse(raw_origin))
        case b"r", [event, mark, cursor]:
            return RegistrationNote(
                Sequence.parse(event),
                mark == "L",
                Origin.parse(raw_origin),
                _decode_cursor(cursor),
                note.fields.get(b"record", b""),
            )
    raise ValueError(f"{kind!r} is not a note of a journal")


def _decode_cursor(text: str) -> Sequence:
    return Sequence.parse(text) if text else BEGINNING


def _decode_message(text: str) -> SentMessage:
    head, *lines = text.split("\n")
    stream_id, _, kind, registration, position = head.split(" ")
    return SentMessage(
        "" if stream_id == "-" else stream_id,
        kind,
        int(registration),
        Sequence.parse(position),
        tuple(_decode_datum(line) for line in lines),
    )


def _decode_datum(line: str) -> SentDatum:
    sent, event, revision, mark, needs, data_key = line.split(" ", 5)
    return SentDatum(
        sent == "R",
        Sequence.parse(event),
        int(revision),
        mark == "D",
        _decode_needs(needs),
        data_key,
    )


def _decode_needs(text: str) -> Needs:
    if text == "-":
        return ()
    pairs = (pair.split(":") for pair in text.split(","))
    return tuple((int(index), float(score)) for index, score in pairs)


def _decode_checkpoint(fields: dict[bytes, bytes]) -> AgentKnowledge:
    deliveries: dict[str, LastDelivery] = {}
    texts: dict[int, list[str]] = {}
    for line in fields[b"k"].decode().split("\n"):
        name, _, value = line.partition(" ")
        if name.startswith("\2"):
            texts[int(name[1:])] = orjson.loads(value)
        elif name:
            event, revision, mark, sent_ms, registration, needs = value.split(" ")
            deliveries[name] = LastDelivery(
                Sequence.parse(event),
                int(revision),
                mark == "D",
                int(sent_ms),
                int(registration),
                _decode_needs(needs),
            )
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
    knowledge = AgentKnowledge(
        record=fields[b"record"],
        cursor=_decode_cursor(fields[b"cursor"].decode()),
        deliveries=deliveries,
        streams=streams,
        texts=texts,
        sent=max((delivery.event for delivery in deliveries.values()), default=BEGINNING),
        sent_ms=max((delivery.sent_ms for delivery in deliveries.values()), default=0),
    )
    if knowledge.record:
        knowledge.add_record(knowledge.record)
    return knowledge

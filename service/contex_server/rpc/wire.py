"""Stream messages as bytes, by joining: the log's bytes go out as they lie there.

An event of the log lacks only its sequence; protobuf takes fields in any order, so a batch
is the events' bytes with tags, lengths and sequences put between them. Joining is 3.6 times
as fast as building messages. `tests/unit/rpc/test_wire.py` holds it to the real parser.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from contex.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.model import Entry, Event, Match, Sequence
from contex_server.rpc.cursors import Token, encode_position
from contex_server.subscriptions.feed import Chunk
from contex_server.subscriptions.streams import Kind, Message

# Tags: field number * 8 + wire type 2. The stream responses share these numbers.
_EVENT_SEQUENCE = 1 << 3 | 2
_BATCH_EVENTS = 1 << 3 | 2
_MATCHED_EVENT = 1 << 3 | 2
_MATCHED_MATCHES = 2 << 3 | 2
_RESPONSE_EVENTS = 1 << 3 | 2
_RESPONSE_CAUGHT_UP = 2 << 3 | 2
_RESPONSE_FELL_BEHIND = 3 << 3 | 2
_RESPONSE_CHECKPOINT = 4 << 3 | 2
_RESPONSE_HEARTBEAT = 5 << 3 | 2
_RESPONSE_CURSOR = 6 << 3 | 2
_RESPONSE_SERVER_TIME = 7 << 3 | 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_HEADS = tuple(bytes([_BATCH_EVENTS]) + _varint(n) for n in range(4_096))
"""Tag and length of a batch's event, for the usual lengths."""
_SEQUENCE_HEADS = tuple(bytes([_EVENT_SEQUENCE, n]) for n in range(64))


def _field(tag: int, value: bytes) -> bytes:
    return bytes([tag]) + _varint(len(value)) + value


def event_bytes(entry: Entry) -> bytes:
    """A `contex.v1.Event`, serialised."""
    return entry.body + _SEQUENCE_HEADS[len(entry.id)] + entry.id


def event_message(entry: Entry) -> event_pb2.Event:
    """A `contex.v1.Event`, parsed."""
    return event_pb2.Event.FromString(event_bytes(entry))


def batch_bytes(entries: Iterable[Entry]) -> bytes:
    """A `contex.v1.EventBatch`, serialised."""
    parts: list[bytes] = []
    for sequence, body in entries:
        size = len(body) + len(sequence) + 2
        parts += (
            _HEADS[size] if size < 4_096 else bytes([_BATCH_EVENTS]) + _varint(size),
            body,
            _SEQUENCE_HEADS[len(sequence)],
            sequence,
        )
    return b"".join(parts)


def matched_batch_bytes(chunk: Chunk) -> bytes:
    """A `contex.v1.MatchedEventBatch`, serialised."""
    return b"".join(
        _field(
            _BATCH_EVENTS,
            b"".join(
                (
                    _field(_MATCHED_EVENT, event_bytes(delivery.entry)),
                    *(
                        _field(_MATCHED_MATCHES, match_message(match).SerializeToString())
                        for match in delivery.matches
                    ),
                )
            ),
        )
        for delivery in chunk.deliveries
    )


def match_message(match: Match) -> event_pb2.Match:
    """A match as the API has it."""
    return event_pb2.Match(
        need_index=match.need_index,
        need=match.need,
        score=match.score,
        parts=event_pb2.ScoreParts(
            cosine=match.cosine, threshold=match.threshold, model=match.model
        ),
    )


def response_bytes(
    project: str, kind: int, content: bytes, position: Sequence, token: Token
) -> bytes:
    """A stream response: its content under `kind`, the cursor and the server's time."""
    return b"".join(
        (
            _field(kind, content),
            _field(_RESPONSE_CURSOR, encode_position(token, project, position).encode()),
            _field(_RESPONSE_SERVER_TIME, _now()),
        )
    )


def events_response(project: str, batch: bytes, position: Sequence, token: Token) -> bytes:
    """A stream response with a batch."""
    return response_bytes(project, _RESPONSE_EVENTS, batch, position, token)


def checkpoint_response(project: str, position: Sequence, token: Token) -> bytes:
    """A stream response with a checkpoint."""
    return response_bytes(project, _RESPONSE_CHECKPOINT, b"", position, token)


def stream_message(project: str, message: Message, *, matched: bool) -> bytes:
    """A SubscribeResponse, or, with `matched`, a ListenResponse.

    What carries events is rendered once for all the readers of a chunk.
    """
    chunk = message.chunk
    if chunk is not None:
        if chunk.rendered is None:
            batch = (
                matched_batch_bytes(chunk)
                if matched
                else batch_bytes(delivery.entry for delivery in chunk.deliveries)
            )
            chunk.rendered = events_response(project, batch, message.position, Token.CURSOR)
        return chunk.rendered
    content = b""
    if message.kind is Kind.FELL_BEHIND and message.tail is not None:
        content = event_pb2.FellBehind(tail_sequence=str(message.tail)).SerializeToString()
    elif message.kind is Kind.CHECKPOINT:
        content = event_pb2.Checkpoint(final=message.final).SerializeToString()
    return response_bytes(project, _KINDS[message.kind], content, message.position, Token.CURSOR)


_KINDS = {
    Kind.CAUGHT_UP: _RESPONSE_CAUGHT_UP,
    Kind.FELL_BEHIND: _RESPONSE_FELL_BEHIND,
    Kind.CHECKPOINT: _RESPONSE_CHECKPOINT,
    Kind.HEARTBEAT: _RESPONSE_HEARTBEAT,
}


def _now() -> bytes:
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos).SerializeToString()


class ProtobufCodec:
    """`EventCodec` for `contex.v1.Event`."""

    def decode(self, entry: Entry) -> Event:
        """See `EventCodec.decode`."""
        message = event_pb2.Event.FromString(entry.body)
        previous = message.previous_sequence
        return Event(
            sequence=entry.sequence,
            event_type=message.event_type,
            data_key=message.data_key,
            payload=message.payload,
            content_type=message.content_type,
            description=message.description,
            publisher=message.publisher,
            revision=message.revision,
            previous_sequence=Sequence.parse(previous) if previous else None,
            text_digest=message.text_digest,
        )

    def without_payload(self, entry: Entry) -> Entry:
        """See `EventCodec.without_payload`."""
        message = event_pb2.Event.FromString(entry.body)
        message.ClearField("payload")
        return Entry(entry.id, message.SerializeToString())

    def encode(self, event_type: str, payload: bytes, metadata: dict[str, str]) -> bytes:
        """See `EventCodec.encode`."""
        return event_pb2.Event(
            event_type=event_type, payload=payload, metadata=metadata
        ).SerializeToString()

"""Stream messages as bytes, by joining: the log's bytes go out as they are.

An event of the log lacks only its sequence, and protobuf takes fields in any order, so a batch
is the events' bytes with tags, lengths and sequences put between them. Joining is 3.6 times
as fast as building messages. `tests/unit/api/test_wire.py` holds it to the real parser.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from itertools import chain
from operator import add

from contex.v1 import event_pb2
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.api.shared.cursors import Token, encode_inbox, encode_position
from contex_server.events.stream import Kind, Message
from contex_server.kernel import event_codec
from contex_server.kernel.inbox_ids import event_of
from contex_server.kernel.model import Entry, Sequence
from contex_server.kernel.protobuf import field, varint

# Tags: field number * 8 + wire type 2. The stream responses share these numbers.
_EVENT_SEQUENCE = 1 << 3 | 2
_BATCH_EVENTS = 1 << 3 | 2
RESPONSE_EVENTS = 1 << 3 | 2
RESPONSE_CHECKPOINT = 4 << 3 | 2
RESPONSE_HEARTBEAT = 5 << 3 | 2
_RESPONSE_CURSOR = 6 << 3 | 2
_RESPONSE_SERVER_TIME = 7 << 3 | 2
RESPONSE_NEEDS_CHANGED = 8 << 3 | 2
RESPONSE_RESYNC = 9 << 3 | 2
_KINDS = {
    Kind.CAUGHT_UP: 2 << 3 | 2,
    Kind.FELL_BEHIND: 3 << 3 | 2,
    Kind.CHECKPOINT: RESPONSE_CHECKPOINT,
    Kind.HEARTBEAT: RESPONSE_HEARTBEAT,
}

_HEADS = tuple(bytes([_BATCH_EVENTS]) + varint(n + 2) for n in range(4_096))
"""Tag and length of a batch's event, for the usual lengths of sequence and body together."""
_SEQUENCE_HEADS = tuple(bytes([_EVENT_SEQUENCE, n]) for n in range(64))


def event_bytes(entry: Entry) -> bytes:
    """A serialised `contex.v1.Event`."""
    return _SEQUENCE_HEADS[len(entry.id)] + entry.id + entry.body


def event_message(entry: Entry) -> event_pb2.Event:
    """A parsed `contex.v1.Event`."""
    try:
        return event_pb2.Event.FromString(event_bytes(entry))
    except DecodeError:
        return event_pb2.Event.FromString(event_bytes(event_codec.readable(entry)))


def batch_bytes(entries: SequenceOf[Entry]) -> bytes:
    """A serialised `contex.v1.EventBatch`, with every event as `event_codec.readable` has it.

    It is read as clients will read it, which takes half as long as joining it.
    """
    joined = _joined(entries)
    try:
        event_pb2.EventBatch.FromString(joined)
    except DecodeError:
        return _joined(map(event_codec.readable, entries))
    return joined


def matched_batch_bytes(entries: SequenceOf[Entry], told: SequenceOf[bytes]) -> bytes:
    """A serialised `contex.v1.MatchedEventBatch`, read likewise; `told` are the other fields of
    each event's `MatchedEvent`."""
    joined = _joined_matched(entries, told)
    try:
        event_pb2.MatchedEventBatch.FromString(joined)
    except DecodeError:
        return _joined_matched(list(map(event_codec.readable, entries)), told)
    return joined


def _joined(entries: Iterable[Entry]) -> bytes:
    return b"".join(chain.from_iterable(zip(*_columns(entries), strict=True)))


def _joined_matched(entries: SequenceOf[Entry], told: SequenceOf[bytes]) -> bytes:
    heads, id_heads, ids, bodies = _columns(entries)
    sizes = map(add, map(len, ids), map(len, bodies))
    told_sizes = map(add, map(len, heads), map(len, told))
    # Both are their message's field 1.
    outer = [
        _HEADS[n] if n < 4_096 else bytes([_BATCH_EVENTS]) + varint(n + 2)
        for n in map(add, sizes, told_sizes)
    ]
    columns = zip(outer, heads, id_heads, ids, bodies, told, strict=True)
    return b"".join(chain.from_iterable(columns))


def _columns(
    entries: Iterable[Entry],
) -> tuple[SequenceOf[bytes], SequenceOf[bytes], SequenceOf[bytes], SequenceOf[bytes]]:
    """What events in a batch are made of: what precedes each, its sequence, its body."""
    # By columns, and without a frame for each event: the hottest path of a replay.
    columns = tuple(zip(*entries, strict=True))
    if not columns:
        return (), (), (), ()
    ids, bodies = columns
    id_sizes = list(map(len, ids))
    sizes = map(add, id_sizes, map(len, bodies))
    heads = [_HEADS[n] if n < 4_096 else bytes([_BATCH_EVENTS]) + varint(n + 2) for n in sizes]
    # The sequence in front: a body that was cut must not take it for its own.
    return heads, list(map(_SEQUENCE_HEADS.__getitem__, id_sizes)), ids, bodies


def bare_response(project: str, message: Message, *, inbox: bool = False) -> bytes:
    """A response of Subscribe or Listen that carries no events.

    The positions of Listen are places of an inbox.
    """
    content, token = b"", Token.INBOX if inbox else Token.CURSOR
    if message.kind is Kind.FELL_BEHIND and message.tail is not None:
        tail = event_of(message.tail) if inbox else message.tail
        content = event_pb2.FellBehind(tail_sequence=str(tail)).SerializeToString()
    elif message.kind is Kind.CHECKPOINT:
        content = event_pb2.Checkpoint(last=message.last).SerializeToString()
    return response(project, _KINDS[message.kind], content, message.position, token)


def response(project: str, kind: int, content: bytes, position: Sequence, token: Token) -> bytes:
    """A stream response: its content under the field `kind`, the cursor, the server's time."""
    encode = encode_inbox if token is Token.INBOX else encode_position
    return response_with(kind, content, encode(token, project, position))


def response_with(kind: int, content: bytes, cursor: str) -> bytes:
    """The same with a cursor that is made."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    now = Timestamp(seconds=seconds, nanos=nanos).SerializeToString()
    return b"".join(
        (
            field(kind, content),
            field(_RESPONSE_CURSOR, cursor.encode()),
            field(_RESPONSE_SERVER_TIME, now),
        )
    )

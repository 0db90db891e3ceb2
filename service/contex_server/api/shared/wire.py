"""Stream messages as bytes, by joining: the log's bytes go out as they lie there.

An event of the log lacks only its sequence; protobuf takes fields in any order, so a batch
is the events' bytes with tags, lengths and sequences put between them. Joining is 3.6 times
as fast as building messages. `tests/unit/rpc/test_wire.py` holds it to the real parser.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from contex.v1 import agent_service_pb2, event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.api.shared.cursors import Token, encode_position
from contex_server.events.feed import Chunk, Delivery, NeedsChange
from contex_server.events.stream import Kind, Message
from contex_server.kernel.model import (
    Agent,
    Entry,
    Match,
    Need,
    Sequence,
)
from contex_server.kernel.protobuf import field, timestamp, varint
from contex_server.match.questions import MatchedDatum, Written
from contex_server.matching.context import Form, Item, render_one
from contex_server.state.moments import Moment

# Tags: field number * 8 + wire type 2. The stream responses share these numbers.
_EVENT_SEQUENCE = 1 << 3 | 2
_BATCH_EVENTS = 1 << 3 | 2
_MATCHED_EVENT = 1 << 3 | 2
_MATCHED_MATCHES = 2 << 3 | 2
_MATCHED_CONTEXT = 4 << 3 | 2
_RESPONSE_EVENTS = 1 << 3 | 2
_RESPONSE_CAUGHT_UP = 2 << 3 | 2
_RESPONSE_FELL_BEHIND = 3 << 3 | 2
_RESPONSE_CHECKPOINT = 4 << 3 | 2
_RESPONSE_HEARTBEAT = 5 << 3 | 2
_RESPONSE_CURSOR = 6 << 3 | 2
_RESPONSE_SERVER_TIME = 7 << 3 | 2
_RESPONSE_NEEDS_CHANGED = 8 << 3 | 2


_HEADS = tuple(bytes([_BATCH_EVENTS]) + varint(n) for n in range(4_096))
"""Tag and length of a batch's event, for the usual lengths."""
_SEQUENCE_HEADS = tuple(bytes([_EVENT_SEQUENCE, n]) for n in range(64))


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
            _HEADS[size] if size < 4_096 else bytes([_BATCH_EVENTS]) + varint(size),
            body,
            _SEQUENCE_HEADS[len(sequence)],
            sequence,
        )
    return b"".join(parts)


def matched_batch_bytes(chunk: Chunk, form: Form = Form.UNSPECIFIED) -> bytes:
    """A `contex.v1.MatchedEventBatch`, serialised."""
    return b"".join(
        field(
            _BATCH_EVENTS,
            b"".join(
                (
                    field(_MATCHED_EVENT, event_bytes(delivery.entry)),
                    *(
                        field(_MATCHED_MATCHES, match_message(match).SerializeToString())
                        for match in delivery.matches
                    ),
                    _contextfield(delivery, form),
                )
            ),
        )
        for delivery in chunk.deliveries
    )


def _contextfield(delivery: Delivery, form: Form) -> bytes:
    text = _context_of(delivery, form)
    return field(_MATCHED_CONTEXT, text.encode()) if text else b""


def _context_of(delivery: Delivery, form: Form) -> str:
    """An event written out."""
    if form is Form.UNSPECIFIED or delivery.event is None:
        return ""
    event = delivery.event
    return render_one(
        Item(
            event.data_key or event.event_type,
            event.description,
            event.payload,
            event.content_type,
            str(event.sequence),
            max((match.score for match in delivery.matches), default=0.0),
            frozenset(match.need_index for match in delivery.matches),
        ),
        form,
    )


def match_message(match: Match) -> event_pb2.Match:
    """A match as the API has it."""
    return event_pb2.Match(
        need_index=match.need_index,
        need=match.need,
        score=match.score,
        path=match.path,
        passage=match.passage_text,
        parts=event_pb2.ScoreParts(
            cosine=match.cosine,
            threshold=match.threshold,
            model=match.model,
            background_mean=match.mean,
            background_deviation=match.deviation,
            standing=match.standing,
            lexical=match.lexical,
            share=match.share,
            background_passages=match.background_passages,
            background_sequence=str(match.background_as_of),
            scorer=match.scorer,
        ),
    )


def data_messages(data: Iterable[MatchedDatum]) -> list[event_pb2.MatchedEvent]:
    """The data of an answer."""
    return [
        event_pb2.MatchedEvent(
            event=event_message(datum.entry),
            matches=[match_message(match) for match in datum.matches],
            payload_omitted=datum.payload_omitted,
        )
        for datum in data
    ]


def context_message(written: Written | None) -> event_pb2.Context | None:
    """An answer written out."""
    if written is None:
        return None
    return event_pb2.Context(
        text=written.text,
        format=event_pb2.ContextFormat.ValueType(written.form),
        tokens=written.tokens,
        token_counter=written.counter,
        omitted=[
            event_pb2.OmittedDatum(
                data_key=datum.data_key,
                sequence=str(datum.sequence),
                score=datum.score,
                tokens=datum.tokens,
            )
            for datum in written.omitted
        ],
    )


def agent_message(agent: Agent, acknowledged: Sequence) -> agent_service_pb2.Agent:
    """A registration."""
    delta = agent.min_delta
    return agent_service_pb2.Agent(
        agent_id=agent.agent_id,
        needs=[need.text for need in agent.needs],
        need_specs=[_need_message(need) for need in agent.needs],
        threshold=agent.threshold,
        max_matches=agent.max_matches,
        registered_time=timestamp(agent.registered_ms),
        updated_time=timestamp(agent.updated_ms),
        acknowledged_sequence=str(acknowledged),
        min_delta=None
        if delta is None
        else agent_service_pb2.MinDelta(payload_changed=True, json_pointers=delta.json_pointers),
    )


def _need_message(need: Need) -> agent_service_pb2.Need:
    return agent_service_pb2.Need(
        text=need.text,
        threshold=need.own_threshold,
        max_matches=need.own_max_matches,
        exclude_data_keys=sorted(need.exclude),
    )


def moment_message(moment: Moment) -> event_pb2.Moment:
    """The moment that an answer is as of."""
    return event_pb2.Moment(sequence=str(moment.sequence), time=timestamp(moment.unix_ms))


def _needs_changed_bytes(change: NeedsChange, form: Form) -> bytes:
    return agent_service_pb2.NeedsChanged(
        agent=agent_message(change.agent, change.acknowledged),
        data=[
            event_pb2.MatchedEvent(
                event=event_message(delivery.entry),
                matches=[match_message(match) for match in delivery.matches],
                context=_context_of(delivery, form),
            )
            for delivery in change.data
        ],
    ).SerializeToString()


def response_bytes(
    project: str, kind: int, content: bytes, position: Sequence, token: Token
) -> bytes:
    """A stream response: its content under `kind`, the cursor and the server's time."""
    return b"".join(
        (
            field(kind, content),
            field(_RESPONSE_CURSOR, encode_position(token, project, position).encode()),
            field(_RESPONSE_SERVER_TIME, _now()),
        )
    )


def events_response(project: str, batch: bytes, position: Sequence, token: Token) -> bytes:
    """A stream response with a batch."""
    return response_bytes(project, _RESPONSE_EVENTS, batch, position, token)


def checkpoint_response(project: str, position: Sequence, token: Token) -> bytes:
    """A stream response with a checkpoint."""
    return response_bytes(project, _RESPONSE_CHECKPOINT, b"", position, token)


def size_of(message: Message) -> int:
    """About how many bytes of events a stream message carries."""
    if message.chunk is None:
        return 0
    return sum(delivery.size for delivery in message.chunk.deliveries)


def stream_message(
    project: str, message: Message, *, matched: bool, form: Form = Form.UNSPECIFIED
) -> bytes:
    """A SubscribeResponse, or, with `matched`, a ListenResponse.

    What carries events is rendered once for all the readers of a chunk that want the form.
    """
    chunk = message.chunk
    if chunk is not None:
        rendered = chunk.rendered.get(form)
        if rendered is None:
            kind = _RESPONSE_EVENTS
            if chunk.change is not None:
                kind, content = _RESPONSE_NEEDS_CHANGED, _needs_changed_bytes(chunk.change, form)
            elif matched:
                content = matched_batch_bytes(chunk, form)
            else:
                content = batch_bytes(delivery.entry for delivery in chunk.deliveries)
            rendered = response_bytes(project, kind, content, message.position, Token.CURSOR)
            chunk.rendered[form] = rendered
        return rendered
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

"""What consumers of an agent are told, as the API has it."""

from __future__ import annotations

from collections.abc import Iterator

from contex.v1 import consumer_pb2 as pb
from contex.v1 import event_pb2
from google.protobuf.message import DecodeError

from contex_server.api.shared import wire
from contex_server.events.feed import Delivery
from contex_server.groups.consumer import Answer, Claim, Idle, Lost
from contex_server.kernel import event_codec
from contex_server.kernel.inbox_ids import event_of
from contex_server.kernel.protobuf import field, timestamp, varint
from contex_server.log.groups import Blocker, Gaps, GroupState, Parked

# Tags: field number * 8 + wire type.
_DELIVERIES, _SETTLED, _LOST, _IDLE, _MISSED, _HEARTBEAT, _BLOCKED = (
    number << 3 | 2 for number in (1, 2, 3, 4, 5, 8, 9)
)
_DELIVERY = _ID = _EVENT = 1 << 3 | 2
_MATCHED = 2 << 3 | 2
_ATTEMPT = bytes([3 << 3])
_REDRIVEN = bytes([4 << 3, 1])
_EXTRA_BYTES = 96
"""What a delivery takes besides its event: its name, tags and lengths."""

Claims = list[tuple[Claim, Delivery]]


def parts(claims: Claims, room_bytes: int) -> Iterator[Claims]:
    """What a consumer is given, by messages."""
    start = size_bytes = 0
    for index, (_, delivery) in enumerate(claims):
        size = delivery.size + _EXTRA_BYTES
        if index > start and size_bytes + size > room_bytes:
            yield claims[start:index]
            start, size_bytes = index, 0
        size_bytes += size
    if claims:
        yield claims[start:]


def deliveries(claims: Claims, cursor: str) -> bytes:
    """A serialised ConsumeResponse with what a consumer is given."""
    joined = b"".join([_delivery_bytes(claim, delivery) for claim, delivery in claims])
    try:
        pb.ConsumerDeliveries.FromString(joined)
    except DecodeError:
        joined = b"".join(
            [_delivery_bytes(claim, delivery, damaged=True) for claim, delivery in claims]
        )
    return wire.response_with(_DELIVERIES, joined, cursor)


def _delivery_bytes(claim: Claim, delivery: Delivery, *, damaged: bool = False) -> bytes:
    entry = event_codec.readable(delivery.entry) if damaged else delivery.entry
    matched = field(_EVENT, wire.event_bytes(entry)) + delivery.told
    content = field(_ID, claim.id.encode()) + field(_MATCHED, matched)
    content += _ATTEMPT + varint(claim.claimed.attempt)
    return field(_DELIVERY, content + _REDRIVEN if claim.claimed.redriven else content)


def told(message: Answer | Lost | Idle | Gaps | None, cursor: str) -> bytes:
    """A serialised ConsumeResponse without deliveries; None is a heartbeat."""
    match message:
        case Answer(number, lost, refused, reason):
            kind = _SETTLED
            content = pb.Settled(
                settle_id=number,
                lost_delivery_ids=lost,
                refused_delivery_ids=refused,
                refused_reason=reason,
            ).SerializeToString()
        case Lost(names):
            kind, content = _LOST, pb.ClaimsLost(delivery_ids=names).SerializeToString()
        case Idle(outstanding):
            kind, content = _IDLE, pb.Idle(outstanding_count=outstanding).SerializeToString()
        case Gaps():
            kind, content = _MISSED, missed_message(message).SerializeToString()
        case None:
            kind, content = _HEARTBEAT, b""
    return wire.response_with(kind, content, cursor)


def blocked(blockers: list[Blocker], cursor: str) -> bytes:
    """A serialised ConsumeResponse that says what holds everything up."""
    message = pb.Blocked()
    if blockers:
        worst = blockers[0]
        message = pb.Blocked(
            data_key=worst.data_key,
            waiting_count=worst.waiting,
            sequence=str(event_of(worst.place)),
            consumer=worst.consumer,
        )
    return wire.response_with(_BLOCKED, message.SerializeToString(), cursor)


def missed_message(missed: Gaps) -> pb.Missed:
    """What consumers have missed."""
    return pb.Missed(
        superseded_count=missed.superseded,
        dropped_count=missed.dropped,
        removed_count=missed.removed,
    )


def group_message(
    state: GroupState, blockers: list[Blocker], counted: int
) -> pb.GetConsumerGroupResponse:
    """What consumers share."""
    lag_ms = 0 if state.oldest is None else max(0, state.now_ms - state.oldest.ms)
    return pb.GetConsumerGroupResponse(
        position_sequence=str(event_of(state.position)),
        backlog_count=min(state.backlog, counted),
        has_more_backlog=state.backlog > counted,
        lag_ms=lag_ms,
        outstanding_count=state.outstanding,
        delayed_count=state.delayed,
        waiting_count=state.waiting,
        parked_count=state.parked,
        missed=missed_message(state.missed),
        consumers=[
            pb.Consumer(
                name=each.name,
                outstanding_count=each.outstanding,
                oldest_outstanding_ms=each.oldest_ms,
                last_contact_time=timestamp(max(0, state.now_ms - each.idle_ms)),
            )
            for each in state.consumers
        ],
        blocked_keys=[
            pb.BlockedKey(
                data_key=each.data_key,
                waiting_count=each.waiting,
                sequence=str(event_of(each.place)),
                consumer=each.consumer,
                attempt=each.attempt,
            )
            for each in blockers
        ],
    )


_CAUSES = {
    "C": pb.PARK_CAUSE_CONSUMER,
    "A": pb.PARK_CAUSE_TOO_MANY_ATTEMPTS,
    "S": pb.PARK_CAUSE_SEEK,
}


def parked_message(parked: Parked, delivery: Delivery) -> pb.ParkedDelivery:
    """A delivery that was put aside."""
    entry = event_codec.readable(delivery.entry)
    matched = event_pb2.MatchedEvent.FromString(
        field(_EVENT, wire.event_bytes(entry)) + delivery.told
    )
    return pb.ParkedDelivery(
        parked_id=str(parked.id),
        matched=matched,
        attempts=parked.attempts,
        consumer=parked.consumer,
        parked_time=timestamp(parked.id.ms),
        reason=parked.why[1:],
        cause=_CAUSES[parked.why[:1]],
    )

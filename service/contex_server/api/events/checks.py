"""Checks every field of a publish and builds the append, with each event's bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from contex.v1 import event_pb2
from contex.v1 import event_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.events.pace import Pace
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, ContexError, Reason, all_of, invalid_field
from contex_server.kernel.event_rules import (
    check_content_type,
    check_description,
    check_metadata,
    check_payload,
    too_large,
)
from contex_server.kernel.model import (
    DATA_DELETED,
    DATA_PUBLISHED,
    RESERVED_TYPES,
    SUBJECT,
    Append,
    Durability,
    NewEvent,
    Origin,
)
from contex_server.kernel.protobuf import varint
from contex_server.kernel.recent import Recent
from contex_server.kernel.scope import EVERYTHING as UNRESTRICTED
from contex_server.kernel.scope import Scope

_INLINE_EVENTS = 100
"""A batch of them takes up to 5 ms."""
_MAX_PAUSE_MS = 10_000
"""Of a replay, where the request does not say."""
_KNOWN_BYTES = 16 * 1024 * 1024
_FRAME_BYTES = 500
"""What is remembered of an event's fields takes beside them."""
_DURABILITIES = {0: Durability.FSYNC, **{int(durability): durability for durability in Durability}}


def publish(
    request: pb.PublishRequest, origin: Origin, limits: Limits, scope: Scope = UNRESTRICTED
) -> Append:
    """A publish, or one batch of a stream; see `_byline` for the publisher.

    The project has been checked.

    Raises:
        ContexError: Also PAYLOAD_TOO_LARGE, EVENT_TYPE_RESERVED, PERMISSION_DENIED.
    """
    try:
        append = _checked(request, origin, limits)
    except ContexError:
        all_of(_checks(request, origin, limits))
        raise
    if not scope.is_open:
        append.scope = scope
        _check_keys(append.events, scope)
    return append


def _check_keys(events: Iterable[NewEvent], scope: Scope) -> None:
    for index, event in enumerate(events):
        if not scope.admits(event.data_key):
            field = f"events[{index}].data_key"
            problem = repr(event.data_key) if event.data_key else "an event without a data key"
            raise ContexError(
                Reason.PERMISSION_DENIED, f"{field}: {problem} is not yours to publish", field=field
            )


async def read_publish(
    request: pb.PublishRequest, origin: Origin, limits: Limits, scope: Scope
) -> Append:
    """`publish`, in a thread where there is much to check and to copy."""
    if len(request.events) <= _INLINE_EVENTS:
        return publish(request, origin, limits, scope)
    return await asyncio.to_thread(publish, request, origin, limits, scope)


class _Frame(NamedTuple):
    """What the body of an event has around its payload, of fields that have been checked."""

    before: bytes
    after: bytes
    event_type: str


class _Byline(NamedTuple):
    """Who is named in an event, and what name was only claimed."""

    publisher: str
    claimed: str = ""


def _byline(request: pb.PublishRequest, origin: Origin) -> _Byline:
    """The publisher is the identity that was proved. Where none was, it is whom the request
    names, or who the caller says it is."""
    if origin.claimed is None:
        return _Byline(request.publisher or origin.identity)
    claimed = request.publisher or origin.claimed
    return _Byline(origin.identity, "" if claimed == origin.identity else claimed)


_Fields = tuple[str, str, str, str, _Byline]
"""Data key, event type, content type, description, who published it."""


def _frame(fields: _Fields) -> _Frame:
    key, kind, content_type, description, byline = fields
    kind = kind or DATA_PUBLISHED
    before = event_pb2.Event(event_type=kind, data_key=key)
    after = event_pb2.Event(
        content_type=content_type,
        description=description,
        publisher=byline.publisher,
        claimed_publisher=byline.claimed,
    )
    return _Frame(before.SerializeToString(), after.SerializeToString(), kind)


def _payload_head(size: int) -> bytes:
    """What stands before a payload of so many bytes."""
    return bytes((event_pb2.Event.PAYLOAD_FIELD_NUMBER << 3 | 2,)) + varint(size)


_SHORT_BYTES = 2_048
_PAYLOAD_HEADS = [_payload_head(size) for size in range(_SHORT_BYTES)]


def _frame_bytes(fields: _Fields, frame: _Frame) -> int:
    texts = (*fields[:4], *fields[4])
    return _FRAME_BYTES + 2 * sum(map(len, texts)) + len(frame.before) + len(frame.after)


_known: dict[tuple[int, int], Recent[_Fields, _Frame]] = {}
"""The fields of events that were published lately, by the limits under which they were checked:
most events say of themselves what another one said before."""


def _known_under(limits: Limits) -> Recent[_Fields, _Frame]:
    bounds = limits.content_type_chars, limits.description_bytes
    known = _known.get(bounds)
    if known is None:
        known = _known[bounds] = Recent(_KNOWN_BYTES, _frame_bytes)
    return known


def _checked(request: pb.PublishRequest, origin: Origin, limits: Limits) -> Append:
    request_id, byline = request.request_id, _byline(request, origin)
    if request_id:
        fields.request_id(request_id)
    if named := request.publisher or byline.publisher:
        fields.publisher(named)
    durability = _durability(request.durability)
    _check_size(request, limits)
    events = _new_events(request, byline, limits)
    return Append(request.project, events, request_id, durability, byline.publisher, origin)


def pace(request: pb.ReplayRequest, limits: Limits) -> Pace | None:
    """The pace of a replay; None if it is as fast as the reader."""
    with Checks() as check:
        speed = check(_speed, request, limits)
        max_pause_ms = check(_max_pause_ms, request, limits)
    return None if speed is None else Pace(speed, max_pause_ms / 1000)


def _speed(request: pb.ReplayRequest, limits: Limits) -> float | None:
    if not request.HasField("speed"):
        return None
    if not 0 < request.speed <= limits.replay_speed:  # also what is not a number
        most = f"{limits.replay_speed:,.0f}"
        raise invalid_field("speed", f"must be more than 0, at most {most}, not {request.speed}")
    return request.speed


def _max_pause_ms(request: pb.ReplayRequest, limits: Limits) -> int:
    value, most = request.max_pause_ms, limits.replay_pause_ms
    if value and not request.HasField("speed"):
        raise invalid_field("max_pause_ms", "needs a speed: without one there are no pauses")
    return fields.within(value, 0, most, "max_pause_ms") or _MAX_PAUSE_MS


def _new_events(request: pb.PublishRequest, byline: _Byline, limits: Limits) -> list[NewEvent]:
    known, most = _known_under(limits), limits.payload_bytes
    events = []
    for index, event in enumerate(request.events):
        payload = event.payload
        key, kind, content_type = event.data_key, event.event_type, event.content_type
        description = event.description
        fields = key, kind, content_type, description, byline
        frame, size = known.get(fields), len(payload)
        if (
            frame is None
            or size > most
            or event.tombstone
            or event.metadata
            or event.expected_state
            or event.HasField("expected_revision")
            or event.WhichOneof("validity")
        ):
            events.append(_new_event(event, index, byline, limits))
            if frame is None and not event.tombstone and not event.metadata:
                known.put(fields, _frame(fields))
            continue
        if not payload:
            body = frame.before + frame.after
        else:
            head = _PAYLOAD_HEADS[size] if size < _SHORT_BYTES else _payload_head(size)
            body = b"".join((frame.before, head, payload, frame.after))
        new = NewEvent(body, key, frame.event_type, payload, content_type, description)
        if key and not description and not event.HasField("description"):
            new.carries = True
        events.append(new)
    return events


def _durability(value: int) -> Durability:
    durability = _DURABILITIES.get(value)
    if durability is None:
        raise invalid_field("durability", f"{value} is no Durability")
    return durability


def _check_size(request: pb.PublishRequest, limits: Limits) -> None:
    count = len(request.events)
    fields.check_count("events", count, limits.events_per_batch, at_least=1)
    if count > 1:
        size = request.ByteSize()
        if size > limits.batch_bytes:
            raise too_large("events", size, limits.batch_bytes)


def _checks(
    request: pb.PublishRequest, origin: Origin, limits: Limits
) -> Iterator[Callable[[], object]]:
    """Checks of every field of a refused request: what is at fault in an event is replaced for
    the next one.
    """
    byline = _byline(request, origin)
    yield partial(fields.request_id, request.request_id)
    yield partial(fields.publisher, request.publisher or byline.publisher)
    yield partial(_durability, request.durability)
    yield partial(_check_size, request, limits)
    for index, event in enumerate(islice(request.events, limits.events_per_batch)):
        rest = pb.NewEvent()
        rest.CopyFrom(event)
        passed: list[NewEvent] = []
        for _ in pb.NewEvent.DESCRIPTOR.fields:
            if passed:
                break
            yield partial(_check_rest, rest, index, byline, limits, passed)


def _check_rest(
    rest: pb.NewEvent, index: int, byline: _Byline, limits: Limits, passed: list[NewEvent]
) -> None:
    try:
        passed.append(_new_event(rest, index, byline, limits))
    except ContexError as error:
        name: Any = (error.field or "").rpartition(".")[2]
        sound = _SOUND.get(name)
        if sound is not None and getattr(rest, name) != sound:
            setattr(rest, name, sound)
        else:
            rest.ClearField(name)
        raise


_SOUND = {"data_key": "key", "event_type": "type"}
"""What replaces a name that is at fault: other fields may need that there is one."""


def _new_event(event: pb.NewEvent, index: int, byline: _Byline, limits: Limits) -> NewEvent:
    try:
        return _checked_event(event, byline, limits)
    except ContexError as error:
        field = f"events[{index}].{error.field}"
        message = error.message.replace(f"{error.field}:", f"{field}:", 1)
        raise ContexError(error.reason, message, metadata=error.metadata, field=field) from None


_STATES = {
    pb.KEY_STATE_ABSENT: "absent",
    pb.KEY_STATE_PRESENT: "present",
    pb.KEY_STATE_DELETED: "deleted",
}


def _checked_event(event: pb.NewEvent, byline: _Byline, limits: Limits) -> NewEvent:
    key, kind, payload = event.data_key, event.event_type, event.payload
    content_type, description, tombstone = event.content_type, event.description, event.tombstone
    if kind:
        if kind in RESERVED_TYPES:
            raise ContexError(
                Reason.EVENT_TYPE_RESERVED,
                f"event_type: {kind!r} is written by the service only; leave it empty to "
                "publish data, set tombstone to delete",
                field="event_type",
            )
        fields.event_type(kind)
    if key or not kind:
        fields.data_key(key)
    check_payload(payload, limits)
    if content_type:
        check_content_type(content_type, limits)
    if description:
        check_description(description, limits)
    metadata = dict(event.metadata) if event.metadata else None
    if metadata:
        check_metadata(metadata, limits)
    if tombstone:
        for field in ("payload", "content_type", "event_type"):
            if getattr(event, field):
                raise invalid_field(field, "must be empty where tombstone is set")
    kind = kind or (DATA_DELETED if tombstone else DATA_PUBLISHED)
    carries = bool(key) and not tombstone and not event.HasField("description")
    body = event_pb2.Event(
        event_type=kind,
        data_key=key,
        payload=payload,
        content_type=content_type,
        description=description,
        publisher=byline.publisher,
        claimed_publisher=byline.claimed,
        metadata=metadata,
    ).SerializeToString()
    expected = event.expected_revision if event.HasField("expected_revision") else None
    if expected is not None:
        if not key:
            raise invalid_field("expected_revision", "needs a data_key")
        if expected > 2**53:
            raise invalid_field("expected_revision", "must be at most 2^53")
    state = ""
    if event.expected_state:
        if event.expected_state not in _STATES:
            raise invalid_field("expected_state", f"{event.expected_state} is no KeyState")
        if not key:
            raise invalid_field("expected_state", "needs a data_key")
        if expected is not None:
            raise invalid_field("expected_state", "not together with expected_revision")
        state = _STATES[event.expected_state]
    validity = _validity(event, limits) if event.WhichOneof("validity") else ""
    subject = metadata.get(SUBJECT, "") if metadata else ""
    return NewEvent(
        *(body, key, kind, payload, content_type, description, tombstone, expected, subject),
        carries=carries,
        expected_state=state,
        validity=validity,
    )


def _validity(event: pb.NewEvent, limits: Limits) -> str:
    """How long an event is valid, as `NewEvent` has it.

    That `valid_until` has not passed is left to the store: a request that was answered before is
    answered again, whatever the time is.
    """
    name = event.WhichOneof("validity") or ""
    if event.tombstone:
        raise invalid_field(name, "must be unset where tombstone is set")
    if not event.data_key:
        raise invalid_field(name, "needs a data_key")
    longest = limits.max_valid_seconds
    if name == "valid_for":
        length = event.valid_for
        if not (
            limits.min_valid_seconds <= length.seconds <= longest
            and 0 <= length.nanos < 1_000_000_000
            and (length.seconds < longest or not length.nanos)
        ):
            raise invalid_field(
                name, f"must be from {limits.min_valid_seconds} to {longest} seconds"
            )
        return f"+{length.seconds * 1000 + length.nanos // 1_000_000}"
    end = event.valid_until
    if not 0 <= end.nanos < 1_000_000_000:
        raise invalid_field(name, "has nanos that are not from 0 to 999,999,999")
    unix_ms = end.seconds * 1000 + end.nanos // 1_000_000
    if end.seconds > time.time() + longest:
        raise invalid_field(name, f"must be at most {longest} seconds ahead")
    return str(max(unix_ms, 0))

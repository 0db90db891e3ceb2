"""Checks every field of a publish and builds the append, with each event's bytes."""

from __future__ import annotations

from contex.v1 import event_pb2
from contex.v1 import event_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason, invalid_field
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

PublishLike = pb.PublishRequest | pb.PublishStreamRequest
_DURABILITIES = {0: Durability.FSYNC, **{int(durability): durability for durability in Durability}}


def publish(request: PublishLike, origin: Origin, limits: Limits) -> Append:
    """A publish, or one batch of a stream; the caller's identity is the default publisher.

    The project has been checked.

    Raises:
        ContexError: Also PAYLOAD_TOO_LARGE, EVENT_TYPE_RESERVED.
    """
    request_id, publisher = request.request_id, request.publisher or origin.identity
    if request_id:
        fields.request_id(request_id)
    if publisher:
        fields.publisher(publisher)
    durability = _DURABILITIES.get(request.durability)
    if durability is None:
        raise invalid_field("durability", f"{request.durability} is no Durability")
    count = len(request.events)
    fields.check_count("events", count, limits.events_per_batch, at_least=1)
    if count > 1:
        size = request.ByteSize()
        if size > limits.batch_bytes:
            raise too_large("events", size, limits.batch_bytes)
    events = [
        _new_event(event, index, publisher, limits) for index, event in enumerate(request.events)
    ]
    return Append(request.project, events, request_id, durability, publisher, origin)


def _new_event(event: pb.NewEvent, index: int, publisher: str, limits: Limits) -> NewEvent:
    try:
        return _checked_event(event, publisher, limits)
    except ContexError as error:
        field = f"events[{index}].{error.field}"
        message = error.message.replace(f"{error.field}:", f"{field}:", 1)
        raise ContexError(error.reason, message, metadata=error.metadata, field=field) from None


def _checked_event(event: pb.NewEvent, publisher: str, limits: Limits) -> NewEvent:
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
        publisher=publisher,
        metadata=metadata,
    ).SerializeToString()
    expected = event.expected_revision if event.HasField("expected_revision") else None
    if expected is not None:
        if not key:
            raise invalid_field("expected_revision", "needs a data_key")
        if expected > 2**53:
            raise invalid_field("expected_revision", "must be at most 2^53")
    subject = metadata.get(SUBJECT, "") if metadata else ""
    return NewEvent(
        *(body, key, kind, payload, content_type, description, tombstone, expected, subject),
        carries=carries,
    )

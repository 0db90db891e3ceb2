"""Values of `contex.v1.EventService`, and what other services say about events.

The methods are in `_async/events.py`, and so on for each service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from . import payload as payloads
from ._values.events import *
from .errors import ContexError, from_refusal
from .lazy import event_pb2, event_service_pb2, wire


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact to publish.

    Attributes:
        data_key: Name of the datum; empty only for an event of a type of your own.
        payload: Bytes, text, or anything with a JSON form, as in `publish`. None is JSON null, but
            no payload at all if `tombstone` is set.
        description: What the datum is, in plain words; the best way to have it found. None keeps
            the datum's last one, "" removes it.
        event_type: A type of your own; empty for `data_published` or `data_deleted`.
        content_type: Media type; by default the one that fits the payload's Python type.
        metadata: Free annotations.
        tombstone: Deletes the datum. Its history stays.
        expected_revision: Refuse to publish unless the key is at this revision; 0: it never had
            an event.
        expected_state: Refuse to publish unless the key is in this state, events before it in the
            same batch included.
        valid_for: How long the fact is valid after it was appended: seconds, or a `timedelta`; None
            for a fact that lasts. It then expires, which is an event `data_expired`.
        valid_until: Until when it is valid instead, a `datetime` with a time zone.
    """

    data_key: str = ""
    payload: object = None
    description: str | None = None
    event_type: str = ""
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    tombstone: bool = False
    expected_revision: int | None = None
    expected_state: KeyState | None = None
    valid_for: float | timedelta | None = None
    valid_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The receipt for one published event.

    Attributes:
        sequence: Its place in the project's log.
        revision: Its data key's revision; 0 without a key.
        durability: The level that it had reached when it was acknowledged.
        duplicate: True if the request was a repetition and nothing was published now.
    """

    sequence: str
    revision: int
    durability: Durability
    duplicate: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The answer to one batch of a publish stream.

    Attributes:
        request_id: The batch's id; use it to retry a refused batch.
        receipts: One for each event, in order; empty if the batch was refused.
        duplicate: True if the batch had been published before.
        error: Why the batch was refused; None if it was not.
    """

    request_id: str
    receipts: tuple[Receipt, ...] = ()
    duplicate: bool = False
    error: ContexError | None = None


# -- to messages ---------------------------------------------------------------------------------


def to_new_event(event: NewEvent) -> event_service_pb2.NewEvent:
    """The message for an event to publish."""
    if not isinstance(event, NewEvent):
        raise TypeError(f"event: expected a NewEvent, not {type(event).__name__}")
    if event.tombstone and event.payload is None:
        payload, content_type = b"", event.content_type or ""
    else:
        payload, content_type = payloads.encode(event.payload, event.content_type)
    return wire.message(
        event_service_pb2.NewEvent,
        data_key=event.data_key,
        event_type=event.event_type,
        payload=payload,
        content_type=content_type,
        description=event.description,
        metadata=event.metadata,
        tombstone=event.tombstone,
        expected_revision=event.expected_revision,
        expected_state=to_key_state(event.expected_state),
        **to_validity(event),
    )


def to_validity(event: NewEvent) -> dict[str, Any]:
    """The field that says how long an event is valid, if one does.

    Raises:
        TypeError: It has another type.
        ValueError: Both do, or the time has no zone.
    """
    if event.valid_for is not None and event.valid_until is not None:
        raise ValueError("valid_for: not together with valid_until")
    if event.valid_for is not None:
        return {"valid_for": wire.duration(event.valid_for, "valid_for")}
    if event.valid_until is not None:
        return {"valid_until": wire.timestamp(event.valid_until, "valid_until")}
    return {}


def to_key_state(state: KeyState | None) -> event_service_pb2.KeyState.ValueType:
    """The state to expect; None expects none."""
    if state is None:
        return event_service_pb2.KEY_STATE_UNSPECIFIED
    return wire.enum_number(KeyState, state, event_service_pb2.KeyState, "expected_state")


def to_new_events(events: Iterable[NewEvent]) -> list[event_service_pb2.NewEvent]:
    """The messages for a batch. What is wrong with one is raised with its number in the batch."""
    events = wire.several(events, "events")
    # `publish` makes a batch of one, and its caller knows of no batch.
    return wire.each(events, to_new_event, "events" if len(events) > 1 else "")


def escape_glob(data_key: str) -> str:
    """The glob that only this data key fits, whatever characters it has."""
    return "".join(f"\\{c}" if c in "*?\\" else c for c in data_key)


def to_durability(durability: Durability | None) -> event_pb2.Durability.ValueType:
    """The level to ask for; None leaves it to the server."""
    if durability is None:
        return event_pb2.DURABILITY_UNSPECIFIED
    return event_pb2.Durability.ValueType(wire.member(Durability, durability, "durability"))


def to_context_format(context_format: ContextFormat | None) -> event_pb2.ContextFormat.ValueType:
    """The format to ask for; None asks for no text."""
    if context_format is None:
        return event_pb2.CONTEXT_FORMAT_UNSPECIFIED
    return wire.enum_number(
        ContextFormat, context_format, event_pb2.ContextFormat, "context_format"
    )


def sequence_of(event: str | Event | MatchedEvent) -> str:
    """The sequence of an event that is given in any form."""
    if isinstance(event, MatchedEvent):
        return event.event.sequence
    return event.sequence if isinstance(event, Event) else event


# -- from messages -------------------------------------------------------------------------------


def receipts(response: event_service_pb2.PublishResponse) -> tuple[Receipt, ...]:
    """One receipt for each event of a publish."""
    # A level that a newer server has added includes all that this client knows.
    level = Durability(min(response.durability or Durability.FSYNC, Durability.REPLICATED))
    return tuple(
        Receipt(receipt.sequence, receipt.revision, level, response.duplicate)
        for receipt in response.receipts
    )


def batch_result(response: event_service_pb2.PublishStreamResponse) -> BatchResult:
    """The answer to one batch of a publish stream."""
    if response.WhichOneof("outcome") == "refused":
        return BatchResult(response.request_id, error=from_refusal(response.refused))
    published = response.published
    return BatchResult(response.request_id, receipts(published), published.duplicate)

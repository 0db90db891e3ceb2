"""Conversions between arguments, values and messages that several services share."""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from google.protobuf import timestamp_pb2

from .v1 import event_pb2

At: TypeAlias = str | int | datetime
"""A place in a project's log: a sequence `"{ms}-{n}"`, or a time as RFC 3339 text with a zone, as
an aware `datetime`, or in unix milliseconds."""

Metadata: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Entries that an event's metadata must have."""

T = TypeVar("T")
V = TypeVar("V", bound=int, covariant=True)


class WireEnum(Protocol[V]):
    """An enumeration of the protocol."""

    def Value(self, name: str) -> V:
        """The number of a name."""


_SEQUENCE = re.compile(r"[0-9]+(-[0-9]+)?")


def position(at: At | None) -> event_pb2.Position | None:
    """The message for a place in the log; None for None.

    Raises:
        ValueError: A time has no zone, or the text is neither a sequence nor a time.
    """
    if at is None:
        return None
    if isinstance(at, int):
        return event_pb2.Position(unix_ms=at)
    if isinstance(at, datetime):
        return event_pb2.Position(time=timestamp(at))
    if _SEQUENCE.fullmatch(at) or not ("T" in at or " " in at):
        return event_pb2.Position(sequence=at)  # the server refuses what is not a sequence
    return event_pb2.Position(time=timestamp(datetime.fromisoformat(at)))


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    """The message for an aware datetime.

    Raises:
        ValueError: It has no time zone.
    """
    if time.tzinfo is None or time.utcoffset() is None:
        # protobuf would assume UTC; whoever wrote it most likely meant local time.
        raise ValueError(f"a datetime needs a time zone: {time!r}")
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def several(items: Iterable[T]) -> list[T]:
    """The items as a list.

    Raises:
        TypeError: They are a single string, whose characters would be taken for the items.
    """
    if isinstance(items, str):
        raise TypeError(f"expected several strings, not the one {items!r}")
    return list(items)


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def at_most_one(**arguments: Any) -> dict[str, Any]:
    """The one argument that is not None, if any.

    Raises:
        ValueError: There are several.
    """
    present = given(**arguments)
    if len(present) > 1:
        raise ValueError(f"give only one of {', '.join(present)}")
    return present


def exactly_one(**arguments: Any) -> dict[str, Any]:
    """The one argument that is not None.

    Raises:
        ValueError: There is none, or there are several.
    """
    present = given(**arguments)
    if len(present) != 1:
        raise ValueError(f"give exactly one of {', '.join(arguments)}")
    return present


def event_filter(
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    event_type_prefixes: Iterable[str] = (),
    metadata: Metadata = (),
    exclude_service_events: bool = False,
) -> event_pb2.EventFilter:
    """Which events of a range are meant."""
    return event_pb2.EventFilter(
        event_types=several(event_types),
        data_keys=several(data_keys),
        publishers=several(publishers),
        event_type_prefixes=several(event_type_prefixes),
        metadata=dict(metadata),
        exclude_service_events=exclude_service_events,
    )


def order(backwards: bool) -> event_pb2.Order.ValueType:
    """The order in which a range is read."""
    return event_pb2.ORDER_BACKWARDS if backwards else event_pb2.ORDER_FORWARDS


def new_request_id() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


def enum_number(member: enum.Enum, numbers: WireEnum[V]) -> V:
    """The number by which the protocol knows a member; both enumerations have the same names."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", type(member).__name__).upper()
    return numbers.Value(f"{prefix}_{member.name}")

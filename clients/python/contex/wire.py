"""Conversions between arguments, values and messages that several services share."""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from google.protobuf import timestamp_pb2
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from . import events
from .v1 import event_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

At: TypeAlias = str | int | datetime
"""A place in a project's log: a sequence `"{ms}-{n}"`, or a time as RFC 3339 text with a zone, as
an aware `datetime`, or in unix milliseconds."""

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)
V = TypeVar("V", bound=int)


class WireEnum(Protocol[V]):
    """An enumeration of the protocol."""

    def Name(self, number: V) -> str:
        """The name of a number."""

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


def instant(message: timestamp_pb2.Timestamp) -> datetime:
    """The datetime of a message, in UTC."""
    return message.ToDatetime(tzinfo=UTC)


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
    found = given(**arguments)
    if len(found) > 1:
        raise ValueError(f"give only one of {', '.join(found)}")
    return found


def exactly_one(**arguments: Any) -> dict[str, Any]:
    """The one argument that is not None.

    Raises:
        ValueError: There is none, or there are several.
    """
    found = given(**arguments)
    if len(found) != 1:
        raise ValueError(f"give exactly one of {', '.join(arguments)}")
    return found


def event_filter(
    event_types: Iterable[str], data_keys: Iterable[str], publishers: Iterable[str]
) -> event_pb2.EventFilter:
    """Which events of a range are meant."""
    return event_pb2.EventFilter(
        event_types=several(event_types),
        data_keys=several(data_keys),
        publishers=several(publishers),
    )


def order(backwards: bool) -> event_pb2.Order.ValueType:
    """The order in which a range is read."""
    return event_pb2.ORDER_BACKWARDS if backwards else event_pb2.ORDER_FORWARDS


def new_request_id() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


def enum_number(member: enum.Enum, numbers: WireEnum[V]) -> V:
    """The number by which the protocol knows a member; both enumerations have the same names."""
    return numbers.Value(_prefix(type(member)) + member.name)


def enum_member(kind: type[E], numbers: WireEnum[V], number: V) -> E:
    """The member that a number stands for; OTHER for one that a newer server has added."""
    try:
        return kind[numbers.Name(number).removeprefix(_prefix(kind))]
    except (ValueError, KeyError):
        return kind["OTHER"]


@functools.cache
def _prefix(kind: type[enum.Enum]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper() + "_"


def to_value(kind: type[T], message: Message, /, **converted: Any) -> T:
    """A dataclass from the fields of a message that have the same names.

    Its types say how: timestamps become datetimes, messages become dataclasses, numbers of
    enumerations members, repeated fields tuples, and what is not set None where None is allowed.

    Args:
        converted: Fields that need more than that.
    """
    for name, read in _readers(kind).items():  # type: ignore[arg-type]
        if name not in converted:
            converted[name] = read(message, name)
    return kind(**converted)


def to_values(kind: type[T], messages: Iterable[Message]) -> Iterator[T]:
    """The same for several messages."""
    return map(_converter(kind), messages)


_Reader: TypeAlias = Callable[[Any, str], Any]


@functools.cache
def _readers(kind: Any) -> dict[str, _Reader]:
    hints = get_type_hints(kind)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}


def _reader(hint: Any) -> _Reader:
    """Reads a field of a message as a type."""
    if get_origin(hint) is UnionType:
        (given,) = (one for one in get_args(hint) if one is not NoneType)
        read = _reader(given)
        return lambda message, name: read(message, name) if _is_set(message, name) else None
    if get_origin(hint) is tuple:
        convert = _converter(get_args(hint)[0])
        return lambda message, name: tuple(map(convert, getattr(message, name)))
    if issubclass(hint, enum.Enum):
        return lambda message, name: enum_member(
            hint,
            EnumTypeWrapper(message.DESCRIPTOR.fields_by_name[name].enum_type),
            getattr(message, name),
        )
    if hint in _SCALARS:
        return getattr
    convert = _converter(hint)
    return lambda message, name: convert(getattr(message, name))


def _is_set(message: Message, name: str) -> bool:
    has_presence = message.DESCRIPTOR.fields_by_name[name].has_presence
    return message.HasField(name) if has_presence else bool(getattr(message, name))


_SCALARS = {str, int, float, bool, bytes}
_BY_HAND: dict[type, Callable[[Any], Any]] = {
    datetime: instant,
    events.Event: events.event,
    events.Match: events.match,
    events.MatchedEvent: events.matched_event,
    events.Moment: events.moment,
    **{scalar: scalar for scalar in _SCALARS},
}


def _converter(kind: type[T]) -> Callable[[Any], T]:
    return _BY_HAND.get(kind) or functools.partial(to_value, kind)

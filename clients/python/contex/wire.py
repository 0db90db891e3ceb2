"""Conversions between arguments, values and messages that several services share."""

from __future__ import annotations

import enum
import functools
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast

from google.protobuf import duration_pb2, timestamp_pb2

from .v1 import event_pb2

At: TypeAlias = str | int | datetime
"""A place in a project's log: a sequence `"{ms}-{n}"`, or a time as RFC 3339 text with a zone, as
an aware `datetime`, or in unix milliseconds."""

Metadata: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Entries that an event's metadata must have."""

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M")
E = TypeVar("E", bound=enum.Enum)
V = TypeVar("V", bound=int, covariant=True)


class WireEnum(Protocol[V]):
    """An enumeration of the protocol."""

    def Value(self, name: str) -> V:
        """The number of a name."""


_SEQUENCE = re.compile(r"[0-9]+(-[0-9]+)?")


def position(at: At | None, name: str) -> event_pb2.Position | None:
    """The message for a place in the log, which an argument of this name gives; None for None.

    Raises:
        TypeError: It is neither text, a datetime nor a number.
        ValueError: A time has no zone, or the text is neither a sequence nor a time.
    """
    if at is None:
        return None
    if isinstance(at, bool) or not isinstance(at, int | datetime | str):
        raise TypeError(f"{name}: expected a sequence or a time, not {type(at).__name__} {at!r}")
    if isinstance(at, int):
        if not -(2**63) <= at < 2**63:
            raise ValueError(f"{name}: {at} is not a time in unix milliseconds")
        return event_pb2.Position(unix_ms=at)
    if isinstance(at, datetime):
        return event_pb2.Position(time=timestamp(at, name))
    utf8(at, name)
    if _SEQUENCE.fullmatch(at) or not ("T" in at or " " in at):
        return event_pb2.Position(sequence=at)  # the server refuses what is not a sequence
    try:
        time = datetime.fromisoformat(at)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return event_pb2.Position(time=timestamp(time, name))


def timestamp(time: datetime, name: str) -> timestamp_pb2.Timestamp:
    """The message for an aware datetime, which an argument of this name gives.

    Raises:
        TypeError: It is not a datetime.
        ValueError: It has no time zone.
    """
    if not isinstance(time, datetime):
        raise TypeError(f"{name}: expected a datetime, not {type(time).__name__} {time!r}")
    if time.tzinfo is None or time.utcoffset() is None:
        # protobuf would assume UTC; whoever wrote it most likely meant local time.
        raise ValueError(f"{name}: a datetime needs a time zone: {time!r}")
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def duration(length: float | timedelta, name: str) -> duration_pb2.Duration:
    """The message for seconds or a timedelta, which an argument of this name gives.

    Raises:
        TypeError: It is neither.
        ValueError: It is no finite number, or too long.
    """
    if isinstance(length, bool) or not isinstance(length, int | float | timedelta):
        wrong = f"{type(length).__name__} {length!r}"
        raise TypeError(f"{name}: expected seconds or a timedelta, not {wrong}")
    message = duration_pb2.Duration()
    try:
        message.FromTimedelta(
            length if isinstance(length, timedelta) else timedelta(seconds=length)
        )
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: {length} s is no length of time") from None
    return message


def milliseconds(length: float | timedelta, name: str) -> int:
    """Seconds or a timedelta as whole milliseconds, at least one: 0 stands for a default.

    Raises:
        TypeError: It is neither.
        ValueError: It is shorter, no finite number, or too long.
    """
    found = duration(length, name).ToNanoseconds() // 1_000_000
    if found < 1:
        raise ValueError(f"{name}: must be at least a millisecond, not {length}")
    return found


def utf8(text: str, name: str) -> bytes:
    """Text as UTF-8.

    Raises:
        ValueError: It holds half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise ValueError(
            f"{name}: character {error.start} is {half}, half of a surrogate pair, which UTF-8 "
            "does not have"
        ) from None


def message(kind: Callable[P, M], *_: P.args, **fields: P.kwargs) -> M:
    """The message with these fields; every request is made by this.

    Raises:
        TypeError: A field has a value of another type; `True` is not a number.
        ValueError: A number is out of range, or a text is not Unicode.
    """
    for name, value in fields.items():
        if (value is True or value is False) and not _is_bool(kind, name):
            field = cast("Any", kind).DESCRIPTOR.fields_by_name[name]
            raise TypeError(f"{name}: expected {_expected(field)}, not {value!r}")
    try:
        return kind(*_, **fields)
    except (TypeError, ValueError, AttributeError) as error:
        for name, value in fields.items():
            _check_field(kind, name, value)
        raise error


@functools.cache
def _is_bool(kind: Any, name: str) -> bool:
    field = kind.DESCRIPTOR.fields_by_name[name]
    return bool(field.type == field.TYPE_BOOL)


def _check_field(kind: Any, name: str, value: object) -> None:
    """Raises what is wrong with one field, if it is this one."""
    try:
        kind(**{name: value})
    except (TypeError, ValueError, AttributeError) as error:
        field = kind.DESCRIPTOR.fields_by_name[name]
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            place = f"{name}[{index}]" if isinstance(value, list) else name
            if isinstance(item, Mapping):
                for part in (*item.keys(), *item.values()):
                    if not isinstance(part, str):
                        raise TypeError(
                            f"{place}: expected strings, not {type(part).__name__} {part!r}"
                        ) from None
                    utf8(part, place)
            elif isinstance(item, str) and field.type == field.TYPE_STRING:
                utf8(item, place)
            elif not _fits(field, item):
                wrong = f"{type(item).__name__} {item!r}"
                raise TypeError(f"{place}: expected {_expected(field)}, not {wrong}") from None
        kind_of_error = ValueError if isinstance(error, ValueError) else TypeError
        raise kind_of_error(f"{name}: {error}") from error


def _fits(field: Any, value: object) -> bool:
    match field.cpp_type:
        case field.CPPTYPE_STRING:
            return isinstance(value, bytes if field.type == field.TYPE_BYTES else str)
        case field.CPPTYPE_DOUBLE | field.CPPTYPE_FLOAT:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case field.CPPTYPE_BOOL:
            return isinstance(value, bool)
        case field.CPPTYPE_MESSAGE:
            return True
    return isinstance(value, int) and not isinstance(value, bool)


def _expected(field: Any) -> str:
    match field.cpp_type:
        case field.CPPTYPE_STRING:
            return "bytes" if field.type == field.TYPE_BYTES else "a string"
        case field.CPPTYPE_DOUBLE | field.CPPTYPE_FLOAT:
            return "a number"
        case field.CPPTYPE_BOOL:
            return "True or False"
        case field.CPPTYPE_MESSAGE:
            return f"a {field.message_type.name}"
    return "an integer"


def several(items: Iterable[T], name: str) -> list[T]:
    """The items of an argument of this name as a list.

    Raises:
        TypeError: They are a single string, whose characters would be taken for the items, or
            not several things at all.
    """
    if isinstance(items, str):
        raise TypeError(f"{name}: expected several strings, not the one {items!r}")
    if not isinstance(items, Iterable):
        raise TypeError(f"{name}: expected several, not {type(items).__name__} {items!r}")
    return list(items)


def entries(pairs: Metadata, name: str) -> dict[str, str]:
    """The entries that an argument of this name gives.

    Raises:
        TypeError: They are neither a mapping nor pairs.
    """
    try:
        return dict(pairs)
    except (TypeError, ValueError):
        wrong = f"{type(pairs).__name__} {pairs!r}"
        raise TypeError(f"{name}: expected a mapping or pairs, not {wrong}") from None


def each(items: Iterable[T], convert: Callable[[T], M], name: str) -> list[M]:
    """Converts the items of an argument; what is wrong with one is raised with its number."""
    converted: list[M] = []
    for item in items:
        try:
            converted.append(convert(item))
        except (TypeError, ValueError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{name}[{len(converted)}].{error}" if name else str(error)) from error
    return converted


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def edge(start: str | None) -> event_pb2.Edge.ValueType | None:
    """The end of the log at which a stream starts.

    Raises:
        ValueError: It is no end.
    """
    if start is None:
        return None
    if start not in ("beginning", "end"):
        raise ValueError(f"start must be 'beginning' or 'end', not {start!r}")
    return event_pb2.EDGE_END if start == "end" else event_pb2.EDGE_BEGINNING


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
    return message(
        event_pb2.EventFilter,
        event_types=several(event_types, "event_types"),
        data_keys=several(data_keys, "data_keys"),
        publishers=several(publishers, "publishers"),
        event_type_prefixes=several(event_type_prefixes, "event_type_prefixes"),
        metadata=entries(metadata, "metadata"),
        exclude_service_events=exclude_service_events,
    )


def order(backwards: bool) -> event_pb2.Order.ValueType:
    """The order in which a range is read."""
    return event_pb2.ORDER_BACKWARDS if backwards else event_pb2.ORDER_FORWARDS


def sequence_order(sequence: str) -> tuple[int, int]:
    """A sequence as the two integers by which it is compared."""
    ms, _, number = sequence.partition("-")
    return int(ms), int(number or 0)


def new_request_id() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


def member(kind: type[E], value: object, name: str) -> E:
    """The member of an enumeration that an argument of this name gives, by itself or by its value.

    Raises:
        TypeError: It is True or False.
        ValueError: There is no such member.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected a {kind.__name__}, not {value}")
    # "other" is only ever an answer.
    members = [one for one in kind if one.name != "OTHER"]
    try:
        return members[members.index(kind(value))]
    except ValueError:
        choices = ", ".join(repr(m.value) if isinstance(m.value, str) else m.name for m in members)
        message = f"{name}: {value!r} is no {kind.__name__}, which are {choices}"
        raise ValueError(message) from None


def enum_number(kind: type[enum.Enum], value: object, numbers: WireEnum[V], name: str) -> V:
    """The number by which the protocol knows a member; both enumerations have the same names."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()
    return numbers.Value(f"{prefix}_{member(kind, value, name).name}")

"""Checks of the fields that several services share, each against its limit.

All functions raise `ContexError` INVALID_FIELD, with the field and its limit, unless they
say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf
from datetime import UTC

from contex.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.kernel import names
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import (
    BEGINNING,
    END_OF_TIME,
    EventFilter,
    Sequence,
)
from contex_server.kernel.scope import Scope
from contex_server.state.moments import Instant, MomentQuery

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,127}")
DATA_KEY = re.compile(r"[A-Za-z0-9_.:/@#$+=~%-]{1,256}")
EVENT_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
PUBLISHER = re.compile(r"[A-Za-z0-9_.:/@+-]{0,128}")
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
_GLOB = re.compile(r"[A-Za-z0-9_.:/@#$+=~%*?-]{1,256}")

_LIMITS = {
    "project": "1 to 64 characters of A-Z a-z 0-9 _ . -, a letter or digit first",
    "agent_id": "1 to 128 characters of A-Z a-z 0-9 _ . : / @ + -, a letter or digit first",
    "data_key": "1 to 256 characters of A-Z a-z 0-9 _ . : / @ # $ + = ~ % -",
    "event_type": "a letter, then up to 63 characters of A-Z a-z 0-9 _ . -",
    "publisher": "at most 128 characters of A-Z a-z 0-9 _ . : / @ + -",
    "request_id": "at most 64 characters of A-Z a-z 0-9 _ . : -",
}

_YEARS = "must be a time between the years 1970 and 9999"
_LAST_MS = 253_402_300_799_999


def project(value: str) -> str:
    """A project's name."""
    return match_name(names.PROJECT, value, "project")


def match_project(value: str, field: str) -> str:
    """A project's name, in a field of another name."""
    if not names.PROJECT.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS['project']}; got {short(value)}")
    return value


def agent_id(value: str, field: str = "agent_id") -> str:
    """An agent's id."""
    if not _AGENT_ID.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS['agent_id']}; got {short(value)}")
    return value


def data_key(value: str) -> str:
    """A data key."""
    return match_name(DATA_KEY, value, "data_key")


def sequence(value: str, field: str) -> Sequence:
    """A sequence; required."""
    try:
        return Sequence.parse(value)
    except ValueError as error:
        raise invalid_field(field, f"must be a sequence such as 1764000000000-0: {error}") from None


def event_filter(
    message: event_pb2.EventFilter, limits: Limits, scope: Scope, name: str = "filter"
) -> EventFilter:
    """A filter, which also keeps out what the caller may not see."""
    for field, values, pattern in (
        (f"{name}.event_types", message.event_types, EVENT_TYPE),
        (f"{name}.data_keys", message.data_keys, _GLOB),
        (f"{name}.publishers", message.publishers, PUBLISHER),
    ):
        if len(values) > limits.filter_entries:
            raise invalid_field(
                field, f"must have at most {limits.filter_entries} entries, not {len(values)}"
            )
        for index, value in enumerate(values):
            if not pattern.fullmatch(value):
                raise invalid_field(f"{field}[{index}]", f"{short(value)} can match nothing")
    return EventFilter(
        frozenset(message.event_types),
        frozenset(message.data_keys),
        frozenset(message.publishers),
        scope,
    )


def lower_end(position: event_pb2.Position, given: bool, field: str = "since") -> Sequence:
    """`since` as an exclusive lower bound; unset: the beginning."""
    if not given:
        return BEGINNING
    if position.WhichOneof("at") == "sequence":
        return sequence(position.sequence, f"{field}.sequence")
    return _before_instant(_instant(position, field))


def upper_end(position: event_pb2.Position, given: bool, field: str = "until") -> Sequence:
    """`until` as an inclusive upper bound; unset: the end."""
    if not given:
        return END_OF_TIME
    if position.WhichOneof("at") == "sequence":
        return sequence(position.sequence, f"{field}.sequence")
    return Sequence(_instant(position, field), 2**64 - 1)


def moment(position: event_pb2.Position, field: str) -> Sequence | Instant:
    """A moment to ask about."""
    if position.WhichOneof("at") == "sequence":
        return sequence(position.sequence, f"{field}.sequence")
    return Instant(_instant(position, field))


def _instant(position: event_pb2.Position, field: str) -> int:
    match position.WhichOneof("at"):
        case "time":
            return _unix_ms(position.time, f"{field}.time")
        case "unix_ms":
            if not 0 <= position.unix_ms <= _LAST_MS:
                raise invalid_field(f"{field}.unix_ms", _YEARS)
            return position.unix_ms
    raise invalid_field(field, "must have a sequence, a time or unix_ms")


def from_time(value: Timestamp) -> Sequence:
    """The position just before an instant."""
    return _before_instant(_unix_ms(value, "from_time"))


def _before_instant(unix_ms: int) -> Sequence:
    return Sequence(unix_ms, 0).prev() if unix_ms else BEGINNING


def _unix_ms(value: Timestamp, field: str) -> int:
    try:
        unix_ms = value.ToDatetime(UTC).timestamp() * 1000
    except (ValueError, OverflowError):
        unix_ms = -1
    if unix_ms < 0:
        raise invalid_field(field, _YEARS)
    return int(value.seconds * 1000 + value.nanos // 1_000_000)


def page_size(value: int, limits: Limits) -> int:
    """The size of a page; 0 is the default, 100."""
    if not 0 <= value <= limits.page_size:
        raise invalid_field("page_size", f"must be 0 to {limits.page_size}, not {value}")
    return value or 100


def is_backwards(order: int) -> bool:
    """Whether a range is read newest first."""
    if order not in (
        event_pb2.ORDER_UNSPECIFIED,
        event_pb2.ORDER_FORWARDS,
        event_pb2.ORDER_BACKWARDS,
    ):
        raise invalid_field("order", f"{order} is no Order")
    return order == event_pb2.ORDER_BACKWARDS


def heartbeat_s(interval_ms: int, default_ms: int, limits: Limits) -> float:
    """The heartbeat interval in seconds; 0 is the default."""
    low, high = limits.heartbeat_ms
    if interval_ms and not low <= interval_ms <= high:
        raise invalid_field(
            "heartbeat_interval_ms", f"must be 0 or {low} to {high}, not {interval_ms}"
        )
    return (interval_ms or default_ms) / 1000


def data_keys(values: SequenceOf[str], field: str, limits: Limits) -> frozenset[str]:
    """Globs over data keys."""
    check_count(field, len(values), limits.filter_entries)
    for index, value in enumerate(values):
        if not _GLOB.fullmatch(value):
            raise invalid_field(f"{field}[{index}]", f"{short(value)} can match nothing")
    return frozenset(values)


def part_of_key(value: str, field: str) -> str:
    """Part of a data key, such as a prefix."""
    if not DATA_KEY.fullmatch(value):
        limit = f"must be empty or {_LIMITS['data_key']}"
        raise invalid_field(field, f"{limit}; got {short(value)}")
    return value


def as_of(position: event_pb2.Position, given: bool, field: str = "as_of") -> MomentQuery:
    """The moment to ask about; None: now."""
    return moment(position, field) if given else None


def request_id(value: str, field: str = "request_id") -> str:
    """An idempotency key, or ""."""
    if not REQUEST_ID.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS['request_id']}; got {short(value)}")
    return value


def publisher(value: str, field: str) -> str:
    """A publisher's name, or ""."""
    if not PUBLISHER.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS['publisher']}; got {short(value)}")
    return value


def subject(value: str, field: str) -> str:
    """The person whose data an event holds."""
    if not value or not PUBLISHER.fullmatch(value):
        raise invalid_field(
            field,
            "a subject must be 1 to 128 characters of A-Z a-z 0-9 _ . : / @ + -; "
            f"got {short(value)}",
        )
    return value


def check_count(field: str, count: int, limit: int, *, at_least: int = 0) -> None:
    """Refuses a list that is too short or too long."""
    if not at_least <= count <= limit:
        bounds = f"{at_least} to {limit}" if at_least else f"at most {limit}"
        raise invalid_field(field, f"must hold {bounds}, not {count}")


def match_name(pattern: re.Pattern[str], value: str, field: str) -> str:
    """A name of one of the kinds in `_LIMITS`."""
    if not pattern.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS[field]}; got {short(value)}")
    return value


def short(value: str) -> str:
    """A refused value as a message shows it."""
    return repr(value) if len(value) <= 48 else f"{value[:32]!r}… ({len(value)} characters)"

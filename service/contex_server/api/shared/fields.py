"""Checks of the fields that several services share, each against its limit.

All functions raise `ContexError` INVALID_FIELD, with the field and its limit, unless they
say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from datetime import UTC

from contex.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.kernel import names
from contex_server.kernel.config import Limits, Settings
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import BEGINNING, END_OF_TIME, EventFilter, Sequence
from contex_server.kernel.scope import Scope
from contex_server.state.moments import Instant, MomentQuery

_YEARS = "must be a time between the years 1970 and 9999"
_LAST_MS = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class _Name:
    """Checks a name of one kind, and returns it."""

    field: str
    pattern: re.Pattern[str]
    limit: str

    def __call__(self, value: str, field: str = "") -> str:
        if not self.pattern.fullmatch(value):
            raise invalid_field(field or self.field, f"must be {self.limit}; got {short(value)}")
        return value


project = _Name(
    "project", names.PROJECT, "1 to 64 characters of A-Z a-z 0-9 _ . -, a letter or digit first"
)
agent_id = _Name(
    "agent_id",
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,127}"),
    "1 to 128 characters of A-Z a-z 0-9 _ . : / @ + -, a letter or digit first",
)
data_key = _Name(
    "data_key",
    re.compile(r"[A-Za-z0-9_.:/@#$+=~%-]{1,256}"),
    "1 to 256 characters of A-Z a-z 0-9 _ . : / @ # $ + = ~ % -",
)
part_of_key = _Name(
    "", re.compile(f"(?:{data_key.pattern.pattern})?"), f"empty or {data_key.limit}"
)
"""Such as a prefix."""
event_type = _Name(
    "event_type",
    re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}"),
    "a letter, then up to 63 characters of A-Z a-z 0-9 _ . -",
)
publisher = _Name(
    "publisher",
    re.compile(r"[A-Za-z0-9_.:/@+-]{0,128}"),
    "at most 128 characters of A-Z a-z 0-9 _ . : / @ + -",
)
request_id = _Name(
    "request_id",
    re.compile(r"[A-Za-z0-9_.:-]{0,64}"),
    "at most 64 characters of A-Z a-z 0-9 _ . : -",
)
_GLOB = re.compile(r"[A-Za-z0-9_.:/@#$+=~%*?-]{1,256}")


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
    limit = limits.filter_entries
    sets = []
    for field, values, pattern in (
        (f"{name}.event_types", message.event_types, event_type.pattern),
        (f"{name}.data_keys", message.data_keys, _GLOB),
        (f"{name}.publishers", message.publishers, publisher.pattern),
    ):
        if len(values) > limit:
            raise invalid_field(field, f"must have at most {limit} entries, not {len(values)}")
        sets.append(_entries(values, field, pattern))
    types, keys, publishers = sets
    return EventFilter(types, keys, publishers, scope)


def data_keys(values: SequenceOf[str], field: str, limits: Limits) -> frozenset[str]:
    """Globs over data keys."""
    check_count(field, len(values), limits.filter_entries)
    return _entries(values, field, _GLOB)


def _entries(values: SequenceOf[str], field: str, pattern: re.Pattern[str]) -> frozenset[str]:
    for index, value in enumerate(values):
        if not pattern.fullmatch(value):
            raise invalid_field(f"{field}[{index}]", f"{short(value)} can match nothing")
    return frozenset(values)


def lower_end(position: event_pb2.Position, given: bool, field: str = "since") -> Sequence:
    """`since` as an exclusive lower bound; unset: the beginning."""
    at = moment(position, field) if given else BEGINNING
    return at if isinstance(at, Sequence) else _before_instant(at.unix_ms)


def upper_end(position: event_pb2.Position, given: bool, field: str = "until") -> Sequence:
    """`until` as an inclusive upper bound; unset: the end."""
    at = moment(position, field) if given else END_OF_TIME
    return at if isinstance(at, Sequence) else Sequence(at.unix_ms, END_OF_TIME.n)


def as_of(position: event_pb2.Position, given: bool, field: str = "as_of") -> MomentQuery:
    """The moment to ask about; None: now."""
    return moment(position, field) if given else None


def moment(position: event_pb2.Position, field: str) -> Sequence | Instant:
    """A moment to ask about."""
    match position.WhichOneof("at"):
        case "sequence":
            return sequence(position.sequence, f"{field}.sequence")
        case "time":
            return Instant(_unix_ms(position.time, f"{field}.time"))
        case "unix_ms":
            if not 0 <= position.unix_ms <= _LAST_MS:
                raise invalid_field(f"{field}.unix_ms", _YEARS)
            return Instant(position.unix_ms)
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


def heartbeat_s(interval_ms: int, settings: Settings) -> float:
    """The heartbeat interval in seconds; 0 is the default."""
    low, high = settings.limits.heartbeat_ms
    if interval_ms and not low <= interval_ms <= high:
        raise invalid_field(
            "heartbeat_interval_ms", f"must be 0 or {low} to {high}, not {interval_ms}"
        )
    return (interval_ms or settings.heartbeat_interval_ms) / 1000


def subject(value: str, field: str) -> str:
    """The person whose data an event holds."""
    if not value or not publisher.pattern.fullmatch(value):
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


def short(value: str) -> str:
    """A refused value as a message shows it."""
    return repr(value) if len(value) <= 48 else f"{value[:32]!r}… ({len(value)} characters)"

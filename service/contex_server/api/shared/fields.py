"""Checks of the fields that several services share, each against its limit.

All functions raise `ContexError` INVALID_FIELD, with the field and its limit, unless they
say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import TypeVar

from contex.v1 import event_pb2
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.kernel import names
from contex_server.kernel.config import Limits, Settings
from contex_server.kernel.errors import Checks, invalid_field
from contex_server.kernel.event_rules import check_metadata
from contex_server.kernel.model import BEGINNING, END_OF_TIME, EventFilter, Range, Sequence
from contex_server.kernel.names import Name, PrintableName
from contex_server.kernel.scope import Scope
from contex_server.matching.delta import parse_pointer
from contex_server.state.moments import Instant, MomentQuery

Number = TypeVar("Number", bound=int)

_YEARS = "must be a time between the years 1970 and 9999"
_LAST_MS = 253_402_300_799_999

project = names.PROJECT
agent_id = names.AGENT_ID
data_key = names.DATA_KEY
key_prefix = PrintableName("prefix", 0, 256, part=True)
key_start = PrintableName("prefix", 1, 256, part=True)
key_glob = names.KEY_GLOB
event_type = names.EVENT_TYPE
type_prefix = names.TYPE_PREFIX
publisher = names.PUBLISHER
identity = names.PROVED_IDENTITY
agent_glob = names.AGENT_GLOB
request_id = Name("request_id", 0, 64, "A-Z a-z 0-9 _ . : -")
import_id = Name("import_id", 0, 64, "A-Z a-z 0-9 _ . -")
subject = names.SUBJECT_NAME


def sequence(value: str, field: str) -> Sequence:
    """A sequence; required."""
    try:
        return Sequence.parse(value)
    except ValueError as error:
        raise invalid_field(field, f"must be a sequence such as 1764000000000-0: {error}") from None


def optional_sequence(request: Message, field: str = "sequence") -> Sequence | None:
    """The sequence in a field of a request; None if it is unset."""
    return sequence(getattr(request, field), field) if request.HasField(field) else None


def event_filter(
    message: event_pb2.EventFilter, limits: Limits, scope: Scope, name: str = "filter"
) -> EventFilter:
    """A filter, which also keeps out what the caller may not see."""
    with Checks() as check:
        types = check(event_type.all_of, message.event_types, f"{name}.event_types", limits)
        keys = check(key_glob.all_of, message.data_keys, f"{name}.data_keys", limits)
        publishers = check(publisher.all_of, message.publishers, f"{name}.publishers", limits)
        field = f"{name}.event_type_prefixes"
        prefixes = check(type_prefix.all_of, message.event_type_prefixes, field, limits)
        entries = check(metadata, message.metadata, f"{name}.metadata", limits)
    return EventFilter(
        types,
        keys,
        publishers,
        scope,
        tuple(sorted(prefixes)),
        frozenset(entries.items()),
        message.exclude_service_events,
    )


def metadata(entries: Mapping[str, str], field: str, limits: Limits) -> dict[str, str]:
    """Annotations, of an event or in a filter."""
    check_metadata(entries, limits, field)
    return dict(entries)


def span(request: Message, prefix: str = "", order: int = event_pb2.ORDER_FORWARDS) -> Range:
    """The range from the request's `since` to its `until`; by default the whole log."""
    with Checks() as check:
        after = check(optional_moment, request, "since", prefix) or BEGINNING
        until = check(optional_moment, request, "until", prefix) or END_OF_TIME
        check(enum, order, event_pb2.Order.DESCRIPTOR, "order")
    if isinstance(after, Instant):
        after = _before_instant(after.unix_ms)
    if isinstance(until, Instant):
        until = Sequence(until.unix_ms, END_OF_TIME.n)
    return Range(after, until, order == event_pb2.ORDER_BACKWARDS)


def optional_moment(request: Message, field: str = "as_of", prefix: str = "") -> MomentQuery:
    """The moment in a field of a request; None if it is unset."""
    return moment(getattr(request, field), prefix + field) if request.HasField(field) else None


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
    return within(value, 0, limits.page_size, "page_size") or 100


def within(value: int, low: int, high: int, field: str) -> int:
    """A number between two limits, both included."""
    if not low <= value <= high:
        raise invalid_field(field, f"must be {low} to {high}, not {value}")
    return value


def characters(value: str, low: int, high: int, field: str) -> str:
    """A text of limited length, both limits included; one that must not be empty is not blank."""
    if not low <= len(value) <= high:
        limit = f"{low} to {high}" if low else f"at most {high}"
        raise invalid_field(field, f"must have {limit} characters, not {len(value)}")
    if low and not value.strip():
        raise invalid_field(field, "must not be blank")
    return value


def enum(value: Number, kind: EnumDescriptor, field: str, *, unspecified: bool = True) -> Number:
    """A number of an enum of the API; 0 only if it may be unspecified."""
    if value not in kind.values_by_number or not (value or unspecified):
        raise invalid_field(field, f"{value} is no {kind.name}")
    return value


def json_pointer(value: str, field: str, limits: Limits, *, low: int = 0) -> tuple[str, ...]:
    """A JSON pointer of at least `low` characters, as its reference tokens."""
    try:
        return parse_pointer(characters(value, low, limits.json_pointer_chars, field))
    except ValueError as error:
        raise invalid_field(field, f"must be a JSON pointer (RFC 6901): {error}") from None


def heartbeat_s(
    interval_ms: int, settings: Settings, field: str = "heartbeat_interval_ms"
) -> float:
    """The heartbeat interval in seconds; 0 is the default."""
    low, high = settings.limits.heartbeat_ms
    if interval_ms and not low <= interval_ms <= high:
        raise invalid_field(field, f"must be 0 or {low} to {high}, not {interval_ms}")
    return (interval_ms or settings.heartbeat_interval_ms) / 1000


def check_count(field: str, count: int, limit: int, *, at_least: int = 0) -> None:
    """Refuses a list that is too short or too long."""
    if not at_least <= count <= limit:
        bounds = f"{at_least} to {limit}" if at_least else f"at most {limit}"
        raise invalid_field(field, f"must hold {bounds}, not {count}")

"""Requests into domain values. Every field is checked here, and nowhere else.

All functions raise `ContexError` INVALID_FIELD, with the field and its limit, unless they
say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from datetime import UTC

from contex.v1 import (
    agent_service_pb2,
    event_pb2,
    event_service_pb2,
    match_service_pb2,
    state_service_pb2,
)
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.config import Limits
from contex_server.errors import ContexError, Reason, invalid_field
from contex_server.matching.context import Form
from contex_server.matching.delta import parse_pointer
from contex_server.model import (
    BEGINNING,
    DATA_DELETED,
    DATA_PUBLISHED,
    END_OF_TIME,
    RESERVED_TYPES,
    Durability,
    EventFilter,
    MinDelta,
    Sequence,
)
from contex_server.projections.moments import Asked, Instant
from contex_server.projections.state import Selection
from contex_server.publishing import NewEvent
from contex_server.subscriptions.agents import NeedSpec, Wishes
from contex_server.subscriptions.questions import Budget

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,127}")
_DATA_KEY = re.compile(r"[A-Za-z0-9_.:/@#$+=~%-]{1,256}")
_EVENT_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_PUBLISHER = re.compile(r"[A-Za-z0-9_.:/@+-]{0,128}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:[ \t]*;[\x20-\x7e]*)?")
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
_NEAR_MISSES = 100

PublishLike = event_service_pb2.PublishRequest | event_service_pb2.PublishStreamRequest
RegisterLike = agent_service_pb2.RegisterAgentRequest | agent_service_pb2.UpdateAgentRequest
MatchLike = (
    match_service_pb2.MatchRequest
    | match_service_pb2.ExplainRequest
    | match_service_pb2.BacktestRequest
)
SelectionLike = (
    state_service_pb2.GetStateRequest
    | state_service_pb2.StreamStateRequest
    | state_service_pb2.DiffStatesRequest
)
BudgetLike = RegisterLike | match_service_pb2.MatchRequest


def project(value: str) -> str:
    """A project's name."""
    return _match(_PROJECT, value, "project")


def agent_id(value: str, field: str = "agent_id") -> str:
    """An agent's id."""
    if not _AGENT_ID.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS['agent_id']}; got {_short(value)}")
    return value


def data_key(value: str) -> str:
    """A data key."""
    return _match(_DATA_KEY, value, "data_key")


def sequence(value: str, field: str) -> Sequence:
    """A sequence; required."""
    try:
        return Sequence.parse(value)
    except ValueError as error:
        raise invalid_field(field, f"must be a sequence such as 1764000000000-0: {error}") from None


@dataclass(frozen=True, slots=True)
class Publish:
    """A checked publish."""

    project: str
    events: tuple[NewEvent, ...]
    request_id: str
    durability: Durability
    publisher: str


def publish(request: PublishLike, identity: str, limits: Limits) -> Publish:
    """A publish, or one batch of a stream; who names no publisher is named by `identity`.

    Raises:
        ContexError: Also PAYLOAD_TOO_LARGE, EVENT_TYPE_RESERVED.
    """
    name = project(request.project)
    request_id, publisher = request.request_id, request.publisher or identity
    if request_id:
        _match(_REQUEST_ID, request_id, "request_id")
    if publisher:
        _match(_PUBLISHER, publisher, "publisher")
    durability = request.durability
    if durability not in _DURABILITIES:
        raise invalid_field("durability", f"{durability} is no Durability")
    count = len(request.events)
    if not 1 <= count <= limits.events_per_batch:
        raise invalid_field("events", f"must hold 1 to {limits.events_per_batch}, not {count}")
    if count > 1:
        size = request.ByteSize()
        if size > limits.batch_bytes:
            raise _too_large("events", size, limits.batch_bytes)
    events = tuple(
        _new_event(event, index, publisher, limits) for index, event in enumerate(request.events)
    )
    return Publish(name, events, request_id, _DURABILITIES[durability], publisher)


_DURABILITIES = {
    event_pb2.DURABILITY_UNSPECIFIED: Durability.FSYNC,
    event_pb2.DURABILITY_MEMORY: Durability.MEMORY,
    event_pb2.DURABILITY_FSYNC: Durability.FSYNC,
    event_pb2.DURABILITY_REPLICATED: Durability.REPLICATED,
}


def _new_event(
    event: event_service_pb2.NewEvent, index: int, publisher: str, limits: Limits
) -> NewEvent:
    try:
        return _checked_event(event, publisher, limits)
    except ContexError as error:
        field = f"events[{index}].{error.field}"
        message = error.message.replace(f"{error.field}:", f"{field}:", 1)
        raise ContexError(error.reason, message, metadata=error.metadata, field=field) from None


def _checked_event(event: event_service_pb2.NewEvent, publisher: str, limits: Limits) -> NewEvent:
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
        _match(_EVENT_TYPE, kind, "event_type")
    if key or not kind:
        _match(_DATA_KEY, key, "data_key")
    if len(payload) > limits.payload_bytes:
        raise _too_large("payload", len(payload), limits.payload_bytes)
    if content_type and (
        len(content_type) > limits.content_type_chars or not _CONTENT_TYPE.fullmatch(content_type)
    ):
        raise invalid_field(
            "content_type",
            f"must be a media type of at most {limits.content_type_chars} characters",
        )
    if len(description) * 4 > limits.description_bytes:
        size = len(description.encode())
        if size > limits.description_bytes:
            raise invalid_field(
                "description", f"must be at most {limits.description_bytes} bytes, not {size}"
            )
    metadata = dict(event.metadata) if event.metadata else None
    if metadata:
        _check_metadata(metadata, limits)
    if tombstone:
        for field, given in (
            ("payload", payload),
            ("content_type", content_type),
            ("event_type", kind),
        ):
            if given:
                raise invalid_field(field, "must be empty where tombstone is set")
    kind = kind or (DATA_DELETED if tombstone else DATA_PUBLISHED)
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
    return NewEvent(body, key, kind, payload, content_type, description, tombstone, expected)


def _check_metadata(metadata: dict[str, str], limits: Limits) -> None:
    if len(metadata) > limits.metadata_entries:
        raise invalid_field(
            "metadata", f"must have at most {limits.metadata_entries} entries, not {len(metadata)}"
        )
    for key in metadata:
        if not 1 <= len(key) <= limits.metadata_key_chars:
            raise invalid_field(
                "metadata", f"keys must have 1 to {limits.metadata_key_chars} characters"
            )
    size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
    if size > limits.metadata_bytes:
        raise invalid_field(
            "metadata", f"must be at most {limits.metadata_bytes} bytes in all, not {size}"
        )


def event_filter(message: event_pb2.EventFilter, limits: Limits) -> EventFilter:
    """A filter."""
    for field, values, pattern in (
        ("filter.event_types", message.event_types, _EVENT_TYPE),
        ("filter.data_keys", message.data_keys, _GLOB),
        ("filter.publishers", message.publishers, _PUBLISHER),
    ):
        if len(values) > limits.filter_entries:
            raise invalid_field(
                field, f"must have at most {limits.filter_entries} entries, not {len(values)}"
            )
        for index, value in enumerate(values):
            if not pattern.fullmatch(value):
                raise invalid_field(f"{field}[{index}]", f"{_short(value)} can match nothing")
    return EventFilter(
        frozenset(message.event_types),
        frozenset(message.data_keys),
        frozenset(message.publishers),
    )


def lower_end(position: event_pb2.Position, given: bool) -> Sequence:
    """`since` as an exclusive lower bound; unset: the beginning."""
    if not given:
        return BEGINNING
    if position.WhichOneof("at") == "sequence":
        return sequence(position.sequence, "since.sequence")
    return _before_instant(_instant(position, "since"))


def upper_end(position: event_pb2.Position, given: bool) -> Sequence:
    """`until` as an inclusive upper bound; unset: the end."""
    if not given:
        return END_OF_TIME
    if position.WhichOneof("at") == "sequence":
        return sequence(position.sequence, "until.sequence")
    return Sequence(_instant(position, "until"), 2**64 - 1)


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


def near_misses(value: int) -> int:
    """How many data that nearly matched are listed."""
    if value > _NEAR_MISSES:
        raise invalid_field("near_misses", f"must be at most {_NEAR_MISSES}, not {value}")
    return value


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
    """How many entries a page has; 0 is the default, 100."""
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


def wishes(request: RegisterLike, limits: Limits, *, required: bool) -> Wishes:
    """What a call says of a registration."""
    texts, specs = list(request.needs), list(request.need_specs)
    if texts and specs:
        raise invalid_field("need_specs", "must be empty where needs are given")
    if specs:
        needs = need_specs(specs, "need_specs", limits)
    else:
        _check_count("needs", len(texts), limits.needs_per_agent, at_least=int(required))
        for index, text in enumerate(texts):
            _check_need(text, f"needs[{index}]", limits)
        needs = tuple(NeedSpec(text) for text in texts)
    return Wishes(
        needs=needs or None,
        threshold=threshold(request),
        max_matches=None,
        min_delta=(min_delta(request.min_delta, limits),)
        if request.HasField("min_delta")
        else None,
    )


def need_specs(
    specs: SequenceOf[agent_service_pb2.Need], field: str, limits: Limits
) -> tuple[NeedSpec, ...]:
    """Needs with thresholds, maxima and exclusions of their own; at least one."""
    _check_count(field, len(specs), limits.needs_per_agent, at_least=1)
    found = []
    for index, spec in enumerate(specs):
        name = f"{field}[{index}]"
        _check_need(spec.text, f"{name}.text", limits)
        lowest = own_max = None
        if spec.HasField("threshold"):
            lowest = _threshold(spec.threshold, f"{name}.threshold")
        if spec.HasField("max_matches"):
            own_max = max_matches(spec.max_matches, limits, f"{name}.max_matches")
        globs = data_keys(spec.exclude_data_keys, f"{name}.exclude_data_keys", limits)
        found.append(NeedSpec(spec.text, lowest, own_max, globs))
    return tuple(found)


def min_delta(message: agent_service_pb2.MinDelta, limits: Limits) -> MinDelta | None:
    """Which updates are pushed; None: all."""
    pointers = message.json_pointers
    _check_count("min_delta.json_pointers", len(pointers), limits.json_pointers)
    for index, pointer in enumerate(pointers):
        field = f"min_delta.json_pointers[{index}]"
        if len(pointer) > limits.json_pointer_chars:
            raise invalid_field(field, f"must have at most {limits.json_pointer_chars} characters")
        try:
            parse_pointer(pointer)
        except ValueError as error:
            raise invalid_field(field, f"must be a JSON pointer (RFC 6901): {error}") from None
    if not message.payload_changed and not pointers:
        return None
    return MinDelta(tuple(pointers))


def data_keys(values: SequenceOf[str], field: str, limits: Limits) -> frozenset[str]:
    """Globs over data keys."""
    _check_count(field, len(values), limits.filter_entries)
    for index, value in enumerate(values):
        if not _GLOB.fullmatch(value):
            raise invalid_field(f"{field}[{index}]", f"{_short(value)} can match nothing")
    return frozenset(values)


def selection(request: SelectionLike, limits: Limits, *, deleted: bool = False) -> Selection:
    """Which keys of a state are wanted."""
    prefix = request.prefix
    if prefix:
        _part_of_key(prefix, "prefix")
    return Selection(data_keys(request.data_keys, "data_keys", limits), prefix, deleted)


def _part_of_key(value: str, field: str) -> str:
    if not _DATA_KEY.fullmatch(value):
        limit = f"must be empty or {_LIMITS['data_key']}"
        raise invalid_field(field, f"{limit}; got {_short(value)}")
    return value


def is_whole(view: int) -> bool:
    """Whether whole events are wanted, and not only keys."""
    if view not in (
        state_service_pb2.STATE_VIEW_UNSPECIFIED,
        state_service_pb2.STATE_VIEW_FULL,
        state_service_pb2.STATE_VIEW_KEYS,
    ):
        raise invalid_field("view", f"{view} is no StateView")
    return view != state_service_pb2.STATE_VIEW_KEYS


def after_data_key(value: str) -> str:
    """A data key to go on after, or nothing."""
    return _part_of_key(value, "after_data_key") if value else ""


def revision(value: int) -> int:
    """The number of a revision."""
    if value < 1:
        raise invalid_field("revision", "must be at least 1")
    return value


def budget(request: BudgetLike, limits: Limits) -> Budget:
    """What an answer may take when it is written out."""
    tokens = None
    if request.HasField("max_context_tokens"):
        tokens = request.max_context_tokens
        if not 1 <= tokens <= limits.context_tokens:
            raise invalid_field(
                "max_context_tokens", f"must be 1 to {limits.context_tokens}, not {tokens}"
            )
    return Budget(tokens, context_format(request.context_format))


def context_format(value: int) -> Form:
    """How data are written out."""
    try:
        return Form(value)
    except ValueError:
        raise invalid_field("context_format", f"{value} is no ContextFormat") from None


def as_of(position: event_pb2.Position, given: bool, field: str = "as_of") -> Asked:
    """The moment to ask about; None: now."""
    return moment(position, field) if given else None


def threshold(request: RegisterLike | MatchLike) -> float | None:
    """The lowest score that matches, if it is given."""
    return _threshold(request.threshold, "threshold") if request.HasField("threshold") else None


def _threshold(value: float, field: str) -> float:
    if not 0 < value <= 1:
        raise invalid_field(field, f"must be above 0 and at most 1, not {value}")
    return value


def need(text: str, field: str, limits: Limits) -> str:
    """One need in words."""
    _check_need(text, field, limits)
    return text


def comment(value: str, limits: Limits) -> str:
    """A remark for people."""
    if len(value) > limits.comment_chars:
        raise invalid_field(
            "comment", f"must have at most {limits.comment_chars} characters, not {len(value)}"
        )
    return value


def request_id(value: str, field: str = "request_id") -> str:
    """An idempotency key, or nothing."""
    if not _REQUEST_ID.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS['request_id']}; got {_short(value)}")
    return value


def publisher(value: str, field: str) -> str:
    """A publisher's name, or nothing."""
    if not _PUBLISHER.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS['publisher']}; got {_short(value)}")
    return value


def _check_need(text: str, field: str, limits: Limits) -> None:
    if not text.strip() or len(text) > limits.need_chars:
        raise invalid_field(
            field,
            f"must have 1 to {limits.need_chars} characters and not be blank, "
            f"not {len(text)} characters",
        )


def _check_count(field: str, count: int, limit: int, *, at_least: int = 0) -> None:
    if not at_least <= count <= limit:
        bounds = f"{at_least} to {limit}" if at_least else f"at most {limit}"
        raise invalid_field(field, f"must hold {bounds}, not {count}")


def max_matches(value: int, limits: Limits, field: str = "max_matches") -> int:
    """How many data an answer returns for each need."""
    if not 1 <= value <= limits.max_matches:
        raise invalid_field(field, f"must be 1 to {limits.max_matches}, not {value}")
    return value


def _match(pattern: re.Pattern[str], value: str, field: str) -> str:
    if not pattern.fullmatch(value):
        raise invalid_field(field, f"must be {_LIMITS[field]}; got {_short(value)}")
    return value


def _short(value: str) -> str:
    return repr(value) if len(value) <= 48 else f"{value[:32]!r}… ({len(value)} characters)"


def _too_large(field: str, size: int, limit: int) -> ContexError:
    return ContexError(
        Reason.PAYLOAD_TOO_LARGE,
        f"{field}: {size} bytes, and the limit is {limit}",
        metadata={"size_bytes": str(size), "limit_bytes": str(limit)},
        field=field,
    )

"""Checks every field of the requests about projects against its limit."""

from __future__ import annotations

from contex.v1 import event_pb2
from contex.v1 import project_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.port import Bounds
from contex_server.log.projects import Dimension
from contex_server.projects.activity import DAY, HOUR, MINUTE, ActivityQuery
from contex_server.projects.retention import Retention
from contex_server.state.moments import check_not_in_future

_LIMITED = ("store_seconds", "store_events", "store_bytes", "archive_seconds")
_MAX_SECONDS = 3_155_760_000
_MAX_COUNT = 2**53
_TOP, _MAX_TOP = 10, 100
_MAX_BUCKET_S = 366 * DAY
_OFFSET_MINUTES = 24 * 60
_NAME_CHARS = 1_200
_DIMENSIONS: dict[int, Dimension | None] = {
    pb.ACTIVITY_DIMENSION_UNSPECIFIED: None,
    pb.ACTIVITY_DIMENSION_TOTAL: None,
    pb.ACTIVITY_DIMENSION_DATA_KEY: Dimension.DATA_KEY,
    pb.ACTIVITY_DIMENSION_EVENT_TYPE: Dimension.EVENT_TYPE,
    pb.ACTIVITY_DIMENSION_PUBLISHER: Dimension.PUBLISHER,
    pb.ACTIVITY_DIMENSION_NEED: Dimension.NEED,
}


def retention(message: pb.Retention) -> Retention:
    """A retention."""
    values: dict[str, int] = {}
    for name in _LIMITED:
        if message.HasField(name):  # type: ignore[arg-type]
            value = getattr(message, name)
            limit = _MAX_SECONDS if name.endswith("seconds") else _MAX_COUNT
            if value > limit:
                raise invalid_field(f"retention.{name}", f"must be at most {limit}, not {value}")
            values[name] = value
    return Retention(**values, legal_hold=message.legal_hold)


def reason(value: str, limits: Limits) -> str:
    """Why data are removed."""
    if not 1 <= len(value) <= limits.comment_chars or not value.strip():
        raise invalid_field("reason", f"must have 1 to {limits.comment_chars} characters")
    return value


def erasure(request: pb.EraseDataRequest) -> tuple[str, str]:
    """The subject or the data key whose data are erased; the other is ""."""
    match request.WhichOneof("target"):
        case "subject":
            target = fields.subject(request.subject, "subject"), ""
        case "data_key":
            target = "", fields.data_key(request.data_key)
        case _:
            raise invalid_field("target", "must be a subject or a data_key")
    if not request.request_id:
        raise invalid_field("request_id", "must not be empty")
    return target


def activity(request: pb.GetActivityRequest, bounds: Bounds, limits: Limits) -> ActivityQuery:
    """What an activity is asked for; `bounds` fill in what the request leaves open."""
    now_ms = bounds.now_ms
    if request.dimension not in _DIMENSIONS:
        raise invalid_field("dimension", f"{request.dimension} is no ActivityDimension")
    by = _DIMENSIONS[request.dimension]
    until_ms = _unix_ms(request.until, "until", now_ms) if request.HasField("until") else now_ms
    since_ms = max(0, until_ms - DAY * 1000)
    if bounds.first is not None and not bounds.trimmed:
        since_ms = min(max(since_ms, bounds.first.ms), until_ms)
    if request.HasField("since"):
        since_ms = _unix_ms(request.since, "since", now_ms)
        if since_ms > until_ms:
            raise invalid_field("since", "must not be after until")
    length = request.bucket_seconds
    unit = HOUR if length >= HOUR else MINUTE
    if length % unit or length > _MAX_BUCKET_S:
        raise invalid_field(
            "bucket_seconds",
            f"must be a multiple of {unit} and at most {_MAX_BUCKET_S}, not {length}",
        )
    names = list(request.names)
    if by is None and names:
        raise invalid_field("names", "must be empty where all events are counted together")
    if len(names) > limits.filter_entries:
        raise invalid_field("names", f"must have at most {limits.filter_entries} entries")
    for index, name in enumerate(names):
        if not 1 <= len(name) <= _NAME_CHARS:
            raise invalid_field(f"names[{index}]", f"must have 1 to {_NAME_CHARS} characters")
    if request.top > _MAX_TOP:
        raise invalid_field("top", f"must be 0 to {_MAX_TOP}, not {request.top}")
    offset = request.utc_offset_minutes
    if abs(offset) > _OFFSET_MINUTES:
        raise invalid_field(
            "utc_offset_minutes", f"must be -{_OFFSET_MINUTES} to {_OFFSET_MINUTES}"
        )
    return ActivityQuery(
        by, since_ms, until_ms, length, frozenset(names), request.top or _TOP, offset * MINUTE
    )


def _unix_ms(position: event_pb2.Position, field: str, now_ms: int) -> int:
    moment = fields.moment(position, field)
    if isinstance(moment, Sequence):
        return 0 if moment == BEGINNING else moment.ms
    check_not_in_future(moment.unix_ms, now_ms)
    return moment.unix_ms

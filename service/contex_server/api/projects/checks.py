"""Checks every field of the requests about projects against its limit."""

from __future__ import annotations

from collections.abc import Callable

from contex.v1 import event_pb2
from contex.v1 import project_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.globs import match
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.kernel.names import Glob
from contex_server.log.port import Bounds
from contex_server.log.projects import Dimension
from contex_server.projects.activity import DAY, HOUR, MINUTE, ActivityQuery
from contex_server.projects.retention import Retention
from contex_server.state.moments import check_not_in_future

_PROJECT_GLOB = Glob("name", 1, 64)
_MAX_SECONDS = 3_155_760_000
_MAX_COUNT = 2**53
_MAX_REVISIONS = 1_000_000
_TOP, _MAX_TOP = 10, 100
_MAX_BUCKET_S = 366 * DAY
_OFFSET_MINUTES = 24 * 60
_NAME_CHARS = 1_200


def retention(message: pb.Retention) -> Retention:
    values = {field.name: value for field, value in message.ListFields()}
    for name, value in values.items():
        limit = _MAX_SECONDS if name.endswith("seconds") else _MAX_COUNT
        limit = _MAX_REVISIONS if name == "keep_revisions" else limit
        fields.within(value, 0, limit, f"retention.{name}")
    return Retention(**values)


def project_filter(glob: str) -> Callable[[str], bool]:
    """Whether a name is asked for."""
    if not glob:
        return lambda _: True
    globs = frozenset({_PROJECT_GLOB(glob)})
    return lambda name: match(globs, name)


def erasure(request: pb.EraseDataRequest) -> tuple[str, str]:
    """The subject or the data key whose data are erased; the other is ""."""
    match request.WhichOneof("target"):
        case "subject":
            target = fields.subject(request.subject), ""
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
    fields.enum(request.dimension, pb.ActivityDimension.DESCRIPTOR, "dimension")
    name = pb.ActivityDimension.Name(request.dimension).removeprefix("ACTIVITY_DIMENSION_")
    by = Dimension.__members__.get(name)  # None for TOTAL: all events are counted together.
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
    fields.check_count("names", len(names), limits.filter_entries)
    for index, name in enumerate(names):
        if not 1 <= len(name) <= _NAME_CHARS:
            raise invalid_field(f"names[{index}]", f"must have 1 to {_NAME_CHARS} characters")
    top = fields.within(request.top, 0, _MAX_TOP, "top") or _TOP
    offset_s = MINUTE * fields.within(
        request.utc_offset_minutes, -_OFFSET_MINUTES, _OFFSET_MINUTES, "utc_offset_minutes"
    )
    return ActivityQuery(by, since_ms, until_ms, length, frozenset(names), top, offset_s)


def _unix_ms(position: event_pb2.Position, field: str, now_ms: int) -> int:
    moment = fields.moment(position, field)
    if isinstance(moment, Sequence):
        return 0 if moment == BEGINNING else moment.ms
    check_not_in_future(moment.unix_ms, now_ms)
    return moment.unix_ms

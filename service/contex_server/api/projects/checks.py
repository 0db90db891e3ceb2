"""Checks every field of the requests about projects against its limit."""

from __future__ import annotations

from collections.abc import Callable

from contex.v1 import event_pb2
from contex.v1 import project_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, invalid_field
from contex_server.kernel.globs import match
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.kernel.names import Glob
from contex_server.log.port import Bounds
from contex_server.log.projects import Dimension
from contex_server.projects.activity import DAY, HOUR, MINUTE, ActivityQuery
from contex_server.projects.retention import Retention
from contex_server.state.moments import check_not_in_future

_PROJECT_GLOB = Glob("name", 1, 64)
_TOP, _MAX_TOP = 10, 100
_MAX_BUCKET_S = 366 * DAY
_OFFSET_MINUTES = 24 * 60
_NAME_CHARS = 1_200


def retention(message: pb.Retention) -> Retention:
    return Retention(**{field.name: value for field, value in message.ListFields()}).check()


def project_filter(glob: str, known: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether a name is asked for, by somebody who may know of it."""
    if not glob:
        return known
    globs = frozenset({_PROJECT_GLOB(glob)})
    return lambda name: match(globs, name) and known(name)


def erasure(request: pb.EraseDataRequest) -> tuple[str, str]:
    """The subject or the data key whose data are erased; the other is ""."""
    match request.WhichOneof("target"):
        case "subject":
            return fields.subject(request.subject), ""
        case "data_key":
            return "", fields.data_key(request.data_key)
    raise invalid_field("target", "must be a subject or a data_key")


def required_request_id(value: str) -> str:
    """A request id where it must be given."""
    if not value:
        raise invalid_field("request_id", "must not be empty")
    return fields.request_id(value)


def reason(value: str, limits: Limits) -> str:
    """Why something is removed for good."""
    return fields.characters(value, 1, limits.comment_chars, "reason")


def activity(request: pb.GetActivityRequest, bounds: Bounds, limits: Limits) -> ActivityQuery:
    """What an activity is asked for; `bounds` fill in what the request leaves open."""
    length, most = request.bucket_seconds, _OFFSET_MINUTES
    with Checks() as check:
        check(fields.enum, request.dimension, pb.ActivityDimension.DESCRIPTOR, "dimension")
        span = check(_activity_span, request, bounds)
        unit = HOUR if length >= HOUR else MINUTE
        if length % unit or length > _MAX_BUCKET_S:
            limit = f"must be a multiple of {unit} and at most {_MAX_BUCKET_S}, not {length}"
            check.refuse("bucket_seconds", limit)
        if request.dimension <= pb.ACTIVITY_DIMENSION_TOTAL and request.names:
            check.refuse("names", "must be empty where all events are counted together")
        check(fields.check_count, "names", len(request.names), limits.filter_entries)
        for index, name in enumerate(request.names):
            if not 1 <= len(name) <= _NAME_CHARS:
                check.refuse(f"names[{index}]", f"must have 1 to {_NAME_CHARS} characters")
        top = check(fields.within, request.top, 0, _MAX_TOP, "top")
        offset = check(fields.within, request.utc_offset_minutes, -most, most, "utc_offset_minutes")
    name = pb.ActivityDimension.Name(request.dimension).removeprefix("ACTIVITY_DIMENSION_")
    by = Dimension.__members__.get(name)  # None for TOTAL: all events are counted together.
    names = frozenset(request.names)
    return ActivityQuery(by, *span, length, names, top or _TOP, offset * MINUTE)


def _activity_span(request: pb.GetActivityRequest, bounds: Bounds) -> tuple[int, int]:
    """From when until when, in milliseconds."""
    now_ms = bounds.now_ms
    until_ms = _unix_ms(request.until, "until", now_ms) if request.HasField("until") else now_ms
    since_ms = max(0, until_ms - DAY * 1000)
    if bounds.first is not None and not bounds.trimmed:
        since_ms = min(max(since_ms, bounds.first.ms), until_ms)
    if request.HasField("since"):
        since_ms = _unix_ms(request.since, "since", now_ms)
        if since_ms > until_ms:
            raise invalid_field("since", "must not be after until")
    return since_ms, until_ms


def _unix_ms(position: event_pb2.Position, field: str, now_ms: int) -> int:
    moment = fields.moment(position, field)
    if isinstance(moment, Sequence):
        return 0 if moment == BEGINNING else moment.ms
    check_not_in_future(moment.unix_ms, now_ms)
    return moment.unix_ms

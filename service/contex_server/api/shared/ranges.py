"""Which part of the log a request asks for."""

from __future__ import annotations

from contex.v1 import event_service_pb2 as event_pb
from contex.v1 import match_service_pb2 as match_pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_position
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Sequence
from contex_server.log.pages import check_readable
from contex_server.log.port import Bounds, EventLog

RangeLike = (
    event_pb.ListEventsRequest
    | event_pb.ReplayRequest
    | match_pb.BacktestRequest
    | match_pb.ExportFeedbackRequest
)


async def log_range(
    log: EventLog, project: str, request: RangeLike
) -> tuple[Sequence, Sequence, Bounds]:
    """The range as (after, until]; its upper end is fixed by what is there now."""
    after = fields.lower_end(request.since, request.HasField("since"))
    until = fields.upper_end(request.until, request.HasField("until"))
    bounds = await log.bounds(project)
    if request.since.WhichOneof("at") == "sequence":
        check_readable(bounds, after)
    return after, min(until, bounds.tail), bounds


async def start_of(log: EventLog, project: str, request: event_pb.SubscribeRequest) -> Sequence:
    """The position after which a subscription begins."""
    start = request.WhichOneof("start")
    if start is None or start == "from_beginning":
        return BEGINNING
    bounds = await log.bounds(project)
    if start == "from_end":
        return bounds.tail
    if start == "from_time":
        return fields.from_time(request.from_time)
    if start == "cursor":
        position = decode_position(Token.CURSOR, project, request.cursor, "cursor")
        if position.n == END_OF_TIME.n and position > bounds.tail:
            # The place before an instant, from a stream that started at that instant:
            # nothing has been published since, or the instant is still to come.
            return position
    else:
        position = fields.sequence(request.after_sequence, "after_sequence")
    check_readable(bounds, position)
    return position


def remaining(
    bounds: Bounds, after: Sequence, until: Sequence, resume: Sequence, *, backwards: bool
) -> tuple[Sequence, Sequence]:
    """What is left of a range after `resume` has been read; forwards it must have no gap."""
    if not backwards:
        check_readable(bounds, resume)
        return max(after, resume), until
    return after, min(until, resume.prev()) if resume > BEGINNING else BEGINNING

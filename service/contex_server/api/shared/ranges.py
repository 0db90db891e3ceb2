"""The range of the log that a request asks for."""

from __future__ import annotations

from contex.v1 import event_service_pb2, match_service_pb2

from contex_server.api.shared import fields
from contex_server.kernel.model import Sequence
from contex_server.log.pages import check_readable
from contex_server.log.port import Bounds, EventLog

RangeLike = (
    event_service_pb2.ListEventsRequest
    | event_service_pb2.ReplayRequest
    | match_service_pb2.BacktestRequest
    | match_service_pb2.ExportFeedbackRequest
)


async def log_range(
    log: EventLog, project: str, request: RangeLike
) -> tuple[Sequence, Sequence, Bounds]:
    """The range as (after, until]; its upper end is fixed by what is there now.

    Raises:
        ContexError: INVALID_FIELD, SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, STORE_UNAVAILABLE.
    """
    after = fields.lower_end(request.since, request.HasField("since"))
    until = fields.upper_end(request.until, request.HasField("until"))
    bounds = await log.bounds(project)
    if request.since.WhichOneof("at") == "sequence":
        check_readable(bounds, after)
    return after, min(until, bounds.tail), bounds

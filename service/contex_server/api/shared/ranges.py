"""Which part of the log a request asks for."""

from __future__ import annotations

from contex.v1 import agent_service_pb2 as agent_pb
from contex.v1 import event_pb2 as event
from contex.v1 import event_service_pb2 as event_pb
from contex.v1 import match_service_pb2 as match_pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_position
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Range, Sequence
from contex_server.log.pages import check_readable
from contex_server.log.port import Bounds, EventLog

PagedLike = event_pb.ListEventsRequest | event_pb.ReplayRequest
RangeLike = PagedLike | match_pb.BacktestRequest | match_pb.ExportFeedbackRequest


async def log_range(log: EventLog, request: RangeLike, order: int = 0) -> tuple[Range, Bounds]:
    """The range of a request; its upper end is fixed by the current end of the log."""
    span = fields.span(request, order=order)
    bounds = await log.bounds(request.project)
    if request.HasField("since"):
        check_readable(bounds, min(span.after, bounds.tail) if _is_time(request) else span.after)
    return span._replace(until=min(span.until, bounds.tail)), bounds


def _is_time(request: RangeLike) -> bool:
    return request.since.WhichOneof("at") != "sequence"


async def remaining(log: EventLog, request: PagedLike, token: Token) -> Range:
    """What is left of the range after the position of a token; forwards it must have no gap."""
    span, bounds = await log_range(log, request, request.order)
    field = "cursor" if isinstance(request, event_pb.ReplayRequest) else "page_token"
    text = getattr(request, field)
    if not text:
        return span
    position = decode_position(token, request.project, text, field)
    if not span.backwards:
        check_readable(bounds, position)
    return span.rest(position)


async def start_of(
    log: EventLog,
    request: event_pb.SubscribeRequest | agent_pb.ListenRequest,
    default: Sequence = BEGINNING,
) -> Sequence:
    """The position after which a stream begins: that of its cursor, its start, or `default`."""
    bounds = await log.bounds(request.project)
    start = request.WhichOneof("start")
    if request.cursor:
        position = decode_position(Token.CURSOR, request.project, request.cursor, "cursor")
        if position.n == END_OF_TIME.n and position > bounds.tail:
            # The place before an instant, from a stream that started at that instant: nothing
            # has been published since, or the instant is still to come.
            return position
    elif start == "from_time":
        position = fields.from_time(request.from_time)
        if position > bounds.tail:
            return position  # The instant is still to come.
    elif start == "after_sequence":
        position = fields.sequence(request.after_sequence, "after_sequence")
    elif start == "edge":
        edge = fields.enum(request.edge, event.Edge.DESCRIPTOR, "edge", unspecified=False)
        return bounds.tail if edge == event.EDGE_END else BEGINNING
    else:
        position = default
    check_readable(bounds, position)
    return position

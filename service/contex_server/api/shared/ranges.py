"""Which part of the log a request asks for."""

from __future__ import annotations

from contex.v1 import agent_service_pb2 as agent_pb
from contex.v1 import consumer_pb2 as consumer_pb
from contex.v1 import event_pb2 as event
from contex.v1 import event_service_pb2 as event_pb
from contex.v1 import match_service_pb2 as match_pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_inbox, decode_position
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.inbox_ids import LAST_N, event_of, inbox_id, last_place
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Range, Sequence
from contex_server.kernel.scope import Scope
from contex_server.log.pages import check_readable, check_same_log
from contex_server.log.port import Bounds, EventLog

PagedLike = event_pb.ListEventsRequest | event_pb.ReplayRequest
StreamLike = event_pb.SubscribeRequest | agent_pb.ListenRequest
RangeLike = PagedLike | match_pb.BacktestRequest | match_pb.ExportFeedbackRequest


async def log_range(log: EventLog, request: RangeLike, span: Range) -> tuple[Range, Bounds]:
    """The checked range of a request; its upper end is fixed by the current end of the log."""
    bounds = await log.bounds(request.project)
    if request.HasField("since"):
        check_readable(bounds, min(span.after, bounds.tail) if _is_time(request) else span.after)
    return span._replace(until=min(span.until, bounds.tail)), bounds


def _is_time(request: RangeLike) -> bool:
    return request.since.WhichOneof("at") != "sequence"


def resumed(request: PagedLike, token: Token, realm: str) -> Sequence | None:
    """The position of a request's token; None if it has none."""
    if isinstance(request, event_pb.ReplayRequest):
        field, realm = "cursor", request.project
    else:
        field = "page_token"
    text = getattr(request, field)
    return decode_position(token, realm, text, field) if text else None


async def remaining(
    log: EventLog, request: PagedLike, span: Range, position: Sequence | None, scope: Scope
) -> Range:
    """What is left of the range after the position of a token; forwards it must have no gap."""
    span, bounds = await log_range(log, request, span)
    if position is None:
        return span
    await check_same_log(
        log, request.project, bounds, position, readable=not span.backwards, scope=scope
    )
    return span.rest(position)


def start(request: StreamLike) -> Sequence | None:
    """The position that a request's cursor or start names; None for an edge, or if it has none."""
    if request.cursor:
        return decode_position(Token.CURSOR, request.project, request.cursor, "cursor")
    match request.WhichOneof("start"):
        case "from_time":
            return fields.from_time(request.from_time)
        case "after_sequence":
            return fields.sequence(request.after_sequence, "after_sequence")
        case "edge":
            fields.enum(request.edge, event.Edge.DESCRIPTOR, "edge", unspecified=False)
    return None


def inbox_start(request: agent_pb.ListenRequest) -> Sequence | None:
    """The same as a place in the agent's inbox."""
    if request.cursor:
        return decode_inbox(request.project, request.cursor, "cursor")
    position = start(request)
    return None if position is None else inbox_id(position)


async def inbox_start_of(
    log: EventLog,
    request: agent_pb.ListenRequest,
    place: Sequence | None,
    default: Sequence,
    scope: Scope,
) -> Sequence:
    """The place after which a stream of an inbox begins: what `inbox_start` returned, the
    request's edge, or `default`.

    Events that can be read no longer don't matter: what the agent gets of them was decided when
    they were there.
    """
    bounds = await log.bounds(request.project)
    if place is None:
        if request.WhichOneof("start") == "edge":
            return inbox_id(bounds.tail if request.edge == event.EDGE_END else BEGINNING)
        place = default
    position = event_of(place)
    if position > bounds.tail and (
        position.n >= LAST_N if request.cursor else request.HasField("from_time")
    ):
        return place
    await check_same_log(log, request.project, bounds, position, readable=False, scope=scope)
    return place


def seek_position(request: consumer_pb.SeekConsumerGroupRequest) -> Sequence | None:
    """The place in an agent's inbox that is sought; None: its request's edge."""
    match request.WhichOneof("position"):
        case "cursor":
            return decode_inbox(request.project, request.cursor, "cursor")
        case "after_sequence":
            return inbox_id(fields.sequence(request.after_sequence, "after_sequence"))
        case "from_time":
            return inbox_id(fields.from_time(request.from_time))
        case "edge":
            fields.enum(request.edge, event.Edge.DESCRIPTOR, "edge", unspecified=False)
            return None
    raise invalid_field("position", "after_sequence, from_time, cursor or edge is required")


async def seek_place(
    log: EventLog,
    request: consumer_pb.SeekConsumerGroupRequest,
    place: Sequence | None,
    scope: Scope,
) -> Sequence:
    """The place that is sought: what `seek_position` returned, or the request's edge."""
    bounds = await log.bounds(request.project)
    if place is None:
        return last_place(bounds.tail) if request.edge == event.EDGE_END else BEGINNING
    position = event_of(place)
    if request.HasField("from_time"):
        return min(place, last_place(bounds.tail))
    await check_same_log(log, request.project, bounds, position, readable=False, scope=scope)
    return place


async def start_of(
    log: EventLog, request: StreamLike, position: Sequence | None, scope: Scope
) -> Sequence:
    """The position after which a stream begins: what `start` returned, its edge, or the
    beginning."""
    bounds = await log.bounds(request.project)
    if position is None:
        if request.WhichOneof("start") == "edge":
            return bounds.tail if request.edge == event.EDGE_END else BEGINNING
        position = BEGINNING
    elif position > bounds.tail and (
        position.n == END_OF_TIME.n if request.cursor else request.HasField("from_time")
    ):
        # The place before an instant, by itself or in the cursor of a stream that started there:
        # nothing has been published since, or the instant is still to come.
        return position
    await check_same_log(log, request.project, bounds, position, scope=scope)
    return position

"""Where a read of events begins and ends, by what its request says and the log holds."""

from __future__ import annotations

from contex.v1 import event_service_pb2

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_position
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Sequence
from contex_server.log.pages import check_readable
from contex_server.log.port import Bounds, EventLog


async def start_of(
    log: EventLog, project: str, request: event_service_pb2.SubscribeRequest
) -> Sequence:
    """The position after which a subscription begins.

    Raises:
        ContexError: INVALID_FIELD, CURSOR_INVALID, SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE,
            STORE_UNAVAILABLE.
    """
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
    """What is left of a range after `resume` has been read; forwards it must have no gap.

    Raises:
        ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE.
    """
    if not backwards:
        check_readable(bounds, resume)
        return max(after, resume), until
    return after, min(until, resume.prev()) if resume > BEGINNING else BEGINNING

"""Moments of the past, as callers name them and as places in the log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, Range, Sequence
from contex_server.log.pages import check_not_beyond, check_not_deleted
from contex_server.log.port import Bounds, EventLog

GRACE_MS = 1_000
"""How far a client's clock may be ahead of the store's."""
_LAST_N = 2**64 - 1


class Instant(NamedTuple):
    """A time: everything up to and including this millisecond."""

    unix_ms: int


MomentQuery = Sequence | Instant | None
"""A moment as a caller names it: a sequence, a time, or None for now."""


class Moment(NamedTuple):
    """The moment that an answer is as of; see `contex.v1.Moment`.

    Attributes:
        sequence: The newest event at that moment; "0-0" before the first.
    """

    sequence: Sequence
    unix_ms: int


async def resolve_moment(log: EventLog, project: str, query: MomentQuery) -> Moment:
    """The newest event at or before a moment.

    Does not refuse what can no longer be read: a moment before the oldest event of a trimmed
    log has the sequence that was asked for.

    Raises:
        ContexError: SEQUENCE_IN_FUTURE, TIME_IN_FUTURE.
    """
    bounds = await log.bounds(project)
    if query is None:
        return Moment(bounds.tail, bounds.now_ms)
    if isinstance(query, Instant):
        check_not_in_future(query.unix_ms, bounds.now_ms)
        newest = await _newest(log, project, bounds, Sequence(query.unix_ms, _LAST_N))
        return Moment(newest, query.unix_ms)
    check_not_beyond(bounds, query)
    check_not_deleted(bounds, query)
    newest = await _newest(log, project, bounds, query)
    return Moment(newest, newest.ms)


def check_not_in_future(unix_ms: int, now_ms: int) -> None:
    """Refuses times after the store's clock.

    Raises:
        ContexError: TIME_IN_FUTURE.
    """
    if unix_ms > now_ms + GRACE_MS:
        now = rfc3339(now_ms)
        raise ContexError(
            Reason.TIME_IN_FUTURE,
            f"{rfc3339(unix_ms)} is in the future: the store's clock says {now}",
            metadata={"now": now},
        )


def rfc3339(unix_ms: int) -> str:
    """A time in UTC, to the millisecond."""
    time = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _newest(log: EventLog, project: str, bounds: Bounds, at: Sequence) -> Sequence:
    if at >= bounds.tail:
        return bounds.tail
    newest = await log.read(project, Range(until=at, backwards=True), 1)
    if newest:
        return newest[0].sequence
    return at if bounds.trimmed else BEGINNING

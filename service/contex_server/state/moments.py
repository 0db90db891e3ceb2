"""Moments: what is asked for, and the place in the log that it comes to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.pages import check_readable
from contex_server.log.port import Bounds, EventLog

GRACE_MS = 1_000
"""How far a client's clock may be ahead of the store's."""
_LAST_N = 2**64 - 1


class Instant(NamedTuple):
    """A time, meaning everything up to and including this millisecond."""

    unix_ms: int


Asked = Sequence | Instant | None
"""A moment as it is asked for: a sequence, a time, or None for now."""


class Moment(NamedTuple):
    """The moment that an answer is as of; see `contex.v1.Moment`.

    Attributes:
        sequence: The newest event that counts; "0-0" before the first.
        unix_ms: The instant that was meant.
    """

    sequence: Sequence
    unix_ms: int


async def resolve(log: EventLog, project: str, asked: Asked) -> Moment:
    """The newest event at or before a moment.

    What can't be read any more is not refused here: of a log that was trimmed, a moment
    before its oldest event has the sequence that was asked for.

    Raises:
        ContexError: SEQUENCE_IN_FUTURE, TIME_IN_FUTURE, STORE_UNAVAILABLE.
    """
    bounds = await log.bounds(project)
    if asked is None:
        return Moment(bounds.tail, bounds.now_ms)
    if isinstance(asked, Instant):
        check_not_in_future(asked.unix_ms, bounds.now_ms)
        newest = await _newest(log, project, bounds, Sequence(asked.unix_ms, _LAST_N))
        return Moment(newest, asked.unix_ms)
    if asked > bounds.tail:
        check_readable(bounds, asked)
    newest = await _newest(log, project, bounds, asked)
    return Moment(newest, newest.ms)


def check_not_in_future(unix_ms: int, now_ms: int) -> None:
    """Refuses a time that the store's clock has not reached.

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
    found = await log.read_back(project, at, BEGINNING, 1)
    if found:
        return found[0].sequence
    return at if bounds.trimmed else BEGINNING

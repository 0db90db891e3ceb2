"""How fast a project is archived, and how fast it may grow meanwhile.

Archiving takes its time, so that nobody who publishes notices it: a little faster than the
project grows is enough. Where the store holds far more than it should and gets more still, it
hurries instead, and who appends gets the pace at which segments are made, a little less, until
the store holds what it should: so its memory stays bounded.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

import structlog
from cachetools import TTLCache

log = structlog.get_logger(__name__)

CALM = 4_000.0
"""So many events a second are archived without haste, at least."""
_AHEAD = 2.0
"""So many times as fast as the project grows."""
_SHARE = 0.9
"""Of the speed of archiving: so that the store has less after each segment."""
_MOST_S = 1.0
"""No append waits longer."""
_STALE_S = 30.0
"""Nothing was archived for so long: waiting would not help."""


@dataclass(slots=True)
class _Seen:
    at: float
    archived: int
    held: int
    over: bool
    hurried: bool = False
    """Whether archiving hurried from then on."""
    rate: float = 0.0
    """Events a second that may be appended; 0: as many as come."""
    free: float = 0.0
    """When the next may be."""


class Pace:
    """How fast each project may grow, in the process that archives it."""

    def __init__(self) -> None:
        self._seen: TTLCache[str, _Seen] = TTLCache(10_000, _STALE_S)

    def seen(self, project: str, archived: int, held: int, *, over: bool) -> float:
        """Takes note of how it goes.

        Args:
            project: The project.
            archived: How many events the archive has, ...
            held: ... and the store.
            over: Whether that is far more than it should.

        Returns:
            How many events a second are to be archived; infinity is as many as can be.
        """
        now, before = time.monotonic(), self._seen.get(project)
        seen = self._seen[project] = _Seen(now, archived, held, over)
        if before is None:
            return CALM
        seconds = max(now - before.at, 1e-3)
        seen.hurried = over and (before.hurried or (before.over and held > before.held))
        if not seen.hurried:
            grown = archived + held - before.archived - before.held
            return max(CALM, _AHEAD * grown / seconds)
        if before.hurried:
            seen.free = before.free
            seen.rate = _SHARE * max(0, archived - before.archived) / seconds
            if seen.rate and not before.rate:
                log.warning("publishers_slowed", project=project, events_per_s=round(seen.rate))
        return math.inf

    async def wait(self, project: str, events: int) -> None:
        """Returns when so many events may be appended."""
        seen = self._seen.get(project)
        if seen is None or not seen.rate:
            return
        now = time.monotonic()
        start = max(now, seen.free)
        seen.free = min(start + events / seen.rate, now + _MOST_S)
        if start > now:
            await asyncio.sleep(start - now)

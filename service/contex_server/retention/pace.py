"""Slows those down who append to a project faster than it can be archived, so that the store's
memory stays bounded.

It does so where a project has outgrown its retention by far and still grows: appends get the
pace at which segments are made, a little less, until the store holds what it should.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog
from cachetools import TTLCache

log = structlog.get_logger(__name__)

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
    rate: float = 0.0
    """Events a second that may be appended; 0: as many as come."""
    free: float = 0.0
    """When the next may be."""


class Pace:
    """How fast each project may grow, in the process that archives it."""

    def __init__(self) -> None:
        self._seen: TTLCache[str, _Seen] = TTLCache(10_000, _STALE_S)

    def seen(self, project: str, archived: int, held: int, *, over: bool) -> bool:
        """Takes note of how it goes.

        Args:
            project: The project.
            archived: How many events the archive has, ...
            held: ... and the store.
            over: Whether that is far more than it should.

        Returns:
            Whether archiving is to hurry: the store has far more, and still grows.
        """
        now, before = time.monotonic(), self._seen.get(project)
        seen = _Seen(now, archived, held)
        hurry = over and before is not None and bool(before.rate or held > before.held)
        if hurry and before is not None:
            seen.free = before.free
            seen.rate = _SHARE * max(0, archived - before.archived) / (now - before.at)
            if seen.rate and not before.rate:
                log.warning("publishers_slowed", project=project, events_per_s=round(seen.rate))
        self._seen[project] = seen
        return hurry

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

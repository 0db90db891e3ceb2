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
from contextlib import suppress
from dataclasses import dataclass

import structlog
from cachetools import TTLCache

from contex_server.kernel.errors import ContexError
from contex_server.log.projects import ProjectStore

log = structlog.get_logger(__name__)

CALM = 4_000.0
"""So many events a second are archived without haste, at least."""
_AHEAD = 2.0
"""So many times as fast as the project grows."""
_SHARE = 0.9
"""Of the speed of archiving: so that the store has less after each segment."""
_STEP = 2.0
"""No pace is so many times the one before."""
_MOST_S = 1.0
"""No append waits longer."""
_STALE_S = 30.0
"""Nothing was archived for so long, or three times as long as a segment takes: waiting would
not help."""
_KNOWN_S = 600.0
"""Longer than a segment takes, however slow the storage is."""
_ASK_S = 1.0
"""How often who appends asks for the pace."""


@dataclass(slots=True)
class _Seen:
    at: float
    archived: int
    held: int
    over: bool
    hurried: bool = False
    """Whether archiving hurried from then on."""
    rate: float = 0.0
    """Events a second that each process may append from then on; 0: as many as come."""


@dataclass(slots=True)
class _Limit:
    asked: float
    """When the store was asked last, ..."""
    rate: float = 0.0
    """... and what it said."""
    free: float = 0.0
    """When the next events may be appended."""


class Pace:
    """How fast each project is archived, and may grow. The process that archives a project
    decides; those that append to it learn of it by the store.

    Args:
        store: Carries the paces from one process to the others.
    """

    def __init__(self, store: ProjectStore) -> None:
        self._store = store
        self._seen: TTLCache[str, _Seen] = TTLCache(10_000, _KNOWN_S)
        self._limits: TTLCache[str, _Limit] = TTLCache(10_000, _KNOWN_S)
        self._asking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Asks for no pace any more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def observe(self, project: str, archived: int, held: int, *, over: bool) -> float:
        """Takes note of how archiving goes.

        Args:
            project: The project.
            archived: How many events the archive has, ...
            held: ... and the store.
            over: Whether that is far more than it should.

        Returns:
            How many events a second are to be archived; infinity is as many as can be.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        now, before = time.monotonic(), self._seen.get(project)
        seen = self._seen[project] = _Seen(now, archived, held, over)
        if before is None:
            return CALM
        seconds = max(now - before.at, 1e-3)
        moved, grown = archived - before.archived, archived + held - before.archived - before.held
        seen.hurried = over and (before.hurried or (before.over and held > before.held))
        if before.hurried and seen.hurried and moved > 0:
            most = _SHARE * moved / seconds
            seen.rate = most
            if before.rate:
                # What all processes together append is known, how many they are is not.
                change = most * seconds / max(grown, 1)
                seen.rate = min(most, before.rate * min(max(change, 1 / _STEP), _STEP))
            else:
                log.warning("publishers_slowed", project=project, events_per_s=round(most))
        if seen.rate or before.rate:
            ttl_s = max(_STALE_S, 3 * seconds)
            await self._store.put_pace(project, seen.rate, int(ttl_s * 1_000))
        return math.inf if seen.hurried else max(CALM, _AHEAD * grown / seconds)

    async def throttle(self, project: str, events: int) -> None:
        """Returns when so many events may be appended."""
        now, limit = time.monotonic(), self._limits.get(project)
        if limit is None or now > limit.asked + _ASK_S:
            if limit is None:
                limit = self._limits[project] = _Limit(now)
            limit.asked = now
            task = asyncio.create_task(self._ask(project, limit))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        if not limit.rate:
            return
        start = max(now, limit.free)
        limit.free = min(start + events / limit.rate, now + _MOST_S)
        if start > now:
            await asyncio.sleep(start - now)

    async def _ask(self, project: str, limit: _Limit) -> None:
        with suppress(ContexError):
            limit.rate = await self._store.pace(project)

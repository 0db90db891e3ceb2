"""How fast a project is archived, and how fast it may grow meanwhile.

Normally archiving is slow enough not to disturb publishers: somewhat faster than the project
grows. If the store holds far more than it should and keeps growing, archiving runs at full speed
and publishers are slowed down to a little less than that, which bounds the store's memory.
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
from contex_server.kernel.failures import Failures
from contex_server.log.projects import ProjectStore

log = structlog.get_logger(__name__)

CALM = 4_000.0
"""Minimum number of events a second that are archived at normal speed."""
_AHEAD = 2.0
"""Archive at this multiple of the project's growth rate."""
_SHARE = 0.9
"""Publishers get this share of the archiving speed, so that the store shrinks."""
_STEP = 2.0
"""Maximum factor by which the rate changes in one step."""
_MAX_WAIT_S = 1.0
"""Maximum wait of an append."""
_STALE_S = 30.0
"""Rates expire after this time, or three times that of a segment if it is longer: if nothing is
archived any more, waiting does not help."""
_KNOWN_S = 600.0
"""Longer than a segment takes even with slow storage."""
_REFRESH_S = 1.0
"""Publishers ask for the rate this often."""


@dataclass(slots=True)
class _Observation:
    at: float
    archived: int
    stored: int
    over: bool
    full_speed: bool = False
    """Whether archiving ran at full speed from then on."""
    rate: float = 0.0
    """Maximum events a second that each process appends from then on; 0 is unlimited."""


@dataclass(slots=True)
class _Limit:
    asked_at: float
    """When the store was last asked."""
    rate: float = 0.0
    """What it answered."""
    free: float = 0.0
    """When the next events may be appended."""


class Pace:
    """How fast each project is archived, and may grow. The process that archives a project
    decides; the others learn the rate from the store."""

    def __init__(self, store: ProjectStore) -> None:
        self._store = store
        self._observations: TTLCache[str, _Observation] = TTLCache(10_000, _KNOWN_S)
        self._limits: TTLCache[str, _Limit] = TTLCache(10_000, _KNOWN_S)
        self._refreshing: set[asyncio.Task[None]] = set()
        self._failures = Failures("pace_unknown")

    async def close(self) -> None:
        """Stops asking for rates."""
        for task in self._refreshing:
            task.cancel()
        await asyncio.gather(*self._refreshing, return_exceptions=True)

    async def observe(self, project: str, archived: int, stored: int, *, over: bool) -> float:
        """Records how many events the archive and the store have, and whether the latter are far
        too many. Returns how many events a second to archive; infinity is full speed."""
        now, before = time.monotonic(), self._observations.get(project)
        observed = self._observations[project] = _Observation(now, archived, stored, over)
        if before is None:
            return CALM
        seconds = max(now - before.at, 1e-3)
        moved = archived - before.archived
        growth = moved + stored - before.stored
        rising = before.over and stored > before.stored
        observed.full_speed = over and (before.full_speed or rising)
        if before.full_speed and observed.full_speed and moved > 0:
            rate = _SHARE * moved / seconds
            observed.rate = rate
            if before.rate:
                # The total rate of all processes is known, but not their number.
                change = rate * seconds / max(growth, 1)
                observed.rate = min(rate, before.rate * min(max(change, 1 / _STEP), _STEP))
            else:
                log.warning("publishers_slowed", project=project, events_per_s=round(rate))
        if observed.rate or before.rate:
            ttl_s = max(_STALE_S, 3 * seconds)
            await self._store.put_pace(project, observed.rate, int(ttl_s * 1_000))
        return math.inf if observed.full_speed else max(CALM, _AHEAD * growth / seconds)

    async def throttle(self, project: str, events: int) -> None:
        """Waits until this number of events may be appended."""
        now, limit = time.monotonic(), self._limits.get(project)
        if limit is None or now > limit.asked_at + _REFRESH_S:
            if limit is None:
                limit = self._limits[project] = _Limit(now)
            limit.asked_at = now
            task = asyncio.create_task(self._refresh(project, limit))
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)
        if not limit.rate:
            return
        start = max(now, limit.free)
        limit.free = min(start + events / limit.rate, now + _MAX_WAIT_S)
        if start > now:
            await asyncio.sleep(start - now)

    async def _refresh(self, project: str, limit: _Limit) -> None:
        with suppress(ContexError), self._failures.isolated(project):
            limit.rate = await self._store.pace(project)

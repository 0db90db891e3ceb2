"""What tenants have stored: events and their bytes, agents and their needs.

It is counted by the store as it is written. A server reads those counts of all projects of a tenant
at most every `READ_S`, and for a twentieth of its time, and adds what it lets through itself. So a
limit may be exceeded by what other servers let through since this one has read: at most what the
tenant writes in that time. What is freed counts again with the next reading.

While the store can't be asked, what was known last holds; who writes fails by the store then.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from contex_server.kernel.errors import ContexError
from contex_server.kernel.slices import sliced
from contex_server.log.buckets import target_project
from contex_server.log.port import EventLog
from contex_server.log.quota import Place
from contex_server.log.store import Store
from contex_server.match.agent_codec import AgentDamaged, decode_agent
from contex_server.quota.limits import Bounds, LimitsOf

log = structlog.get_logger(__name__)

READ_S = 2.0
_SHARE = 20
"""Reading takes at most this part of a server's time."""
STORED = ("stored_events", "stored_bytes", "agents", "needs")
Counts = Mapping[str, int]


@dataclass(slots=True, eq=False)
class _Known:
    """What is known of a tenant.

    Attributes:
        counts: By project; "" is the sum of all.
        until_s: How long that is good enough.
    """

    counts: dict[str, Counter[str]]
    until_s: float
    needs: bool


class StoredUse:
    """What tenants have stored, as this server knows it."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        limits: LimitsOf,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._events = events
        self._limits = limits
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def add(self, bounds: Bounds, project: str, adds: Counts) -> tuple[Place, int] | None:
        """Adds what is about to be stored, unless that would be too much.

        Returns:
            None if it was added; else the limit that refuses it.
        """
        limited = [
            (of, limit, value)
            for limit, units in adds.items()
            if units > 0
            for of in ("", project)
            if (value := bounds.of(of, limit))
        ]
        if not limited:
            return None
        known = await self._current(bounds, needs=any(limit == "needs" for _, limit, _ in limited))
        for of, limit, value in limited:
            if known.counts[of][limit] + adds[limit] > value:
                return Place(of, limit), value
        for limit, units in adds.items():
            known.counts[""][limit] += units
            known.counts[project][limit] += units
        return None

    async def of(self, bounds: Bounds, project: str) -> Counts:
        """What a project, or, with "", the tenant has stored."""
        return (await self._current(bounds, needs=True)).counts[project]

    async def count(self, project: str) -> Counts:
        """What a project has stored now, also one that is staged."""
        return await self._of_project(project, needs=True)

    async def of_agent(self, project: str, agent_id: str) -> int | None:
        """How many needs a registered agent has; None if there is none."""
        record = await self._store.agents.agent(project, agent_id)
        return None if record is None else _needs(record.record)

    async def _current(self, bounds: Bounds, *, needs: bool) -> _Known:
        tenant = bounds.tenant
        known = self._known.get(tenant)
        if known is not None and known.until_s > self._clock() and (known.needs or not needs):
            return known
        async with self._reading[tenant]:
            known = self._known.get(tenant)
            now = self._clock()
            if known is not None and known.until_s > now and (known.needs or not needs):
                return known
            try:
                counts = await self._read(tenant, needs)
            except ContexError as error:
                if known is None:
                    raise
                log.debug("quota_unknown", tenant=tenant, error=error.message)
                counts = known.counts
            took = self._clock() - now
            known = _Known(counts, self._clock() + max(READ_S, _SHARE * took), needs)
            self._known[tenant] = known
            return known

    async def _read(self, tenant: str, needs: bool) -> dict[str, Counter[str]]:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        async for project in sliced(await self._store.projects.projects()):
            if target_project(project) != project:
                continue  # An import that is not done, or what is left of a deleted project.
            if self._limits.limits_of(project).tenant != tenant:
                continue
            counts[project] = await self._of_project(project, needs)
            counts[""].update(counts[project])
        return counts

    async def _of_project(self, project: str, needs: bool) -> Counter[str]:
        bounds = await self._events.bounds(project)
        archived = await self._store.archive.archived(project)
        counters = await self._store.projects.counters(project)
        found = Counter(
            stored_events=bounds.length,
            stored_bytes=max(0, counters.bytes - archived.moved) + archived.bytes,
            agents=counters.agents,
        )
        if needs and counters.agents:
            async for records in self._store.quota.registrations(project):
                async for record in sliced(records):
                    found["needs"] += _needs(record)
        return found


def _needs(record: bytes) -> int:
    try:
        return len(decode_agent(record).needs)
    except AgentDamaged:
        return 0

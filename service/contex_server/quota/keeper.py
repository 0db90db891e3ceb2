"""Keeps calls within the limits of tenants and projects, and counts what they use."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import structlog

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.slices import sliced
from contex_server.kernel.work import Meter, metered
from contex_server.log.quota import Place
from contex_server.log.store import Store
from contex_server.quota.limits import Bounds, LimitsOf
from contex_server.quota.rates import Rates
from contex_server.quota.stored import StoredUse
from contex_server.quota.streams import Streams
from contex_server.quota.usage import usage

log = structlog.get_logger(__name__)

EVENTS, BYTES, WORK = "events_per_second", "bytes_per_second", "work_per_second"
WRITES, READS, ADMIN = "write_calls_per_second", "read_calls_per_second", "admin_calls_per_second"
PLACES = {EVENTS: 0, BYTES: 1, WORK: 2, WRITES: 3, READS: 4, ADMIN: 5}
_TICK_S = 1.0
_LOOK_S = 15.0
_MOST_TENANTS = 200
"""Tenants beyond these share a name in metrics."""
_MOST_PLACES = 500
"""Sums that are added in one call of the store."""
OTHERS = "(others)"


class QuotaKeeper:
    """The limits, as links and rooms ask for them.

    A method that takes something counts it, or raises `ContexError` with QUOTA_EXCEEDED and takes
    nothing.

    Attributes:
        refused: Calls that were refused on this server, by tenant and limit.
        used: Units of rates that were used, likewise.
    """

    def __init__(
        self, store: Store, limits: LimitsOf, rates: Rates, streams: Streams, stored: StoredUse
    ) -> None:
        self.limits = limits
        self.rates = rates
        self.streams = streams
        self.stored = stored
        self.refused: Counter[tuple[str, str]] = Counter()
        self.used: Counter[tuple[str, str]] = Counter()
        self._all = store
        self._store = store.quota
        self._named: set[str] = set()
        self._limited: dict[str, Bounds] = {}
        self._ratios: dict[tuple[str, str], float] = {}
        self._looked_s = 0.0
        self.by_project: dict[str, list[int]] = {}
        """What `uses` returns."""
        self._by_tenant: dict[str, list[int]] = {}
        self._refusals: defaultdict[str, Counter[Place]] = defaultdict(Counter)

    async def take(self, bounds: Bounds, project: str, costs: Mapping[str, int]) -> None:
        """Takes units of rates, all or none."""
        if not bounds.is_open:
            over = await self.rates.of(bounds.tenant).take(bounds, project, [*costs.items()])
            if over is not None:
                raise self._exceeded(bounds, over.place, over.value, over.retry_after_ms)
        self._use(bounds, project, costs)

    async def publish(self, bounds: Bounds, project: str, events: int, nbytes: int) -> None:
        """Lets a publish through: a call that writes, its events and their bytes."""
        await self.take(bounds, project, {WRITES: 1, EVENTS: events, BYTES: nbytes})
        if not bounds.is_open:
            await self.store(bounds, project, {"stored_events": events, "stored_bytes": nbytes})

    async def publish_batch(self, project: str, events: int, nbytes: int) -> None:
        """Lets a batch of a stream through."""
        await self.publish(self.limits.limits_of(project), project, events, nbytes)

    async def store(self, bounds: Bounds, project: str, adds: Mapping[str, int]) -> None:
        """Lets something be stored."""
        if bounds.is_open:
            return
        over = await self.stored.add(bounds, project, adds)
        if over is not None:
            raise self._exceeded(bounds, *over)

    async def register(
        self, bounds: Bounds, project: str, agent_id: str, needs: int, *, new: bool
    ) -> None:
        """Lets an agent be registered or changed, with the needs that it has then.

        Args:
            new: Whether it may be registered.
        """
        if not bounds.limits_any("agents", "needs"):
            return
        before = await self.stored.of_agent(project, agent_id)
        if before is None and not new:
            return  # It will be refused for that.
        adds = {"agents": int(before is None), "needs": needs - (before or 0)}
        await self.store(bounds, project, adds)

    async def admit_import(self, project: str, staged: str) -> None:
        """Lets a staged import become a part of a project."""
        bounds = self.limits.limits_of(project)
        if bounds.limits_any("stored_events", "stored_bytes", "agents", "needs"):
            await self.store(bounds, project, await self.stored.count(staged))

    @asynccontextmanager
    async def stream(self, bounds: Bounds, project: str) -> AsyncIterator[None]:
        """Has a stream open, for the `async with` block."""
        streams = self.streams.of(bounds.tenant)
        over = await streams.open(bounds, project)
        if over is not None:
            raise self._exceeded(bounds, *over)
        try:
            yield
        finally:
            streams.close(project)

    @contextmanager
    def metered(self, bounds: Bounds, project: str, *, throttled: bool) -> Iterator[Meter]:
        """Charges what the call looks at in the `with` block."""
        rates = self.rates.of(bounds.tenant)

        def charge(units: int) -> None:
            if not bounds.is_open:
                rates.owe(bounds, project, WORK, units)
            self._use(bounds, project, {WORK: units})

        def owed_s() -> float:
            return 0.0 if bounds.is_open else rates.owed_s(bounds, project, WORK)

        # Of a deployment without tenants, projects have their turns.
        owner = project if bounds.is_open else bounds.tenant
        meter = Meter(owner, charge, owed_s, throttled=throttled)
        with metered(meter):
            yield meter

    async def run(self) -> None:
        """Tells the store what is used, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                await self.tick()
            except ContexError as error:
                log.debug("quota_unknown", error=error.message)
            except Exception:
                log.exception("quota_failed")

    async def tick(self) -> None:
        """One round."""
        self.rates.tick()
        await self.streams.tick()
        await self._flush()
        now = asyncio.get_running_loop().time()
        if now >= self._looked_s + _LOOK_S:
            self._looked_s = now
            await self._look()

    async def _look(self) -> None:
        """Finds out which part of their limits the tenants use that have used this server."""
        ratios = {}
        limited, self._limited = self._limited, {}
        for tenant, bounds in limited.items():
            for name, used, limit, _ in await usage(self._all, self.stored, bounds):
                if limit:
                    ratios[tenant, name] = used / limit
        self._ratios = ratios

    async def close(self) -> None:
        """Tells the store what is left, and gives back what is held."""
        try:
            await self._flush()
        except ContexError as error:
            log.debug("quota_unknown", error=error.message)
        await self.rates.close()
        await self.streams.close()

    def totals(
        self,
    ) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]], dict[tuple[str, str], float]]:
        """By tenant and limit: units that were used and calls that were refused on this server, and
        which part of a limit is used on all. From any thread."""
        return self.used.copy(), self.refused.copy(), self._ratios

    def uses(self, bounds: Bounds, project: str) -> list[int]:
        """Units of each rate that were used since the store was told, by `PLACES`."""
        kept, name = (self.by_project, project) if project else (self._by_tenant, bounds.tenant)
        uses = kept.get(name)
        if uses is None:
            uses = kept[name] = [0] * len(PLACES)
            if not bounds.is_open and len(self._limited) < _MOST_TENANTS:
                self._limited[bounds.tenant] = bounds
        return uses

    def _use(self, bounds: Bounds, project: str, costs: Mapping[str, int]) -> None:
        uses = self.uses(bounds, project)
        for limit, units in costs.items():
            uses[PLACES[limit]] += units

    async def _flush(self) -> None:
        by_project, self.by_project = self.by_project, {}
        of_tenants, self._by_tenant = self._by_tenant, {}
        refusals, self._refusals = self._refusals, defaultdict(Counter)
        by_tenant: defaultdict[str, Counter[Place]] = defaultdict(Counter)
        counted = [(self.limits.limits_of(p).tenant, p, uses) for p, uses in by_project.items()]
        counted += [(tenant, "", uses) for tenant, uses in of_tenants.items()]
        async for tenant, project, uses in sliced(counted):
            for limit, at in PLACES.items():
                if uses[at]:
                    by_tenant[tenant][Place("", limit)] += uses[at]
                    self.used[self._name(tenant), limit] += uses[at]
                    if project:
                        by_tenant[tenant][Place(project, limit)] = uses[at]
        for tenant in by_tenant.keys() | refusals.keys():
            used, refused = [*by_tenant[tenant].items()], [*refusals[tenant].items()]
            while used or refused:
                part, used = used[:_MOST_PLACES], used[_MOST_PLACES:]
                other, refused = refused[:_MOST_PLACES], refused[_MOST_PLACES:]
                await self._store.add_use(tenant, dict(part), dict(other))

    def _exceeded(
        self, bounds: Bounds, place: Place, value: int, retry_after_ms: int | None = None
    ) -> ContexError:
        self._refusals[bounds.tenant][place] += 1
        self.refused[self._name(bounds.tenant), place.limit] += 1
        return quota_exceeded(bounds.tenant, place, value, retry_after_ms)

    def _name(self, tenant: str) -> str:
        """The name of a tenant in metrics."""
        if tenant not in self._named:
            if len(self._named) == _MOST_TENANTS:
                return OTHERS
            self._named.add(tenant)
        return tenant


def quota_exceeded(
    tenant: str, place: Place, value: int, retry_after_ms: int | None
) -> ContexError:
    """The refusal of what a limit does not allow."""
    metadata = {"limit": place.limit, "value": str(value), "tenant": tenant}
    if place.project:
        metadata["project"] = place.project
    of = (
        f"project {place.project!r} of tenant {tenant!r}" if place.project else f"tenant {tenant!r}"
    )
    what = place.limit.removesuffix("_per_second").replace("_", " ")
    each = " per second" if place.limit.endswith("_per_second") else ""
    return ContexError(
        Reason.QUOTA_EXCEEDED,
        f"{of} may have at most {value} {what}{each}",
        metadata=metadata,
        retry_after_ms=retry_after_ms,
    )

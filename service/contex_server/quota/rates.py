"""Rates of a tenant: taken from the store in advance, so that few calls ask it.

A server takes units for what it is about to use (an allowance), and spends them without asking.
It asks the store at most once in `ASK_S` for each rate; calls that come meanwhile and find no
allowance left wait for the next time, together. What is refused is refused from memory until a
retry may succeed.

A tenant may so exceed a rate for a moment by what servers took and did not spend: a fifth of a
second's units for each server, which lapse after a second. In any T seconds at most
rate x (T + 1 + 0.2 x servers) units are let through.

While the store can't be asked, each server lets through what the rate allows by itself: calls
that need the store fail anyhow, and the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from math import ceil, floor
from typing import NamedTuple

import structlog

from contex_server.kernel.errors import ContexError
from contex_server.log.quota import Ask, Place, QuotaStore, Taken
from contex_server.quota import gcra
from contex_server.quota.limits import Bounds

log = structlog.get_logger(__name__)

ASK_S = 0.1
"""How long a rate is not asked for again."""
LAPSE_S = 1.0
"""How long an allowance can be spent."""
_AHEAD_S = 0.2
"""An allowance is at most what the rate allows in this time."""
_LEAST_S = 0.05
_IDLE_S = 60.0
_MOST_GROUPS = 500
"""Calls that are asked for at a time: 2 ms of the store's time."""
_MOST_RATES = 200


class OverRate(NamedTuple):
    """A rate that refuses a call, and when it will not."""

    place: Place
    value: int
    retry_after_ms: int


class _Bucket:
    """What this server has of a rate, and knows of it.

    Attributes:
        left: The allowance.
        debt: What was used without asking.
        asked_s: When the store was last asked.
    """

    __slots__ = ("_ahead_us", "_spent", "asked_s", "debt", "left", "place", "rate", "used_s")

    def __init__(self, place: Place, rate: int, now: float) -> None:
        self.place = place
        self.rate = rate
        self.left = self.debt = self._spent = 0
        self.asked_s = now - LAPSE_S
        self.used_s = now
        self._ahead_us = 0.0

    def at(self, rate: int, now: float) -> None:
        """As it is now, with the rate that holds now."""
        self.used_s = now
        if rate != self.rate:
            self.rate, self.left, self._ahead_us = rate, 0, 0.0
        elif self.left and now - self.asked_s > LAPSE_S:
            self.left = 0

    def ahead_us(self, now: float) -> float:
        """How long until it is full, at least; by this server's clock."""
        since = max(0.0, self._ahead_us - (now - self.asked_s) * 1e6)
        return since + self.debt * gcra.BURST_US / self.rate

    def wait_us(self, units: int, now: float) -> float:
        """How long until it has units, beyond the allowance."""
        return gcra.wait_us(self.ahead_us(now), self.rate, units)

    def wait_for(self, cost: int, now: float) -> float:
        """How long until it has units, in µs, with the allowance, unless that lapses before."""
        if self.left >= cost:
            return 0.0
        wait = self.wait_us(cost - self.left, now)
        lapses_us = (self.asked_s + LAPSE_S - now) * 1e6
        return wait if wait + 1e5 < lapses_us else self.wait_us(cost, now)

    def spend(self, units: int) -> None:
        """Uses units of the allowance."""
        self.left -= units
        self._spent += units

    def owe(self, units: int) -> None:
        """Uses units whether there are any or not."""
        paid = min(self.left, units)
        self.spend(paid)
        self.debt += units - paid

    def is_low(self, now: float) -> bool:
        """Whether it should be asked for more, so that no call has to wait for that."""
        if now - self.asked_s < ASK_S:
            return False
        # At the pace of late, what is left is gone before it may be asked again.
        late = self._spent * ASK_S / (now - self.asked_s)
        return self.debt > 0 or (self.left < late and self.wait_us(1, now) <= 0)

    def ask(self, now: float) -> Ask:
        """What to ask of the store now."""
        pace = self._spent / max(ASK_S, now - self.asked_s)
        spare = ceil(max(pace * _AHEAD_S, self.rate * _LEAST_S))
        spare = min(spare, floor(self.rate * _AHEAD_S)) - self.left
        return Ask(self.place, self.rate, self.debt, max(0, spare))

    def asked(self, ask: Ask, ahead_us: float, spare: int, now: float) -> None:
        """Takes the answer."""
        self.asked_s = now
        self._spent = 0
        self._ahead_us = ahead_us
        self.debt -= ask.debt
        self.left += spare


class _Waiting(NamedTuple):
    """A call that waits for an answer of the store."""

    costs: list[tuple[_Bucket, int]]
    answer: asyncio.Future[OverRate | None]


class TenantRates:
    """The rates of a tenant, on this server."""

    def __init__(self, tenant: str, store: QuotaStore, *, clock: Callable[[], float]) -> None:
        self.tenant = tenant
        self.asked = 0
        """How often the store was asked."""
        self._store = store
        self._clock = clock
        self._buckets: dict[Place, _Bucket] = {}
        self._queue: list[_Waiting] = []
        self._low: set[_Bucket] = set()
        self._asking: asyncio.Task[None] | None = None
        self._away = False

    async def take(
        self, bounds: Bounds, project: str, costs: Sequence[tuple[str, int]]
    ) -> OverRate | None:
        """Takes units of several limits, of tenant and project, together or not at all.

        Returns:
            None if they are taken; else the limit that takes longest to allow them.
        """
        now = self._clock()
        due = self._due(bounds, project, costs, now)
        short = [(bucket, cost) for bucket, cost in due if bucket.left < cost]
        if not short:
            for bucket, cost in due:
                bucket.spend(cost)
                if bucket.is_low(now):
                    self._low.add(bucket)
                    self._wake()
            return None
        refused = _refused(short, now)
        if refused is not None:
            return refused
        waiting = _Waiting(due, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake()
        return await waiting.answer

    def owe(self, bounds: Bounds, project: str, limit: str, units: int) -> None:
        """Takes units that were used already."""
        now = self._clock()
        for bucket, cost in self._due(bounds, project, [(limit, units)], now):
            bucket.owe(cost)
            if bucket.is_low(now):
                self._low.add(bucket)
                self._wake()

    def owed_s(self, bounds: Bounds, project: str, limit: str) -> float:
        """How long until a rate has been paid what it is owed."""
        now = self._clock()
        due = self._due(bounds, project, [(limit, 1)], now)
        # Not beyond the burst: what is owed less than that was there to be spent.
        return max((b.wait_us(1, now) / 1e6 for b, cost in due if b.left < cost), default=0.0)

    def pay(self) -> None:
        """Tells the store of what is owed, soon."""
        owing = [bucket for bucket in self._buckets.values() if bucket.debt]
        if owing:
            self._low.update(owing)
            self._wake()

    def forget_idle(self) -> bool:
        """Drops what nobody uses; whether nothing is left."""
        late = self._clock() - _IDLE_S
        for place, bucket in [*self._buckets.items()]:
            if bucket.used_s < late and not bucket.debt:
                del self._buckets[place]
        return not self._buckets and not self._queue

    async def close(self) -> None:
        """Ends what is asked, once that is answered."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _due(
        self, bounds: Bounds, project: str, costs: Sequence[tuple[str, int]], now: float
    ) -> list[tuple[_Bucket, int]]:
        due = []
        for limit, cost in costs:
            for of in ("", project) if project else ("",):
                rate = bounds.of(of, limit)
                if rate and cost:
                    place = Place(of, limit)
                    bucket = self._buckets.get(place)
                    if bucket is None:
                        bucket = self._buckets[place] = _Bucket(place, rate, now)
                    bucket.at(rate, now)
                    due.append((bucket, cost))
        return due

    def _wake(self) -> None:
        if self._asking is None:
            name = f"contex-quota-{self.tenant}"
            self._asking = asyncio.create_task(self._ask_all(), name=name)

    async def _ask_all(self) -> None:
        """Asks for what is waited for, as long as anything is."""
        try:
            await self._ask_in_turn()
        except BaseException as error:
            for waiting in self._queue:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            self._queue.clear()
            if isinstance(error, Exception):
                log.exception("quota_failed", tenant=self.tenant)
            else:
                raise
        finally:
            self._asking = None

    async def _ask_in_turn(self) -> None:
        while self._queue or self._low:
            # First what else asks in this turn of the loop.
            await asyncio.sleep(0)
            now = self._clock()
            ready, first_s = self._ready(now)
            low = [b for b in self._low if now - b.asked_s >= ASK_S][:_MOST_RATES]
            self._low.difference_update(low)
            if ready or low:
                await self._ask(ready, low)
            elif self._queue:
                await asyncio.sleep(max(0.001, first_s - now))
            else:
                self._low.clear()  # The next call that uses them asks again.

    def _ready(self, now: float) -> tuple[list[_Waiting], float]:
        """Those whose rates may be asked for, which leave the queue; else when the first may."""
        ready: list[_Waiting] = []
        rates = set[_Bucket]()
        later, first_s = [], now + ASK_S
        for waiting in self._queue:
            if waiting.answer.done():
                continue
            short = [b for b, cost in waiting.costs if b.left < cost]
            at = max((b.asked_s + ASK_S for b in short), default=now)
            if at <= now and len(ready) < _MOST_GROUPS and len(rates) < _MOST_RATES:
                ready.append(waiting)
                rates.update(b for b, _ in waiting.costs)
            else:
                later.append(waiting)
                first_s = min(first_s, max(at, now))
        self._queue = later
        return ready, first_s

    async def _ask(self, ready: list[_Waiting], low: list[_Bucket]) -> None:
        buckets: dict[_Bucket, int] = {bucket: at for at, bucket in enumerate(dict.fromkeys(low))}
        groups, paid, of = [], [], []
        for waiting in ready:
            group, own = [], []
            for bucket, cost in waiting.costs:
                # What is left pays first: it would lapse.
                part = min(bucket.left, cost)
                bucket.spend(part)
                own.append((bucket, part))
                if cost > part:
                    group.append((buckets.setdefault(bucket, len(buckets)), cost - part))
            if group:
                groups.append(group)
                of.append(waiting)
                paid.append(own)
            elif not waiting.answer.done():
                waiting.answer.set_result(None)
        if not buckets:
            return
        started = self._clock()
        asks = [bucket.ask(started) for bucket in buckets]
        try:
            taken = await self._taken(asks, groups, [b.ahead_us(started) for b in buckets])
        except BaseException as error:
            for waiting in of:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            raise
        now = self._clock()
        for bucket, ask, ahead, spare in zip(
            buckets, asks, taken.ahead_us, taken.spares, strict=True
        ):
            bucket.asked(ask, ahead, spare, now)
        order = [*buckets]
        for waiting, group, own, done in zip(of, groups, paid, taken.groups, strict=True):
            refused: OverRate | None = None
            if done:
                for at, units in group:
                    order[at]._spent += units
            else:
                for bucket, part in own:
                    bucket.spend(-part)
                refused = _refused(waiting.costs, now, least_us=1.0)
            if not waiting.answer.done():
                waiting.answer.set_result(refused)
            elif done:
                # Who asked has left: the units are there for others.
                for bucket, cost in waiting.costs:
                    bucket.spend(-cost)

    async def _taken(
        self, asks: list[Ask], groups: list[list[tuple[int, int]]], ahead_us: list[float]
    ) -> Taken:
        self.asked += 1
        try:
            taken = await self._store.take(self.tenant, asks, groups)
        except ContexError as error:
            if not self._away:
                log.warning("quota_unknown", tenant=self.tenant, error=error.message)
            self._away = True
            # `ahead_us` counts debts already.
            alone = [ask._replace(debt=0) for ask in asks]
            return gcra.take(ahead_us, alone, groups)
        self._away = False
        return taken


def _refused(
    costs: Sequence[tuple[_Bucket, int]], now: float, *, least_us: float = 0.0
) -> OverRate | None:
    """What refuses units; None if, as far as is known, nothing does."""
    worst, bucket = max(
        ((bucket.wait_for(cost, now), bucket) for bucket, cost in costs), key=lambda one: one[0]
    )
    worst = max(worst, least_us)
    if worst <= 0:
        return None
    return OverRate(bucket.place, bucket.rate, ceil(worst / 1000) + 1)


class Rates:
    """The rates of all tenants, on this server."""

    def __init__(self, store: QuotaStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._tenants: dict[str, TenantRates] = {}

    def of(self, tenant: str) -> TenantRates:
        """Those of a tenant."""
        rates = self._tenants.get(tenant)
        if rates is None:
            rates = TenantRates(tenant, self._store, clock=self._clock)
            self._tenants[tenant] = rates
        return rates

    def tick(self) -> None:
        """Once a second: pays what is owed, and drops what nobody uses."""
        for rates in self._tenants.values():
            rates.pay()
        for tenant, rates in [*self._tenants.items()]:
            if rates.forget_idle():
                del self._tenants[tenant]

    async def close(self) -> None:
        """Ends what is asked."""
        await asyncio.gather(*(rates.close() for rates in self._tenants.values()))

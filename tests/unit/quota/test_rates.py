"""Rates: the functions of values, and the store's, which is the same; and a server's allowances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from math import ceil

import pytest
from contex_server.kernel.errors import store_unavailable
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.quota import Ask, Group, Place, Taken
from contex_server.log.redis import client
from contex_server.log.redis.quota import quota_project
from contex_server.log.redis.store import open_store
from contex_server.log.store import Store
from contex_server.quota import gcra
from contex_server.quota.limits import Bounds, Limits
from contex_server.quota.rates import ASK_S, LAPSE_S, OverRate, TenantRates
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

WRITES, EVENTS = "write_calls_per_second", "events_per_second"


class Buckets:
    """What the store does, at a time of its own, by the functions of values."""

    def __init__(self) -> None:
        self.now_us = 1_000_000_000
        self.tats: dict[Place, int] = {}
        self.asked: list[tuple[int, list[Ask], list[Group]]] = []
        self.error: Exception | None = None

    async def take(self, _tenant: str, asks: list[Ask], groups: list[Group]) -> Taken:
        self.asked.append((self.now_us, list(asks), list(groups)))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        before = [max(0, self.tats.get(a.place, 0) - self.now_us) for a in asks]
        taken = gcra.take(before, asks, groups)
        for ask, ahead in zip(asks, taken.ahead_us, strict=True):
            self.tats[ask.place] = round(self.now_us + ahead)
        return taken


@pytest.fixture
async def clocked_store(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """A store whose rates go by the clock of the key "clock"."""
    text = client._FUNCTIONS
    for shipped, ours in (
        ("local time = redis.call('TIME')\n  return tonumber(time[1]) * 1000000",
         "local time = { 0, redis.call('GET', 'clock') }\n  return tonumber(time[1])"),
        ("'PX', whole(ms))", "'PX', 600000)"),
    ):  # fmt: skip
        assert shipped in text
        text = text.replace(shipped, ours)
    monkeypatch.setattr(client, "_FUNCTIONS", text)
    store = await open_store(valkey.url)
    yield store
    await store.events.close()


PLACES = [Place("", WRITES), Place("", EVENTS), Place("shop", WRITES), Place("shop", EVENTS)]
ASKS = st.tuples(
    *(
        st.builds(
            Ask,
            st.just(place),
            st.sampled_from([1, 3, 10, 1_000, 12_345_678]),
            st.sampled_from([0, 0, 0, 1, 7, 5_000]),
            st.sampled_from([0, 0, 1, 4, 200]),
        )
        for place in PLACES
    )
)
GROUPS = st.lists(
    st.dictionaries(st.integers(0, 3), st.sampled_from([1, 1, 2, 3, 11, 1_000]), min_size=1).map(
        lambda costs: [*costs.items()]
    ),
    max_size=4,
)
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1, 999, 90_909, 333_333, 1_000_000, 10**9]), ASKS, GROUPS),
    min_size=1,
    max_size=6,
)


@given(steps=STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_store_does_what_the_functions_of_values_do(
    clocked_store: Store, valkey: EmbeddedValkey, steps: list[tuple[int, list[Ask], list[Group]]]
) -> None:
    model = Buckets()
    async with Redis.from_url(valkey.url) as redis:
        await redis.flushdb()
        for passed_us, asks, groups in steps:
            model.now_us += passed_us
            await redis.set("clock", model.now_us)
            expected = await model.take("acme", asks, groups)
            taken = await clocked_store.quota.take("acme", asks, groups)
            assert taken.groups == expected.groups
            assert taken.spares == expected.spares
            assert taken.ahead_us == [ceil(one) for one in expected.ahead_us]


@given(
    rate=st.integers(1, 5_000),
    sent=st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 50)), min_size=1, max_size=200),
)
def test_no_second_lets_through_more_than_two_seconds_units(
    rate: int, sent: list[tuple[int, int]]
) -> None:
    """GCRA's own bound: what passes in T is at most rate x (T + burst), where none exceeds it."""
    ask, ahead, passed = Ask(PLACES[0], rate), 0.0, []
    now = 0
    for pause, units in sent:
        now += pause
        ahead = max(0.0, ahead - pause)
        taken = gcra.take([ahead], [ask], [[(0, units)]])
        (ahead,) = taken.ahead_us
        if taken.groups[0] and units <= rate:
            passed.append((now, units))
        wait = gcra.wait_us(ahead, rate, units)
        # Who waits as long as it says is let through.
        assert gcra.take([max(0.0, ahead - wait)], [ask], [[(0, units)]]).groups == [True]
    for start, _ in passed:
        within = sum(units for at, units in passed if start <= at <= start + 1_000_000)
        assert within <= 2 * rate + 1


def test_more_than_a_seconds_units_take_a_full_bucket_and_the_rest_waits() -> None:
    ask = Ask(PLACES[0], 10)
    assert gcra.take([1.0], [ask], [[(0, 25)]]).groups == [False]
    taken = gcra.take([0.0], [ask], [[(0, 25)]])
    assert taken.groups == [True]
    assert taken.ahead_us == [2_500_000]
    assert gcra.wait_us(2_500_000, 10, 1) == 1_600_000


class Clock:
    """The time of a server and of its store."""

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets

    def __call__(self) -> float:
        return self.buckets.now_us / 1e6

    def on(self, seconds: float) -> None:
        self.buckets.now_us += round(seconds * 1e6)


@pytest.fixture
def buckets() -> Buckets:
    return Buckets()


@pytest.fixture
def clock(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waiting takes no time but this one's."""
    clock, sleep = Clock(buckets), asyncio.sleep

    async def wait(seconds: float, result: object = None) -> object:
        clock.on(seconds)
        return await sleep(0, result)

    monkeypatch.setattr("contex_server.quota.rates.asyncio.sleep", wait)
    return clock


Take = Callable[..., Awaitable[OverRate | None]]


def taker(buckets: Buckets, clock: Clock, limits: Limits, of_project: Limits = Limits()) -> Take:  # noqa: B008
    rates = TenantRates("acme", buckets, clock=clock)  # type: ignore[arg-type]
    bounds = Bounds("acme", limits, of_project)

    async def take(units: int = 1, limit: str = WRITES, project: str = "shop") -> OverRate | None:
        return await rates.take(bounds, project, [(limit, units)])

    return take


async def test_the_store_is_asked_at_most_every_100_ms(buckets: Buckets, clock: Clock) -> None:
    take = taker(
        buckets, clock, Limits(write_calls_per_second=1_000), Limits(write_calls_per_second=900)
    )
    passed = 0
    for _ in range(3_000):
        clock.on(0.002)
        passed += await take() is None
    asked: dict[Place, list[int]] = {}
    for at, asks, _ in buckets.asked:
        for ask in asks:
            asked.setdefault(ask.place, []).append(at)
    assert passed == 3_000
    for times in asked.values():
        assert all(later - at >= ASK_S * 1e6 - 1 for at, later in pairwise(times))
        assert len(times) >= 10


async def test_servers_together_exceed_a_rate_by_their_allowances_alone(
    buckets: Buckets, clock: Clock
) -> None:
    rate, seconds, servers = 200, 5, 3
    takes = [taker(buckets, clock, Limits(write_calls_per_second=rate)) for _ in range(servers)]
    passed, start = 0, clock()
    while clock() < start + seconds:
        clock.on(0.0005)
        passed += (await takes[passed % servers]()) is None
        passed += (await takes[(passed + 1) % servers]()) is None
    assert passed <= rate * (clock() - start + 1 + 0.2 * servers)
    assert passed >= rate * seconds * 0.8


async def test_who_waits_as_told_is_let_through(buckets: Buckets, clock: Clock) -> None:
    take = taker(buckets, clock, Limits(), Limits(events_per_second=50))
    assert await take(50, EVENTS) is None
    over = await take(20, EVENTS)
    assert over is not None
    assert (over.place, over.value) == (Place("shop", EVENTS), 50)
    asked = len(buckets.asked)
    for _ in range(100):
        again = await take(20, EVENTS)
        assert again is not None
        assert abs(again.retry_after_ms - over.retry_after_ms) <= 1
    assert len(buckets.asked) == asked  # Refused from memory.
    clock.on(over.retry_after_ms / 1000)
    assert await take(20, EVENTS) is None


async def test_what_is_refused_by_one_limit_takes_nothing_of_another(
    buckets: Buckets, clock: Clock
) -> None:
    rates = TenantRates("acme", buckets, clock=clock)  # type: ignore[arg-type]
    bounds = Bounds("acme", Limits(events_per_second=100), Limits(write_calls_per_second=1))

    async def publish(events: int) -> OverRate | None:
        return await rates.take(bounds, "shop", [(WRITES, 1), (EVENTS, events)])

    assert await publish(10) is None
    over = await publish(10)
    assert over is not None
    assert over.place == Place("shop", WRITES)
    clock.on(1.1)
    assert await publish(100) is None


async def test_an_allowance_lapses(buckets: Buckets, clock: Clock) -> None:
    take = taker(buckets, clock, Limits(write_calls_per_second=1_000))
    assert await take() is None
    asked = len(buckets.asked)
    assert await take() is None
    assert len(buckets.asked) == asked
    clock.on(LAPSE_S + 0.01)
    assert await take() is None
    assert len(buckets.asked) > asked


async def test_a_store_that_is_away_lets_through_what_the_rate_allows(
    buckets: Buckets, clock: Clock
) -> None:
    buckets.error = store_unavailable("test")
    take = taker(buckets, clock, Limits(write_calls_per_second=100))
    passed, start = 0, clock()
    while clock() < start + 3:
        clock.on(0.001)
        passed += await take() is None
    assert 200 <= passed <= 100 * (clock() - start + 1.2)


async def test_a_raised_limit_holds_at_once(buckets: Buckets, clock: Clock) -> None:
    rates = TenantRates("acme", buckets, clock=clock)  # type: ignore[arg-type]
    low, high = (Bounds("acme", Limits(write_calls_per_second=n)) for n in (1, 1_000))
    assert await rates.take(low, "", [(WRITES, 1)]) is None
    assert await rates.take(low, "", [(WRITES, 1)]) is not None
    # The second that was taken at the old rate is not yet over.
    clock.on(0.2)
    assert await rates.take(high, "", [(WRITES, 1)]) is None


async def test_who_leaves_while_waiting_takes_nothing(buckets: Buckets, clock: Clock) -> None:
    take = taker(buckets, clock, Limits(write_calls_per_second=1))
    leaver = asyncio.ensure_future(take())
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    clock.on(ASK_S)
    assert await take() is None


def test_a_tenant_has_keys_of_its_own() -> None:
    assert quota_project("acme") != quota_project("acme-2")

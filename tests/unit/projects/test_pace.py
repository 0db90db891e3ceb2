"""Publishers are slowed down to the speed of archiving, and only while that is needed."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest
from contex_server.projects import pace as module
from contex_server.projects.pace import CALM, Pace

P = "p"


class Clock:
    """Time that passes only where somebody waits."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Store:
    """What the processes tell each other."""

    def __init__(self) -> None:
        self.paces: dict[str, float] = {}

    async def pace(self, project: str) -> float:
        return self.paces.get(project, 0.0)

    async def put_pace(self, project: str, rate: float, ttl_ms: int) -> None:
        assert ttl_ms >= 30_000
        self.ttl_ms = ttl_ms
        self.paces[project] = rate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    loop = SimpleNamespace(
        sleep=clock.sleep, create_task=asyncio.create_task, gather=asyncio.gather
    )
    monkeypatch.setattr(module, "asyncio", loop)
    return clock


@pytest.fixture
def store() -> Store:
    return Store()


def of(store: Store) -> Pace:
    """That of a process."""
    stored: Any = store
    return Pace(stored)


async def waited(pace: Pace, clock: Clock, events: int, project: str = P) -> float:
    before = clock.now
    await pace.throttle(project, events)
    return clock.now - before


async def learn(pace: Pace, clock: Clock) -> None:
    """Lets who appends ask again."""
    clock.now += 1.5
    await pace.throttle(P, 0)
    await asyncio.sleep(0)


async def test_who_is_faster_than_archiving_is_slowed_down_to_it(
    clock: Clock, store: Store
) -> None:
    archiving, other = of(store), of(store)
    assert await archiving.observe(P, 0, 900, over=True) == CALM
    clock.now += 1.0
    assert await archiving.observe(P, 0, 1_000, over=True) == math.inf
    await learn(other, clock)
    assert await waited(other, clock, 100) == 0  # Nobody knows yet how fast archiving can be.
    clock.now += 0.5
    assert await archiving.observe(P, 500, 1_200, over=True) == math.inf
    # 500 events in two seconds were archived: 225 a second may come, to any process.
    assert store.paces == {P: 225.0}
    for pace in (archiving, other):
        await learn(pace, clock)
        assert await waited(pace, clock, 45) == 0
        assert await waited(pace, clock, 45) == pytest.approx(0.2)
        assert await waited(pace, clock, 1) == pytest.approx(0.2)
        assert await waited(pace, clock, 100, "another") == 0
    # It has less now, and is still slowed down until it has what it should.
    assert await archiving.observe(P, 1_000, 1_100, over=True) == math.inf
    assert store.paces[P] > 0
    clock.now += 1.0
    assert await archiving.observe(P, 1_500, 900, over=False) == CALM
    assert store.paces == {P: 0.0}
    await learn(other, clock)
    assert await waited(other, clock, 1_000_000) == 0
    assert await waited(other, clock, 1_000_000) == 0


async def test_many_processes_together_are_slowed_down_to_it(clock: Clock, store: Store) -> None:
    """Each keeps to the pace that it is told; how many they are shows in what they append."""
    pace = of(store)
    archived, held, rate = 0, 100_000, 0.0
    for _ in range(12):
        archived += 10_000
        held += -10_000 + int(4 * rate if rate else 20_000)  # Four that append all they may.
        await pace.observe(P, archived, held, over=True)
        rate = store.paces.get(P, 0.0)
        clock.now += 1.0
    assert 4 * rate == pytest.approx(9_000, rel=0.01)
    before = held
    for _ in range(4):
        archived += 10_000
        held += -10_000 + int(4 * rate)
        await pace.observe(P, archived, held, over=True)
        rate = store.paces[P]
        clock.now += 1.0
    assert before - held == pytest.approx(4_000, rel=0.02)
    for _ in range(4):  # One is left, and gets what the others leave.
        archived += 10_000
        held += -10_000 + int(rate)
        await pace.observe(P, archived, held, over=True)
        rate = store.paces[P]
        clock.now += 1.0
    assert rate == pytest.approx(9_000)


async def test_a_slow_storage_slows_publishers_down_too(clock: Clock, store: Store) -> None:
    pace = of(store)
    archived, held = 0, 100_000
    for _ in range(3):
        await pace.observe(P, archived, held, over=True)
        archived, held = archived + 10_000, held + 5_000
        clock.now += 100.0
    assert store.paces == {P: 90.0}
    assert store.ttl_ms == 300_000


async def test_who_only_has_much_is_not_slowed_down(clock: Clock, store: Store) -> None:
    """As where the retention was made shorter: what there is goes, and nothing waits."""
    pace = of(store)
    for archived, held in ((0, 5_000), (500, 4_600), (1_000, 4_200)):
        assert await pace.observe(P, archived, held, over=True) == CALM
        await learn(pace, clock)
        assert await waited(pace, clock, 1_000) == 0
    assert not store.paces


async def test_nobody_waits_for_long_nor_for_an_archive_that_stands_still(
    clock: Clock, store: Store
) -> None:
    pace = of(store)
    await pace.observe(P, 0, 900, over=True)
    await pace.observe(P, 0, 1_000, over=True)
    clock.now += 10.0
    await pace.observe(P, 10, 2_000, over=True)
    await learn(pace, clock)
    await waited(pace, clock, 1_000_000)
    assert await waited(pace, clock, 1) == pytest.approx(1.0)
    clock.now += 1.0
    await pace.observe(P, 10, 3_000, over=True)
    await learn(pace, clock)
    assert await waited(pace, clock, 1_000_000) == 0
    assert await waited(pace, clock, 1) == 0
    await pace.close()


async def test_archiving_keeps_ahead_of_who_publishes(clock: Clock, store: Store) -> None:
    pace = of(store)
    assert await pace.observe(P, 0, 1_000, over=False) == CALM
    clock.now += 2.0
    # It grew by 20,000 a second.
    assert await pace.observe(P, 10_000, 31_000, over=False) == 40_000
    clock.now += 2.0
    assert await pace.observe(P, 40_000, 1_500, over=False) == CALM


async def test_more_that_comes_once_is_no_reason_to_hurry(clock: Clock, store: Store) -> None:
    """As where somebody publishes while the retention is made shorter."""
    pace = of(store)
    await pace.observe(P, 0, 5_000, over=False)
    clock.now += 1.0
    assert await pace.observe(P, 0, 5_250, over=True) == CALM
    clock.now += 1.0
    assert await pace.observe(P, 4_000, 1_500, over=True) == CALM

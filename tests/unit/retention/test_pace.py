"""Publishers are slowed down to the speed of archiving, and only while that is needed."""

from __future__ import annotations

import math

import pytest
from contex_server.retention import pace as module
from contex_server.retention.pace import CALM, Pace

P = "p"


class Clock:
    """Time that passes only where somebody waits."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "asyncio", clock)
    return clock


async def waited(pace: Pace, clock: Clock, events: int, project: str = P) -> float:
    before = clock.now
    await pace.wait(project, events)
    return clock.now - before


async def test_who_is_faster_than_archiving_is_slowed_down_to_it(clock: Clock) -> None:
    pace = Pace()
    assert pace.seen(P, 0, 900, over=True) == CALM
    clock.now += 1.0
    assert pace.seen(P, 0, 1_000, over=True) == math.inf
    assert await waited(pace, clock, 100) == 0  # Nobody knows yet how fast archiving can be.
    clock.now += 2.0
    assert pace.seen(P, 500, 1_200, over=True) == math.inf
    # 500 events in two seconds were archived: 225 a second may come.
    assert await waited(pace, clock, 45) == 0
    assert await waited(pace, clock, 45) == pytest.approx(0.2)
    assert await waited(pace, clock, 1) == pytest.approx(0.2)
    assert await waited(pace, clock, 100, "another") == 0
    # It has less now, and is still slowed down until it has what it should.
    clock.now += 1.0
    assert pace.seen(P, 1_000, 1_100, over=True) == math.inf
    await waited(pace, clock, 100)
    assert await waited(pace, clock, 1) > 0
    assert pace.seen(P, 1_500, 900, over=False) == CALM
    assert await waited(pace, clock, 1_000_000) == 0
    assert await waited(pace, clock, 1_000_000) == 0


async def test_who_only_has_much_is_not_slowed_down(clock: Clock) -> None:
    """As where the retention was made shorter: what there is goes, and nothing waits."""
    pace = Pace()
    for archived, held in ((0, 5_000), (500, 4_600), (1_000, 4_200)):
        assert pace.seen(P, archived, held, over=True) == CALM
        clock.now += 1.0
        assert await waited(pace, clock, 1_000) == 0


async def test_nobody_waits_for_long_nor_for_an_archive_that_stands_still(clock: Clock) -> None:
    pace = Pace()
    pace.seen(P, 0, 900, over=True)
    pace.seen(P, 0, 1_000, over=True)
    clock.now += 10.0
    pace.seen(P, 10, 2_000, over=True)
    await waited(pace, clock, 1_000_000)
    assert await waited(pace, clock, 1) == pytest.approx(1.0)
    clock.now += 1.0
    pace.seen(P, 10, 3_000, over=True)
    assert await waited(pace, clock, 1_000_000) == 0
    assert await waited(pace, clock, 1) == 0


async def test_archiving_keeps_ahead_of_who_publishes(clock: Clock) -> None:
    pace = Pace()
    assert pace.seen(P, 0, 1_000, over=False) == CALM
    clock.now += 2.0
    assert pace.seen(P, 10_000, 31_000, over=False) == 40_000  # It grew by 20,000 a second.
    clock.now += 2.0
    assert pace.seen(P, 40_000, 1_500, over=False) == CALM


async def test_more_that_comes_once_is_no_reason_to_hurry(clock: Clock) -> None:
    """As where somebody publishes while the retention is made shorter."""
    pace = Pace()
    pace.seen(P, 0, 5_000, over=False)
    clock.now += 1.0
    assert pace.seen(P, 0, 5_250, over=True) == CALM
    clock.now += 1.0
    assert pace.seen(P, 4_000, 1_500, over=True) == CALM

from __future__ import annotations

import pytest
from contex_server.matching.embedders.breaker import Breaker, CircuitOpen


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, shortest_s=2.0, longest_s=10.0, clock=clock, jitter=lambda: 1.0)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.admit()
        breaker.failed()


def test_it_opens_after_failures_in_a_row(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 2)
    assert not breaker.admit()
    breaker.succeeded()
    fail(breaker, 2)
    breaker.check()
    fail(breaker)
    with pytest.raises(CircuitOpen, match=r"tried again in 2\.0 s"):
        breaker.admit()
    clock.now += 1.5
    with pytest.raises(CircuitOpen) as refused:
        breaker.check()
    assert refused.value.retry_in_s == 0.5


def test_one_probe_decides(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    assert breaker.admit()
    with pytest.raises(CircuitOpen):
        breaker.admit()
    breaker.succeeded()
    assert not breaker.admit()
    assert not breaker.admit()


def test_it_stays_open_longer_every_time(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    for open_s in (2.0, 4.0, 8.0, 10.0, 10.0):
        clock.now += open_s - 0.01
        with pytest.raises(CircuitOpen):
            breaker.check()
        clock.now += 0.01
        fail(breaker)
    clock.now += 10.0
    breaker.admit()
    breaker.succeeded()
    fail(breaker, 3)
    clock.now += 2.0
    breaker.check()


def test_jitter_shortens_by_up_to_half(clock: Clock) -> None:
    breaker = Breaker(failures=1, shortest_s=2.0, clock=clock, jitter=lambda: 0.0)
    fail(breaker)
    clock.now += 1.0
    breaker.check()


def test_an_abandoned_probe_lets_another_one_in(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    assert breaker.admit()
    breaker.abandoned()
    assert breaker.admit()


def test_late_failures_do_not_prolong_it(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        breaker.admit()
    for _ in range(5):
        breaker.failed()
    clock.now += 2.0
    breaker.check()


def test_a_late_success_closes_it(breaker: Breaker) -> None:
    breaker.admit()
    fail(breaker, 3)
    breaker.succeeded()
    assert not breaker.admit()

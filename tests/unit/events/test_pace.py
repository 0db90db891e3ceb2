"""When the events of a paced replay are due."""

from __future__ import annotations

from math import inf, nextafter

import pytest
from contex_server.events.pace import Pace
from hypothesis import given
from hypothesis import strategies as st

START_MS = 1_764_000_000_000


def test_the_first_event_is_due_at_once() -> None:
    pace = Pace(1.0, 10.0)
    assert pace.due_s(START_MS, 7.0) == 7.0
    assert pace.due_s(START_MS, 8.0) == 8.0


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(("speed", "factor"), [(1.0, 1.0), (2.0, 0.5), (0.25, 4.0)])
def test_others_follow_at_the_pace(direction: int, speed: float, factor: float) -> None:
    pace = Pace(speed, 1_000.0)
    pace.sent(START_MS, 5.0)
    for after_ms in (300, 300, 1_000, 60_000):
        due_s = pace.due_s(START_MS + direction * after_ms, 5.0)
        assert due_s == pytest.approx(5.0 + after_ms / 1_000 * factor)
        pace.sent(START_MS + direction * after_ms, due_s)


def test_being_late_does_not_add_up() -> None:
    pace = Pace(1.0, 10.0)
    for number in range(100_001):
        # Each is sent 3 ms after it was due.
        pace.sent(START_MS + 7 * number, 100.0 + 0.010 * number)
    assert pace.due_s(START_MS + 700_007, 0.0) == pytest.approx(100.0 + 700.007, abs=1e-6)


def test_a_pause_is_cut_and_the_pace_goes_on_from_there() -> None:
    pace = Pace(2.0, 0.5)
    night_ms = START_MS + 8 * 3_600_000
    pace.sent(START_MS, 1.0)
    assert pace.due_s(night_ms, 1.0) == 1.5
    pace.sent(night_ms, 1.5)
    assert pace.due_s(night_ms + 400, 1.5) == pytest.approx(1.7)


def test_what_a_reader_held_back_is_not_made_up_for() -> None:
    pace = Pace(1.0, 10.0)
    pace.sent(START_MS, 1.0)
    pace.shift(60.0)
    assert pace.due_s(START_MS + 2_000, 61.0) == 63.0


@given(
    speed=st.floats(nextafter(0.0, 1.0), 1e6),
    cap_s=st.floats(0.001, 3_600.0),
    times=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=20),
)
def test_due_times_never_go_back_and_no_pause_is_longer_than_it_may_be(
    speed: float, cap_s: float, times: list[int]
) -> None:
    pace, last_s = Pace(speed, cap_s), -inf
    for unix_ms in times:
        due_s = pace.due_s(unix_ms, 1.0)
        assert last_s <= due_s
        assert last_s == -inf or due_s <= last_s + cap_s
        pace.sent(unix_ms, 1.0)
        last_s = due_s

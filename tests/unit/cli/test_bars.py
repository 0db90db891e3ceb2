from __future__ import annotations

from contex_cli import bars
from hypothesis import given
from hypothesis import strategies as st

numbers = st.floats(-1e6, 1e6)
shares = st.floats(0, 1)
widths = st.integers(1, 60)


@given(numbers, numbers, widths)
def test_bars_have_their_width_whatever_they_show(value: float, other: float, width: int) -> None:
    assert len(bars.bar(value, width)) == width
    assert len(bars.marked_bar(value, other, width)) == width
    assert len(bars.signed_bar(value, other, width)) == 2 * width + 1
    assert len(bars.part_bar(abs(value), abs(other), 1.0, width)) == width


@given(shares, shares, widths)
def test_a_longer_bar_is_more(one: float, other: float, width: int) -> None:
    less, more = sorted((one, other))
    filled = len(bars.bar(less, width).strip())
    assert filled <= len(bars.bar(more, width).strip())
    assert (filled == 0) == (less == 0)


def test_bars_read_as_they_should() -> None:
    assert bars.bar(0.5, 4) == "██  "
    assert bars.bar(0.001, 4) == "▏   "
    assert bars.marked_bar(0.9, 0.5, 8) == "████┃██▎"
    assert bars.marked_bar(0.1, 1.0, 8) == "▊      ┃"
    assert bars.signed_bar(2, 4, 4) == "    │██  "
    assert bars.signed_bar(-3, 4, 2) == "▐█│  "
    assert bars.signed_bar(-0.001, 4, 2) == " ▕│  "
    assert bars.signed_bar(0, 0, 2) == "  │  "
    assert bars.part_bar(0.5, 1.0, 2.0, 8) == "██░░    "
    assert bars.part_bar(0, 0.0, 2.0, 3) == "   "


@given(st.lists(st.integers(0, 10**9), max_size=300), widths)
def test_fitted_counts_lose_nothing(counts: list[int], width: int) -> None:
    drawn = bars.fitted(counts, width)
    assert len(drawn) <= width
    if len(counts) > width:
        assert sum(drawn) == sum(counts)
    else:
        assert drawn == [c for c in counts for _ in range(width // max(len(counts), 1))]


@given(st.lists(st.integers(0, 10**9), max_size=80), st.integers(1, 8))
def test_columns_show_everything_that_is_not_zero(counts: list[int], height: int) -> None:
    lines = bars.columns(counts, height)
    assert [len(line) for line in lines] == [len(counts)] * height
    assert [character != " " for character in lines[-1]] == [count > 0 for count in counts]


def test_columns_read_as_they_should() -> None:
    assert bars.columns([0, 1, 4, 8]) == [" ▁▄█"]
    assert bars.columns([1, 1000]) == ["▁█"]
    assert bars.columns([]) == [""]
    assert bars.columns([1, 2, 4], 2) == ["  █", "▄██"]

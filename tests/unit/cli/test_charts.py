"""The chart of many names: each is drawn, apart from the others."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from contex import Activity, ActivitySeries
from contex_cli import charts
from contex_cli.activity import Report


def report(names: int) -> Report:
    series = tuple(ActivitySeries(f"key/{n}", n + 1, (n + 1,)) for n in reversed(range(names)))
    whole = sum(one.total for one in series)
    start = datetime(2026, 1, 31, 15, tzinfo=UTC)
    activity = Activity(
        start_time=start,
        end_time=start + timedelta(hours=1),
        bucket_seconds=3_600,
        total=ActivitySeries("", whole, (whole,)),
        series=series,
        name_count=names,
        peak_hours=(0,) * 24,
        counted_since="0-0",
    )
    return Report("p", "data key", activity, UTC)


@pytest.mark.parametrize("names", [3, 20, 45])
def test_every_name_has_a_row_that_overlaps_no_other(names: int) -> None:
    with charts._style("#000000", "#555555"):
        figure = charts._figure(report(names), "#555555")
        figure.canvas.draw()
        axes = figure.axes[1]
        rows = [text.get_window_extent() for text in axes.texts if text.get_ha() == "left"]
    assert len(rows) == names
    rows.sort(key=lambda row: row.y0)
    assert all(low.y1 <= high.y0 + 0.5 for low, high in itertools.pairwise(rows))
    assert len({charts._colour(n) for n in range(names)}) == names

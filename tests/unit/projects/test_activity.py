"""Counts in buckets, against counting each event by itself."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.port import Bounds
from contex_server.log.projects import Counters, Dimension, Tier
from contex_server.projects.activity import (
    DAY,
    HOUR,
    MAX_BUCKETS,
    MINUTE,
    Activity,
    ActivityQuery,
    rate,
    read_activity,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_764_072_345
"""Seconds, 12:05:45 UTC."""


class Counted:
    """The counts that the store would keep of events at these seconds, by name."""

    def __init__(self, events: list[tuple[int, str]]) -> None:
        self.events = events

    async def bounds(self, _: str) -> Bounds:
        times = [at for at, _ in self.events]
        first = Sequence(min(times) * 1000, 0) if times else None
        tail = Sequence(max(times) * 1000, 0) if times else BEGINNING
        return Bounds(first, tail, False, len(times), NOW * 1000, len(times))

    async def counters(self, _: str) -> Counters:
        return Counters(len(self.events), 0, 0, 0, 0, BEGINNING)

    async def activity(
        self, _: str, dimension: Dimension, tier: Tier, numbers: Iterable[int]
    ) -> list[dict[bytes, bytes]]:
        span, slot_s = (HOUR, MINUTE) if tier is Tier.MINUTES else (DAY, HOUR)
        found = []
        for number in numbers:
            counts: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
            for at, name in self.events:
                if at // span == number:
                    counts[name.encode()][at % span // slot_s] += 1
            found.append(
                {
                    name: b" ".join(b"%d:%d" % item for item in sorted(slots.items())[::-1])
                    for name, slots in counts.items()
                }
            )
        return found


def ask(events: list[tuple[int, str]], **fields: Any) -> Activity:
    asked = ActivityQuery(
        **{
            "by": Dimension.DATA_KEY,
            "since_ms": (NOW - DAY) * 1000,
            "until_ms": NOW * 1000,
            "bucket_s": HOUR,
            "names": frozenset(),
            "top": 3,
            "offset_s": 0,
            **fields,
        }
    )
    store: Any = Counted(events)
    return asyncio.run(read_activity(store, store, "p", asked))


@given(
    st.lists(
        st.tuples(st.integers(NOW - 3 * DAY, NOW), st.sampled_from(["a", "b", "c/d", "e"])),
        max_size=60,
    ),
    st.integers(0, 3 * DAY),
    st.integers(0, DAY),
    st.sampled_from([60, 300, 900, HOUR, 3 * HOUR, DAY]),
    st.sampled_from([0, 60, 330, -210, 45, 1440]),
    st.sampled_from([frozenset(), frozenset({"a"}), frozenset({"c/*", "e"})]),
)
def test_buckets_hold_what_lies_in_them(
    events: list[tuple[int, str]],
    length: int,
    ago: int,
    bucket: int,
    offset: int,
    names: frozenset[str],
) -> None:
    until = NOW - ago
    since = until - length
    if length / bucket > MAX_BUCKETS - 2:
        bucket = HOUR
    found = ask(
        events,
        since_ms=since * 1000,
        until_ms=until * 1000,
        bucket_s=bucket,
        offset_s=offset * 60,
        names=names,
    )
    buckets = found.buckets
    assert buckets.start <= since
    assert until < buckets.stop
    assert buckets.start > since - bucket - HOUR
    assert buckets.stop <= until + bucket + HOUR
    assert (buckets.start + offset * 60) % bucket == 0
    wanted = [
        (at, name)
        for at, name in events
        if buckets.start <= at < buckets.stop
        and (not names or name in names or ("c/*" in names and name == "c/d"))
    ]
    expected: defaultdict[str, Counter[int]] = defaultdict(Counter)
    hours: Counter[int] = Counter()
    for at, name in wanted:
        expected[name][(at - buckets.start) // bucket] += 1
        hours[(at + offset * 60) // HOUR % 24] += 1
    ranked = sorted(expected, key=lambda name: (-expected[name].total(), name))
    assert [s.name for s in found.series] == ranked[:3]
    for series in found.series:
        assert series.total == expected[series.name].total()
        assert series.counts == [expected[series.name][i] for i in range(len(buckets))]
    assert found.total.total == len(wanted) == sum(found.total.counts)
    assert found.names == len(expected)
    assert found.peak_hours == [hours[hour] for hour in range(24)]


def test_everything_together_has_no_series() -> None:
    found = ask([(NOW - 1, "a"), (NOW - 2, "b")], by=None)
    assert (found.series, found.names, found.total.total) == ([], 0, 2)


@pytest.mark.parametrize(
    ("range_s", "bucket"),
    [
        (60, 60),
        (HOUR, 60),
        (DAY, HOUR),
        (7 * DAY, 3 * HOUR),
        (60 * DAY, DAY),
        (9_000 * DAY, 150 * DAY),
    ],
)
def test_a_length_is_chosen(range_s: int, bucket: int) -> None:
    found = ask([], since_ms=(NOW - range_s) * 1000, bucket_s=0)
    assert found.buckets.step == bucket
    assert len(found.buckets) <= 62


def test_minutes_are_kept_for_eight_days() -> None:
    old = (NOW - 9 * DAY) * 1000
    with pytest.raises(ContexError, match="kept since") as refused:
        ask([], since_ms=old, until_ms=old + 3_600_000, bucket_s=60)
    assert refused.value.metadata.keys() == {"earliest_time"}
    # Where only hours are left, days begin at full hours of UTC.
    found = ask([(NOW - 9 * DAY, "a")], since_ms=old, bucket_s=DAY, offset_s=330 * 60)
    assert (found.buckets.start + 5 * HOUR) % DAY == 0
    assert found.total.total == 1


def test_the_rate_is_that_of_the_last_minute() -> None:
    hour = NOW // HOUR * HOUR
    minute = NOW % HOUR // 60
    counts = {b"t": b"%d:30 %d:120 %d:900" % (minute, minute - 1, minute - 2)}
    # 45 s of the minute have passed; of the one before, a quarter lies in the last minute.
    assert rate(NOW * 1000, [(hour, counts)]) == pytest.approx((30 + 120 / 4) / 60)
    assert rate(NOW * 1000, [(hour, {})]) == 0

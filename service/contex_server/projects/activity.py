"""How many events there were over time, in buckets.

The store counts events by minute, and by hour once an hour is over; see
`log/redis/functions/projects.lua`. A bucket is a multiple of one of these, so counts are exact.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import BEGINNING, EventFilter, Sequence
from contex_server.kernel.slices import sliced
from contex_server.log.port import EventLog
from contex_server.log.projects import Dimension, ProjectStore, Tier
from contex_server.state.moments import rfc3339

MINUTE, HOUR, DAY = 60, 3_600, 86_400
MINUTES_KEPT_S = 8 * DAY
MAX_BUCKETS = 2_000
_LENGTHS = (MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, DAY, 7 * DAY, 28 * DAY)
"""Default bucket lengths: the first that makes about 60 buckets is used."""
_CHOSEN_BUCKETS = 60
_READ_HOURS = 64
"""Hours or days read in one call."""


@dataclass(frozen=True, slots=True)
class ActivityQuery:
    """What to count.

    Attributes:
        by: None counts all events together.
        since_ms: Start of the range, in unix milliseconds.
        until_ms: End of the range, inclusive.
        bucket_s: Length of a bucket in seconds; 0 chooses one.
        names: Globs; empty for all names.
        top: Maximum number of series.
        offset_s: How far local time is ahead of UTC, in seconds.
    """

    by: Dimension | None
    since_ms: int
    until_ms: int
    bucket_s: int
    names: frozenset[str]
    top: int
    offset_s: int


@dataclass(frozen=True, slots=True)
class Series:
    """The counts of a name; also "" for all events together."""

    name: str
    total: int
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Activity:
    """The answer; see `contex.v1.GetActivityResponse`.

    Attributes:
        buckets: Where they begin, in seconds since 1970.
    """

    series: list[Series]
    total: Series
    buckets: range
    names: int
    peak_hours: list[int]
    counted_since: Sequence = BEGINNING


def choose_buckets(query: ActivityQuery, now_ms: int) -> tuple[range, Tier]:
    """Chooses the buckets of a query, and the counts that they are made of.

    They begin at multiples of their length in local time, or at full hours of UTC where only
    hourly counts are left.

    Raises:
        ContexError: INVALID_FIELD: there would be too many; RECORDS_EXPIRED: counts by minute
            are no longer kept for that time.
    """
    since, until, offset = query.since_ms // 1000, query.until_ms // 1000, query.offset_s
    # Minutes are dropped eight days after their hour, so those of this hour are still there.
    kept = (now_ms // 1000 - MINUTES_KEPT_S) // HOUR * HOUR
    length = query.bucket_s or _chosen_length(until - since)
    start = (since + offset) // length * length - offset
    if start < kept and not query.bucket_s and length % HOUR:
        length = HOUR
    if start < kept and length % HOUR:
        earliest = rfc3339((-(-(kept + offset) // length) * length - offset) * 1000)
        raise ContexError(
            Reason.RECORDS_EXPIRED,
            f"buckets shorter than an hour are kept since {earliest}",
            metadata={"earliest_time": earliest},
        )
    by_minutes = bool(length % HOUR or (offset % HOUR and start >= kept))
    if not by_minutes:
        offset = offset // HOUR * HOUR
    start = (since + offset) // length * length - offset
    end = (until + offset) // length * length + length - offset
    buckets = range(start, end, length)
    if len(buckets) > MAX_BUCKETS:
        least = -(-(until - since) // (MAX_BUCKETS - 1))
        raise invalid_field(
            "bucket_seconds",
            f"must be at least {least} for this range: at most {MAX_BUCKETS} buckets",
        )
    return buckets, Tier.MINUTES if by_minutes else Tier.HOURS


async def read_activity(
    log: EventLog, store: ProjectStore, project: str, query: ActivityQuery
) -> Activity:
    """Reads counts; the log itself is not read.

    Raises:
        ContexError: INVALID_FIELD, RECORDS_EXPIRED, STORE_UNAVAILABLE.
    """
    bounds = await log.bounds(project)
    buckets, tier = choose_buckets(query, bounds.now_ms)
    dimension = query.by or Dimension.EVENT_TYPE
    span, slot_s = (HOUR, MINUTE) if tier is Tier.MINUTES else (DAY, HOUR)
    # Nothing was counted before the first event or after the newest.
    first = max(buckets.start, bounds.first.ms // 1000 if bounds.first else 0)
    if bounds.trimmed:
        first = buckets.start
    last = min(buckets.stop - 1, bounds.now_ms // 1000)
    numbers = range(first // span, last // span + 1)
    tally = _Tally(buckets, query)
    for start in range(0, len(numbers), _READ_HOURS):
        part = numbers[start : start + _READ_HOURS]
        stored = await store.activity(project, dimension, tier, part)
        for number, counts in zip(part, stored, strict=True):
            await tally.add(number * span, slot_s, counts)
    counters = await store.counters(project)
    return await asyncio.to_thread(tally.result, counters.counted_since)


class _Tally:
    """Adds up counts."""

    def __init__(self, buckets: range, query: ActivityQuery) -> None:
        self._buckets = buckets
        self._query = query
        self._filter = EventFilter(data_keys=query.names)
        self._by_name: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
        self._totals: defaultdict[bytes, int] = defaultdict(int)
        self._counts = [0] * len(buckets)
        self._hours = [0] * 24

    async def add(self, begin: int, slot_s: int, counts: dict[bytes, bytes]) -> None:
        """Adds the counts of the hour or day that begins at `begin`."""
        start, end, length = self._buckets.start, self._buckets.stop, self._buckets.step
        offset = self._query.offset_s
        async for name, value in sliced(counts.items()):
            if not self._filter.admits_key(name.decode()):
                continue
            own = self._by_name[name]
            total = 0
            for slot, _, text in (part.partition(b":") for part in value.split(b" ")):
                at = begin + int(slot) * slot_s
                if start <= at < end:
                    index, n = (at - start) // length, int(text)
                    total += n
                    own[index] = own.get(index, 0) + n
                    self._counts[index] += n
                    self._hours[(at + offset) // HOUR % 24] += n
            self._totals[name] += total

    def result(self, counted_since: Sequence) -> Activity:
        """The answer."""
        present = [(name, total) for name, total in self._totals.items() if total]
        present.sort(key=lambda item: (-item[1], item[0]))
        series = []
        if self._query.by is not None:
            for name, total in present[: self._query.top]:
                counts = [0] * len(self._buckets)
                for index, n in self._by_name[name].items():
                    counts[index] = n
                series.append(Series(name.decode(), total, counts))
        summed = Series("", sum(self._counts), self._counts)
        names = len(present) if self._query.by is not None else 0
        return Activity(series, summed, self._buckets, names, self._hours, counted_since)


def rate(now_ms: int, minutes: Iterable[tuple[int, dict[bytes, bytes]]]) -> float:
    """Events a second over the last minute, by the counts of the hours that begin at some seconds.

    Of the minute in which the last sixty seconds began, the share that lies in them counts.
    """
    this, elapsed = now_ms // 60_000, now_ms % 60_000 / 60_000
    events = 0.0
    for begin, counts in minutes:
        for value in counts.values():
            for slot, _, text in (part.partition(b":") for part in value.split(b" ")):
                minute = begin // MINUTE + int(slot)
                if minute == this:
                    events += int(text)
                elif minute == this - 1:
                    events += int(text) * (1 - elapsed)
    return events / 60


def _chosen_length(range_s: int) -> int:
    many_days = -(-range_s // (_CHOSEN_BUCKETS * DAY)) * DAY
    return next((each for each in _LENGTHS if range_s <= each * _CHOSEN_BUCKETS), many_days)

"""How many events there were, over time: counts that the store keeps, in buckets.

The store counts by minute and, of hours that are over, by hour; see
`log/redis/functions/projects.lua`. A bucket is a multiple of one of these, so nothing is estimated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import BEGINNING, EventFilter, Sequence
from contex_server.log.port import EventLog
from contex_server.log.projects import Dimension, ProjectStore, Tier
from contex_server.state.moments import rfc3339

MINUTE, HOUR, DAY = 60, 3_600, 86_400
MINUTES_KEPT_S = 8 * DAY
MAX_BUCKETS = 2_000
_LENGTHS = (MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, DAY, 7 * DAY, 28 * DAY)
"""What is chosen from where no length is asked for: the first with about 60 buckets."""
_CHOSEN_BUCKETS = 60
_READ_HOURS = 64
"""Hours or days that are read together."""


class Total(Enum):
    """Everything together, instead of a dimension."""

    TOTAL = "total"


By = Dimension | Total


@dataclass(frozen=True, slots=True)
class ActivityQuery:
    """What is asked.

    Attributes:
        since_ms: The range from this instant, unix milliseconds, ...
        until_ms: ... to and including this one.
        bucket_s: Length of a bucket in seconds; 0: chosen.
        names: Globs; empty: all names.
        top: How many names are told.
        offset_s: How far local time is ahead of UTC.
    """

    by: By
    since_ms: int
    until_ms: int
    bucket_s: int
    names: frozenset[str]
    top: int
    offset_s: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """Equal spans of time, in seconds since 1970: [start, start + bucket_s), …"""

    start: int
    bucket_s: int
    count: int

    @property
    def end(self) -> int:
        """Where the last ends."""
        return self.start + self.count * self.bucket_s


@dataclass(frozen=True, slots=True)
class Series:
    """Counts of a name; the name "" is also that of everything together."""

    name: str
    total: int
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Activity:
    """The answer; see `contex.v1.GetActivityResponse`."""

    series: list[Series]
    total: Series
    buckets: Buckets
    names: int
    peak_hours: list[int]
    counted_since: Sequence = BEGINNING


def choose_buckets(asked: ActivityQuery, now_ms: int) -> tuple[Buckets, Tier]:
    """The buckets of a question, and which counts they are made of.

    They begin at multiples of their length in local time, as far as the counts allow:
    where only hours are left, at full hours of UTC.

    Raises:
        ContexError: INVALID_FIELD: they would be too many; RECORDS_EXPIRED: minutes of
            that time are no longer kept.
    """
    since, until, offset = asked.since_ms // 1000, asked.until_ms // 1000, asked.offset_s
    # An hour's minutes are let go of eight days after the hour, so those of this one are there.
    kept = (now_ms // 1000 - MINUTES_KEPT_S) // HOUR * HOUR
    length = asked.bucket_s or _chosen(until - since)
    start = (since + offset) // length * length - offset
    if start < kept and not asked.bucket_s and length % HOUR:
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
    count = (end - start) // length
    if count > MAX_BUCKETS:
        least = -(-(until - since) // (MAX_BUCKETS - 1))
        raise invalid_field(
            "bucket_seconds",
            f"must be at least {least} for this range: at most {MAX_BUCKETS} buckets",
        )
    return Buckets(start, length, count), Tier.MINUTES if by_minutes else Tier.HOURS


async def read_activity(
    log: EventLog, store: ProjectStore, project: str, asked: ActivityQuery
) -> Activity:
    """Reads the counts of the time asked about; the log itself is not read.

    Raises:
        ContexError: INVALID_FIELD, RECORDS_EXPIRED, STORE_UNAVAILABLE.
    """
    bounds = await log.bounds(project)
    buckets, tier = choose_buckets(asked, bounds.now_ms)
    dimension = asked.by if isinstance(asked.by, Dimension) else Dimension.EVENT_TYPE
    span, slot_s = (HOUR, MINUTE) if tier is Tier.MINUTES else (DAY, HOUR)
    # Nothing was counted before the first event or after the newest.
    first = max(buckets.start, bounds.first.ms // 1000 if bounds.first else 0)
    if bounds.trimmed:
        first = buckets.start
    last = min(buckets.end - 1, bounds.now_ms // 1000)
    numbers = range(first // span, last // span + 1)
    tallied = _Tally(buckets, asked)
    for start in range(0, len(numbers), _READ_HOURS):
        part = numbers[start : start + _READ_HOURS]
        found = await store.activity(project, dimension, tier, part)
        for number, counts in zip(part, found, strict=True):
            tallied.add(number * span, slot_s, counts)
    counters = await store.counters(project)
    return tallied.result(counters.counted_since)


class _Tally:
    """Adds counts up."""

    def __init__(self, buckets: Buckets, asked: ActivityQuery) -> None:
        self._buckets = buckets
        self._asked = asked
        self._admits = _admits(asked.names)
        self._by_name: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
        self._totals: defaultdict[bytes, int] = defaultdict(int)
        self._counts = [0] * buckets.count
        self._hours = [0] * 24

    def add(self, begin: int, slot_s: int, counts: dict[bytes, bytes]) -> None:
        """Takes in the counts of an hour or a day that begins at `begin`."""
        start, length, count = self._buckets.start, self._buckets.bucket_s, self._buckets.count
        offset = self._asked.offset_s
        for name, value in counts.items():
            if not self._admits(name):
                continue
            mine = self._by_name[name]
            total = 0
            for slot, _, text in (part.partition(b":") for part in value.split(b" ")):
                at = begin + int(slot) * slot_s
                index = (at - start) // length
                if 0 <= index < count:
                    n = int(text)
                    total += n
                    mine[index] = mine.get(index, 0) + n
                    self._counts[index] += n
                    self._hours[(at + offset) // HOUR % 24] += n
            self._totals[name] += total

    def result(self, counted_since: Sequence) -> Activity:
        """The answer."""
        present = [(name, total) for name, total in self._totals.items() if total]
        present.sort(key=lambda item: (-item[1], item[0]))
        series = []
        if isinstance(self._asked.by, Dimension):
            for name, total in present[: self._asked.top]:
                counts = [0] * self._buckets.count
                for index, n in self._by_name[name].items():
                    counts[index] = n
                series.append(Series(name.decode(), total, counts))
        return Activity(
            series,
            Series("", sum(self._counts), self._counts),
            self._buckets,
            len(present) if isinstance(self._asked.by, Dimension) else 0,
            self._hours,
            counted_since,
        )


def rate(now_ms: int, minutes: Iterable[tuple[int, dict[bytes, bytes]]]) -> float:
    """Events a second over the last minute.

    Args:
        now_ms: The store's clock.
        minutes: Counts by minute, of the hours that begin at these seconds.

    Minutes are counted as wholes, so of the one that the last sixty seconds began in, the
    share counts that lies in them.
    """
    this, elapsed = now_ms // 60_000, now_ms % 60_000 / 60_000
    found = 0.0
    for begin, counts in minutes:
        for value in counts.values():
            for slot, _, text in (part.partition(b":") for part in value.split(b" ")):
                minute = begin // MINUTE + int(slot)
                if minute == this:
                    found += int(text)
                elif minute == this - 1:
                    found += int(text) * (1 - elapsed)
    return found / 60


def _chosen(range_s: int) -> int:
    for length in _LENGTHS:
        if range_s <= length * _CHOSEN_BUCKETS:
            return length
    return -(-range_s // (_CHOSEN_BUCKETS * DAY)) * DAY


def _admits(names: frozenset[str]) -> Callable[[bytes], bool]:
    if not names:
        return lambda _: True
    wanted = EventFilter(data_keys=names)
    return lambda name: wanted.admits_key(name.decode())

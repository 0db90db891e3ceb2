"""Judges a run by what its log and its listeners say. Pure: values in, findings out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from operator import add

from contex_demo.corpus import Need
from contex_demo.journal import Journal, Logged

AGENT_REGISTERED = "agent_registered"
HELD_KINDS = ("matched", "updated")
"""Deliveries that a datum is there, in the words of the client; the others say that it is gone."""
_ENDS = ("data_deleted", "data_expired")
_SERVICE_TYPES = {AGENT_REGISTERED, "matching_background_changed"}
"""What the server writes into the log by itself."""


@dataclass(frozen=True, slots=True)
class LogFindings:
    """What is wrong with the log. All zero: every acknowledged event is in it exactly once.

    Attributes:
        lost: Acknowledged, and not in the log where the receipt says.
        altered: There, but with another key, revision or payload than acknowledged.
        duplicated: Entries beyond the first of one published event.
        foreign: Entries that nobody published.
        unordered: Entries whose sequence is not greater than the one before.
        gaps: Entries whose revision or previous sequence doesn't continue their key's chain.
    """

    lost: int = 0
    altered: int = 0
    duplicated: int = 0
    foreign: int = 0
    unordered: int = 0
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryFindings:
    """What is wrong with the deliveries of one agent, against an independent second reading.

    Attributes:
        missing: In the second reading, and never delivered, or not as the same kind.
        unexpected: Delivered, and not in the second reading, or not as the same kind.
        duplicated: Deliveries beyond the first of one event.
        unordered: Deliveries whose sequence is not greater than the one before.
        unknown: Delivered, and not in the log like this.
    """

    missing: int = 0
    unexpected: int = 0
    duplicated: int = 0
    unordered: int = 0
    unknown: int = 0

    def __add__(self, other: DeliveryFindings) -> DeliveryFindings:
        return DeliveryFindings(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Delivered:
    """One delivery, reduced to what is compared, and when (monotonic) and how well it fits."""

    sequence: str
    data_key: str
    revision: int
    kind: str = ""
    arrived: float = 0.0
    score: float = 0.0


def order(sequence: str) -> tuple[int, int]:
    """A sequence as the pair of integers that it is compared by."""
    ms, _, n = sequence.partition("-")
    return int(ms), int(n or 0)


def check_log(log: Sequence[Logged], journal: Journal, agents: int) -> LogFindings:
    """Compares the whole log with what was published and acknowledged.

    Args:
        log: The log from the beginning, in the order it was read.
        journal: What was published.
        agents: How many registrations there were; each has one event.
    """
    by_sequence = {entry.sequence: entry for entry in log}
    lost = altered = 0
    for mark, receipt in journal.acknowledged.items():
        entry = by_sequence.get(receipt.sequence)
        if entry is None or entry.mark != mark:
            lost += 1
        elif entry.revision != receipt.revision or journal.published[mark] != (
            entry.data_key,
            entry.payload_sha256,
        ):
            altered += 1
    marks = Counter(entry.mark for entry in log if entry.mark)
    registrations = sum(entry.event_type == AGENT_REGISTERED for entry in log)
    unmarked = sum(not entry.mark and entry.event_type not in _SERVICE_TYPES for entry in log)
    unpublished = sum(mark not in journal.published for mark in marks)
    return LogFindings(
        lost=lost,
        altered=altered,
        duplicated=marks.total() - len(marks) + max(0, registrations - agents),
        foreign=unmarked + unpublished,
        unordered=_unordered(entry.sequence for entry in log),
        gaps=_broken_chains(log) + max(0, agents - registrations),
    )


def _broken_chains(log: Iterable[Logged]) -> int:
    last: dict[str, Logged] = {}
    broken = 0
    for entry in log:
        if not entry.data_key:
            continue
        before = last.get(entry.data_key)
        expected = (before.revision + 1, before.sequence) if before else (1, "")
        broken += (entry.revision, entry.previous_sequence) != expected
        last[entry.data_key] = entry
    return broken


def _unordered(sequences: Iterable[str]) -> int:
    positions = [order(sequence) for sequence in sequences]
    return sum(after <= before for before, after in pairwise(positions))


def check_deliveries(
    live: Sequence[Delivered], again: Sequence[Delivered], log: Mapping[str, Logged]
) -> DeliveryFindings:
    """Compares what reached an agent as it happened with a second reading of the same range.

    Args:
        live: Over the whole run, across the kill, in the order of arrival.
        again: By a new stream, from the agent's registration to the end, after the run.
        log: The log by sequence.
    """
    counts = Counter(delivery.sequence for delivery in live)
    delivered = {(delivery.sequence, delivery.kind) for delivery in live}
    expected = {(delivery.sequence, delivery.kind) for delivery in again}
    unknown = 0
    for delivery in live:
        entry = log.get(delivery.sequence)
        expected_entry = (delivery.data_key, delivery.revision)
        unknown += entry is None or (entry.data_key, entry.revision) != expected_entry
    return DeliveryFindings(
        missing=len(expected - delivered),
        unexpected=len(delivered - expected),
        duplicated=counts.total() - len(counts),
        unordered=_unordered(delivery.sequence for delivery in live),
        unknown=unknown,
    )


def same_deliveries(one: Sequence[Delivered], other: Sequence[Delivered]) -> bool:
    """Whether two agents were delivered the same, in the same order and as the same kinds."""

    def told(deliveries: Sequence[Delivered]) -> list[tuple[str, str, int, str]]:
        return [(d.sequence, d.data_key, d.revision, d.kind) for d in deliveries]

    return told(one) == told(other)


def stale(held: Mapping[str, int], log: Iterable[Logged]) -> int:
    """How many data an agent holds, by key and revision, that are not the latest of the log."""
    latest = {
        entry.data_key: 0 if entry.event_type in _ENDS else entry.revision
        for entry in log
        if entry.data_key
    }
    return sum(latest.get(key) != revision for key, revision in held.items())


@dataclass(frozen=True, slots=True)
class HitRates:
    """How often the right answer was among the best matches of a need, of `judged` needs."""

    judged: int
    at_1: float
    at_10: float


def hit_rates(
    ranked: Iterable[tuple[Need, Sequence[str]]], published: frozenset[str]
) -> HitRates | None:
    """Rates of the needs whose answers are known and published; None if there are none.

    Args:
        ranked: Each need with the data keys that matched it, best first.
        published: The data keys that exist.
    """
    judged = at_1 = at_10 = 0
    for need, keys in ranked:
        answers = need.answers & published
        if not answers:
            continue
        judged += 1
        at_1 += not answers.isdisjoint(keys[:1])
        at_10 += not answers.isdisjoint(keys[:10])
    return HitRates(judged, at_1 / judged, at_10 / judged) if judged else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values don't exceed (nearest rank)."""
    if not values:
        raise ValueError("no values")
    rank = -(-len(values) * share // 1)
    return sorted(values)[max(0, int(rank) - 1)]

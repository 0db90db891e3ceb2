"""What one run of the demo measured, and which of its claims held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from contex_demo.expected import Missed
from contex_demo.verification import DeliveryFindings, HitRates, LogFindings, percentile

NOTES = ("updated", "left", "deleted")
"""What becomes of the three notes."""


class Row(NamedTuple):
    """A line of the summary; `required` is empty for what is only measured."""

    name: str
    measured: str
    required: str = ""
    held: bool = True


@dataclass(slots=True)
class Figures:
    """Measured values, in the order they become known. Times are in seconds unless named `_ms`.

    Attributes:
        matched_needs: Needs with at least one match at registration.
        delivery_known_ms: From the call of publish to each delivery, for known texts.
        delivery_new_ms: The same, where the text had to be embedded first.
        unanswered_at_kill: Events handed to the client and not acknowledged at the kill.
        repeated: Events of batches that turned out to have been appended before the kill.
        outage: The longest wait for an acknowledgement from the kill on.
        unrecorded: Events that agents received and of which no delivery is on record.
        answers_expected: Answers that a person would point at and that are published.
        missed: Those that were not delivered at registration, and why; at most 100.
        update_reached_best: The agent whose need an updated datum fits best received it.
        told: What the agent that was online was told of its notes after the restart, by key.
        kinds: How many deliveries of each kind the agents had that listened.
        online: Deliveries to the agent that listened, of the two with the same needs.
        offline: Deliveries to the one that was away until the end.
        same: Whether both had the same deliveries, in the same order.
        held: Data that the agents hold at the end, all together.
        stale: Those of them that are not the latest revision, or are deleted.
    """

    corpus: str = ""
    documents: int = 0
    agents: int = 0
    needs: int = 0
    start: float = 0.0
    publish: float = 0.0
    register: float = 0.0
    matched_needs: int = 0
    matches: int = 0
    matched_data: int = 0
    hits: HitRates | None = None
    answers_expected: int = 0
    answers_delivered: int = 0
    missed: list[Missed] = field(default_factory=list)
    update_reached_best: bool = False
    delivery_known_ms: list[float] = field(default_factory=list)
    delivery_new_ms: list[float] = field(default_factory=list)
    streamed: int = 0
    acknowledged_before_kill: int = 0
    unanswered_at_kill: int = 0
    repeated: int = 0
    restart: float = 0.0
    outage: float = 0.0
    stream: float = 0.0
    acknowledged: int = 0
    published: int = 0
    log_entries: int = 0
    log: LogFindings | None = None
    deliveries: int = 0
    deliveries_expected: int = 0
    delivery: DeliveryFindings | None = None
    reconnects: int = 0
    unrecorded: int = 0
    told: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    online: int = 0
    offline: int = 0
    same: bool = False
    held: int = 0
    stale: int = 0
    stop: float = 0.0
    total: float = 0.0

    def rows(self) -> list[Row]:
        """The summary: every figure, and every claim with what must be."""
        log, delivery = self.log, self.delivery
        before = self.acknowledged_before_kill
        rows = [
            Row("documents", f"{self.documents:,}"),
            Row("agents, needs", f"{self.agents:,}, {self.needs:,}"),
            Row("matches at registration", f"{self.matches:,}"),
        ]
        if self.hits is not None:
            shares = f"{self.hits.at_1:.1%}, {self.hits.at_10:.1%}"
            rows.append(Row("right answer first, among ten", shares))
            expected = f"{self.answers_delivered:,} of {self.answers_expected:,}"
            rows.append(Row("expected answers delivered", expected))
        reached = "yes" if self.update_reached_best else "no"
        rows += [
            _claim("an update reaches the agent it fits best", reached, "yes"),
            Row("delivery, known text", percentiles(self.delivery_known_ms)),
            Row("delivery, new text", percentiles(self.delivery_new_ms)),
            Row("streamed: before the kill, after", f"{before:,}, {self.streamed - before:,}"),
            Row("unanswered at the kill", f"{self.unanswered_at_kill:,} events"),
            Row("restart after kill -9", f"{self.restart:.2f} s"),
            Row("publisher waited", f"{self.outage:.2f} s"),
            _equal("acknowledged", self.acknowledged, self.published, at_least=1),
        ]
        if log is not None:
            rows += [
                _none("acknowledged and lost", log.lost),
                _none("altered", log.altered),
                _none("in the log twice, or never published", log.duplicated, log.foreign),
                _none("gaps or disorder in the log", log.gaps, log.unordered),
            ]
        rows.append(
            _equal("agents that lost the connection and resumed", self.reconnects, self.agents)
        )
        if delivery is not None:
            rows += [
                _equal("deliveries", self.deliveries, self.deliveries_expected, at_least=1),
                Row("of these", ", ".join(f"{n:,} {kind}" for kind, n in self.kinds.items())),
                _none("received and not on record", self.unrecorded),
                _none("deliveries missing", delivery.missing),
                _none("deliveries twice or out of order", delivery.duplicated, delivery.unordered),
                _none("deliveries of no match or no event", delivery.unexpected, delivery.unknown),
                _claim("told of three notes", ", ".join(self.told.values()), ", ".join(NOTES)),
                _equal("deliveries to one online, one offline", self.offline, self.online, 1),
                _claim("the same ones in the same order", "yes" if self.same else "no", "yes"),
                Row("data that the agents hold", f"{self.held:,}"),
                _none("held and stale or gone", self.stale),
            ]
        rows.append(Row("first start, stop by SIGTERM", f"{self.start:.2f} s, {self.stop:.2f} s"))
        return [*rows, Row("the whole run", f"{self.total:.1f} s")]

    @property
    def hold(self) -> bool:
        """Whether everything that the demo claims held in this run."""
        is_complete = self.log is not None and self.delivery is not None
        return is_complete and all(row.held for row in self.rows())

    def record(self) -> dict[str, Any]:
        record = asdict(self)
        for name in ("delivery_known_ms", "delivery_new_ms"):
            values = record.pop(name)
            for label, share in (("p50", 0.5), ("p99", 0.99)):
                record[f"{name}_{label}"] = percentile(values, share) if values else None
        record["hold"] = self.hold
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}


def percentiles(values: Sequence[float]) -> str:
    if not values:
        return "no deliveries"
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(values):,} deliveries"


def _claim(name: str, measured: str, required: str) -> Row:
    return Row(name, measured, required, measured == required)


def _equal(name: str, measured: int, required: int, at_least: int = 0) -> Row:
    return Row(name, f"{measured:,}", f"{required:,}", measured == required >= at_least)


def _none(name: str, *counts: int) -> Row:
    return _claim(name, ", ".join(map(str, counts)), ", ".join("0" for _ in counts))

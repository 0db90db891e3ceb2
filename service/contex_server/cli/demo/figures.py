"""What one run of the demo measured and found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from contex_server.cli.demo.verification import (
    DeliveryFindings,
    HitRates,
    LogFindings,
    percentile,
)


@dataclass(slots=True)
class Figures:
    """Measured values, in the order they become known. Times are in seconds unless named `_ms`.

    Attributes:
        matched_needs: Needs with at least one match at registration.
        matches: Pairs of a need and a datum that matched at registration.
        delivery_known_ms: From the call of publish to each delivery, for known texts.
        delivery_new_ms: The same, where the text had to be embedded first.
        unanswered_at_kill: Events handed to the client and not acknowledged at the kill.
        repeated: Events of batches that turned out to have been appended before the kill.
        outage: The longest wait for an acknowledgement from the kill on.
        unrecorded: Events that agents received and of which no delivery is on record.
        update_reached_best: The agent whose need an updated datum fits best received it.
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
    stop: float = 0.0
    total: float = 0.0

    @property
    def hold(self) -> bool:
        """Whether everything that the demo claims held in this run."""
        return (
            self.update_reached_best
            and 0 < self.acknowledged == self.published
            and self.log is not None
            and self.log.hold
            and self.deliveries > 0
            and self.delivery is not None
            and self.delivery.hold
            and self.reconnects >= self.agents
            and not self.unrecorded
        )

    def record(self) -> dict[str, Any]:
        """The figures for `--json`."""
        record = asdict(self)
        for name in ("delivery_known_ms", "delivery_new_ms"):
            values = record.pop(name)
            for label, share in (("p50", 0.5), ("p99", 0.99)):
                record[f"{name}_{label}"] = percentile(values, share) if values else None
        record["hold"] = self.hold
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}

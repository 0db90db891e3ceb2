"""How many calls ended how, and how long they took: in each serving process, and of all.

A process that serves counts its own calls in `CallCounts`. The process with the metrics
endpoint holds `CallMetrics`, which adds them up: those of its own server directly, those of
worker processes from the totals that each sends once a second (see `workers.py`).
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from contex_server.edge.incoming import Incoming, Rest
from contex_server.kernel.byte_budget import ByteBudget
from contex_server.kernel.errors import ContexError

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
else:
    Collector = object  # The library is loaded when metrics are served.

_BOUNDS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip

_COUNTERS = {
    "contex_matchers_evicted": "Indexes dropped so that all take at most CONTEX_INDEX_BYTES.",
    "contex_agents_expired": "Agents unregistered because nobody was in contact for their ttl.",
}
_GAUGES = {
    "contex_matchers": "Projects that have an index in memory.",
    "contex_deciding_projects": "Projects for whose agents this process decides.",
    "contex_agents_behind": "Agents whose past or new needs are still being decided.",
    "contex_undecided_seconds": "Time between the last event decided and the newest, at the most.",
    "contex_matcher_bytes": "Memory of these indexes.",
    "contex_projects_refused": "Projects of which the archive has more than the store.",
    "contex_scans_waiting": "Backtests and questions about the past that wait for their turn.",
}


Quotas = Callable[
    [], tuple[Counter[tuple[str, str]], Counter[tuple[str, str]], dict[tuple[str, str], float]]
]


@dataclass(slots=True)
class Totals:
    """What was counted up to a moment.

    Attributes:
        calls: Calls that ended, by service, method, code and reason.
        buckets: By service, method and index in `_BOUNDS_S`, the calls that took at most that
            bound and longer than the one before it; the last bucket has no bound.
        seconds: By service and method, how long all of them took together.
        counters: What else the process counts, by name.
        gauges: What it holds now, by name.
        held: By budget, the bytes that are given out at the moment.
        waited: By budget, how often somebody had to wait for bytes.
        certificate_expires_s: When the first certificate in use expires, in unix time.
        used: By tenant and limit, units of rates that were used.
        refused: By tenant and limit, calls that were refused for it.
        ratios: By tenant and limit, which part of it is used on all servers.
    """

    calls: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    buckets: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    seconds: Counter[tuple[str, str]] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    gauges: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    waited: Counter[str] = field(default_factory=Counter)
    certificate_expires_s: float | None = None
    used: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    ratios: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, other: Totals) -> None:
        """Adds what another has counted, and what it holds."""
        self.calls.update(other.calls)
        self.buckets.update(other.buckets)
        self.seconds.update(other.seconds)
        self.counters.update(other.counters)
        self.gauges.update(other.gauges)
        self.held.update(other.held)
        self.waited.update(other.waited)
        ends = (self.certificate_expires_s, other.certificate_expires_s)
        self.certificate_expires_s = min((end for end in ends if end is not None), default=None)
        self.used.update(other.used)
        self.refused.update(other.refused)
        for place, ratio in other.ratios.items():
            self.ratios[place] = max(ratio, self.ratios.get(place, 0.0))


class CallCounts:
    """Counts the calls of one process.

    Attributes:
        budgets: By name, the bytes that calls share.
        certificate: When the certificate in use expires, in unix time; None without TLS.
        quotas: Returns `Totals.used`, `refused` and `ratios`; from any thread.
    """

    certificate: Callable[[], float] | None = None

    def __init__(self) -> None:
        self.budgets: dict[str, ByteBudget] = {}
        self.quotas: Quotas = lambda: (Counter(), Counter(), {})
        self._totals = Totals()
        self._counters: dict[str, Callable[[], int]] = {}
        self._gauges: dict[str, Callable[[], int]] = {}

    def watch(
        self, counters: dict[str, Callable[[], int]], gauges: dict[str, Callable[[], int]]
    ) -> None:
        """Asks these for their numbers, too; from any thread. `_COUNTERS`, `_GAUGES` name them."""
        self._counters, self._gauges = counters, gauges

    def totals(self) -> Totals:
        """A copy of what was counted so far; from any thread."""
        # Each copy is one step of the interpreter, so the event loop can go on counting.
        totals = self._totals
        return Totals(
            totals.calls.copy(),
            totals.buckets.copy(),
            totals.seconds.copy(),
            Counter({name: count() for name, count in self._counters.items()}),
            Counter({name: held() for name, held in self._gauges.items()}),
            Counter({name: budget.held for name, budget in self.budgets.items()}),
            Counter({name: budget.waited for name, budget in self.budgets.items()}),
            None if self.certificate is None else self.certificate(),
            *self.quotas(),
        )

    async def count(self, call: Incoming, rest: Rest) -> Any:
        """Link: counts the call when it ends."""
        started = time.perf_counter()
        code, reason = "OK", ""
        call.count = partial(self._add, call.service)
        try:
            return await rest(call)
        except asyncio.CancelledError:
            late = call.deadline is not None and asyncio.get_running_loop().time() >= call.deadline
            code = "DEADLINE_EXCEEDED" if late else "CANCELLED"
            raise
        except ContexError as error:
            code, reason = error.reason.code.name, error.reason.value
            raise
        finally:
            call.count(call.method, code, reason, time.perf_counter() - started)

    def _add(self, service: str, method: str, code: str, reason: str, seconds: float) -> None:
        totals = self._totals
        totals.calls[service, method, code, reason] += 1
        totals.buckets[service, method, bisect_left(_BOUNDS_S, seconds)] += 1
        totals.seconds[service, method] += seconds  # type: ignore[assignment]


class CallMetrics(Collector):
    """The calls of all serving processes, for Prometheus to fetch."""

    def __init__(self) -> None:
        self._running: dict[int, Callable[[], Totals]] = {}  # by worker; -1: this process
        self._ended = Totals()

    def follow(self, counts: CallCounts) -> None:
        """Includes the calls of this process."""
        self._running[-1] = counts.totals

    def reported(self, worker: int, totals: Totals | None) -> None:
        """Takes what a worker process has counted so far; None when that process has ended.

        What an ended process counted stays in the sums, so that no counter ever falls.
        """
        if totals is not None:
            self._running[worker] = lambda: totals
        elif (last := self._running.pop(worker, None)) is not None:
            ended = Totals()
            ended.add(self._ended)
            ended.add(last())
            ended.gauges.clear()
            ended.held.clear()
            ended.certificate_expires_s = None
            ended.ratios.clear()
            self._ended = ended

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`; called from any thread."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        totals = Totals()
        totals.add(self._ended)
        for counted in list(self._running.values()):
            totals.add(counted())
        calls = CounterMetricFamily(
            "contex_calls",
            "Calls that ended, by gRPC code and, unless OK, by Contex's reason.",
            labels=["service", "method", "code", "reason"],
        )
        for names, count in totals.calls.items():
            calls.add_metric(names, count)
        seconds = HistogramMetricFamily(
            "contex_call_seconds",
            "How long calls took; a stream counts when it ends.",
            labels=["service", "method"],
        )
        for method, sum_s in totals.seconds.items():
            upto, buckets = 0, []
            for index, bound in enumerate((*map(str, _BOUNDS_S), "+Inf")):
                upto += totals.buckets[(*method, index)]
                buckets.append((bound, upto))
            seconds.add_metric(method, buckets, sum_s)
        yield from (calls, seconds)
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=totals.counters[name])
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value=totals.gauges[name])
        held = GaugeMetricFamily(
            "contex_held_bytes",
            "Bytes of requests and of pages of the log that are held at the moment.",
            labels=["budget"],
        )
        waits = CounterMetricFamily(
            "contex_byte_waits",
            "How often a request or a reader had to wait for bytes, or was refused.",
            labels=["budget"],
        )
        for name, count in totals.waited.items():
            held.add_metric([name], totals.held[name])
            waits.add_metric([name], count)
        yield from (held, waits)
        if totals.certificate_expires_s is not None:
            yield GaugeMetricFamily(
                "contex_tls_certificate_expiry_seconds",
                "Time until the certificate that is served expires.",
                value=totals.certificate_expires_s - time.time(),
            )
        used = CounterMetricFamily(
            "contex_usage",
            "What tenants used of what is limited per second: events, bytes, calls, work.",
            labels=["tenant", "limit"],
        )
        refused = CounterMetricFamily(
            "contex_quota_refused", "Calls refused for a limit.", labels=["tenant", "limit"]
        )
        ratio = GaugeMetricFamily(
            "contex_usage_ratio",
            "Which part of its limit a tenant uses, on all servers together; of rates, the mean of "
            "the last minute. Tenants that use this server.",
            labels=["tenant", "limit"],
        )
        for family, values in (
            (used, totals.used),
            (refused, totals.refused),
            (ratio, totals.ratios),
        ):
            for labels, value in values.items():
                family.add_metric(labels, value)
        yield from (used, refused, ratio)

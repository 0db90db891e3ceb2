"""What projects use, as Prometheus metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from contex_server.projects.usage import Usage

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
else:
    Collector = object  # The library is loaded when metrics are served.

log = structlog.get_logger(__name__)

_GAUGES = {
    "contex_store_events": "Events of a project that are in the store.",
    "contex_archive_events": "Events of a project that are in the archive.",
    "contex_archive_bytes": "Bytes of the archive's objects of a project.",
    "contex_removed_events": "Events of a project that were removed for good.",
    "contex_compacted_events": "Events whose payloads were removed as later revisions came.",
    "contex_archiving_failing": "1 where no events of a project are moved to the archive, else 0.",
}


class UsageMetrics(Collector):
    """The newest usage of all projects, in Prometheus's text format over HTTP."""

    def __init__(self) -> None:
        self._usages: dict[str, Usage] = {}
        self._at = 0.0

    def used(self, usages: dict[str, Usage]) -> None:
        """Sets what all projects use now."""
        self._usages, self._at = usages, time.time()

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`; called from any thread."""
        from prometheus_client.core import GaugeMetricFamily

        usages = self._usages
        gauges = [
            GaugeMetricFamily(name, text, labels=["project"]) for name, text in _GAUGES.items()
        ]
        ratio = GaugeMetricFamily(
            "contex_limit_used_ratio",
            "What a project uses of a limit: store_events, store_bytes, store_memory, archive_age.",
            labels=["project", "limit"],
        )
        warning = GaugeMetricFamily(
            "contex_limit_warning",
            "1 where GetStats warns of a limit of a project, else 0.",
            labels=["project", "limit"],
        )
        for project, usage in usages.items():
            archived = usage.archived
            stored, failing = usage.store_events, bool(usage.trouble)
            gone = (archived.removed, archived.compacted)
            values = (stored, archived.events, archived.size, *gone, failing)
            for gauge, value in zip(gauges, values, strict=True):
                gauge.add_metric([project], value)
            for limit in usage.limits:
                ratio.add_metric([project, limit.name], limit.used / limit.maximum)
                warning.add_metric([project, limit.name], bool(limit.warning))
        yield from (*gauges, ratio, warning)
        yield GaugeMetricFamily(
            "contex_usage_timestamp_seconds", "When all this was looked at.", value=self._at
        )

    @contextmanager
    def served(self, host: str, port: int, *others: Collector) -> Iterator[None]:
        """Serves them, and others, at http://host:port/metrics; port 0 is a free one.

        Raises:
            OSError: The port is taken.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        for collector in (self, *others):
            registry.register(collector)
        server, thread = start_http_server(port, host, registry)
        try:
            log.info("metrics", host=host, port=server.server_port)
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

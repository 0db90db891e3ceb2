"""How much of its limits each project uses: reported early, in stats, log and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from contex_server.kernel.errors import ContexError
from contex_server.kernel.failures import Failures
from contex_server.log.archive import Archived
from contex_server.log.buckets import target_project
from contex_server.log.projects import Counters, ProjectStore
from contex_server.log.store import Store
from contex_server.projects.retention import RetentionStore, is_over
from contex_server.state.moments import rfc3339

log = structlog.get_logger(__name__)

_MEMORY = 0.8
"""Warn when this share of the store's memory is used."""
_NEAR = 0.9
"""Warn when events reach this share of their maximum age in the archive."""
_WATCH_S = 15.0


class Limit(NamedTuple):
    """A limit of a project.

    Attributes:
        name: store_events, store_bytes, store_memory or archive_age.
        used: How much is used, in events, bytes or seconds, of at most `maximum`.
        warning: What is about to go wrong, for people to read; "" while all is well.
    """

    name: str
    used: float
    maximum: float
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Where the events of a project are.

    Attributes:
        trouble: Why nothing is moved to the archive; "" while all is well.
    """

    store_events: int
    archived: Archived
    counters: Counters
    limits: tuple[Limit, ...]
    trouble: str = ""

    @property
    def warnings(self) -> list[str]:
        """What is about to go wrong or to be removed, for people to read."""
        warnings = [limit.warning for limit in self.limits if limit.warning]
        if self.trouble:
            warnings.insert(0, f"no events are moved to the archive: {self.trouble}")
        return warnings


@dataclass(frozen=True, slots=True)
class UsageReader:
    """Reads what projects use.

    Attributes:
        archived: Whether there is an archive; without, nothing leaves the store.
        segment_events: Events in a full segment: the store may exceed its limit by one.
        segment_bytes: Likewise in bytes.
    """

    store: Store
    retentions: RetentionStore
    archived: bool
    segment_events: int
    segment_bytes: int

    async def of(self, project: str) -> Usage:
        """Reads what a project uses."""
        bounds = await self.store.events.bounds(project)
        archived = await self.store.archive.archived(project)
        counters = await self.store.projects.counters(project)
        used, maximum = await self.store.projects.memory(project)
        retention = await self.retentions.of(project)
        limits = []
        if self.archived and retention.store_events:
            limit = Limit("store_events", bounds.length, retention.store_events)
            limits.append(_stored(limit, "events", self.segment_events))
        if self.archived and retention.store_bytes and not counters.counted_since.ms:
            limit = Limit("store_bytes", counters.bytes - archived.moved, retention.store_bytes)
            limits.append(_stored(limit, "bytes of events", self.segment_bytes))
        if maximum:
            warning = (
                f"the store uses {used / maximum:.0%} of its memory; when it is full, publishes "
                "are refused"
            )
            warning *= used > _MEMORY * maximum
            limits.append(Limit("store_memory", used, maximum, warning))
        if retention.archive_seconds and archived.first:
            age_ms = retention.archive_seconds * 1000
            old_ms = bounds.now_ms - archived.first.ms
            until = rfc3339(int(bounds.now_ms - _NEAR * age_ms))
            when = rfc3339(bounds.now_ms + int((1 - _NEAR) * age_ms))
            held_back = " (not while the legal hold lasts)" if retention.legal_hold else ""
            warning = f"events from before {until} will be removed for good until {when}{held_back}"
            warning *= old_ms > _NEAR * age_ms
            limits.append(Limit("archive_age", old_ms / 1000, age_ms / 1000, warning))
        trouble = await self.store.projects.trouble(project)
        return Usage(bounds.length, archived, counters, tuple(limits), trouble)


def _stored(limit: Limit, what: str, segment: int) -> Limit:
    if not is_over(limit.used, limit.maximum, segment):
        return limit
    return limit._replace(
        warning=f"the store holds {limit.used:,.0f} {what} and should hold {limit.maximum:,.0f}: "
        "is the archive reachable?"
    )


@dataclass(slots=True, eq=False)
class UsageMonitor:
    """Checks what all projects use, and logs when a limit is nearly reached, and when it no
    longer is; `on_usages` is called after each round.
    """

    store: ProjectStore
    usages: UsageReader
    on_usages: Callable[[dict[str, Usage]], None]
    interval_s: float = _WATCH_S
    _warned: set[tuple[str, str]] = field(default_factory=set)
    _failures: Failures = field(default_factory=lambda: Failures("usage_unknown"))

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                await self.look()
            except ContexError as error:
                log.debug("usage_unknown", error=error.message)
            except Exception:
                log.exception("usages_unknown")
            await asyncio.sleep(self.interval_s)

    async def look(self) -> None:
        """One round."""
        projects = [
            project for project in await self.store.projects() if target_project(project) == project
        ]
        usages: dict[str, Usage] = {}
        for project in projects:
            with self._failures.isolated(project):
                usages[project] = await self.usages.of(project)
        warnings = {
            (project, limit.name): limit.warning
            for project, usage in usages.items()
            for limit in usage.limits
            if limit.warning
        }
        for project, name in warnings.keys() - self._warned:
            warning = warnings[project, name]
            log.warning("limit_near", project=project, limit=name, warning=warning)
        unknown = set(projects) - usages.keys()
        warned = {*warnings, *(each for each in self._warned if each[0] in unknown)}
        for project, name in self._warned - warned:
            log.info("limit_kept", project=project, limit=name)
        self._warned = warned
        self.on_usages(usages)

"""How much each project uses of what it may, said before it bites: in stats, log and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from contex_server.kernel.errors import ContexError
from contex_server.log.archive import Archived
from contex_server.log.buckets import target_project
from contex_server.log.projects import Counters, ProjectStore
from contex_server.log.store import Store
from contex_server.projects.retention import RetentionStore, is_over
from contex_server.state.moments import rfc3339

log = structlog.get_logger(__name__)

_MEMORY = 0.8
"""A store that is so full is warned of."""
_NEAR = 0.9
"""Events that have reached so much of their age in the archive are warned of."""
_WATCH_S = 15.0


class Limit(NamedTuple):
    """Something of which a project may use so much.

    Attributes:
        name: store_events, store_bytes, store_memory or archive_age.
        used: How much it uses, in events, bytes or seconds.
        most: How much it may.
        warning: What is about to go wrong, in plain words; "" while all is well.
    """

    name: str
    used: float
    most: float
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Where the events of a project are.

    Attributes:
        store_events: How many are in the store.
        archived: How far they are archived.
        counters: What is counted of it.
        limits: Those that hold for the project.
    """

    store_events: int
    archived: Archived
    counters: Counters
    limits: tuple[Limit, ...]
    trouble: str = ""
    """Why nothing is moved to the archive; "" while all is well."""

    @property
    def warnings(self) -> list[str]:
        """What is about to go wrong or to be removed."""
        found = [limit.warning for limit in self.limits if limit.warning]
        if self.trouble:
            found.insert(0, f"no events are moved to the archive: {self.trouble}")
        return found


class UsageReader:
    """What the projects use.

    Args:
        store: What is known of them.
        retentions: What is kept where.
        archived: Whether there is an archive: without, nothing leaves the store.
        segment_events: The archive takes so many events at once, ...
        segment_bytes: ... or so many bytes: so much more may be in the store.
    """

    def __init__(
        self,
        store: Store,
        retentions: RetentionStore,
        *,
        archived: bool,
        segment_events: int,
        segment_bytes: int,
    ) -> None:
        self._store = store
        self._retentions = retentions
        self._archived = archived
        self._segment_events = segment_events
        self._segment_bytes = segment_bytes

    async def of(self, project: str) -> Usage:
        """What a project uses.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        bounds = await self._store.events.bounds(project)
        archived = await self._store.archive.archived(project)
        counters = await self._store.projects.counters(project)
        used, most = await self._store.projects.memory(project)
        retention = await self._retentions.of(project)
        limits = []
        if self._archived and retention.store_events:
            limit = Limit("store_events", bounds.length, retention.store_events)
            limits.append(_stored(limit, "events", self._segment_events))
        if self._archived and retention.store_bytes and not counters.counted_since.ms:
            limit = Limit("store_bytes", counters.bytes - archived.moved, retention.store_bytes)
            limits.append(_stored(limit, "bytes of events", self._segment_bytes))
        if most:
            warning = (
                f"the store uses {used / most:.0%} of the memory that it may; when it is full, "
                "publishes are refused"
            )
            limits.append(Limit("store_memory", used, most, warning * (used > _MEMORY * most)))
        if retention.archive_seconds and archived.first:
            age_ms = retention.archive_seconds * 1000
            old_ms = bounds.now_ms - archived.first.ms
            until = rfc3339(int(bounds.now_ms - _NEAR * age_ms))
            when = rfc3339(bounds.now_ms + int((1 - _NEAR) * age_ms))
            held_back = " (not while the legal hold lasts)" if retention.legal_hold else ""
            warning = f"events from before {until} will be removed for good until {when}{held_back}"
            limits.append(
                Limit(
                    "archive_age",
                    old_ms / 1000,
                    retention.archive_seconds,
                    warning * (old_ms > _NEAR * age_ms),
                )
            )
        trouble = await self._store.projects.trouble(project)
        return Usage(bounds.length, archived, counters, tuple(limits), trouble)


def _stored(limit: Limit, what: str, segment: int) -> Limit:
    if not is_over(limit.used, limit.most, segment):
        return limit
    return limit._replace(
        warning=f"the store holds {limit.used:,.0f} {what} and should hold {limit.most:,.0f}: "
        "is the archive reachable?"
    )


class UsageMonitor:
    """Looks at what all projects use, and logs what begins and ceases to be too much.

    Args:
        store: Knows the projects.
        usages: What they use.
        seen: Told what all of them use, after each round.
        interval_s: Between two rounds.
    """

    def __init__(
        self,
        store: ProjectStore,
        usages: UsageReader,
        seen: Callable[[dict[str, Usage]], None],
        *,
        interval_s: float = _WATCH_S,
    ) -> None:
        self._store = store
        self._usages = usages
        self._seen = seen
        self._interval_s = interval_s
        self._warned: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            try:
                await self.look()
            except ContexError as error:
                log.debug("usage_unknown", error=error.message)
            except Exception:
                log.exception("usage_unknown")
            await asyncio.sleep(self._interval_s)

    async def look(self) -> None:
        """One round.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        projects = [
            project
            for project in await self._store.projects()
            if target_project(project) == project
        ]
        found = {project: await self._usages.of(project) for project in projects}
        warned = set()
        for project, usage in found.items():
            for limit in usage.limits:
                if limit.warning:
                    warned.add((project, limit.name))
                    if (project, limit.name) not in self._warned:
                        log.warning(
                            "limit_near", project=project, limit=limit.name, warning=limit.warning
                        )
        for project, name in self._warned - warned:
            log.info("limit_kept", project=project, limit=name)
        self._warned = warned
        self._seen(found)

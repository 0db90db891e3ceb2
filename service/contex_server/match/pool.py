"""A matcher for each project in use: opened by its first user, closed a while after its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from contex_server.match.engine import MatchEngine
from contex_server.match.project_matcher import ProjectMatcher


@dataclass(slots=True, eq=False)
class _Lease:
    """A matcher, how many use it, and the timer that closes it when nobody does."""

    matcher: ProjectMatcher
    users: int = 0
    eviction: asyncio.TimerHandle | None = None


class MatcherPool:
    """The matchers of this process, and the engine that they share, which is closed with them.

    A matcher without users stays open for `idle_s`.
    """

    def __init__(
        self, engine: MatchEngine, start: Callable[[str], ProjectMatcher], *, idle_s: float
    ) -> None:
        self.engine = engine
        self._start = start
        self._idle_s = idle_s
        self._leases: dict[str, _Lease] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many projects have a matcher here."""
        return len(self._leases)

    @asynccontextmanager
    async def matcher(self, project: str) -> AsyncIterator[ProjectMatcher]:
        """The project's matcher."""
        lease = self._leases.get(project)
        if lease is None or lease.matcher.failed:
            lease = self._leases[project] = _Lease(self._start(project))
        lease.users += 1
        if lease.eviction is not None:
            lease.eviction.cancel()
            lease.eviction = None
        try:
            await lease.matcher.started()
            yield lease.matcher
        finally:
            lease.users -= 1
            if not lease.users and lease.matcher.failed:
                self._evict(lease)
            elif not lease.users:
                loop = asyncio.get_running_loop()
                lease.eviction = loop.call_later(self._idle_s, self._evict, lease)

    def open_matcher(self, project: str) -> ProjectMatcher | None:
        """The project's matcher if it has one already."""
        lease = self._leases.get(project)
        return None if lease is None else lease.matcher

    def _evict(self, lease: _Lease) -> None:
        project = lease.matcher.project
        if self._leases.get(project) is lease:
            del self._leases[project]
        task = asyncio.create_task(lease.matcher.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes every matcher."""
        for lease in list(self._leases.values()):
            if lease.eviction is not None:
                lease.eviction.cancel()
            self._evict(lease)
        await asyncio.gather(*self._closing)
        await self.engine.close()

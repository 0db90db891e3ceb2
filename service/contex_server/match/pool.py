"""A matcher for each project in use: opened by its first user, closed a while after its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from contex_server.events.hub import Hub
from contex_server.log.agents import AgentStore
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.match.engine import MatchEngine
from contex_server.match.project_matcher import ProjectMatcher
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.score import Scorer


@dataclass(slots=True, eq=False)
class _Lease:
    """A matcher, how many use it, and the timer that closes it when nobody does."""

    matcher: ProjectMatcher
    users: int = 0
    eviction: asyncio.TimerHandle | None = None


class MatcherPool:
    """The matchers of this process.

    Args:
        event_log: The log.
        state: The latest event of each key.
        agents: The registrations.
        hub: Live events.
        embeddings: Encodings of needs and data.
        scorer: The formula.
        feed_bytes: Size of each agent's window of live deliveries.
        idle_s: How long a matcher without users stays open.
        on_model_in_use: Called with a project and its model when a matcher has been built.
    """

    def __init__(
        self,
        event_log: EventLog,
        state: StateStore,
        agents: AgentStore,
        hub: Hub,
        embeddings: Embeddings,
        scorer: Scorer,
        *,
        feed_bytes: int,
        idle_s: float,
        on_model_in_use: Callable[[str, str], None] = lambda _project, _model: None,
    ) -> None:
        self.engine = MatchEngine(event_log, state, agents, embeddings, scorer)
        self._hub = hub
        self._feed_bytes = feed_bytes
        self._on_model_in_use = on_model_in_use
        self._idle_s = idle_s
        self._leases: dict[str, _Lease] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many projects have a matcher here."""
        return len(self._leases)

    @asynccontextmanager
    async def matcher(self, project: str) -> AsyncIterator[ProjectMatcher]:
        """The project's matcher.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        lease = self._leases.get(project)
        if lease is None or lease.matcher.failed:
            lease = self._leases[project] = _Lease(
                ProjectMatcher(
                    project,
                    self.engine,
                    self._hub,
                    feed_bytes=self._feed_bytes,
                    on_model_in_use=self._on_model_in_use,
                )
            )
        lease.users += 1
        if lease.eviction is not None:
            lease.eviction.cancel()
            lease.eviction = None
        try:
            await lease.matcher.started()
            yield lease.matcher
        finally:
            lease.users -= 1
            if not lease.users:
                if lease.matcher.failed:
                    self._evict(lease)
                else:
                    lease.eviction = asyncio.get_running_loop().call_later(
                        self._idle_s, self._evict, lease
                    )

    def open_matcher(self, project: str) -> ProjectMatcher | None:
        """The project's matcher if it has one already."""
        lease = self._leases.get(project)
        return None if lease is None else lease.matcher

    def matchers(self) -> list[ProjectMatcher]:
        """All open matchers."""
        return [lease.matcher for lease in self._leases.values()]

    def _evict(self, lease: _Lease) -> None:
        project = lease.matcher.project
        if self._leases.get(project) is lease:
            del self._leases[project]
        task = asyncio.create_task(lease.matcher.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes every matcher."""
        leases = list(self._leases.values())
        self._leases.clear()
        for lease in leases:
            if lease.eviction is not None:
                lease.eviction.cancel()
        await asyncio.gather(*(lease.matcher.close() for lease in leases), *self._closing)
        await self.engine.close()

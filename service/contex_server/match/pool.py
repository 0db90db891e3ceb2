"""A matcher for each project in use: opened by its first user, closed a while after its last.

All of them together are bounded in bytes: beyond that, the ones without users go, least recently
used first. The one used last stays however large it is, since building it takes long.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from contex_server.match.engine import MatchEngine
from contex_server.match.project_matcher import ProjectMatcher

_RECOUNT_S = 10.0


@dataclass(slots=True, eq=False)
class _Lease:
    """A matcher, how many use it, and the timer that closes it when nobody does.

    Its size is as of when it was last counted.
    """

    matcher: ProjectMatcher
    users: int = 0
    nbytes: int = 0
    eviction: asyncio.TimerHandle | None = None


class MatcherPool:
    """The matchers of this process, and the engine that they share, which is closed with them.

    A matcher without users stays open for `idle_s`, and while all take at most `max_bytes`. One
    that is being loaded is not idle, however long that takes: whoever gave up waiting comes again.
    """

    def __init__(
        self,
        engine: MatchEngine,
        start: Callable[[str], ProjectMatcher],
        *,
        idle_s: float,
        max_bytes: int,
    ) -> None:
        self.engine = engine
        self._start = start
        self._idle_s = idle_s
        self._max_bytes = max_bytes
        self._leases: OrderedDict[str, _Lease] = OrderedDict()  # the one used last at the end
        self.nbytes = 0
        """What all matchers take."""
        self.evicted = 0
        """How many have made room for others."""
        self._recount: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many projects have a matcher here."""
        return len(self._leases)

    @asynccontextmanager
    async def matcher(self, project: str) -> AsyncIterator[ProjectMatcher]:
        """The project's matcher."""
        lease = self._leases.get(project)
        if lease is None or lease.matcher.failed:
            if lease is not None:
                self._forget(lease)
            lease = self._leases[project] = _Lease(self._start(project))
            if self._recount is None:
                self._recount_later()
        lease.users += 1
        self._leases.move_to_end(project)
        if lease.eviction is not None:
            lease.eviction.cancel()
            lease.eviction = None
        try:
            await lease.matcher.started()
            self._make_room(lease)
            yield lease.matcher
        finally:
            lease.users -= 1
            if self._leases.get(project) is lease:
                self._leases.move_to_end(project)
            if not lease.users and lease.matcher.failed:
                self._evict(lease)
            elif not lease.users:
                self._evict_later(lease, self._idle_s)
            self._make_room(lease)

    def open_matcher(self, project: str) -> ProjectMatcher | None:
        """The project's matcher if it has one already."""
        lease = self._leases.get(project)
        return None if lease is None else lease.matcher

    def _evict_later(self, lease: _Lease, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        lease.eviction = loop.call_later(seconds, self._evict_if_idle, lease)

    def _evict_if_idle(self, lease: _Lease) -> None:
        matcher = lease.matcher
        left = self._idle_s
        if not matcher.is_loading:
            left += matcher.loaded_at - time.monotonic()
        if left > 0 and not matcher.failed:
            self._evict_later(lease, left)
        else:
            self._evict(lease)

    def _make_room(self, *counted: _Lease) -> None:
        """Counts some matchers anew, then drops what nobody uses until the rest fits."""
        for lease in counted:
            if self._leases.get(lease.matcher.project) is lease:
                size = lease.matcher.nbytes
                self.nbytes += size - lease.nbytes
                lease.nbytes = size
        if self.nbytes <= self._max_bytes:
            return
        for lease in list(self._leases.values())[:-1]:
            if not lease.users:
                self._evict(lease)
                self.evicted += 1
                if self.nbytes <= self._max_bytes:
                    return

    def _recount_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._recount = loop.call_later(_RECOUNT_S, self._recount_all)

    def _recount_all(self) -> None:
        """Those that listen for long grow meanwhile."""
        self._recount = None
        self._make_room(*self._leases.values())
        if self._leases:
            self._recount_later()

    def _forget(self, lease: _Lease) -> None:
        if self._leases.get(lease.matcher.project) is lease:
            del self._leases[lease.matcher.project]
            self.nbytes -= lease.nbytes

    def _evict(self, lease: _Lease) -> None:
        self._forget(lease)
        if lease.eviction is not None:
            lease.eviction.cancel()
            lease.eviction = None
        task = asyncio.create_task(lease.matcher.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes every matcher."""
        if self._recount is not None:
            self._recount.cancel()
        for lease in list(self._leases.values()):
            self._evict(lease)
        await asyncio.gather(*self._closing)
        await self.engine.close()

"""Which process decides for which agents: the processes of a deployment share all shards.

Each says a few times a second that it is there, and hears who else is. Of each shard the process is
in charge whose name has the highest hash with it (rendezvous hashing), so that a process that comes
or goes moves no more shards than it has to. The agents of a small project stay together. Opinions
may differ for a moment: what counts is the epoch that the store gives with a shard.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from uuid import uuid4

import structlog

from contex_server.inbox.decider import ProjectDecider
from contex_server.kernel.errors import ContexError
from contex_server.kernel.failures import Failures
from contex_server.log.inboxes import SHARDS, InboxStore, Shard

log = structlog.get_logger(__name__)

_LOOK_S = 0.5
_TTL_MS = 2_000
"""A process that is not heard of for so long is taken for dead."""
_EVERYWHERE_S = 30.0
"""How often projects are looked for that an earlier version did not list, and agents counted."""
_SMALL = 1_000
"""Projects with fewer agents are decided by one process."""

Start = Callable[[str, dict[int, Shard], str], ProjectDecider]


class Deciders:
    """The deciders of this process."""

    def __init__(self, store: InboxStore, start: Start) -> None:
        self.owner = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._store = store
        self._start = start
        self._deciders: dict[str, ProjectDecider] = {}
        self._members: list[str] = []
        self._sizes: dict[str, int] = {}
        self._hinted: set[str] = set()
        self._wake = asyncio.Event()
        self._failures = Failures("deciders_failed")
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """For how many projects this process decides."""
        return len(self._deciders)

    def all(self) -> list[ProjectDecider]:
        """Those of all projects for which this process decides."""
        return [*self._deciders.values()]

    @property
    def agents_behind(self) -> int:
        """How many agents' past or new needs are still being decided."""
        return sum(decider.agents_behind for decider in self._deciders.values())

    @property
    def lag_s(self) -> int:
        """How far the decider that is furthest behind is behind its log, in seconds of the log."""
        return max((decider.lag_s for decider in self._deciders.values()), default=0)

    def start(self) -> None:
        """Begins to take part."""
        self._task = asyncio.create_task(self._run(), name="contex-deciders")

    async def close(self) -> None:
        """Leaves: the others take over at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(ContexError):
            await self._store.join(self.owner, 0)
        deciders, self._deciders = [*self._deciders.values()], {}
        await asyncio.gather(*(decider.close() for decider in deciders))

    def hint(self, project: str) -> None:
        """A project has an agent, perhaps its first."""
        if project not in self._deciders:
            self._hinted.add(project)
            self._wake.set()

    def deleted(self, project: str) -> None:
        """A project was deleted, or has another log: its decider begins anew."""
        decider = self._deciders.pop(project, None)
        if decider is not None:
            decider.ended = True
            task = asyncio.create_task(decider.close())
            task.add_done_callback(lambda _: self._wake.set())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        everywhere = loop.time()
        while True:
            try:
                members = await self._store.join(self.owner, _TTL_MS)
                self._members = members if self.owner in members else [*members, self.owner]
                due = loop.time() >= everywhere
                projects = {*await self._store.with_agents(everywhere=due), *self._hinted}
                self._hinted.clear()
                if due:
                    self._sizes.clear()
                    everywhere = loop.time() + _EVERYWHERE_S
                else:
                    projects |= self._deciders.keys()
                await self._share(projects)
            except ContexError as error:
                log.debug("deciders_unshared", error=error.message)
            except Exception as error:
                self._failures.failed("", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _share(self, projects: Iterable[str]) -> None:
        """Takes the shards that are this process's, and gives up those that are not."""
        for project in sorted(projects):
            with self._failures.isolated(project):
                decider = self._deciders.get(project)
                if decider is not None and decider.ended:
                    del self._deciders[project]
                    await decider.close()
                    decider = None
                wanted = await self._wanted(project)
                if decider is not None and decider.shards.keys() != wanted:
                    del self._deciders[project]
                    await decider.close()
                    decider = None
                if decider is None and wanted:
                    shards = await self._store.take(project, self.owner, sorted(wanted))
                    if shards:
                        self._deciders[project] = self._start(project, shards, self.owner)

    async def _wanted(self, project: str) -> set[int]:
        """The shards that this process is in charge of."""
        if len(self._members) == 1:
            return set(range(SHARDS))
        if project not in self._sizes:
            self._sizes[project] = await self._store.count_agents(project)
        if self._sizes[project] < _SMALL:
            mine = self._in_charge(project) == self.owner
            return set(range(SHARDS)) if mine else set()
        return {s for s in range(SHARDS) if self._in_charge(f"{project} {s}") == self.owner}

    def _in_charge(self, what: str) -> str:
        return max(self._members, key=lambda member: _weight(member, what))


def _weight(member: str, what: str) -> bytes:
    return blake2b(f"{member} {what}".encode(), digest_size=8).digest()

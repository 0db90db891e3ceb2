"""Waits until agents have passed events.

All who wait in a process share what is read: an agent is looked at once for all who wait for it,
and the agents of a project together. They are looked at when this process hears that something was
decided for them or acknowledged by them, and by and by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from math import inf

from contex_server.inbox.progress import AgentProgress, Passing, ProgressReader, Standpoint
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, agent_not_found, shutting_down
from contex_server.kernel.model import Sequence
from contex_server.kernel.slices import sliced
from contex_server.log.agents import AgentStore
from contex_server.match.agent_codec import intact

_SHORTEST_S, _LONGEST_S = 0.02, 0.25
"""Between two looks at an agent that nothing is heard of."""
_AGENTS_PER_S = 1_000
"""As many agents of a project are looked at in a second at most."""
_AGENTS = 250
"""Agents whose registrations are read in one turn."""
COUNTED = 1_000
"""Entries of an inbox that are counted at most."""
Waited = tuple[bool, AgentProgress]
"""Whether an agent has passed an event, and how far it is."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """One who waits for an agent."""

    event: Sequence
    passing: Passing
    future: asyncio.Future[Waited]
    last: AgentProgress | None = None


@dataclass(slots=True, eq=False)
class _Agent:
    """An agent that is waited for.

    Attributes:
        due: When it is looked at next, by the event loop's clock.
        wait_s: How long after that again, if nothing is heard of it.
        looked: When it was looked at last.
        registered_ms: Tells it from later agents of its id.
    """

    due: float = inf
    wait_s: float = _SHORTEST_S
    looked: float = 0.0
    registered_ms: int = 0
    waiters: list[_Waiter] = field(default_factory=list)

    def hurry(self, waited: int) -> None:
        """Lets it be looked at soon, as one of `waited`: what comes together shares that."""
        soonest = self.looked + max(_SHORTEST_S, waited / _AGENTS_PER_S)
        self.due = min(self.due, max(asyncio.get_running_loop().time(), soonest))
        self.wait_s = _SHORTEST_S


class AgentWaiters:
    """Those who wait in this process."""

    def __init__(self, agents: AgentStore, progress: ProgressReader) -> None:
        self._store = agents
        self._progress = progress
        self._projects: dict[str, dict[str, _Agent]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}

    async def close(self) -> None:
        """Stops; nobody waits any more."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def heard(self, project: str, agent_ids: Container[str] | None) -> None:
        """Something was decided for some agents, or acknowledged by them; None are any."""
        agents = self._projects.get(project, {})
        for agent_id, agent in agents.items():
            if agent_ids is None or agent_id in agent_ids:
                agent.hurry(len(agents))
                self._wakes[project].set()

    async def wait(
        self,
        project: str,
        agent_id: str,
        event: Sequence,
        passing: Passing,
        timeout_s: float,
        drain: Drain,
    ) -> Waited:
        """Waits until an agent has passed an event, or the time is up.

        Raises:
            ContexError: AGENT_NOT_FOUND, SHUTTING_DOWN; what kept from looking, if that was so when
                the time was up.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(event, passing, loop.create_future())
        until = loop.time() + timeout_s

        def stop() -> None:
            if not waiter.future.done():
                waiter.future.set_exception(shutting_down())

        drain.add(stop)
        try:
            if drain.started:
                raise shutting_down()
            agent = self._add(project, agent_id, waiter)
            try:
                await asyncio.wait([waiter.future], timeout=max(until - loop.time(), 0))
            finally:
                agent.waiters.remove(waiter)
            if waiter.future.done():
                return waiter.future.result()
            if waiter.last is not None:
                return False, waiter.last
            found = await self._read(project, {agent_id: agent})
            if agent_id not in found:
                raise agent_not_found(project, agent_id)
            return found[agent_id].has_passed(event, passing), found[agent_id]
        finally:
            drain.remove(stop)
            if waiter.future.done():
                waiter.future.exception()  # Perhaps that of a shutdown, and nobody asks any more.

    def _add(self, project: str, agent_id: str, waiter: _Waiter) -> _Agent:
        agents = self._projects.setdefault(project, {})
        agent = agents.setdefault(agent_id, _Agent())
        agent.hurry(len(agents))
        agent.waiters.append(waiter)
        self._wakes.setdefault(project, asyncio.Event()).set()
        if project not in self._tasks:
            name = f"contex-waiters-{project}"
            self._tasks[project] = asyncio.create_task(self._run(project), name=name)
        return agent

    async def _run(self, project: str) -> None:
        """Looks at the agents of a project until nobody waits for one."""
        loop = asyncio.get_running_loop()
        agents, wake = self._projects[project], self._wakes[project]
        while agents:
            wake.clear()
            due = {i: agent for i, agent in agents.items() if agent.due <= loop.time()}
            try:
                await self._look(project, due)
            except Exception as error:
                # Who waits is told; whoever comes later is looked for by another task.
                for agent in agents.values():
                    for waiter in agent.waiters:
                        if not waiter.future.done():
                            waiter.future.set_exception(error)
                agents.clear()
                break
            for agent_id in [i for i, agent in agents.items() if not agent.waiters]:
                del agents[agent_id]
            if agents:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(min(agent.due for agent in agents.values())):
                        await wake.wait()
        del self._projects[project], self._wakes[project], self._tasks[project]

    async def _look(self, project: str, due: dict[str, _Agent]) -> None:
        now = asyncio.get_running_loop().time()
        longest_s = max(_LONGEST_S, len(self._projects[project]) / _AGENTS_PER_S)
        for agent in due.values():
            agent.wait_s = max(agent.wait_s, len(self._projects[project]) / _AGENTS_PER_S)
            agent.looked, agent.due = now, now + agent.wait_s
            agent.wait_s = min(2 * agent.wait_s, longest_s)
        due = {agent_id: agent for agent_id, agent in due.items() if agent.waiters}
        if not due:
            return
        try:
            found = await self._read(project, due)
        except ContexError:
            return  # The store is away; who waits for too long looks by itself, and is told.
        for agent_id, agent in due.items():
            for waiter in agent.waiters:
                if waiter.future.done():
                    continue
                progress = waiter.last = found.get(agent_id)
                if progress is None:
                    waiter.future.set_exception(agent_not_found(project, agent_id))
                elif progress.has_passed(waiter.event, waiter.passing):
                    waiter.future.set_result((True, progress))

    async def _read(self, project: str, agents: dict[str, _Agent]) -> dict[str, AgentProgress]:
        """How far some agents are, without those that are registered no more."""
        found: dict[str, AgentProgress] = {}
        for some in _chunks(agents):
            standpoints = []
            records = await self._store.some_agents(project, some)
            async for record in sliced(records.values()):
                for registered, acknowledged in intact(project, [record]):
                    agent_id, registered_ms = registered.agent_id, registered.registered_ms
                    agent = agents[agent_id]
                    agent.registered_ms = agent.registered_ms or registered_ms
                    # Another registration of its id is another agent.
                    if agent.registered_ms == registered_ms:
                        standpoints.append(Standpoint(agent_id, registered_ms, acknowledged))
            found |= await self._progress.read(project, standpoints, COUNTED)
        return found


def _chunks(agents: Iterable[str]) -> Iterator[list[str]]:
    every = iter(agents)
    while some := list(islice(every, _AGENTS)):
        yield some

"""When agents were last in contact, of those with an open stream: as long as it is open.

A process tells the store of all its streams together, every few seconds, and of those that have
ended. Whether an agent has expired is for the store to decide; see functions/agents.lua.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from contex_server.kernel.errors import ContexError, Reason, agent_not_found
from contex_server.kernel.failures import Failures
from contex_server.log.agents import AgentStore

_RENEW_S = 5.0
"""Longest time between two contacts of a stream; the store's functions know it as RENEWED_MS."""
_RENEWALS = 4
"""As often at least within the ttl of an agent."""
_SHORTEST_S = 0.2
_AGENTS = 500
"""Agents in one call: less than 2 ms of the store's time."""
_SOON_MS = 1
"""As if there were so short a ttl: contacts that could not be noted are tried again soon."""
_CLOSE_S = 2.0


class StreamContacts:
    """Keeps the agents that listen here from expiring."""

    def __init__(self, store: AgentStore) -> None:
        self._store = store
        self._open: dict[str, Counter[str]] = {}
        self._due: dict[str, float] = {}
        """When the streams of a project are renewed next, by the event loop's clock."""
        self._ended: dict[str, set[str]] = {}
        self._wake = asyncio.Event()
        self._failures = Failures("contacts_unnoted")
        self._task = asyncio.create_task(self._run(), name="contex-contacts")

    async def close(self) -> None:
        """Notes the contacts of streams that have ended just now, then stops."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._renew_due()

    @asynccontextmanager
    async def stream(self, project: str, agent_id: str) -> AsyncIterator[None]:
        """A stream of an agent, while the block lasts.

        Raises:
            ContexError: AGENT_NOT_FOUND.
        """
        agents = self._open.setdefault(project, Counter())
        agents[agent_id] += 1
        try:
            try:
                contact = await self._store.contact(project, [agent_id])
            except ContexError as error:
                # Streams go on when the store takes no writes, and then nothing expires.
                if error.reason is not Reason.STORE_FULL:
                    raise
                self._failures.failed(project, error)
                self._schedule(project, _SOON_MS)
            else:
                if contact.gone:
                    raise agent_not_found(project, agent_id)
                self._schedule(project, contact.shortest_ttl_ms)
            yield
        finally:
            agents[agent_id] -= 1
            if not agents[agent_id]:
                del agents[agent_id]
                self._ended.setdefault(project, set()).add(agent_id)
                self._wake.set()
            if not agents:
                self._open.pop(project, None)

    def _schedule(self, project: str, shortest_ttl_ms: int) -> None:
        """Lets a project be renewed often enough for its shortest ttl, or sooner as it is due."""
        wait_s = _RENEW_S
        if shortest_ttl_ms:
            wait_s = min(max(shortest_ttl_ms / 1000 / _RENEWALS, _SHORTEST_S), _RENEW_S)
        due = asyncio.get_running_loop().time() + wait_s
        if due < self._due.get(project, due + 1):
            self._due[project] = due
            self._wake.set()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(self._due.values(), default=None)):
                    await self._wake.wait()
            self._wake.clear()
            await self._renew_due()
            await asyncio.sleep(_SHORTEST_S / 4)  # Streams that end together share a call.

    async def _renew_due(self) -> None:
        now = asyncio.get_running_loop().time()
        due = {project for project, at in self._due.items() if at <= now}
        ended, self._ended = self._ended, {}
        for project in due | ended.keys():
            agents = {*ended.get(project, ())}
            if project in due:
                del self._due[project]
                agents |= {*self._open.get(project, ())}
            noted = False
            # The store is away, or full, for others as well: no agent expires meanwhile.
            with suppress(ContexError), self._failures.isolated(project):
                await self._renew(project, sorted(agents))
                noted = True
            if not noted:
                self._ended.setdefault(project, set()).update(ended.get(project, ()))
                self._schedule(project, _SOON_MS)

    async def _renew(self, project: str, agents: list[str]) -> None:
        shortest_ttl_ms = 0
        for start in range(0, len(agents), _AGENTS):
            contact = await self._store.contact(project, agents[start : start + _AGENTS])
            ttls = [ttl for ttl in (shortest_ttl_ms, contact.shortest_ttl_ms) if ttl]
            shortest_ttl_ms = min(ttls, default=0)
        if project in self._open:
            self._schedule(project, shortest_ttl_ms)

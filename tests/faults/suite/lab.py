"""A topology, running, and what can go wrong in it: a method for each kind of fault.

A method makes the fault, lets it last, and mends it; it returns who was hit. What a fault may take
of what was acknowledged is noted where it is known: a promotion takes what the promoted replica
did not have, a loss of power what the store had not yet written to its disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
from contex import AsyncClient, ContexError, Durability
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.faults.suite.model import Injected, Model
from tests.faults.suite.plan import Fault, Plan
from tests.process.servers import ServerProcess

MENDED_S = 90.0
PUT_OFF_S = 3.0
"""A store that syncs once a second lets a write to its file wait two seconds for a slow sync."""
UNSYNCED = frozenset({Durability.MEMORY})


class Lab:
    """Servers on a store.

    Attributes:
        servers: The servers.
        projects: Where is published.
    """

    def __init__(self, directory: Path, plan: Plan, model: Model) -> None:
        self.directory = directory
        self.plan = plan
        self.model = model
        self.servers: list[ServerProcess] = []
        self.projects = ["shop", "news"]

    async def start(self) -> None:
        """Starts the store, then the servers."""
        await self._start_store()
        for url in self._urls():
            flags = ("--redis-url", url) if url else ()
            if self.plan.topology == "workers":
                flags = ("--workers", "2")
            server = ServerProcess(self.directory / f"data-{len(self.servers)}", *flags)
            server.environment = {
                "CONTEX_CONFIRMING_REPLICAS": str(max(1, self.plan.replicas)),
                "CONTEX_REPLICATION_TIMEOUT_MS": "2000" if self.plan.replicas else "300",
            }
            self.servers.append(server)
            await server.start()
        await self.healthy()

    async def stop(self) -> None:
        """Ends everything that was started."""
        for server in self.servers:
            if server.running:
                children = psutil.Process(server.pid).children(recursive=True)
                await server.kill()
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
        await self._stop_store()

    def _urls(self) -> Sequence[str]:
        """The store's URL for each server; empty: the bundled store."""
        return [""]

    async def _start_store(self) -> None:
        pass

    async def _stop_store(self) -> None:
        pass

    async def inject(self, fault: Fault) -> None:
        """Makes a fault and mends it."""
        injected = Injected(fault.kind, "", self.model.now())
        self.model.faults.append(injected)
        make: Callable[[Fault, Injected], Awaitable[str]] = getattr(self, fault.kind)
        if fault.beside:
            other = replace(fault, kind=fault.beside, beside="")
            injected.victim, _ = await asyncio.gather(make(fault, injected), self.inject(other))
        else:
            injected.victim = await make(fault, injected)
        await self.healthy()
        injected.mended = self.model.now()

    def _may_lose_what_is_not_written(self, injected: Injected) -> None:
        """Notes that a store may be killed that puts off writing its file while it syncs it."""
        if self.plan.fsync == "everysec":
            injected.loses, injected.loses_from = UNSYNCED, self.model.now() - PUT_OFF_S

    async def healthy(self) -> None:
        """Returns when the store is whole and every server serves."""
        await self._store_is_whole()
        for server in self.servers:
            async with AsyncClient(server.target, timeout=2) as client:
                async with asyncio.timeout(MENDED_S):
                    while True:
                        with suppress(ContexError):
                            if await client.health() == "SERVING":
                                break
                        await asyncio.sleep(0.05)

    async def _store_is_whole(self) -> None:
        pass

    # -- of servers ------------------------------------------------------------------------------

    async def kill_server(self, fault: Fault, _: Injected) -> str:
        server = self.servers[fault.pick % len(self.servers)]
        workers = self._workers(server)
        if workers and fault.pick % 2:
            with suppress(psutil.NoSuchProcess):
                workers[fault.pick // 2 % len(workers)].kill()
            return "a worker"
        self._note_defects(server)
        await server.kill()
        await asyncio.sleep(fault.for_s)
        await server.start()
        return f"server {self.servers.index(server)}"

    async def pause_server(self, fault: Fault, _: Injected) -> str:
        server = self.servers[fault.pick % len(self.servers)]
        workers = [worker.pid for worker in self._workers(server)] or [server.pid]
        await paused(workers[fault.pick // 2 % len(workers)], fault.for_s)
        return f"server {self.servers.index(server)}"

    def _workers(self, server: ServerProcess) -> list[psutil.Process]:
        """Its worker processes, if it has some and is not ending just now."""
        if self.plan.topology == "workers":
            with suppress(psutil.NoSuchProcess):
                return server.children("spawn_main")
        return []

    def _note_defects(self, server: ServerProcess) -> None:
        self.model.oddities += [
            f"server {self.servers.index(server)} logged {line}"
            for line in server.log
            if line.get("event") in _DEFECTS or line.get("level") == "critical"
        ]

    def note_defects(self) -> None:
        """Looks for what no fault of others excuses in the servers' logs."""
        for server in self.servers:
            self._note_defects(server)


_DEFECTS = ("internal_error", "matcher_failed", "tailer_failed", "background_failed", "uncaught")


async def paused(pid: int, for_s: float) -> None:
    """Stops a process for some time."""
    try:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(for_s)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def filled(client: Redis, for_s: float) -> None:
    """Has a store take no writes for some time."""
    await client.config_set("maxmemory", 1)
    await asyncio.sleep(for_s)
    with suppress(RedisError, OSError):  # Killed with its server, it has forgotten it.
        await client.config_set("maxmemory", 0)

"""Topologies with a store of one server: the bundled one, and one's own behind proxies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis.asyncio import Redis

from tests.faults.proxy import Proxy
from tests.faults.stores import Valkey
from tests.faults.suite.lab import MENDED_S, UNSYNCED, Lab, filled, paused
from tests.faults.suite.model import Injected, Model
from tests.faults.suite.plan import Fault, Plan

_PROBE_S = 0.05


class Bundled(Lab):
    """A server with the store that it brings; also with two workers."""

    async def _store(self) -> int:
        """The process of the store, when there is one."""
        async with asyncio.timeout(MENDED_S):
            while True:
                with suppress(psutil.NoSuchProcess):
                    if found := self.servers[0].children("valkey-server"):
                        return int(found[0].pid)
                await asyncio.sleep(0.02)

    async def kill_store(self, fault: Fault, _: Injected) -> str:
        killed = await self._store()
        with suppress(ProcessLookupError):  # Its server may be killed beside it.
            os.kill(killed, signal.SIGKILL)
        while await self._store() == killed:
            await asyncio.sleep(0.02)
        return "the bundled store"

    async def pause_store(self, fault: Fault, _: Injected) -> str:
        await paused(await self._store(), fault.for_s)
        return "the bundled store"

    async def full_store(self, fault: Fault, _: Injected) -> str:
        path = self.servers[0].data_dir / "valkey" / "valkey.sock"
        async with Redis(unix_socket_path=str(path)) as client:
            await filled(client, fault.for_s)
        return "the bundled store"


class Pair(Lab):
    """Two servers on one store, each through a proxy of its own."""

    def __init__(self, directory: Path, plan: Plan, model: Model) -> None:
        super().__init__(directory, plan, model)
        self._store = Valkey(
            directory / "store", "--appendonly", "yes", "--appendfsync", plan.fsync
        )
        self._proxies = [Proxy(self._store.port) for _ in range(2)]

    def _urls(self) -> Sequence[str]:
        return [f"redis://127.0.0.1:{proxy.port}" for proxy in self._proxies]

    async def _start_store(self) -> None:
        await self._store.start()
        for proxy in self._proxies:
            await proxy.start()

    async def _stop_store(self) -> None:
        for proxy in self._proxies:
            with suppress(AssertionError):
                await proxy.stop()
        await self._store.stop()

    def _proxy(self, fault: Fault) -> tuple[Proxy, str]:
        number = fault.pick % len(self._proxies)
        return self._proxies[number], f"the connections of server {number}"

    async def kill_store(self, fault: Fault, injected: Injected) -> str:
        self._may_lose_what_is_not_written(injected)
        await self._store.kill()
        await asyncio.sleep(fault.for_s)
        await self._store.start()
        return "the store"

    async def pause_store(self, fault: Fault, _: Injected) -> str:
        await paused(self._store.pid, fault.for_s)
        return "the store"

    async def full_store(self, fault: Fault, _: Injected) -> str:
        await filled(self._store.client, fault.for_s)
        return "the store"

    async def lose_power(self, fault: Fault, injected: Injected) -> str:
        """Kills the store, and takes from its file what nobody was told to be on disk.

        That begins with the first of some probes that the store had not confirmed when its last
        reply passed; a store that syncs every write has confirmed all of them.
        """
        probes = _Probes(self._store.port, self.model)
        if self.plan.fsync == "everysec":
            await probes.send(1.2 + fault.pick % 700 / 1_000)
        self._mute(True)
        await asyncio.sleep(0.1)
        size = self._file().stat().st_size
        await asyncio.sleep(0.1)
        lost = probes.unconfirmed
        await self._store.kill()
        await probes.stop()
        content = self._file().read_bytes()
        if lost is not None:
            found = content.find(lost.value)
            size = found if found >= 0 else len(content)
            injected.loses, injected.loses_from = UNSYNCED, lost.safe
        os.truncate(self._file(), size)
        await asyncio.sleep(fault.for_s)
        await self._store.start()
        self._mute(False)
        return f"the store, with {len(content) - size} bytes of its file"

    def _mute(self, mute: bool) -> None:
        for proxy in self._proxies:
            proxy.mute = mute
            if not mute:
                proxy.cut()  # What it has swallowed is missing.

    def _file(self) -> Path:
        files = (self._store.directory / "appendonlydir").glob("*.incr.aof")
        return max(files, key=lambda file: file.stat().st_mtime)

    async def cut(self, fault: Fault, _: Injected) -> str:
        proxy, victim = self._proxy(fault)
        proxy.cut()
        return victim

    async def delay(self, fault: Fault, _: Injected) -> str:
        proxy, victim = self._proxy(fault)
        proxy.delay_s = 0.02 + fault.pick % 300 / 1_000
        await asyncio.sleep(fault.for_s)
        proxy.delay_s = 0
        return victim

    async def silence(self, fault: Fault, _: Injected) -> str:
        """Neither end learns of it; then both do."""
        proxy, victim = self._proxy(fault)
        proxy.silent = True
        await asyncio.sleep(fault.for_s)
        proxy.silent = False
        proxy.cut()
        return victim

    async def away(self, fault: Fault, _: Injected) -> str:
        proxy, victim = self._proxy(fault)
        proxy.close()
        await asyncio.sleep(fault.for_s)
        proxy.open = True
        return victim


@dataclass(frozen=True, slots=True)
class _Probe:
    """A write to a store.

    Attributes:
        value: What stands in its file.
        safe: Whatever was written before this time precedes a probe that was confirmed.
    """

    value: bytes
    safe: float


class _Probes:
    """Writes, one after the other, of which it is known whether they are on the store's disk."""

    def __init__(self, port: int, model: Model) -> None:
        self._port = port
        self._model = model
        self._tasks: list[tuple[float, asyncio.Task[None]]] = []

    async def send(self, for_s: float) -> None:
        """Writes for some time."""
        end = self._model.now() + for_s
        while self._model.now() < end:
            task = asyncio.create_task(self._confirmed(len(self._tasks)))
            self._tasks.append((self._model.now(), task))
            await asyncio.sleep(_PROBE_S)

    async def _confirmed(self, number: int) -> None:
        async with Redis(port=self._port) as client:
            await client.set("fault-suite", f"probe-{number}-")
            await client.execute_command("WAITAOF", 1, 0, 0)  # type: ignore[no-untyped-call]

    @property
    def unconfirmed(self) -> _Probe | None:
        """The first that isn't on disk for certain."""
        safe = 0.0
        for number, (sent, task) in enumerate(self._tasks):
            if not task.done():
                return _Probe(f"probe-{number}-".encode(), safe)
            safe = sent
        return None

    async def stop(self) -> None:
        """Ends those that wait."""
        await asyncio.gather(*(task for _, task in self._tasks), return_exceptions=True)

"""Topologies with a store of one server: the bundled one, and one's own behind proxies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from redis.asyncio import Redis

from tests.faults.proxy import Proxy
from tests.faults.stores import Valkey
from tests.faults.suite.lab import MENDED_S, PUT_OFF_S, UNSYNCED, Lab, filled, paused
from tests.faults.suite.model import Injected, Model
from tests.faults.suite.plan import Fault, Plan

_LOOK_S = 0.002
_SYNCED_S = 0.05
"""A sync takes less; the next one comes a second later."""


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
        """Kills the store, and takes from its file what it has not synced."""
        if self.plan.fsync == "everysec":
            size = await self._size_when_synced(0.2 + fault.pick % 500 / 1_000)
            injected.loses, injected.loses_from = UNSYNCED, self.model.now() - PUT_OFF_S
        else:
            # Whatever the servers were told is on disk; what they will never be told may not be.
            self._mute(True)
            await asyncio.sleep(0.1)
            size = self._file().stat().st_size
            await asyncio.sleep(0.1)
        await self._store.kill()
        cut = self._file().stat().st_size - size
        os.truncate(self._file(), size)
        await asyncio.sleep(fault.for_s)
        await self._store.start()
        self._mute(False)
        return f"the store, with {cut} bytes of its file"

    async def _size_when_synced(self, later_s: float) -> int:
        """The size that the file had at the last sync, which was so long ago; nothing that the
        store says passes from then on."""
        for _ in range(20):
            syncs = self._syncs()
            async with asyncio.timeout(MENDED_S):
                while self._syncs() == syncs:
                    await asyncio.sleep(_LOOK_S)
            size = self._file().stat().st_size
            await asyncio.sleep(_SYNCED_S)
            syncs = self._syncs()
            await asyncio.sleep(later_s)
            self._mute(True)
            await asyncio.sleep(0.02)
            if self._syncs() == syncs:
                return size
            self._mute(False)
        raise AssertionError("the store syncs all the time")

    def _syncs(self) -> int:
        """Grows whenever the store syncs its file: how often the thread that does had to wait.

        WAITAOF does not say it: see findings/waitaof-confirms-what-is-not-synced.sh.
        """
        for thread in Path(f"/proc/{self._store.pid}/task").iterdir():
            if (thread / "comm").read_text() == "bio_aof\n":
                status = (thread / "status").read_text()
                return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        raise AssertionError("the store has no thread that syncs")

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

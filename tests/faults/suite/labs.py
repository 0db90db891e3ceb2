"""The topologies, running, and what can go wrong in each: a method for each kind of fault.

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
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from contex import AsyncClient, ContexError, Durability
from contex_server.log.buckets import bucket_of
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.faults.proxy import Proxy
from tests.faults.stores import SERVICE, Cluster, Replicated, Valkey, until
from tests.faults.suite.model import Injected, Model
from tests.faults.suite.plan import Fault, Plan
from tests.process.servers import ServerProcess

MENDED_S = 90.0
_PUT_OFF_S = 3.0
"""A store that syncs once a second lets a write to its file wait two seconds for a slow sync."""
_PROBE_S = 0.05
_UNSYNCED = frozenset({Durability.MEMORY})
_UNREPLICATED = frozenset({Durability.MEMORY, Durability.FSYNC})


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
            injected.loses, injected.loses_from = _UNSYNCED, self.model.now() - _PUT_OFF_S

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
        workers = server.children("spawn_main")
        if workers and fault.pick % 2:
            workers[fault.pick // 2 % len(workers)].kill()
            return "a worker"
        self._note_defects(server)
        await server.kill()
        await asyncio.sleep(fault.for_s)
        await server.start()
        return f"server {self.servers.index(server)}"

    async def pause_server(self, fault: Fault, _: Injected) -> str:
        server = self.servers[fault.pick % len(self.servers)]
        workers = [worker.pid for worker in server.children("spawn_main")] or [server.pid]
        await _paused(workers[fault.pick // 2 % len(workers)], fault.for_s)
        return f"server {self.servers.index(server)}"

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
        await _paused(await self._store(), fault.for_s)
        return "the bundled store"

    async def full_store(self, fault: Fault, _: Injected) -> str:
        path = self.servers[0].data_dir / "valkey" / "valkey.sock"
        async with Redis(unix_socket_path=str(path)) as client:
            await _full(client, fault.for_s)
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
        await _paused(self._store.pid, fault.for_s)
        return "the store"

    async def full_store(self, fault: Fault, _: Injected) -> str:
        await _full(self._store.client, fault.for_s)
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
            injected.loses, injected.loses_from = _UNSYNCED, lost.safe
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


class Nodes(Lab):
    """A store of several nodes, some of them in charge."""

    store: Replicated | Cluster

    def _urls(self) -> Sequence[str]:
        return [self.store.url]

    async def _start_store(self) -> None:
        await self.store.start()

    async def _stop_store(self) -> None:
        await self.store.stop()

    async def _primaries(self) -> list[Valkey]:
        """The nodes that are in charge, now that the store is whole."""
        raise NotImplementedError

    async def _hand_over(self, primary: Valkey) -> None:
        """Has a replica promoted, in an orderly way."""
        raise NotImplementedError

    async def _replicas_of(self, primary: Valkey) -> list[Valkey]:
        found = await primary.info("replication")
        ports = [v["port"] for name, v in found.items() if name.startswith("slave") and name[5:]]
        return [server for server in self.store.servers if server.port in ports]

    async def _store_is_whole(self) -> None:
        await until(self._is_whole, MENDED_S)

    async def _is_whole(self) -> bool:
        """Whether each primary's replicas have all that it has now."""
        primaries = await self._primaries()
        for primary in primaries:
            told = await primary.info("replication")
            replicas = await self._replicas_of(primary)
            if told["role"] != "master" or len(replicas) != self.plan.replicas:
                return False
            for replica in replicas:
                state = await replica.info("replication")
                if state["master_link_status"] != "up":
                    return False
                if state["slave_repl_offset"] < told["master_repl_offset"]:
                    return False
        return True

    async def _primary(self, fault: Fault) -> Valkey:
        primaries = await self._primaries()
        return primaries[fault.pick % len(primaries)]

    async def _promoting(
        self, fault: Fault, injected: Injected, act: Callable[[Valkey], Awaitable[None]]
    ) -> str:
        """Does something to a primary, and notes whether another took over."""
        primary = await self._primary(fault)
        before = {server.port for server in await self._primaries()}
        # Until it is known that nobody does, somebody may.
        injected.loses, injected.loses_from = _UNREPLICATED, self.model.now() - 1
        await act(primary)
        await asyncio.sleep(1)
        await self._store_is_whole()
        promoted = before != {server.port for server in await self._primaries()}
        if not promoted:
            injected.loses = _UNSYNCED if self.plan.fsync == "everysec" else frozenset()
            injected.loses_from -= _PUT_OFF_S
        return f"primary {primary.port}" + (", a replica took over" if promoted else "")

    def _following(self, port: int) -> Sequence[str]:
        """How a replica that starts is told whom it follows, unless it knows."""
        return ()

    async def kill_primary(self, fault: Fault, injected: Injected) -> str:
        async def act(primary: Valkey) -> None:
            await primary.kill()
            await asyncio.sleep(fault.for_s)
            await primary.start()

        return await self._promoting(fault, injected, act)

    async def pause_primary(self, fault: Fault, injected: Injected) -> str:
        return await self._promoting(
            fault, injected, lambda primary: _paused(primary.pid, fault.for_s)
        )

    async def hand_over(self, fault: Fault, injected: Injected) -> str:
        return await self._promoting(fault, injected, self._hand_over)

    async def _replica(self, fault: Fault) -> Valkey:
        replicas = await self._replicas_of(await self._primary(fault))
        return replicas[fault.pick // 8 % len(replicas)]

    async def kill_replica(self, fault: Fault, _: Injected) -> str:
        replica = await self._replica(fault)
        found = await replica.info("replication")
        await replica.kill()
        await asyncio.sleep(fault.for_s)
        await replica.start(*self._following(found["master_port"]))
        return f"replica {replica.port}"

    async def pause_replica(self, fault: Fault, _: Injected) -> str:
        replica = await self._replica(fault)
        await _paused(replica.pid, fault.for_s)
        return f"replica {replica.port}"

    async def cut_clients(self, fault: Fault, _: Injected) -> str:
        primary = await self._primary(fault)
        with suppress(RedisError, OSError):
            await primary.ask("CLIENT", "KILL", "TYPE", "normal")
        return f"the clients of primary {primary.port}"

    async def full_store(self, fault: Fault, _: Injected) -> str:
        primary = await self._primary(fault)
        await _full(primary.client, fault.for_s)
        return f"primary {primary.port}"


class Watched(Nodes):
    """A primary with replicas and three Sentinels."""

    store: Replicated

    def __init__(self, directory: Path, plan: Plan, model: Model) -> None:
        super().__init__(directory, plan, model)
        options = ("--appendonly", "yes", "--appendfsync", plan.fsync)
        self.store = Replicated(directory / "store", replicas=plan.replicas, options=options)

    async def _primaries(self) -> list[Valkey]:
        named = set()
        for sentinel in self.store.sentinels:
            command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            _, port = await sentinel.ask(*command)
            named.add(int(port))
        if len(named) > 1:
            raise ConnectionError("the Sentinels do not agree yet")
        return [server for server in self.store.servers if server.port in named]

    def _following(self, port: int) -> Sequence[str]:
        return ("--replicaof", "127.0.0.1", str(port))

    async def _hand_over(self, primary: Valkey) -> None:
        await self._fail_over(primary)

    async def _fail_over(self, primary: Valkey, *how: str) -> None:
        async def accepted() -> bool:
            await self.store.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE, *how)
            return True

        # It is refused while the one before is recent, or no replica is known to be good.
        await until(accepted, MENDED_S)
        await self.store.new_primary(primary)

    async def coordinate(self, fault: Fault, _: Injected) -> str:
        """Has a replica promoted once it has all that the primary has taken, so nothing is lost."""
        primary = await self._primary(fault)
        await self._fail_over(primary, "COORDINATED")
        return f"primary {primary.port}"


class Sharded(Nodes):
    """A cluster of three primaries with a replica each."""

    store: Cluster

    def __init__(self, directory: Path, plan: Plan, model: Model) -> None:
        super().__init__(directory, plan, model)
        self.store = Cluster(directory / "cluster", fsync=plan.fsync)
        self.projects = ["shop", "news", "a"]

    async def _primaries(self) -> list[Valkey]:
        primaries = await self.store.primaries()
        if len(primaries) != 3:
            raise ConnectionError("not every shard has one primary")
        return primaries

    async def _is_whole(self) -> bool:
        for server in self.store.servers:
            state = await server.ask("CLUSTER", "INFO")
            nodes = await server.ask("CLUSTER", "NODES")
            if "cluster_state:ok" not in state or "fail" in nodes.replace("nofailover", ""):
                return False
        return await super()._is_whole()

    async def _hand_over(self, primary: Valkey) -> None:
        (replica,) = await self._replicas_of(primary)
        await replica.ask("CLUSTER", "FAILOVER")

        async def changed() -> bool:
            return bool((await replica.info("replication"))["role"] == "master")

        await until(changed)

    async def move_slots(self, fault: Fault, _: Injected) -> str:
        project = self.projects[fault.pick % len(self.projects)]
        slot = key_slot(f"{{{bucket_of(project)}}}".encode())
        source = await self.store.primary_of(slot)
        others = [server for server in await self._primaries() if server is not source]
        target = others[fault.pick // 8 % len(others)]
        if fault.pick // 2 % 2:
            await self.store.move(range(slot, slot + 1), target)
            return f"slot {slot} from {source.port} to {target.port}, key by key"
        name = await target.ask("CLUSTER", "MYID")
        command = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
        await source.ask(*command)

        async def moved() -> bool:
            return await self.store.primary_of(slot) is target

        await until(moved)
        return f"slot {slot} from {source.port} to {target.port}, at once"


LABS: dict[str, type[Lab]] = {
    "bundled": Bundled,
    "pair": Pair,
    "sentinel": Watched,
    "cluster": Sharded,
    "workers": Bundled,
}


async def _paused(pid: int, for_s: float) -> None:
    try:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(for_s)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def _full(client: Redis, for_s: float) -> None:
    await client.config_set("maxmemory", 1)
    await asyncio.sleep(for_s)
    with suppress(RedisError, OSError):  # Killed with its server, it has forgotten it.
        await client.config_set("maxmemory", 0)

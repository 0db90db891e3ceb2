"""Topologies whose store has several nodes: a primary with Sentinels, and a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from contex import Durability
from contex_server.log.buckets import bucket_of
from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.faults.stores import SERVICE, Cluster, Replicated, Valkey, until
from tests.faults.suite.lab import MENDED_S, PUT_OFF_S, UNSYNCED, Lab, filled, paused
from tests.faults.suite.model import Injected, Model
from tests.faults.suite.plan import Fault, Plan

_UNREPLICATED = frozenset({Durability.MEMORY, Durability.FSYNC})


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
            injected.loses = UNSYNCED if self.plan.fsync == "everysec" else frozenset()
            injected.loses_from -= PUT_OFF_S
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
            fault, injected, lambda primary: paused(primary.pid, fault.for_s)
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
        await paused(replica.pid, fault.for_s)
        return f"replica {replica.port}"

    async def cut_clients(self, fault: Fault, _: Injected) -> str:
        primary = await self._primary(fault)
        with suppress(RedisError, OSError):
            await primary.ask("CLIENT", "KILL", "TYPE", "normal")
        return f"the clients of primary {primary.port}"

    async def full_store(self, fault: Fault, _: Injected) -> str:
        primary = await self._primary(fault)
        await filled(primary.client, fault.for_s)
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

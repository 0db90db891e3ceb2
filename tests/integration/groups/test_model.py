"""Consumers that come and go get every delivery once, in their order, whatever happens."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack
from typing import Any

import pytest
from contex.v1 import consumer_pb2 as pb
from contex.v1.agent_service_pb2 import GetAgentContextRequest
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import store_unavailable
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.groups import RedisGroups
from contex_server.log.redis.start import ask
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.groups_model import Book
from tests.groups_world import A, Stream, World, delivery_of
from tests.integration.inbox.test_model import trim_often
from tests.integration.support import Api, GetAgentRequest, P, Words, order
from tests.thorough import one_of

LIMITS = Limits(ack_deadline_ms=(50, 3_600_000))


class StoredWorld(World):
    """A world that may look at the store."""

    store: Redis

    async def stored(self, kind: str) -> bytes:
        return next(iter([n async for n in self.store.scan_iter(f"ctx:*:{P}:{kind}:{A}")]), b"-")

    async def epoch(self) -> int:
        return int(await self.store.hget(await self.stored("group"), "epoch"))  # type: ignore[misc]


def fail_often(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Lets calls of the store fail, before they are done or after."""
    randomly = random.Random(world.randomly.random())

    def failing(name: str) -> None:
        call = getattr(RedisGroups, name)

        async def fail_perhaps(self: RedisGroups, *args: Any, **named: Any) -> Any:
            chance = 1.0 if world.over else randomly.random()
            if chance < 0.04:
                raise store_unavailable("it fails before")
            answer = await call(self, *args, **named)
            if chance < 0.08:
                raise store_unavailable("it fails after")
            return answer

        monkeypatch.setattr(RedisGroups, name, fail_perhaps)

    for name in ("open", "take", "settle", "redrive", "drop", "seek"):
        failing(name)


async def play(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    seed: int,
    *,
    rounds: int = 25,
    servers: int = 1,
    restarts: bool = False,
    orderly: bool = False,
    trims: bool = False,
    faults: pytest.MonkeyPatch | None = None,
    ailing: bool = False,
    **fields: Any,
) -> None:
    """Plays a random history, and checks that it holds together.

    Args:
        restarts: Servers are stopped, and others started.
        faults: Calls of the store fail.
        ailing: The store is killed, or full for a while.
    """
    randomly = random.Random(seed)
    calm = faults is None and not ailing
    world = StoredWorld(randomly, Book(calm=calm, orderly=orderly, trims=trims), **fields)
    if faults is not None:
        fail_often(faults, world)
    running = []
    async with AsyncExitStack() as stack:
        world.store = await stack.enter_async_context(Redis.from_url(valkey.url))

        async def start() -> None:
            server = await start_server(
                valkey.url,
                embedder=Words(),
                limits=LIMITS,
                shutdown_grace_s=0.1,
                delivery_records=not trims,
            )
            running.append(server)
            world.apis.append(await stack.enter_async_context(Api.of(server)))

        async def restart() -> None:
            await start()
            del world.apis[0]
            await running.pop(0).stop()

        async def ail() -> None:
            while await ask(valkey.url, "PING") != b"PONG":  # It may have been killed before.
                await asyncio.sleep(0.02)
            if randomly.randrange(2):
                assert valkey.pid is not None
                os.kill(valkey.pid, signal.SIGKILL)
                return
            used = (await world.store.info("memory"))["used_memory"]
            await world.store.config_set("maxmemory", used // 2)
            await asyncio.sleep(0.3)
            await world.store.config_set("maxmemory", 0)

        do = ail if ailing else restart if restarts else None
        for _ in range(servers):
            await start()
        await world.begin()
        try:
            async with asyncio.timeout(60):
                await world.play(rounds, do)
                last = await world.finish()
                await check(world, last)
        except BaseException:
            print("\n".join(world.book.trace))
            print(*world.book.faults, sep="\n")
            raise
        if world.book.faults:
            print("\n".join(world.book.trace))
        assert world.book.faults == []


async def check(world: StoredWorld, last: Stream) -> None:
    """What holds once everything is settled."""
    api, store = world.api(), world.store
    listening = api.listen(A, after_sequence="0")
    await listening.live()
    await listening.cancel()
    inbox = [delivery_of(each) for each in listening.matched]
    parked = await world.parked()
    aside = {delivery_of(each.matched) for each in parked} | world.dropped
    world.book.check(inbox, aside, world.since, world.after)
    request = pb.GetConsumerGroupRequest(project=P, agent_id=A)
    for _ in range(500):  # Those that have left are forgotten soon.
        group = await api.agents.GetConsumerGroup(request)
        if len(group.consumers) == 1:
            break
        await asyncio.sleep(0.02)
    assert (group.outstanding_count, group.delayed_count, group.waiting_count) == (0, 0, 0)
    assert group.backlog_count == 0
    assert group.lag_ms == 0
    missed = group.missed
    assert len(world.passed) <= (
        missed.superseded_count + missed.dropped_count + missed.removed_count
    )
    assert group.parked_count == len(parked)
    assert [each.name for each in group.consumers] == ["last"]
    assert [each.outstanding_count for each in group.consumers] == [0]
    for kind in ("inbox", "again"):
        name = await world.stored(kind)
        assert (await store.xpending(name, "consumers"))["pending"] == 0, kind
        assert {each["name"] for each in await store.xinfo_consumers(name, "consumers")} <= {
            b"last",
            b"~waiting",
        }
    assert await store.xlen(await world.stored("again")) == 0
    for kind in ("busy", "due", "waiting"):
        assert await world.stored(kind) == b"-", kind
    if not (world.seeks or world.changes or world.lives or world.book.trims):
        known = await api.agents.GetAgentContext(GetAgentContextRequest(project=P, agent_id=A))
        holds: dict[str, tuple[int, int]] = {}
        for each in inbox:
            if each.kind == "MATCH_KIND_DELETED":
                holds.pop(each.data_key, None)
            elif each.data_key:
                holds[each.data_key] = each.sequence
        assert {each.data_key: order(each.sequence) for each in known.known} == holds
    if inbox:
        agent = None
        for _ in range(100):
            agent = (await api.agents.GetAgent(GetAgentRequest(project=P, agent_id=A))).agent
            if order(agent.acknowledged_sequence) >= max(each.sequence for each in inbox):
                break
            await last.credit(1_000)
        assert agent is not None
        assert order(agent.acknowledged_sequence) >= max(each.sequence for each in inbox)
    await last.finish()
    async with asyncio.timeout(10):
        while (await api.agents.GetConsumerGroup(request)).consumers:
            await asyncio.sleep(0.02)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(50))
async def test_one_server(start_server: StartServer, valkey: EmbeddedValkey, seed: int) -> None:
    await play(start_server, valkey, seed, parks=seed % 2 == 0, orderly=seed % 3 == 0)


@pytest.mark.parametrize("seed", one_of(*range(50)))
async def test_two_servers(start_server: StartServer, valkey: EmbeddedValkey, seed: int) -> None:
    await play(start_server, valkey, seed, servers=2, seeks=True, restarts=seed % 3 == 0)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(30))
async def test_changed_needs(start_server: StartServer, valkey: EmbeddedValkey, seed: int) -> None:
    await play(start_server, valkey, seed, changes=True, seeks=seed % 2 == 0)


@pytest.mark.parametrize("seed", one_of(*range(50)))
async def test_a_store_that_fails(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = 1 + seed % 2
    await play(start_server, valkey, seed, servers=servers, seeks=seed % 3 == 0, faults=monkeypatch)


@pytest.mark.parametrize("seed", one_of(*range(50)))
async def test_inboxes_that_are_trimmed(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trim_often(monkeypatch, seed)
    faults = monkeypatch if seed % 4 == 3 else None
    await play(
        start_server,
        valkey,
        seed,
        trims=True,
        seeks=seed % 3 == 0,
        changes=seed % 4 == 2,
        faults=faults,
    )


@pytest.mark.parametrize("seed", one_of(*range(30)))
async def test_agents_that_leave_and_come_back(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int
) -> None:
    await play(start_server, valkey, seed, lives=True, servers=1 + seed % 2)


@pytest.mark.own_store
@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(30))
async def test_a_store_that_is_killed_or_full(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int
) -> None:
    await play(start_server, valkey, seed, ailing=True, servers=1 + seed % 2, seeks=seed % 3 == 0)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(100))
async def test_everything_at_once(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = random.Random(-seed - 1)
    if trims := pick.random() < 0.5:
        trim_often(monkeypatch, seed)
    await play(
        start_server,
        valkey,
        seed,
        servers=pick.choice([1, 2]),
        restarts=pick.random() < 0.5,
        trims=trims,
        faults=monkeypatch if pick.random() < 0.6 else None,
        seeks=pick.random() < 0.5,
        changes=pick.random() < 0.3,
        lives=pick.random() < 0.3,
        parks=pick.random() < 0.7,
    )

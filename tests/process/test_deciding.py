"""Servers are killed while they decide what agents get: nothing is lost, or decided twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable

import grpc
import pytest
from contex_server.log.embedded import EmbeddedValkey

from tests.inbox_world import Vocabulary, World
from tests.integration.support import Api
from tests.process.conftest import NewServer
from tests.process.servers import ServerProcess
from tests.thorough import one_of

WORDS = Vocabulary(
    (
        "reading and writing zip archives",
        "zip archives that are compressed",
        "secure sockets with TLS encryption",
        "calendars of months and years",
    ),
    ("zip archives", "TLS sockets", "calendars"),
    (0.5,),
)
SOON = ("grpc.max_reconnect_backoff_ms", 100), ("grpc.initial_reconnect_backoff_ms", 50)
HANDED_OVER_S = 6.0
"""Within which a process that was killed is missed, and another one decides."""


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    seed = request.node.callspec.params["seed"]
    roles = {"on": "online", "off": "offline", "cur": "cursor"}
    world = World(WORDS, roles, random.Random(seed), frozenset({"off"}))
    yield world
    await world.close()
    for api in world.apis:
        await api.channel.close()


async def attempt(work: Awaitable[None]) -> None:
    """Does something that a dying server may not answer."""
    try:
        async with asyncio.timeout(2):
            await work
    except (grpc.aio.AioRpcError, TimeoutError):
        pass


@pytest.mark.parametrize("seed", one_of(*range(6)))
async def test_what_was_decided_stays_though_the_server_is_killed(
    server: ServerProcess, world: World, seed: int
) -> None:
    """Before a decision is written and after: of events, and of new needs and what they bring."""
    world.apis.append(Api.at(server.port, *SOON))
    await world.begin()
    await world.play(10)
    lives = [["deciding", "decided", "decided"]]
    if seed:
        lives += [["decided"] * 5, ["deciding", *["decided"] * 4], ["decided", "deciding"]]
    for places in lives:
        await server.kill()
        for number, place in enumerate(places):
            server.environment = {"CONTEX_FAILPOINT": f"{place}=0"}
            await server.start()
            if number == 0:
                await asyncio.gather(attempt(world.publish()), attempt(world.change("off")))
            while server.running:
                await attempt(world.publish())
            assert await server.ended() == -9
        server.environment = {}
        await server.start()
        await world.api().channel.channel_ready()
        await world.forget_lost("off")
        await world.play(5)
    await world.check()


@pytest.mark.parametrize("seed", one_of(*range(3)))
async def test_another_server_decides_on(
    new_server: NewServer, valkey: EmbeddedValkey, world: World, seed: int
) -> None:
    """Of two servers on a store, each is killed in turn while the other takes what is published."""
    one, other = (new_server("--redis-url", valkey.url) for _ in range(2))
    await asyncio.gather(one.start(), other.start())
    apis = {server: Api.at(server.port, *SOON) for server in (one, other)}
    world.apis = [*apis.values()]
    await world.begin()
    for killed, left in ((one, other), (other, one)):
        world.apis = [apis[left]]
        killing = asyncio.create_task(killed.kill())
        await world.play(10)
        await killing
        async with asyncio.timeout(HANDED_OVER_S):
            await (await world.api().listen("off").live()).cancel()
        await killed.start()
        await apis[killed].channel.channel_ready()
        world.apis = [*apis.values()]
        await world.play(5)
    await world.check()

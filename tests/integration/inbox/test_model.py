"""What agents get equals what a model computes from the log, however they read it."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from contex_server.inbox import behind, decider, deciders, ledger, steps, trimming
from contex_server.inbox.trimming import Trimmer
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis import inboxes
from contex_server.log.redis.inboxes import RedisInboxes

from tests.conftest import StartServer
from tests.inbox_world import Vocabulary, World
from tests.integration.support import Api, Words
from tests.thorough import one_of

WORDS = Vocabulary(
    (
        "alpha",
        "beta",
        "alpha beta",
        "gamma delta",
        "alpha gamma delta epsilon",
        "gamma delta epsilon zeta",
        "omega",
    ),
    ("alpha", "beta", "gamma", "zeta", "alpha beta", "alpha gamma", "omega epsilon"),
    # With the last two, some texts meet a need only within the margin.
    (0.02, 0.02, 0.965, 0.98),
)
ROLES = {
    "one": "online",
    "two": "online",
    "off": "offline",
    "cur": "cursor",
    "ack": "acknowledging",
    "con": "conflating",
}


async def play(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    seed: int,
    *,
    rounds: int,
    servers: int = 1,
    restarts: int = 0,
    trims: bool = False,
) -> None:
    """Plays a random history, and checks all inboxes and readers."""
    world = World(WORDS, ROLES, random.Random(seed), erases=True, seeks=True, trims=trims)
    running = []
    async with AsyncExitStack() as stack:

        async def start() -> None:
            server = await start_server(
                valkey.url,
                embedder=Words(),
                index_idle_s=0.05,
                shutdown_grace_s=0.1,
                delivery_records=not trims,  # Or what is acknowledged is kept for days.
            )
            running.append(server)
            world.apis.append(await stack.enter_async_context(Api.of(server)))

        stack.push_async_callback(world.close)
        for _ in range(servers):
            await start()
        await world.begin()
        for turn in range(restarts + 1):
            if turn:
                await running.pop(0).stop()
                await start()
                del world.apis[0]
            await world.play(rounds // (restarts + 1))
        await world.check()


@pytest.mark.parametrize("seed", one_of(*range(20)))
async def test_inboxes_hold_what_the_model_says(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int
) -> None:
    await play(start_server, valkey, seed, rounds=50)


@pytest.mark.parametrize("seed", one_of(*range(10)))
async def test_inboxes_across_restarts(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int
) -> None:
    await play(start_server, valkey, seed, rounds=40, restarts=2)


@pytest.mark.parametrize("seed", one_of(*range(10)))
async def test_inboxes_of_two_servers(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int
) -> None:
    await play(start_server, valkey, seed, rounds=40, servers=2, restarts=1)


def trim_often(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Lets inboxes be trimmed all the time, by more or less."""
    randomly = random.Random(seed)

    async def look_at(self: Trimmer, agent_ids: list[str]) -> None:
        self._bound = randomly.choice([0, 500, 1_000, 10_000])
        await look(self, agent_ids)

    look = Trimmer._look
    monkeypatch.setattr(Trimmer, "_look", look_at)
    monkeypatch.setattr(trimming, "_LOOK_S", 0.02)
    monkeypatch.setattr(trimming, "_LEAST", 3)


@pytest.mark.parametrize("seed", one_of(*range(20)))
async def test_inboxes_that_are_trimmed_meanwhile(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trim_often(monkeypatch, seed)
    servers, restarts = [(1, 0), (2, 1)][seed % 2]
    await play(
        start_server, valkey, seed, rounds=50, servers=servers, restarts=restarts, trims=True
    )


@pytest.mark.thorough
@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("seed", range(20))
async def test_inboxes_of_deciders_that_stop_anywhere(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    trims: bool,
) -> None:
    """Before what they decide is written, between its parts, and after; in small parts."""
    randomly = random.Random(seed)

    def stop_perhaps(_place: str) -> None:
        if randomly.random() < 0.05:
            raise decider.Fenced

    async def fill(self: RedisInboxes, *args: Any, commit: bool) -> bool:
        stop_perhaps("")
        return await decide(self, *args, commit=commit)

    decide = RedisInboxes._decide
    monkeypatch.setattr(RedisInboxes, "_decide", fill)
    monkeypatch.setattr(inboxes, "_ENTRIES", 2)
    monkeypatch.setattr(ledger, "reached", stop_perhaps)
    monkeypatch.setattr(decider, "_SPAN", 5)
    monkeypatch.setattr(behind, "_SPAN", 3)
    monkeypatch.setattr(steps, "_PART", 2)
    monkeypatch.setattr(deciders, "_LOOK_S", 0.02)
    if trims:
        trim_often(monkeypatch, seed)
    await play(start_server, valkey, seed, rounds=50, trims=trims)

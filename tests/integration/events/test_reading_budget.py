"""What readers of the log hold together is bounded, and no slow one holds up the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from contex_server.kernel.model import Range
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.pages import pages
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import DEADLINE_S, Api, P, Words, event

ROOM = 256 * 1024
EVENTS = 60


@pytest.fixture
async def tight(start_server: StartServer, valkey: EmbeddedValkey) -> Server:
    """A server whose readers hold few bytes, with more in a project."""
    server = await start_server(valkey.url, embedder=Words(), read_bytes=ROOM)
    async with Api.of(server) as api:
        for n in range(EVENTS):
            await api.publish(event(f"k{n}", b'"%s"' % (b"x" * 20_000)))
    return server


@pytest.fixture
async def tight_api(tight: Server) -> AsyncIterator[Api]:
    async with Api.of(tight) as api:
        yield api


async def test_readers_wait_for_bytes_and_give_them_back(tight: Server, tight_api: Api) -> None:
    budget = tight.rooms.storage.log.reading

    async def keys() -> list[str]:
        stream = tight_api.replay()
        await stream.to_end()
        return stream.keys

    async with asyncio.timeout(DEADLINE_S):
        everything = await asyncio.gather(*(keys() for _ in range(5)))
    assert everything == [[f"k{n}" for n in range(EVENTS)]] * 5
    assert budget.waited
    assert budget.held == 0


async def test_a_reader_that_takes_nothing_holds_up_nobody_for_long(tight: Server) -> None:
    log = tight.rooms.storage.log
    stalled = pages(log, P, Range(), max_events=100)
    await anext(stalled)
    async with asyncio.timeout(DEADLINE_S):
        read = [len(page.entries) async for page in pages(log, P, Range(), max_events=100)]
    assert sum(read) == EVENTS
    await stalled.aclose()
    assert log.reading.held == 0

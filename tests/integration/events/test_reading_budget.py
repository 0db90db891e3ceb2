"""What readers of the log hold together is bounded, and no slow one holds up the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from contex_server.kernel.model import Entry, Range, Sequence
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.pages import pages
from contex_server.server import Server
from contex_server.state.diff import data_of

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


async def test_the_events_of_a_state_are_read_in_parts_that_may_be_large(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.publish(*(event(f"k{n}") for n in range(300)))
    asked: list[int] = []
    events = server.rooms.storage.store.events
    get = events.get

    async def counted(project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        asked.append(len(requested := list(sequences)))
        return await get(project, requested)

    monkeypatch.setattr(events, "get", counted)
    rooms = server.rooms
    _, state = await rooms.state.reader.read(P, None)
    keys = [f"k{n}" for n in range(300)]
    data = [d async for d in data_of(rooms.storage.log, P, state, keys, events=True)]
    assert len(data) == 300
    assert max(asked) == 64

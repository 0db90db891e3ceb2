from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from contex_server.agents import journal_reader
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis import client
from contex_server.server import Server
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.integration.support import Api, Words


@pytest.fixture
def api(channel: grpc.aio.Channel) -> Api:
    """The services of `server`."""
    return Api(channel)


@pytest.fixture
def words() -> Words:
    """An embedder that counts shared words, and can be made to fail."""
    return Words()


@pytest.fixture
async def word_server(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> AsyncIterator[Server]:
    """A server that matches by shared words; its matchers close as soon as they are idle."""
    return await start_server(valkey.url, embedder=words, index_idle_s=0.05)


@pytest.fixture
async def word_api(word_server: Server) -> AsyncIterator[Api]:
    """The services of `word_server`."""
    async with Api.of(word_server) as api:
        yield api


@pytest.fixture
def short_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after 32 entries of a journal, and pages of 32: ask for it before the server."""
    text, shipped = client._FUNCTIONS, "CHECKPOINT_ENTRIES = 256"
    assert shipped in text
    monkeypatch.setattr(client, "_FUNCTIONS", text.replace(shipped, "CHECKPOINT_ENTRIES = 32"))
    monkeypatch.setattr(journal_reader, "_PAGE", 32)


@pytest.fixture
async def store(valkey: EmbeddedValkey) -> AsyncIterator[Any]:
    """The store, behind the server's back."""
    client = Redis.from_url(valkey.url)
    yield client
    await client.aclose()


@pytest.fixture
async def small_server(start_server: StartServer, valkey: EmbeddedValkey) -> Server:
    """A server whose segments and snapshots hold ten events."""
    return await start_server(
        valkey.url, embedder=Words(), segment_events=10, snapshot_events=10, index_idle_s=0.05
    )


@pytest.fixture
async def small_api(small_server: Server) -> AsyncIterator[Api]:
    """The services of `small_server`."""
    async with Api.of(small_server) as api:
        yield api

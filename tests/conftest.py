"""Real servers for the tests: the bundled Valkey and gRPC over a socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from contex_server.kernel.config import Settings
from contex_server.log.embedded import EmbeddedValkey
from contex_server.matching.embedders.minilm import MiniLM
from contex_server.matching.embedders.port import Embedder, Role, Vector
from contex_server.quota.limits import LimitsOf
from contex_server.server import Server
from hypothesis import settings
from redis.asyncio import Redis

from tests.canaries import captured_logs, check_for_canaries

# Tests run beside each other: how long an example takes says nothing.
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile("quick")

# Tests are about something else, unless they ask for access.
os.environ["CONTEX_ACCESS"] = "false"

_SLOW = ("tests/process", "tests/budgets", "tests/golden", "tests/docs", "tests/integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no process ends long after the others."""

    def place(item: pytest.Item) -> int:
        return next((i for i, name in enumerate(_SLOW) if item.nodeid.startswith(name)), len(_SLOW))

    items.sort(key=place)


StartServer = Callable[..., Coroutine[Any, Any, Server]]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory with a short name: Unix sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="ctx"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def running_store(directory: Path) -> AsyncIterator[EmbeddedValkey]:
    """A bundled Valkey, for the `async with` block."""
    store = EmbeddedValkey(directory)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


@asynccontextmanager
async def fresh_store() -> AsyncIterator[EmbeddedValkey]:
    """The same, in a directory of its own."""
    # A short name: Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ctx") as directory:
        async with running_store(Path(directory)) as store:
            yield store


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_valkey() -> AsyncIterator[EmbeddedValkey]:
    """A bundled Valkey for one test after the other: see `valkey`."""
    async with fresh_store() as store:
        yield store


@pytest.fixture
async def valkey(
    request: pytest.FixtureRequest, shared_valkey: EmbeddedValkey, data_dir: Path
) -> AsyncIterator[EmbeddedValkey]:
    """A bundled Valkey that is empty.

    A test that stops it, kills it or changes its configuration is marked `own_store`.
    """
    if request.node.get_closest_marker("own_store"):
        async with running_store(data_dir) as store:
            yield store
        return
    async with Redis.from_url(shared_valkey.url) as client:
        await client.flushall()
    yield shared_valkey


class _LeftOpen:
    """An embedder that outlives the servers that use it, one after the other."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.model_id = embedder.model_id
        self.dimension = embedder.dimension
        self.max_tokens = embedder.max_tokens

    async def start(self) -> None:
        await self._embedder.start()

    async def embed(self, texts: Any, role: Role) -> Vector:
        return await self._embedder.embed(texts, role)

    async def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def minilm() -> Iterator[Embedder]:
    """The default model, loaded once."""
    model = MiniLM()
    model.load()
    yield _LeftOpen(model)
    asyncio.run(model.close())


@pytest.fixture
async def start_server(
    minilm: Embedder, tmp_path: Path, valkey: EmbeddedValkey
) -> AsyncIterator[StartServer]:
    """Starts servers in this process: `await start_server(store_url, **settings)`.

    They are stopped after the test, and before its store: without one, a server that stops
    waits for it. The test fails if one of them met a defect of its own.
    """
    servers: list[Server] = []

    async def start(
        url: str,
        *,
        embedder: Embedder | None = None,
        previous: tuple[Embedder, ...] = (),
        quotas: LimitsOf | None = None,
        **settings: Any,
    ) -> Server:
        if embedder is not None and embedder.model_id.startswith("words"):
            # Where vectors count shared words, sharing one is what a test means by a match,
            # however much better another datum fits; no word in common is below 0.01.
            settings.setdefault("match_threshold", 0.02)
        settings.setdefault("data_dir", tmp_path)
        chosen = Settings(**{"port": 0, "shutdown_grace_s": 1.0, **settings})
        server = await Server.start(
            chosen, url, embedder=embedder or minilm, previous=previous, quotas=quotas
        )
        servers.append(server)
        return server

    with captured_logs() as logs:
        yield start
        for server in reversed(servers):
            if not server.drain.started:
                await server.stop()
    assert [entry for entry in logs if entry["event"] in _DEFECTS] == []
    check_for_canaries(logs)


_DEFECTS = (
    "internal_error",
    "matcher_failed",
    "tailer_failed",
    "background_failed",
    "decision_out_of_order",
)


@pytest.fixture
async def server(start_server: StartServer, valkey: EmbeddedValkey) -> Server:
    """A server on a store of its own."""
    return await start_server(valkey.url)


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `server`."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as opened:
        yield opened

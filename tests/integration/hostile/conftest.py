"""One server for all cases of a module."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from contex_server.kernel.config import Settings
from contex_server.matching.embedders.port import Embedder
from contex_server.server import Server

from tests.canaries import captured_logs, check_for_canaries
from tests.conftest import running_store
from tests.integration.hostile.scene import AGENT, Scene
from tests.integration.support import Api, event


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(minilm: Embedder) -> AsyncIterator[Scene]:
    # A short name: Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ctx") as name, captured_logs() as logs:
        directory = Path(name)
        async with running_store(directory) as store:
            settings = Settings(port=0, data_dir=directory)
            server = await Server.start(settings, store.url, embedder=minilm)
            async with Api.of(server) as api:
                for i in range(3):
                    await api.publish(event(f"k{i}"))
                await api.register(AGENT, "a need")
                yield Scene(server, api, logs)
            await server.stop()
            check_for_canaries(logs)


@pytest_asyncio.fixture(loop_scope="module")
async def unharmed(scene: Scene) -> AsyncIterator[Scene]:
    """The scene, which must be the same after the test, and the server must answer."""
    scene.defects.clear()
    before, count = await scene.state(), await scene.count()
    yield scene
    assert await scene.state() == before
    assert await scene.count() == count
    check_for_canaries(scene.defects)
    assert [entry for entry in scene.defects if entry["event"] == "internal_error"] == []

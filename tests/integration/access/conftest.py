from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.integration.access.support import Deployment
from tests.integration.support import Words


@pytest.fixture
async def deployment(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words, tmp_path: Path
) -> AsyncIterator[Deployment]:
    """A server that asks callers who they are."""
    started = await Deployment.start(start_server, valkey.url, tmp_path, embedder=words)
    yield started
    await started.close()


@pytest.fixture
async def second(
    deployment: Deployment,
    start_server: StartServer,
    valkey: EmbeddedValkey,
    words: Words,
    tmp_path: Path,
) -> AsyncIterator[Deployment]:
    """Another server on the same store."""
    started = await Deployment.start(start_server, valkey.url, tmp_path, embedder=words)
    yield started
    await started.close()

"""Real servers for the tests: the bundled Valkey and gRPC over a socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from contex_server.log.embedded import EmbeddedValkey


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory with a short name: Unix sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="ctx"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def valkey(data_dir: Path) -> AsyncIterator[EmbeddedValkey]:
    """A bundled Valkey of the test's own."""
    store = EmbeddedValkey(data_dir)
    await store.start()
    yield store
    await store.stop()

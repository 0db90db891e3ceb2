from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from tests.canaries import check_for_canaries
from tests.process.servers import ServerProcess

NewServer = Callable[..., ServerProcess]


@pytest.fixture
async def new_server(data_dir: Path) -> AsyncIterator[NewServer]:
    """Server processes on the test's data directory; what is left of them is killed."""
    servers: list[ServerProcess] = []

    def new(*flags: str, port: int = 0, directory: Path = data_dir) -> ServerProcess:
        servers.append(ServerProcess(directory, *flags, port=port))
        return servers[-1]

    yield new
    for server in servers:
        check_for_canaries(server.log)
        if server.running:
            children = psutil.Process(server.pid).children(recursive=True)
            await server.kill()
            for child in children:
                if child.is_running():
                    child.kill()


@pytest.fixture
async def server(new_server: NewServer) -> ServerProcess:
    started = new_server()
    await started.start()
    return started

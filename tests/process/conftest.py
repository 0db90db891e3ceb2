from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import contex.channel
import psutil
import pytest

from tests.canaries import check_for_canaries
from tests.process.servers import ServerProcess

NewServer = Callable[..., ServerProcess]


@pytest.fixture(autouse=True)
def _clients_try_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not up to 5 s after a server that was killed has come back."""
    soon = ("grpc.max_reconnect_backoff_ms", 200)
    options = contex.channel.channel_options
    monkeypatch.setattr(
        "contex._async.transport.channel_options",
        lambda *args, **named: [*dict([*options(*args, **named), soon]).items()],
    )
    monkeypatch.setattr("contex.backoff.CAP_S", 0.2)


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

"""The peers' servers, installed for one run: on loopback only, with their data on the same disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.processes import ROOT, ended

UMADB = "0.7.8"
NATS_SERVER = "v2.12.1"
NATS_PY = "2.16.0"
_INSTALL_S = 600.0
_START_S = 30.0
_NATS_CONFIG = """
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{directory}", sync_interval: always }}
"""


class NotInstalled(Exception):
    """A peer can't be installed here; `str()` says why in one line."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is measured."""

    target: str
    cpu_s: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Client:
    """What writes the loads to one of the servers.

    Attributes:
        python: Runs it.
    """

    name: str
    python: Path
    module: str

    async def start(self, target: str, load: str) -> asyncio.subprocess.Process:
        """Starts it; it waits for a line before it starts its clock."""
        return await asyncio.create_subprocess_exec(
            *(str(self.python), "-m", self.module, target, load),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )


@dataclass(frozen=True, slots=True)
class Peer(Client):
    """What Contex is measured beside.

    Attributes:
        serve: Starts it on an empty directory below the one given.
    """

    serve: Callable[[Path], AbstractAsyncContextManager[Running]]


async def install_umadb(folder: Path) -> Peer:
    """UmaDB: the package has the server and the client."""
    bin_ = await _environment(folder / "umadb", f"umadb=={UMADB}")

    def command(port: int, directory: Path) -> Sequence[str]:
        return (
            *(str(bin_ / "umadb"), "--listen", f"127.0.0.1:{port}"),
            *("--db-path", str(directory / "uma.db")),
        )

    return Peer(f"UmaDB {UMADB}", bin_ / "python", "benchmarks.peers.to_umadb", _server(command))


async def install_nats(folder: Path) -> Peer:
    """NATS JetStream, which syncs each message: the server is built, so it takes minutes."""
    if shutil.which("go") is None:
        raise NotInstalled("no go command, which builds nats-server")
    module = f"github.com/nats-io/nats-server/v2@{NATS_SERVER}"
    # No toolchain but the one that is here.
    settings = {"GOBIN": str(folder), "GOTOOLCHAIN": "local"}
    await _run(("go", "install", module), settings)
    bin_ = await _environment(folder / "nats", f"nats-py=={NATS_PY}")

    def command(port: int, directory: Path) -> Sequence[str]:
        config = directory / "nats.conf"
        config.write_text(_NATS_CONFIG.format(port=port, directory=directory))
        return (str(folder / "nats-server"), "--config", str(config))

    name = f"JetStream {NATS_SERVER.removeprefix('v')}"
    return Peer(name, bin_ / "python", "benchmarks.peers.to_nats", _server(command))


async def _environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with these packages; returns where its programs are."""
    await _run(("python3", "-m", "venv", str(folder)))
    pip = (str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check")
    await _run((*pip, *packages))
    return folder / "bin"


async def _run(command: Sequence[str], settings: dict[str, str] | None = None) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(settings or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = b""
    try:
        async with asyncio.timeout(_INSTALL_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise NotInstalled(f"{' '.join(command)} took more than {_INSTALL_S:g} s") from None
    finally:
        await ended(process)
    if process.returncode:
        last = (said.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise NotInstalled(f"{' '.join(command)} failed: {last}")


def _server(
    command: Callable[[int, Path], Sequence[str]],
) -> Callable[[Path], AbstractAsyncContextManager[Running]]:
    @asynccontextmanager
    async def serve(parent: Path) -> AsyncIterator[Running]:
        directory, port = Path(tempfile.mkdtemp(prefix="peer-bench-", dir=parent)), _free_port()
        try:
            with (directory / "log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    *command(port, directory),
                    cwd=directory,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            try:
                await _reachable(process, port, directory / "log")
                yield Running(f"127.0.0.1:{port}", _cpu_of(process.pid))
            finally:
                await ended(process)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    return serve


def _cpu_of(pid: int) -> Callable[[], float]:
    process = psutil.Process(pid)

    def cpu_s() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    return cpu_s


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def _reachable(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    end = asyncio.get_running_loop().time() + _START_S
    while True:
        if process.returncode is not None or asyncio.get_running_loop().time() > end:
            said = await asyncio.to_thread(log.read_text, errors="replace")
            raise RuntimeError(f"it does not serve: {said}")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)

"""The processes that are measured: a real `contex serve`, and a bare gRPC server beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.connections import Connections, connect

_START_S = 60.0
_STOP_S = 15.0
ROOT = Path(__file__).resolve().parent.parent


class ProcessFailed(Exception):
    """A measured process did not start or ended by itself."""


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """Processor time, user and system, that was used since the start."""

    server: float
    store: float

    def __sub__(self, earlier: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.server - earlier.server, self.store - earlier.store)


class Measured:
    """A running server.

    Attributes:
        target: Where clients connect.
        log: The lines that it has written so far.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: list[str]) -> None:
        self.target = f"127.0.0.1:{port}"
        self.log = log
        self._server = psutil.Process(process.pid)
        self._store = next((c for c in self._server.children() if "valkey" in c.name()), None)

    def cpu(self) -> CpuSeconds:
        """Processor time so far."""
        return CpuSeconds(_cpu(self._server), _cpu(self._store) if self._store else 0.0)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._server.pid

    def kill(self) -> None:
        """Ends the server with SIGKILL."""
        self._server.kill()

    def memory_bytes(self) -> int:
        """Resident memory of the server, without its store.

        On Linux without file-backed pages: they are shared, and the kernel drops those
        that nobody has used for a while, whatever the server does.
        """
        try:
            status = Path(f"/proc/{self._server.pid}/status").read_text()
        except OSError:
            return int(self._server.memory_info().rss)
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class ContexServer(Measured):
    """`contex serve` on the bundled store.

    Attributes:
        data_dir: Its data directory.
        store_socket: The store's Unix socket, for ceilings against the very same store.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, log: list[str], data_dir: Path
    ) -> None:
        super().__init__(process, port, log)
        self.data_dir = data_dir
        self.store_socket = data_dir.resolve() / "valkey" / "valkey.sock"

    def store(self) -> Connections:
        """Connections to the store."""
        return connect(f"unix://{self.store_socket}")


@asynccontextmanager
async def contex_server(
    parent_dir: Path,
    *,
    profile: Path | None = None,
    settings: Mapping[str, str] = {},
    checkout: Path = ROOT,
) -> AsyncIterator[ContexServer]:
    """A server with a fresh data directory below `parent_dir`, removed afterwards.

    Args:
        parent_dir: On a real disk: acknowledgements mean fsync.
        profile: Where cProfile's statistics of the server's event loop go.
        settings: CONTEX_* variables; everything else is the default.
        checkout: Where the server's code is, with its `.venv`.
    """
    data_dir = Path(tempfile.mkdtemp(prefix="contex-bench-", dir=parent_dir))
    arguments = ("serve", "--port", "0", "--data-dir", str(data_dir), "--log-format", "json")
    try:
        entry = ("benchmarks.profiled", str(profile)) if profile else _entry(checkout)
        command = ("-m", *entry, *arguments)
        async with _process(command, settings, checkout) as (process, port, log):
            yield ContexServer(process, port, log, data_dir)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


@asynccontextmanager
async def shared_store(parent_dir: Path) -> AsyncIterator[str]:
    """A store that several servers share, and that outlives each; yields its URL."""
    data_dir = Path(tempfile.mkdtemp(prefix="contex-bench-", dir=parent_dir))
    store = EmbeddedValkey(data_dir)
    try:
        await store.start()
        yield store.url
    finally:
        await store.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def _entry(checkout: Path) -> tuple[str]:
    """The module that is `contex` in a checkout: before 0.2 it was in the server."""
    former = checkout / "service" / "contex_server" / "cli" / "__main__.py"
    return ("contex_server.cli",) if former.exists() else ("contex_server",)


@asynccontextmanager
async def bare_server(response_bytes: int = 0) -> AsyncIterator[Measured]:
    """A bare grpc.aio server, see bare.py; unary answers have `response_bytes`."""
    async with _process(("-m", "benchmarks.bare", str(response_bytes))) as (process, port, log):
        yield Measured(process, port, log)


@asynccontextmanager
async def _process(
    arguments: Sequence[str],
    settings: Mapping[str, str] = {},
    checkout: Path = ROOT,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, list[str]]]:
    """Runs Python until the block ends; it says where it serves in a line of JSON."""
    # The server's settings are its defaults, whatever the shell has set; but callers prove nothing.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONTEX_")}
    environment |= {"CONTEX_ACCESS": "false", **settings}
    process = await asyncio.create_subprocess_exec(
        sys.executable if checkout == ROOT else str(checkout / ".venv" / "bin" / "python"),
        *arguments,
        cwd=checkout,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    log: list[str] = []
    serving: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    reader = asyncio.create_task(_follow(process, log, serving))
    try:
        async with asyncio.timeout(_START_S):
            port = await serving
        yield process, port, log
    finally:
        await ended(process)
        await reader


async def _follow(
    process: asyncio.subprocess.Process, log: list[str], serving: asyncio.Future[int]
) -> None:
    assert process.stderr is not None
    async for raw in process.stderr:
        line = raw.decode(errors="replace").rstrip()
        log.append(line)
        if not serving.done() and '"serving"' in line:
            serving.set_result(int(json.loads(line)["port"]))
    if not serving.done():
        serving.set_exception(ProcessFailed("\n".join(log)))


async def ended(process: asyncio.subprocess.Process) -> None:
    """Ends a process that was started here, gently at first."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

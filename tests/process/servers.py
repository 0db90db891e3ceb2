"""Server processes of the tests' own."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
from contex import AsyncClient, ContexError

from tests.process import prepared

_PREPARED = multiprocessing.get_context("forkserver")
_PREPARED.set_forkserver_preload([prepared.__name__])


class ServerProcess:
    """A `contex serve` on a data directory and a port that stay the same when it is restarted."""

    def __init__(self, data_dir: Path, *flags: str, port: int = 0) -> None:
        self.data_dir = data_dir
        self.port = port
        self.flags = flags
        self.environment: dict[str, str] = {}
        self.log: list[dict[str, Any]] = []
        self._process: ForkServerProcess | None = None
        self._running: asyncio.Task[int] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._running is not None and not self._running.done()

    def children(self, name: str) -> list[psutil.Process]:
        found = psutil.Process(self.pid).children(recursive=True)
        return [child for child in found if name in " ".join(child.cmdline())]

    async def start(self) -> None:
        self.log = []
        arguments = ["--log-format", "json", "--data-dir", str(self.data_dir)]
        arguments += ["--port", str(self.port), *self.flags]
        log, theirs = _PREPARED.Pipe(duplex=False)
        self._process = _PREPARED.Process(
            target=prepared.serve, args=(arguments, os.environ | self.environment, theirs)
        )
        # In a thread: the first of all waits until the modules are loaded.
        await asyncio.to_thread(self._process.start)
        theirs.close()
        self._running = asyncio.create_task(self._run(self._process, log))
        serving = await self.logged("serving")
        self.port = serving["port"]

    async def _run(self, process: ForkServerProcess, log: Connection) -> int:
        """Reads its log to the end, and returns its exit code."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), log
        )
        try:
            async for line in reader:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"event": "", "text": line.decode()})
        finally:
            transport.close()
        await asyncio.to_thread(process.join)
        assert process.exitcode is not None
        return process.exitcode

    async def logged(self, event: str, count: int = 1, timeout: float = 120) -> dict[str, Any]:
        """Waits for the `count`-th line of this event."""
        until = time.monotonic() + timeout
        while True:
            found = [line for line in self.log if line.get("event") == event]
            if len(found) >= count:
                return found[count - 1]
            assert self.running, f"the server ended: {self.log}"
            assert time.monotonic() < until, f"{event} not in {timeout} s: {self.log}"
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Sends a signal; returns the exit code and the seconds it took."""
        started = time.monotonic()
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        code = await self.ended()
        return code, time.monotonic() - started

    async def ended(self) -> int:
        """Waits until it ends by itself; returns its exit code."""
        assert self._running is not None
        return await asyncio.shield(self._running)


async def eventually(holds: Callable[[], bool], timeout: float = 30) -> None:
    async with asyncio.timeout(timeout):
        while not holds():
            await asyncio.sleep(0.02)


async def healthy(client: AsyncClient, timeout: float = 30) -> None:
    async with asyncio.timeout(timeout):
        while True:
            try:
                if await client.health() == "SERVING":
                    return
            except ContexError:
                pass
            await asyncio.sleep(0.05)

"""Server processes of the tests' own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from contex import AsyncClient, ContexError


class ServerProcess:
    """A `contex serve` on a data directory and a port that stay the same when it is restarted."""

    def __init__(self, data_dir: Path, *flags: str, port: int = 0) -> None:
        self.data_dir = data_dir
        self.port = port
        self._flags = flags
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.log: list[dict[str, Any]] = []

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self, name: str) -> list[psutil.Process]:
        found = psutil.Process(self.pid).children(recursive=True)
        return [child for child in found if name in " ".join(child.cmdline())]

    async def start(self) -> None:
        self.log = []
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "contex_server.cli", "serve", "--log-format", "json"),
            *("--data-dir", str(self.data_dir), "--port", str(self.port), *self._flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read())
        serving = await self.logged("serving")
        self.port = serving["port"]

    async def logged(self, event: str, count: int = 1, timeout: float = 60) -> dict[str, Any]:
        """Waits for the `count`-th line of this event."""
        async with asyncio.timeout(timeout):
            while True:
                found = [line for line in self.log if line.get("event") == event]
                if len(found) >= count:
                    return found[count - 1]
                assert self._reader is not None
                assert not self._reader.done(), f"the server ended: {self.log}"
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Sends a signal; returns the exit code and the seconds it took."""
        assert self._process is not None
        assert self._reader is not None
        started = time.monotonic()
        if self._process.returncode is None:
            # Not Popen's method: it polls, and may take the exit code from asyncio's watcher.
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
        code = await self._process.wait()
        took = time.monotonic() - started
        await self._reader
        return code, took

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "", "text": line.decode()})


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

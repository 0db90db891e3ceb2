"""A real server process of the demo: `contex serve` on a free loopback port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from contex import AsyncClient, DeadlineExceeded, Unavailable

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 15.0
_POLL_S = 0.02


class ServerFailed(Exception):
    """The server did not start or stop as it should; `str()` tells, with the end of its log."""


class ServerProcess:
    """Starts `contex serve` on one port and data directory, kills it, and starts it again."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "server.log"
        self._data_dir = directory / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._port}"

    def admin_key(self) -> str:
        """The key that it made at its first start."""
        return (self._data_dir / "admin.key").read_text().strip()

    async def start(self) -> float:
        """Starts it and waits until it serves; returns the seconds that took."""
        started = time.monotonic()
        process = await asyncio.to_thread(self._spawn)
        while time.monotonic() < started + _START_LIMIT_S:
            if (code := process.poll()) is not None:
                raise ServerFailed(self._with_log(f"ended with exit code {code}"))
            # A new channel each time: one that has failed waits before it tries again.
            async with AsyncClient(self.target, timeout=1.0) as client:
                with suppress(Unavailable, DeadlineExceeded):
                    if await client.health() == "SERVING":
                        return time.monotonic() - started
            await asyncio.sleep(_POLL_S)
        raise ServerFailed(self._with_log(f"did not serve within {_START_LIMIT_S:g} s"))

    def kill(self) -> None:
        """Ends the server at once, with all its workers, as kill -9 does."""
        assert self._process is not None
        _kill(self._process)

    async def stop(self) -> float:
        """Stops it with SIGTERM; returns the seconds that took."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return 0.0
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(process.wait, _STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise ServerFailed(self._with_log(f"did not stop within {_STOP_LIMIT_S:g} s")) from None
        if code:
            raise ServerFailed(self._with_log(f"stopped with exit code {code}"))
        return time.monotonic() - started

    def destroy(self) -> None:
        """Makes sure that nothing of it is left running."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _kill(process)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "contex_server", "serve"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--data-dir", str(self._data_dir), "--log-format", "json"]
        # Settings of the user's own server are not for this one.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CONTEX_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # A group of its own: Ctrl-C reaches the demo, which then stops it in order.
                start_new_session=True,
            )
        return self._process

    def _with_log(self, what: str) -> str:
        try:
            last = self.log.read_text(errors="replace").splitlines()[-5:]
        except OSError:
            last = []
        return "\n".join([f"the server {what}", *last])


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

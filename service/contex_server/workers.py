"""Several server processes on one port: spawned, supervised and restarted when they die."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import structlog

from contex_server.kernel.backoff import Backoff
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def report_until_ended(self, report: Callable[[], Any]) -> None:
        """Sends the supervisor what `report` returns, at once, which tells it that the worker
        serves, and then once a second; returns when the worker should stop."""
        while True:
            # In a thread: sending waits if the supervisor is busy.
            with suppress(ConnectionError):
                await asyncio.to_thread(self._connection.send, report())
            if self._ended.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._ended.wait()


Worker = Callable[[Lifeline], Awaitable[None]]
Reported = Callable[[int, Any], None]
"""Takes what worker n reported; None when that worker's process has ended."""


async def supervise(count: int, worker: Worker, stop: asyncio.Event, reported: Reported) -> None:
    """Keeps `count` processes running until `stop` is set.

    Args:
        count: The number of processes.
        worker: What each process runs; it is pickled.
        stop: Set when all are to stop.
        reported: Called with what each worker reports.

    Raises:
        StartupError: A worker died before any was serving; its log says why.
    """
    served = asyncio.Event()
    keepers = [
        asyncio.create_task(_keep(number, worker, served, reported)) for number in range(count)
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


async def _keep(number: int, worker: Worker, served: asyncio.Event, reported: Reported) -> None:
    backoff = Backoff(*_RESTART_S)
    while True:
        ours, theirs = _SPAWN.Pipe()
        name = f"contex-worker-{number}"
        process = _SPAWN.Process(target=_run, args=(worker, theirs), name=name)
        # Ctrl-C reaches the whole terminal group, and the supervisor decides. A signal that is
        # blocked here stays blocked in the new process, while it imports its modules. (Starting
        # multiprocessing's tracker would unblock it.)
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        try:
            report = await _received(ours)
            if report is not None:
                log.info("worker_serving", worker=number, pid=process.pid)
                served.set()
                backoff.reset()
                while report is not None:
                    reported(number, report)
                    report = await _received(ours)
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


def _run(worker: Worker, connection: Connection) -> None:
    async def main() -> None:
        await worker(Lifeline(connection))

    try:
        asyncio.run(main())
    except (StartupError, ContexError) as error:
        log.error("worker_failed", error=str(error))
        sys.exit(1)
    except Exception:
        log.critical("uncaught", exc_info=True)
        sys.exit(1)


async def _received(connection: Connection) -> Any:
    """What a worker reports next; None once its process has ended."""
    await _readable(connection.fileno())
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


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

"""Threads for matching: those of live matching, and scans that take turns on one of their own.

A scan, such as a backtest, may take minutes. It works in slices and asks for a turn for each.
Turns go round by project, then by caller, then in the order of asking, so nobody waits for the
backlog of others. Work on a project's live index is done one piece at a time, under its
matcher's lock, so there the order of asking is fair already.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple

from contex_server.kernel.right_of_way import RIGHT_OF_WAY, giving
from contex_server.matching.vectors import use_one_thread

S = TypeVar("S")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SLICE_S = 0.02
"""How long a slice goes on to take further items."""


class Worker(Protocol):
    """Where CPU-bound work is done."""

    async def work(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Does it in a thread.

        If the caller is cancelled, this still waits for the work to end: nobody else may touch
        the index it works on before that.
        """
        ...

    def paced(self, items: Iterator[T]) -> Iterator[T]:
        """Items as they are to be worked on in that thread, perhaps with pauses between them."""
        ...


class Threads:
    """A worker that takes work in the order of asking."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(
            count, thread_name_prefix=name, initializer=use_one_thread
        )

    async def work(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Worker.work`."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                await asyncio.wait([future])
            raise

    def paced(self, items: Iterator[T]) -> Iterator[T]:
        """See `Worker.paced`: without pauses."""
        return items

    async def close(self) -> None:
        """Waits for the threads to finish."""
        await asyncio.to_thread(self._executor.shutdown)


class Turns:
    """One thread for the scans of all projects and callers."""

    def __init__(self, name: str) -> None:
        self._threads = Threads(1, name)
        self._busy = False
        self._queues: OrderedDict[str, OrderedDict[Hashable, deque[asyncio.Future[None]]]]
        self._queues = OrderedDict()  # by project, then by caller: the next one first
        self.waiting = 0
        """How many wait for a turn."""

    def scan(self, project: str, caller: Hashable = None) -> Scan:
        """A worker for a scan of a project.

        Args:
            project: The project.
            caller: Who shares turns with other scans of theirs; None: nobody.
        """
        return Scan(self, project, object() if caller is None else caller)

    async def take(self, project: str, caller: Hashable) -> None:
        """Returns when it is this caller's turn, which lasts until `end`."""
        if not self._busy:
            self._busy = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(project, OrderedDict()).setdefault(caller, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.end()  # It came at the same moment.
            raise
        finally:
            self.waiting -= 1

    def end(self) -> None:
        """Gives the next one a turn."""
        while self._queues:
            project, callers = next(iter(self._queues.items()))
            caller, queue = next(iter(callers.items()))
            turn = queue.popleft()
            callers.move_to_end(caller)
            self._queues.move_to_end(project)
            if not queue:
                del callers[caller]
            if not callers:
                del self._queues[project]
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Works in the thread of whose turn it is."""
        return await self._threads.work(function, *args)

    async def close(self) -> None:
        """Waits for the thread to finish."""
        await self._threads.close()


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A worker that asks for a turn for each piece of work."""

    turns: Turns
    project: str
    caller: Hashable

    async def work(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """See `Worker.work`."""
        await self.turns.take(self.project, self.caller)
        try:
            await RIGHT_OF_WAY.give()
            return await self.turns.run(function, *args)
        finally:
            self.turns.end()

    def paced(self, items: Iterator[T]) -> Iterator[T]:
        """See `Worker.paced`: it gives way to publishing and delivering."""
        return giving(items)


async def each(worker: Worker, function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """What a function returns for each item, computed in slices."""
    todo, results = worker.paced(iter(items)), list[T]()
    while not await worker.work(_slice, function, todo, results):
        pass
    return results


def _slice(function: Callable[[S], T], todo: Iterator[S], results: list[T]) -> bool:
    """Goes on with the items for a while; whether all are done."""
    until = time.perf_counter() + SLICE_S
    for item in todo:
        results.append(function(item))
        if time.perf_counter() >= until:
            return False
    return True

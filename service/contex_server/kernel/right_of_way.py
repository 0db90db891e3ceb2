"""Publishing and delivering go first; work that takes long gives way.

Of all threads one runs at a time, the one that holds the interpreter. The event loop's thread has
to ask for it anew after each call to the system, some ten times for a publish, and waits for every
thread that computes. So of the exports and imports one computes at a time, in turns of `SLICE_S`,
and they and backtests pause while somebody publishes or is delivered to. After `MOST_S` one goes on
for a turn all the same, so that all end under a flood of publishes, too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SWITCH_S = 0.001
"""How long a thread may compute while another one waits for the interpreter; by default 5 ms."""
MOST_S = 0.05
SLICE_S = 0.005
LINGER_S = 0.01
"""What was published has yet to be delivered: for so long the way stays taken afterwards."""
_LOOK_S = 0.002
THREADS = 16
"""So many exports and imports have turns; the others wait for one of them to end a step."""


class _Turn:
    """One thread has it; the others get it in the order in which they asked."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._holder: int | None = None

    @property
    def is_mine(self) -> bool:
        return self._holder == threading.get_ident()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Has the turn for the `with` block."""
        self._take()
        try:
            yield
        finally:
            self._give()

    def pass_on(self) -> None:
        """Lets those who wait have theirs, if anybody does."""
        if self._waiting:
            self._give()
            self._take()

    def _take(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        with self._mutex:
            if self._holder is None:
                gate.release()
                self._holder = _SOMEBODY
            else:
                self._waiting.append(gate)
        gate.acquire()
        self._holder = threading.get_ident()

    def _give(self) -> None:
        with self._mutex:
            self._holder = _SOMEBODY if self._waiting else None
            if self._waiting:
                self._waiting.popleft().release()


_SOMEBODY = -1
"""Stands for a thread that has been given the turn and has yet to wake up."""


class RightOfWay:
    """Who goes first in this process, and those who give way."""

    def __init__(self) -> None:
        self._takers = 0
        self._until = 0.0
        self._turn = _Turn()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="contex-heavy")

    @property
    def is_taken(self) -> bool:
        """Whether somebody publishes or is delivered to."""
        return self._takers > 0 or time.perf_counter() < self._until

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Goes first, for the `with` block and a little longer; on the event loop."""
        self._takers += 1
        try:
            yield
        finally:
            self._takers -= 1
            self._until = time.perf_counter() + LINGER_S

    async def give(self) -> None:
        """Waits while the way is taken; on the event loop."""
        latest = time.perf_counter() + MOST_S
        while self.is_taken and time.perf_counter() < latest:  # noqa: ASYNC110 - ends with time
            await asyncio.sleep(_LOOK_S)

    def giving(self, items: Iterable[T]) -> Iterator[T]:
        """Items one by one; between them, others have their turns, and it waits while the way is
        taken. In a thread."""
        again = 0.0
        for item in items:
            yield item
            now = time.perf_counter()
            if now < again:
                continue
            if again and self._turn.is_mine:
                self._turn.pass_on()
            while self.is_taken and time.perf_counter() < now + MOST_S:
                time.sleep(_LOOK_S)
            again = time.perf_counter() + SLICE_S

    async def heavily(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Does what takes long, in a thread, when the way is free and by turns with the others."""
        await self.give()

        def work() -> T:
            with self._turn.held():
                return function(*args)

        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, work)


RIGHT_OF_WAY = RightOfWay()
"""Of this process: its threads share the interpreter."""
giving, heavily = RIGHT_OF_WAY.giving, RIGHT_OF_WAY.heavily

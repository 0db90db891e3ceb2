"""Publishing and delivering go first; work that takes long gives way.

Of all threads one runs at a time, the one that holds the interpreter. The event loop's thread has
to ask for it anew after each call to the system, some ten times for a publish, and waits for every
thread that computes. So the work of exports and imports is done in one thread for all of them, and
it and that of backtests pauses while somebody publishes or is delivered to. After `MOST_S` it goes
on for `SLICE_S` all the same, so that it ends under a flood of publishes, too.
"""

from __future__ import annotations

import asyncio
import time
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


class RightOfWay:
    """Who goes first in this process, and those who give way."""

    def __init__(self) -> None:
        self._takers = 0
        self._until = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="contex-heavy")

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
        """Items one by one; waits between them while the way is taken. In a thread."""
        again = 0.0
        for item in items:
            yield item
            if self.is_taken and (now := time.perf_counter()) >= again:
                while self.is_taken and time.perf_counter() < now + MOST_S:
                    time.sleep(_LOOK_S)
                again = time.perf_counter() + SLICE_S

    async def heavily(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Does what takes long, in a thread, when the way is free; one after the other."""
        await self.give()
        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._thread, run, function, *args)


RIGHT_OF_WAY = RightOfWay()
"""Of this process: its threads share the interpreter."""
giving, heavily = RIGHT_OF_WAY.giving, RIGHT_OF_WAY.heavily

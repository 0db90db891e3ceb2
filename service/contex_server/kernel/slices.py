"""Work on the event loop that grows with what a call is about, in slices.

What can't be cut, or would be done piece by piece for too long, goes to a thread instead
(`asyncio.to_thread`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar
from weakref import WeakKeyDictionary

from contex_server.kernel.work import owner

T = TypeVar("T")

SLICE_S = 0.005
"""Time after which the others have their turn. Not the processor time of the loop's thread: asking
for that costs as much as an event, and who is interrupted more often does no harm."""


class _Line:
    """Those whose slices are used up. In each turn of the loop one of them goes on, and owners have
    their turns one after the other: who publishes waits for one slice in each of the steps that it
    takes, not for one of every call, and nobody gets ahead by many calls."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._taken = False
        """Whether somebody has the next turn."""

    async def wait(self) -> None:
        """Returns when the next slice may begin."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._next, loop)
            await asyncio.sleep(0)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._queues.setdefault(owner(), deque()).append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._taken = False
        while self._queues and not self._taken:
            name, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            self._queues.move_to_end(name)
            if not queue:
                del self._queues[name]
            if not turn.done():
                turn.set_result(None)
                self._taken = True
                loop.call_soon(self._next, loop)  # Behind the slice that begins then.


_LINES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()


class Slices:
    """Lets other tasks run whenever a slice is used up."""

    def __init__(self) -> None:
        self._end = time.perf_counter() + SLICE_S

    def is_over(self) -> bool:
        """Whether a slice is used up."""
        return time.perf_counter() >= self._end

    async def pause(self) -> None:
        """Ends a slice that is used up; to be called after each piece of work."""
        if self.is_over():
            await _turn()
            self._end = time.perf_counter() + SLICE_S


async def _turn() -> None:
    """Waits in the line of this loop."""
    loop = asyncio.get_running_loop()
    line = _LINES.get(loop)
    if line is None:
        line = _LINES[loop] = _Line()
    await line.wait()


async def sliced(items: Iterable[T]) -> AsyncIterator[T]:
    """Items one by one, each worked on before the next; other tasks run between slices."""
    slices = Slices()
    for item in items:
        yield item
        if slices.is_over():
            await slices.pause()

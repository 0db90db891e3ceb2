"""Bytes that many share: what is beyond them waits its turn."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import TypeVar

T = TypeVar("T")


class Share:
    """What one holds of a budget, until it is given back."""

    __slots__ = ("_budget", "_size", "taken_s")

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self._size = size
        self.taken_s = time.monotonic()

    @property
    def size(self) -> int:
        """Bytes; 0 once it was given back or lent."""
        return self._size

    def resize(self, size: int) -> None:
        """Holds as many bytes instead, even beyond the budget: what is there already counts."""
        if self._size:
            self._budget.change(self, size - self._size)
            self._size = size

    def give_back(self) -> None:
        """Gives back what is left of it; harmless if that is nothing."""
        if self._size:
            self._budget.change(self, -self._size)
            self._size = 0


class ByteBudget:
    """Gives out shares in the order in which they were asked for.

    One who asks for more than there is altogether gets it when nobody else holds anything.

    Args:
        total: Bytes.
        lend_after_s: A share that is held for longer than this no longer counts while somebody
            waits: who is slow can't keep the others from going on.

    Attributes:
        held: Bytes that are given out.
        waiting: Bytes that are waited for.
        waited: How often a share was not there at once.
    """

    def __init__(self, total: int, *, lend_after_s: float = inf) -> None:
        self.total = total
        self.held = self.waiting = self.waited = 0
        self._lend_after_s = lend_after_s
        self._shares: dict[Share, None] = {}  # the oldest first
        self._queue: deque[tuple[int, asyncio.Future[Share]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def take_now(self, size: int) -> Share | None:
        """A share, if nobody has to wait for it."""
        if self._queue or not self._has(size):
            return None
        return self._share(size)

    async def take(self, size: int) -> Share:
        """A share, once it is there."""
        share = self.take_now(size)
        if share is not None:
            return share
        future: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        place = (size, future)
        self._queue.append(place)
        self.waiting += size
        self.waited += 1
        self._watch()
        try:
            return await future
        except asyncio.CancelledError:
            if place in self._queue:
                self._queue.remove(place)
                self.waiting -= size
            if future.done() and not future.cancelled():
                future.result().give_back()
            self._serve()  # There may be room for what comes after it.
            raise

    async def take_within(self, size: int, wait_s: float | None) -> Share | None:
        """A share, if it is there within a time; None if not, or if too many wait already.

        Without a time it is waited for.
        """
        share = self.take_now(size)
        if share is not None:
            return share
        if self.waiting >= self.total > 0:
            self.waited += 1
            return None
        try:
            async with asyncio.timeout(wait_s):
                return await self.take(size)
        except TimeoutError:
            return None

    @asynccontextmanager
    async def held_for(self, size: int) -> AsyncIterator[None]:
        """Holds a share for the `async with` block."""
        share = await self.take(size)
        try:
            yield
        finally:
            share.give_back()

    def change(self, share: Share, by: int) -> None:
        """Takes note of a share's new size; only for `Share`."""
        self.held += by
        if share.size + by == 0:
            del self._shares[share]
        if by < 0:
            self._serve()

    def _has(self, size: int) -> bool:
        return not self.held or self.held + size <= self.total

    def _share(self, size: int) -> Share:
        share = Share(self, size)
        if size:
            self._shares[share] = None
            self.held += size
        return share

    def _serve(self) -> None:
        """Gives those who wait longest what there is."""
        while self._queue:
            size, future = self._queue[0]
            if not self._has(size):
                break
            self._queue.popleft()
            self.waiting -= size
            if not future.done():
                future.set_result(self._share(size))
        self._watch()

    def _watch(self) -> None:
        """Sees to it that the oldest share is lent when its time has come."""
        if self._queue and self._timer is None and self._lend_after_s < inf:
            oldest = next(iter(self._shares)).taken_s
            delay = max(0.0, oldest + self._lend_after_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._lend)

    def _lend(self) -> None:
        self._timer = None
        late = time.monotonic() - self._lend_after_s
        for share in [share for share in self._shares if share.taken_s <= late]:
            share.give_back()
        self._watch()


NO_SHARE = Share(ByteBudget(0), 0)
"""Of nothing."""


async def give_up(task: asyncio.Task[T], share_of: Callable[[T], Share]) -> None:
    """Cancels a task that returns something with a share, which is given back in any case: also if
    the task has ended, and if this is cancelled itself."""

    def give_back(done: asyncio.Task[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            share_of(done.result()).give_back()

    task.add_done_callback(give_back)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

"""Bytes that many share: what is beyond them waits its turn."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Share:
    """What one holds of a budget, until it is given back."""

    __slots__ = ("_budget", "_size", "owner", "taken_s")

    def __init__(self, budget: ByteBudget, size: int, owner: str = "") -> None:
        self._budget = budget
        self._size = size
        self.owner = owner
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


class _Place(NamedTuple):
    """Of somebody who waits."""

    number: int
    size: int
    share: asyncio.Future[Share]


class ByteBudget:
    """Gives out shares in the order in which they were asked for.

    One who asks for more than there is altogether gets it when nobody else holds anything. Of what
    there is, one owner holds at most half, or a single share: those who have owners, such as
    tenants, leave something to each other.

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
        self._queues: dict[str, deque[_Place]] = {}  # by owner
        self._places = 0
        self._held_by: Counter[str] = Counter()
        self._waiting_by: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def take_now(self, size: int, owner: str = "") -> Share | None:
        """A share, if nobody has to wait for it."""
        if owner in self._queues or self._next() is not None:
            return None
        return self._share(size, owner) if self._has(size) and self._may(size, owner) else None

    async def take(self, size: int, owner: str = "") -> Share:
        """A share, once it is there."""
        share = self.take_now(size, owner)
        if share is not None:
            return share
        future: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        self._places += 1
        place = _Place(self._places, size, future)
        self._queues.setdefault(owner, deque()).append(place)
        self._wait(size, owner)
        self.waited += 1
        self._watch()
        try:
            return await future
        except asyncio.CancelledError:
            if place in self._queues.get(owner, ()):
                self._queues[owner].remove(place)
                self._leave(size, owner)
            if future.done() and not future.cancelled():
                future.result().give_back()
            self._serve()  # There may be room for what comes after it.
            raise

    async def take_within(self, size: int, wait_s: float | None, owner: str = "") -> Share | None:
        """A share, if it is there within a time; None if not, or if too many wait already.

        Without a time it is waited for.
        """
        share = self.take_now(size, owner)
        if share is not None:
            return share
        too_many = self._waiting_by[owner] >= self.total / 2 if owner else False
        if too_many or self.waiting >= self.total > 0:
            self.waited += 1
            return None
        try:
            async with asyncio.timeout(wait_s):
                return await self.take(size, owner)
        except TimeoutError:
            return None

    @asynccontextmanager
    async def held_for(self, size: int, owner: str = "") -> AsyncIterator[None]:
        """Holds a share for the `async with` block."""
        share = await self.take(size, owner)
        try:
            yield
        finally:
            share.give_back()

    def change(self, share: Share, by: int) -> None:
        """Takes note of a share's new size; only for `Share`."""
        self._hold(share.owner, by)
        if share.size + by == 0:
            del self._shares[share]
        if by < 0:
            self._serve()

    def _has(self, size: int) -> bool:
        return not self.held or self.held + size <= self.total

    def _may(self, size: int, owner: str) -> bool:
        """Whether an owner may hold so much more."""
        held = self._held_by[owner] if owner else 0
        return not held or held + size <= self.total / 2

    def _share(self, size: int, owner: str) -> Share:
        share = Share(self, size, owner)
        if size:
            self._shares[share] = None
            self._hold(owner, size)
        return share

    def _hold(self, owner: str, size: int) -> None:
        self.held += size
        if owner:
            self._held_by[owner] += size
            if not self._held_by[owner]:
                del self._held_by[owner]

    def _wait(self, size: int, owner: str) -> None:
        self.waiting += size
        if owner:
            self._waiting_by[owner] += size

    def _leave(self, size: int, owner: str) -> None:
        """Somebody waits no longer."""
        self._wait(-size, owner)
        if not self._waiting_by[owner]:
            del self._waiting_by[owner]
        if not self._queues[owner]:
            del self._queues[owner]

    def _next(self) -> str | None:
        """The owner of the one who waits longest, of those whose owners may hold more."""
        heads = (
            (queue[0].number, owner)
            for owner, queue in self._queues.items()
            if self._may(queue[0].size, owner)
        )
        return min(heads, default=(0, None))[1]

    def _serve(self) -> None:
        """Gives those who wait longest what there is."""
        while (owner := self._next()) is not None:
            place = self._queues[owner][0]
            if not self._has(place.size):
                break
            self._queues[owner].popleft()
            self._leave(place.size, owner)
            if not place.share.done():
                place.share.set_result(self._share(place.size, owner))
        self._watch()

    def _watch(self) -> None:
        """Sees to it that the oldest share is lent when its time has come."""
        if self._queues and self._timer is None and self._lend_after_s < inf:
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

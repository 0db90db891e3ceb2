"""Work on the event loop that grows with what a call is about, in slices.

What can't be cut, or would be done piece by piece for too long, goes to a thread instead
(`asyncio.to_thread`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

SLICE_S = 0.005
"""Time after which the others have their turn. Not the processor time of the loop's thread: asking
for that costs as much as an event, and who is interrupted more often does no harm."""


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
            await asyncio.sleep(0)
            self._end = time.perf_counter() + SLICE_S


async def sliced(items: Iterable[T]) -> AsyncIterator[T]:
    """Items one by one, each worked on before the next; other tasks run between slices."""
    slices = Slices()
    for item in items:
        yield item
        if slices.is_over():
            await slices.pause()

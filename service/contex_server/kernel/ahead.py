"""Waiting for the next items of a sequence while one is worked on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


async def ahead(
    items: AsyncIterable[S], function: Callable[[S], Coroutine[Any, Any, T]], count: int
) -> AsyncGenerator[T, None]:
    """What a function returns for each item, in their order.

    It is under way for the next `count` items while one is worked on; close it to stop them.
    """
    tasks: deque[asyncio.Task[T]] = deque()
    try:
        async for item in items:
            tasks.append(asyncio.create_task(function(item)))
            if len(tasks) > count:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

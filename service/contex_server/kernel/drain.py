"""The shutdown, as streams see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

from contex_server.kernel.errors import shutting_down

T = TypeVar("T")


class Drain:
    """Tells every stream that the server is shutting down."""

    def __init__(self) -> None:
        self.started = False
        self._wakers: set[Callable[[], None]] = set()

    def start(self) -> None:
        """Ends the streams, each after what it is sending."""
        self.started = True
        for wake in tuple(self._wakers):
            wake()

    def add(self, wake: Callable[[], None]) -> None:
        """Calls `wake` when the shutdown starts."""
        self._wakers.add(wake)

    async def until_started(self, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """The items that come before the shutdown.

        Raises:
            ContexError: SHUTTING_DOWN, also while an item is waited for.
        """
        stopped = asyncio.Event()
        self.add(stopped.set)
        stopping = asyncio.ensure_future(stopped.wait())
        try:
            while not self.started:
                item = asyncio.ensure_future(anext(items))
                try:
                    await asyncio.wait((item, stopping), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    item.cancel()
                if item.done():
                    try:
                        value = item.result()
                    except StopAsyncIteration:
                        return
                    yield value
            raise shutting_down()
        finally:
            stopping.cancel()
            self.remove(stopped.set)

    def remove(self, wake: Callable[[], None]) -> None:
        """Forgets `wake`."""
        self._wakers.discard(wake)

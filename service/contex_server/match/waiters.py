"""Waiting until matching has reached a position of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from contex_server.kernel.errors import ContexError, embedder_unavailable
from contex_server.kernel.model import BEGINNING, Sequence


class PositionWaiters:
    """The position that matching has reached, and those who wait for a later one."""

    def __init__(self) -> None:
        self.position = BEGINNING
        self.error: ContexError | None = None
        """Why matching has stopped for good, if it has."""
        self._waiters: list[tuple[Sequence, asyncio.Future[None]]] = []

    async def wait_for(
        self, position: Sequence, patience_s: float, busy: Callable[[], bool] = lambda: False
    ) -> None:
        """Returns when the position is reached, however long that takes while matching goes on.

        Args:
            position: The position.
            patience_s: How long the position may stay where it is.
            busy: Whether matching is at work meanwhile all the same.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE if matching does not go on; what made it stop.
        """
        if self.error is not None:
            raise self.error
        if self.position >= position:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((position, future))
        try:
            while not future.done():
                before = self.position
                await asyncio.wait([future], timeout=patience_s)
                if not future.done() and self.position <= before and not busy():
                    told = f"matching has stayed at {before} for {patience_s:.0f} s"
                    raise embedder_unavailable(f"{told}, before {position}")
            future.result()
        finally:
            future.cancel()

    def advance(self, position: Sequence) -> None:
        """Moves the position forward and wakes those who waited for it."""
        self.position = max(self.position, position)
        waiting = []
        for awaited, future in self._waiters:
            if awaited > self.position:
                waiting.append((awaited, future))
            elif not future.done():
                future.set_result(None)
        self._waiters = waiting

    def fail(self, error: ContexError) -> None:
        """Matching has stopped: everyone who waits or will wait gets the error."""
        self.error = error
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(error)

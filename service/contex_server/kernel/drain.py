"""The shutdown, as streams see it."""

from __future__ import annotations

from collections.abc import Callable


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

    def remove(self, wake: Callable[[], None]) -> None:
        """Forgets `wake`."""
        self._wakers.discard(wake)

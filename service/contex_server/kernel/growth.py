"""The growth of projects: what slows it down, and who is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


async def _unlimited(_project: str, _events: int) -> None:
    """Lets any number of events be appended at once."""


class Growth:
    """Connects whatever appends events with whatever works on projects as they grow.

    Attributes:
        throttle: Waits until a project may grow by a number of events.
    """

    def __init__(self) -> None:
        self.throttle: Callable[[str, int], Awaitable[None]] = _unlimited
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the name of each project that has grown."""
        self._listeners.append(listener)

    def grown(self, project: str) -> None:
        """Tells every listener that a project has grown."""
        for listener in self._listeners:
            listener(project)

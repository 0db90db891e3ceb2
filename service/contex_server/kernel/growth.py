"""The growth of projects and their end: what slows it down, and who is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from contex_server.kernel.model import Sequence


async def _admitted(_project: str) -> None:
    """Lets any project grow."""


async def _unlimited(_project: str, _events: int) -> None:
    """Lets any number of events be appended at once."""


class Growth:
    """Connects whatever appends events with whatever works on projects as they grow.

    Attributes:
        admit: Refuses a project that must not grow.
        throttle: Waits until a project may grow by a number of events.
    """

    def __init__(self) -> None:
        self.admit: Callable[[str], Awaitable[None]] = _admitted
        self.throttle: Callable[[str, int], Awaitable[None]] = _unlimited
        self._listeners: list[Callable[[str], None]] = []
        self._deletion_listeners: list[Callable[[str, Sequence], None]] = []

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the name of each project that has grown."""
        self._listeners.append(listener)

    def grown(self, project: str) -> None:
        """Tells every listener that a project has grown."""
        for listener in self._listeners:
            listener(project)

    def listen_deleted(self, listener: Callable[[str, Sequence], None]) -> None:
        """Calls `listener` with the name of each project that was deleted, here or by another
        process, and the sequence that ends it: there may be a new one of the name already. So of
        one whose log is another one than before: what is known of it holds no more."""
        self._deletion_listeners.append(listener)

    def deleted(self, project: str, last: Sequence) -> None:
        """Tells every listener that a project was deleted, or has another log."""
        for listener in self._deletion_listeners:
            listener(project, last)

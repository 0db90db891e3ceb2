"""What letting facts expire needs of the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Sequence

Revision = tuple[str, Sequence]
"""A data key and the sequence of its event."""


class Due(NamedTuple):
    """What has expired by now, and what will.

    Attributes:
        projects: Those that have facts whose time has come.
        next_ms: In how many milliseconds the time of another one comes; None if that of none does.
    """

    projects: list[str]
    next_ms: int | None


class Expiring(Protocol):
    """Things of projects that expire, by the store's clock. See `EventLog` for errors."""

    async def due(self) -> Due:
        """Whose things are due."""

    async def expire(self, project: str, count: int) -> tuple[int, bool]:
        """Lets at most `count` things of a project expire whose time has come, each once, whoever
        calls.

        Returns:
            How many there were, and whether there may be more.
        """


class ExpiryStore(Protocol):
    """The facts that expire, in the order of their times. See `EventLog` for errors."""

    async def due(self) -> Due:
        """Whose facts are due, by the store's clock."""

    async def expire(self, project: str, count: int) -> tuple[int, bool]:
        """Appends `data_expired` for at most `count` facts of a project whose time has come, in
        the order of their times: for each revision once, whoever calls, and for none that a later
        event has replaced.

        Returns:
            How many there were, and whether there may be more.
        """

    async def times(self, project: str) -> dict[Revision, int]:
        """When which revisions expire, in unix milliseconds; some of them may be replaced."""

    async def repair(
        self, project: str, expected: Sequence, times: Mapping[Revision, int | None]
    ) -> bool:
        """Sets when revisions expire, None: never. Returns False and does nothing if the tail of
        the project is another than `expected`."""

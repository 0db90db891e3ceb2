"""What letting facts expire needs of the store."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Due(NamedTuple):
    """What has expired by now, and what will.

    Attributes:
        projects: Those that have facts whose time has come.
        next_ms: In how many milliseconds the time of another one comes; None if that of none does.
    """

    projects: list[str]
    next_ms: int | None


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

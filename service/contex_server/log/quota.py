"""What limits of tenants need of the store: one place where all servers count."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """What a rate is of: a project's, or, if that is "", the tenant's own; and which limit."""

    project: str
    limit: str


class Ask(NamedTuple):
    """What is asked of a rate.

    Attributes:
        rate: Units per second.
        debt: Units that were used already: they are taken in any case.
        spare: Units to spend later, if there is room.
    """

    place: Place
    rate: int
    debt: int = 0
    spare: int = 0


Group = Sequence[tuple[int, int]]
"""Units that are taken together or not at all: the index of an `Ask`, and how many."""


class Taken(NamedTuple):
    """What was taken.

    Attributes:
        ahead_us: For each `Ask`, how long until its bucket is full again.
        spares: For each `Ask`, the spare units that were taken.
        groups: For each group, whether it was taken.
    """

    ahead_us: Sequence[float]
    spares: list[int]
    groups: list[bool]


class Held(NamedTuple):
    """Streams of a project, or of the tenant ("").

    Attributes:
        open: Those that are open here.
        opening: Those that are about to be opened.
        spare: How many more would be convenient.
        limit: 0: none.
    """

    project: str
    limit: int
    open: int
    opening: int
    spare: int


class QuotaStore(Protocol):
    """Counts for all servers. See `EventLog` for errors."""

    async def take(self, tenant: str, asks: Sequence[Ask], groups: Sequence[Group]) -> Taken:
        """Takes units of a tenant's rates, by the store's clock; see quota/gcra.py."""

    async def add_use(
        self, tenant: str, used: Mapping[Place, int], refused: Mapping[Place, int]
    ) -> None:
        """Adds to what a tenant uses."""

    async def used(self, tenant: str, project: str) -> dict[str, float]:
        """Mean use of rates in the last minute, per second, by limit."""

    async def refused(self, tenant: str, project: str) -> dict[str, int]:
        """Calls that were refused, by limit."""

    async def hold_streams(
        self, tenant: str, server: str, ttl_ms: int, held: Sequence[Held]
    ) -> list[tuple[int, int]]:
        """Tells how many streams a server has open, for `ttl_ms`: all of a tenant at a time.

        Returns:
            For each, how many the server may have open until then, and how many others have open.
        """

    async def open_streams(self, tenant: str) -> dict[str, int]:
        """Streams that are open on all servers, by project; "": of the tenant."""

    def registrations(self, project: str) -> AsyncIterator[list[bytes]]:
        """The registrations of a project, in pages, some perhaps twice."""

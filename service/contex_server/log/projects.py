"""What running projects needs of the store: counts, retention, pace, memory."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Sequence


class Counters(NamedTuple):
    """Totals of a project.

    Attributes:
        events: Events ever appended.
        bytes: Bytes of the events since `counted_since`.
        keys: Data keys that ever existed.
        deleted: Keys whose latest event is a deletion.
        agents: Registrations.
        counted_since: "0-0" if from the beginning.
        snapshots: Snapshots ever taken.
        snapshot_bytes: Bytes of those snapshots.
    """

    events: int
    bytes: int
    keys: int
    deleted: int
    agents: int
    counted_since: Sequence
    snapshots: int = 0
    snapshot_bytes: int = 0


class Dimension(StrEnum):
    """What events are counted by."""

    DATA_KEY = "k"
    EVENT_TYPE = "t"
    PUBLISHER = "p"
    NEED = "n"


class Tier(StrEnum):
    """Resolution of counts: minutes stored by the hour, or hours stored by the day."""

    MINUTES = "minutes"
    HOURS = "hours"


class ProjectStore(Protocol):
    """What is known and decided about each project. See `EventLog` for errors."""

    async def projects(self) -> list[str]:
        """The projects that have or had events in the store, in no order."""

    async def counters(self, project: str) -> Counters:
        """Totals, kept as events are appended."""

    async def activity(
        self, project: str, dimension: Dimension, tier: Tier, numbers: Iterable[int]
    ) -> list[dict[bytes, bytes]]:
        """Counts by name, for hours or days given by their number since 1970.

        A value is "<slot>:<count> …", in no order. The slot is the minute of the hour or the
        hour of the day, in UTC. Minutes are kept for eight days.
        """

    async def roll_up(self, project: str) -> int:
        """Adds the counts of completed hours to their days; returns the number of hours."""

    async def retention(self, project: str) -> bytes:
        """The value of `put_retention`, or b""."""

    async def put_retention(self, project: str, retention: bytes, action: bytes) -> None:
        """Stores how long a project is kept, opaque to the log, and an audit record of it."""

    async def pace(self, project: str) -> float:
        """The value of `put_pace`, or 0 if there is none or it has expired."""

    async def put_pace(self, project: str, rate: float, ttl_ms: int) -> None:
        """Limits how many events a second each process appends to a project, for `ttl_ms`.

        0 lifts the limit.
        """

    async def trouble(self, project: str) -> str:
        """The value of `put_trouble`, or "" if there is none or it has expired."""

    async def put_trouble(self, project: str, trouble: str, ttl_ms: int) -> None:
        """Stores why a project can't be archived, for `ttl_ms`; "" if it can."""

    async def memory(self, project: str) -> tuple[int, int]:
        """Memory of the server that holds a project: bytes in use, and its limit or 0."""

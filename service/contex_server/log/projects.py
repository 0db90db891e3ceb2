"""What running projects needs of the store: counts, retention, pace, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Sequence

REMAINS = "~deleted-"
"""What comes between the name of a deleted project and the sequence that ends it, in the name of
what is left of it."""


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


class Deletion(NamedTuple):
    """A deletion of a project.

    Attributes:
        project: Its name.
        last: The sequence that ends it; those of a later project of the name are greater.
        identity: Who deleted it.
        events: How many events could be read before.
    """

    project: str
    last: Sequence
    unix_ms: int
    identity: str
    request_id: str
    reason: str
    events: int

    @property
    def remains(self) -> str:
        """The name of what is left until it is removed."""
        return f"{self.project}{REMAINS}{self.last}"


class Deleting(NamedTuple):
    """A request to delete a project.

    Attributes:
        retention: As it was when nothing in it forbade the deletion.
        action: For the audit.
    """

    request_id: str
    identity: str
    reason: str
    retention: bytes
    action: bytes


class RetentionChanged(Exception):
    """A project's retention was changed meanwhile: nothing was done."""


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

    async def names(self, after: str, fits: Callable[[str], bool], count: int) -> list[str]:
        """The first `count` projects after a name that fit, in order; not those out of sight."""

    async def delete(
        self, project: str, request: Deleting, models: Iterable[str]
    ) -> Deletion | None:
        """Takes a project out of sight in one step, and adds `request.action` to the audit.

        What is left of it is a project named `Deletion.remains`, which nobody can name, until
        `purge`. Repeating a request returns what it did.

        Returns:
            What was done; None if there is no such project.

        Raises:
            RetentionChanged: The project's retention is not `request.retention`.
        """

    async def deletion(self, project: str, request_id: str = "") -> Deletion | None:
        """How a project of this name was deleted last, or by a request; None if it was not."""

    async def purge(self, remains: str) -> None:
        """Removes what is left of a deleted project; may be repeated."""

    async def announce(self, project: str, last: Sequence) -> None:
        """Tells every process that a project was deleted."""

    async def announced(
        self, after: Sequence | None
    ) -> tuple[Sequence, list[tuple[str, Sequence]]]:
        """Projects that were deleted, each with what ends it, and where to ask from next; without
        `after` only the latter."""

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

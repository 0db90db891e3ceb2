"""What the archive needs of the store: where old events went, kept beside the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from contex_server.kernel.model import BEGINNING, Entry, Sequence
from contex_server.log.port import EventLog


class SegmentRecord(NamedTuple):
    """A segment, as the store knows it.

    Attributes:
        name: The object.
        index_offset: Where in the object its index begins.
        size: The object's bytes.
    """

    ordinal: int
    first: Sequence
    last: Sequence
    events: int
    bytes: int
    size: int
    index_offset: int
    digest: str
    name: str


class Archived(NamedTuple):
    """How far a project is archived.

    Attributes:
        segments: How many segments were ever recorded: the ordinal of the next.
        first: The oldest event that can be read in the archive; None while it is empty.
        last: Everything up to here was archived; the store may have it still.
        events: How many events its segments hold, ...
        bytes: ... the bytes of their bodies, ...
        size: ... and the bytes of the objects.
        moved: The bytes of all events that were ever archived.
        removed: Events of the project that can't be read any more.
        digest: That of the newest segment.
        directory: Where its objects are.
        remains: The segment that holds what is left of removed events, if there is one.
        rewrites: How often a segment was replaced.
    """

    segments: int = 0
    first: Sequence | None = None
    last: Sequence = BEGINNING
    events: int = 0
    bytes: int = 0
    size: int = 0
    moved: int = 0
    removed: int = 0
    digest: str = ""
    directory: str = ""
    remains: SegmentRecord | None = None
    rewrites: int = 0


class StoreLog(EventLog, Protocol):
    """A log that tells, with what it holds, what it holds no more.

    Whatever changes the archive's records is done for one owner, who holds the project's task
    "archive" (`EventLog.claim`), and is refused to everybody else.
    """

    async def read_tail(
        self, project: str, after: Sequence, until: Sequence, count: int
    ) -> tuple[list[Entry], Sequence]:
        """Like `read`, with `Archived.last` as it was right after that."""
        ...

    async def archived(self, project: str) -> Archived:
        """How far the project is archived."""
        ...

    async def segments(self, project: str, after: Sequence, count: int) -> list[SegmentRecord]:
        """The first `count` segments that end after a sequence, in order."""
        ...

    async def archive_directory(self, project: str, proposed: str) -> str:
        """Where the objects of a project go: the proposed place, if there is none yet."""
        ...

    async def add_segment(
        self,
        project: str,
        owner: str,
        directory: str,
        record: SegmentRecord,
        *,
        removed: int | None = None,
    ) -> bool:
        """Records a segment that follows the last; False, and nothing done, if `owner` does not
        have the task, or another segment was recorded meanwhile. With `removed`, how many
        events were gone before the first one, that may be any."""
        ...

    async def replace_segment(self, project: str, owner: str, record: SegmentRecord) -> bool:
        """Records another object for a segment with the same events; False as above."""
        ...

    async def replace_remains(self, project: str, owner: str, record: SegmentRecord) -> bool:
        """Records another object for the remains; False as above."""
        ...

    async def remove_segments(
        self,
        project: str,
        owner: str,
        first: Sequence,
        remains: SegmentRecord,
        since: Sequence,
        action: bytes,
    ) -> bool:
        """Removes the records of the segments that end before `first`, which becomes the
        oldest event that can be read; `since` is what it was. `action` is a record for the
        audit. False as above.
        """
        ...

    async def trim(self, project: str, until: Sequence) -> int:
        """Removes events up to `until` from the store, if they are archived; returns how
        many."""
        ...

    async def drop_snapshots(self, project: str, until: Sequence) -> int:
        """Removes the snapshots up to `until` from the store, but never the newest one."""
        ...

    async def retention(self, project: str) -> bytes:
        """What was stored by `put_retention`, or b""."""
        ...

    async def put_retention(self, project: str, retention: bytes, action: bytes) -> None:
        """Stores how long a project is kept, opaque to the log, with a record of the action for
        the audit."""
        ...

    async def pace(self, project: str) -> float:
        """What was stored by `put_pace` and holds still, or 0."""
        ...

    async def put_pace(self, project: str, rate: float, ttl_ms: int) -> None:
        """Stores how many events a second each process may append to a project, for a while;
        0: as many as come."""
        ...

    async def trouble(self, project: str) -> str:
        """What was stored by `put_trouble` and holds still, or ""."""
        ...

    async def put_trouble(self, project: str, trouble: str, ttl_ms: int) -> None:
        """Stores why a project can't be archived, for a while; "": it can."""
        ...

    async def memory(self, project: str) -> tuple[int, int]:
        """How many bytes the store of a project uses, and how many it may; 0 is no limit."""
        ...

    async def projects(self) -> Iterable[str]:
        """The projects that have events in the store or had some, in no order."""
        ...

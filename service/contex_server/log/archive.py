"""What the archive needs of the store: which events are archived, and where."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from contex_server.kernel.model import BEGINNING, END_OF_TIME, Range, Sequence
from contex_server.log.port import Part


class SegmentRecord(NamedTuple):
    """A segment, as the store knows it.

    Attributes:
        ordinal: Its number, from 0.
        bytes: Bytes of the events' bodies.
        size: Bytes of the object.
        index_offset: Where in the object its index begins.
        digest: Digest of the object.
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


def is_remains(record: SegmentRecord) -> bool:
    """Whether a segment holds what is kept of removed events."""
    return "/remains-" in record.name


class Compaction(NamedTuple):
    """A pass over the segments that removes superseded revisions; see docs/adr/0024.

    Attributes:
        keep: It keeps this number of revisions of each data key.
        segments: Segments with a lower ordinal than this are looked at.
        looked: How many were looked at so far.
        last: What ends here, or before, was looked at; `END_OF_TIME` if the pass is over.
    """

    keep: int
    segments: int
    looked: int = 0
    last: Sequence = BEGINNING

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be looked at."""
        return self.last == END_OF_TIME


class Archived(NamedTuple):
    """How far a project is archived.

    Attributes:
        segments: Number of segments ever recorded: the ordinal of the next.
        first: The oldest event in the archive; None while it is empty.
        last: Events up to here are archived; the store may still hold them too.
        events: Number of events in its segments.
        bytes: Bytes of the bodies of those events.
        size: Bytes of the objects.
        moved: Bytes of all events ever archived.
        removed: Number of the project's events that can no longer be read.
        digest: Digest of the newest segment.
        directory: Where its objects are.
        remains: The segment with what is kept of removed events, if there is one.
        rewrites: How often a segment was replaced.
        compacted: Number of events whose payloads were removed by compactions.
        compaction: The last pass, if there was one.
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
    compacted: int = 0
    compaction: Compaction | None = None


class ArchiveStore(Protocol):
    """The store's directory of the archive. See `EventLog` for errors.

    Changes are made in the name of an owner that must hold the project's task "archive"
    (`TaskStore.claim`). They return False and change nothing if the owner doesn't hold it.
    """

    async def read_tail(
        self, project: str, span: Range, count: int, max_bytes: int
    ) -> tuple[Part, Sequence]:
        """`EventLog.read_part` of the store's events, and `Archived.last` as of just afterwards."""

    async def archived(self, project: str) -> Archived:
        """How far the project is archived."""

    async def segments(self, project: str, after: Sequence, count: int) -> list[SegmentRecord]:
        """The first `count` segments that end after a sequence, in order."""

    async def archive_directory(self, project: str, proposed: str) -> str:
        """Where a project's objects go; becomes `proposed` if it is not decided yet."""

    async def add_segment(
        self,
        project: str,
        owner: str,
        directory: str,
        record: SegmentRecord,
        *,
        removed: int | None = None,
    ) -> bool:
        """Records the next segment; also False if another was recorded in the meantime.

        With `removed`, the first segment may have any ordinal, and that number of events is
        taken to have been removed before it.
        """

    async def replace_segment(self, project: str, owner: str, record: SegmentRecord) -> bool:
        """Records a new object for a segment that holds the same events."""

    async def replace_remains(self, project: str, owner: str, record: SegmentRecord) -> bool:
        """Records a new object for the remains."""

    async def compact(
        self,
        project: str,
        owner: str,
        retention: bytes,
        compaction: Compaction,
        replacement: tuple[SegmentRecord, SegmentRecord] | None,
        events: int,
        action: bytes,
    ) -> bool:
        """Records how far a compaction has come and, if it made one, the new object of the segment
        or of the remains that it looked at last, after the one that it takes the place of, with
        the number of events that it compacted.

        Also False if `retention` is not what `ProjectStore.put_retention` stored last, or the
        segment has another object by now. `action` goes into the audit if there is a replacement.
        """

    async def remove_segments(
        self,
        project: str,
        owner: str,
        first: Sequence,
        remains: SegmentRecord,
        since: Sequence,
        action: bytes,
    ) -> bool:
        """Removes the segments that end before `first`, which becomes the oldest event.

        Also False if `since` is not the oldest event now. `action` goes into the audit.
        """

    async def trim(self, project: str, until: Sequence) -> int:
        """Removes archived events up to `until` from the store; returns how many."""

"""Values of `contex.v1.ProjectService`: size, activity, retention, erasure, verification."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from datetime import datetime

from .lazy import project_service_pb2, wire


@dataclass(frozen=True, slots=True)
class Stats:
    """A project's size and positions; see `contex.v1.GetStatsResponse`."""

    event_count: int
    first_sequence: str
    last_sequence: str
    event_bytes: int
    data_key_count: int
    deleted_key_count: int
    agent_count: int
    subscriber_count: int
    listener_count: int
    events_per_second: float
    snapshot_sequence: str
    snapshot_count: int
    snapshot_bytes: int
    archived_sequence: str
    counted_since: str
    store_event_count: int
    archive_event_count: int
    archive_bytes: int
    segment_count: int
    removed_event_count: int
    warnings: tuple[str, ...]


class ActivityDimension(enum.Enum):
    """What events are counted by."""

    TOTAL = "total"
    """All together."""
    DATA_KEY = "data_key"
    EVENT_TYPE = "event_type"
    PUBLISHER = "publisher"
    NEED = "need"
    """By the need that they were delivered for."""


@dataclass(frozen=True, slots=True)
class ActivitySeries:
    """Counts of one name.

    Attributes:
        name: A data key, type, publisher or need; empty for all together.
        total: Number of events in the range.
        counts: Number of events in each bucket, oldest first.
    """

    name: str
    total: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """How many events there were, over time.

    Attributes:
        series: The names with the most events, most first.
        total: All events together.
        start_time: Start of the first bucket (UTC).
        end_time: End of the last one (UTC).
        bucket_seconds: Length of a bucket.
        name_count: Number of names that had events.
        peak_hours: 24 numbers: events in each hour of the local day.
        counted_since: Events are counted from this sequence on; `"0-0"`: from the beginning.
    """

    series: tuple[ActivitySeries, ...]
    total: ActivitySeries
    start_time: datetime
    end_time: datetime
    bucket_seconds: int
    name_count: int
    peak_hours: tuple[int, ...]
    counted_since: str


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a project is kept. None is the server's default, 0 means no limit.

    Attributes:
        store_seconds: Age at which events move from the store to the archive.
        store_events: Maximum number of events in the store; older ones move to the archive.
        store_bytes: Maximum number of bytes in the store; older events move to the archive.
        archive_seconds: Age at which archived events are permanently removed.
        legal_hold: Forbids permanent removal and erasure.
    """

    store_seconds: int | None = None
    store_events: int | None = None
    store_bytes: int | None = None
    archive_seconds: int | None = None
    legal_hold: bool = False


@dataclass(frozen=True, slots=True)
class RetentionInfo:
    """How long a project is kept, and by whose settings.

    Attributes:
        has_archive: Whether the server has an archive.
    """

    own: Retention
    effective: Retention
    has_archive: bool


@dataclass(frozen=True, slots=True)
class RemovedEvents:
    """What was permanently removed.

    Attributes:
        removed_count: Number of events that were removed.
        first_sequence: The oldest event that can be read now; empty if there is none.
    """

    removed_count: int
    first_sequence: str


@dataclass(frozen=True, slots=True)
class ErasedData:
    """What was erased.

    Attributes:
        erased_count: Number of events whose payload was erased.
        sequence: The event that records it; empty if there was nothing to erase.
        duplicate: Whether the request was a repetition.
    """

    erased_count: int
    sequence: str
    duplicate: bool


class FindingKind(enum.Enum):
    """Where a difference was found."""

    SEGMENT = "segment"
    ARCHIVE_AHEAD = "archive_ahead"
    EVENT = "event"
    STATE = "state"
    SNAPSHOT = "snapshot"
    COUNTER = "counter"
    VECTOR = "vector"
    OTHER = "other"
    """A kind that this client does not know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between copies of the same facts.

    Attributes:
        place: A sequence, a data key, or the name of an object or a counter.
        detail: The difference, for people.
        repairable: Whether it can be repaired from the other copies.
    """

    kind: FindingKind
    place: str
    detail: str
    repairable: bool
    repaired: bool


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """What was verified; see `contex.v1.VerifySummary`."""

    as_of_sequence: str
    event_count: int
    segment_count: int
    snapshot_count: int
    data_key_count: int
    finding_count: int
    repaired_count: int


@dataclass(frozen=True, slots=True)
class VerifyStep:
    """Progress of a verification.

    Attributes:
        event_count: Number of events verified so far.
        total_count: Number of events in all.
        finding: A difference, if one was found.
        summary: The summary, in the last step.
    """

    event_count: int
    total_count: int
    finding: Finding | None
    summary: VerifySummary | None


def to_retention(retention: Retention) -> project_service_pb2.Retention:
    """The message for a retention; what is None is left unset."""
    return project_service_pb2.Retention(**asdict(retention))


def retention_info(message: project_service_pb2.GetRetentionResponse) -> RetentionInfo:
    """How long a project is kept."""
    return RetentionInfo(
        wire.to_value(Retention, message.retention),
        wire.to_value(Retention, message.effective),
        message.has_archive,
    )

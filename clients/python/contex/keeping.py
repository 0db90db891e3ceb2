"""How long a project is kept, and what is removed from it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a project is kept. None is the server's default, 0 sets no limit.

    Attributes:
        store_seconds: Older events move from the store to the archive, ...
        store_events: ... and the oldest of more than so many, ...
        store_bytes: ... and of more than so many bytes.
        archive_seconds: Older archived events are removed for good.
        legal_hold: Nothing is removed for good or erased.
    """

    store_seconds: int | None = None
    store_events: int | None = None
    store_bytes: int | None = None
    archive_seconds: int | None = None
    legal_hold: bool = False


@dataclass(frozen=True, slots=True)
class RetentionInfo:
    """How long a project is kept.

    Attributes:
        own: What the project sets itself.
        effective: What holds.
        has_archive: Whether the server has one.
    """

    own: Retention
    effective: Retention
    has_archive: bool


@dataclass(frozen=True, slots=True)
class RemovedEvents:
    """What was removed for good.

    Attributes:
        first_sequence: The oldest event that can be read now; "" if there is none.
    """

    removed_count: int
    first_sequence: str


@dataclass(frozen=True, slots=True)
class ErasedData:
    """What was erased.

    Attributes:
        sequence: The event that tells it; "" if there was nothing to erase.
        duplicate: Whether the request had been answered before.
    """

    erased_count: int
    sequence: str
    duplicate: bool


class FindingKind(enum.Enum):
    """What a difference is about."""

    SEGMENT = "segment"
    ARCHIVE_AHEAD = "archive_ahead"
    EVENT = "event"
    STATE = "state"
    SNAPSHOT = "snapshot"
    COUNTER = "counter"
    VECTOR = "vector"
    OTHER = "other"
    """What a newer server has added."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between what is kept in several places.

    Attributes:
        place: A sequence, a data key, the name of an object or of a counter.
        repairable: Whether it can be made right from what is left.
        repaired: Whether it was.
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
    """How far a verification is: a difference where one was found, the summary at the end."""

    event_count: int
    total_count: int
    finding: Finding | None
    summary: VerifySummary | None

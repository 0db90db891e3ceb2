"""How long a project is kept, and what is removed from it."""

from __future__ import annotations

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

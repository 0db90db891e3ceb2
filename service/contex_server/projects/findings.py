"""What a verification reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class FindingKind(IntEnum):
    """The numbers are those of `contex.v1.FindingKind`."""

    SEGMENT = 1
    ARCHIVE_AHEAD = 2
    EVENT = 3
    STATE = 4
    SNAPSHOT = 5
    COUNTER = 6
    VECTOR = 7


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference; see `contex.v1.Finding`."""

    kind: FindingKind
    place: str
    detail: str
    repairable: bool = False
    repaired: bool = False


@dataclass(slots=True)
class Summary:
    """What was verified; see `contex.v1.VerifySummary`."""

    as_of: str = ""
    events: int = 0
    segments: int = 0
    snapshots: int = 0
    keys: int = 0
    findings: int = 0
    repaired: int = 0


class VerifyProgress(NamedTuple):
    """How far a verification has come."""

    events: int
    total: int
    finding: Finding | None = None
    summary: Summary | None = None

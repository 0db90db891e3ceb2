"""What goes into files and comes out of them; see `contex.v1.TransferService`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ExportFormat(enum.Enum):
    """What a file looks like."""

    NATIVE = "native"
    JSON_LINES = "json_lines"
    CLOUD_EVENTS = "cloud_events"
    PARQUET = "parquet"
    LEGACY_JSON = "legacy_json"
    """What the older HTTP service returned; imported only."""


class ExportPart(enum.Enum):
    """What else an export holds; native only."""

    AGENTS = "agents"
    VECTORS = "vectors"
    SETTINGS = "settings"


class ImportMode(enum.Enum):
    """How events are imported: as they are, or as new ones."""

    EXACT = "exact"
    REPLAY = "replay"


class RedactionAction(enum.Enum):
    """What is done to a value."""

    REMOVE = "remove"
    REPLACE = "replace"
    HASH = "hash"


@dataclass(frozen=True, slots=True)
class Redaction:
    """Changes a value in JSON payloads before they are imported.

    Attributes:
        json_pointer: Which value (RFC 6901); "*" as a part is every element or member.
        data_keys: Globs; empty: all data.
        replacement: JSON, with REPLACE.
    """

    json_pointer: str
    action: RedactionAction = RedactionAction.REMOVE
    data_keys: tuple[str, ...] = ()
    replacement: bytes = b""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export holds; see `contex.v1.ExportSummary`."""

    cut_sequence: str
    first_sequence: str
    last_sequence: str
    event_count: int
    agent_count: int
    vector_count: int
    digest: str


@dataclass(frozen=True, slots=True)
class ExportPiece:
    """The next bytes of a file.

    Attributes:
        event_count: Events written so far.
        byte_count: Bytes written so far, this piece included.
        total_count: How many events there are to look at, ...
        scanned_count: ... and how many were.
        resume_token: With it, another export goes on behind this piece; "" where it can't.
        summary: In the last piece.
    """

    data: bytes
    event_count: int
    byte_count: int
    total_count: int
    scanned_count: int
    resume_token: str = ""
    summary: ExportSummary | None = None


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is."""

    byte_count: int
    event_count: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported; see `contex.v1.ImportReport`."""

    dry_run: bool
    format: ExportFormat
    source_project: str
    read_count: int
    imported_count: int
    skipped_count: int
    present_count: int
    remapped_count: int
    redacted_count: int
    agent_count: int
    vector_count: int
    first_sequence: str
    last_sequence: str
    digest: str

# Generated from protos/ by `make generate`.

"""The values of `contex.transfer` that stand for messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contex.v1 import (
        transfer_service_pb2,
    )

__all__ = [
    "ExportFormat",
    "ExportPart",
    "ExportPiece",
    "ExportSummary",
    "ImportMode",
    "ImportProgress",
    "ImportReport",
    "Redaction",
    "RedactionAction",
    "export_piece",
    "export_summary",
    "import_progress",
    "import_report",
]


class ExportFormat(enum.Enum):
    """The format of a file.

    The guide describes each format byte by byte.
    """

    NATIVE = "native"
    """Frames of compressed events with counts and digests.

    The fastest format, and the only one that holds everything.
    """
    JSON_LINES = "json_lines"
    """One JSON object per line: a manifest, the events, a summary."""
    CLOUD_EVENTS = "cloud_events"
    """CloudEvents 1.0 in JSON, one per line.

    CloudEvents from other sources can be imported with `ImportMode.REPLAY`: one per line, one after
    the other, or as a batch (a JSON array).
    """
    PARQUET = "parquet"
    """Apache Parquet, one row per event.

    Needs the extra "parquet". Export only.
    """
    LEGACY_JSON = "legacy_json"
    """What GET /api/projects/{id}/events of the earlier HTTP service returned.

    Import only, with `ImportMode.REPLAY`.
    """


class ExportPart(enum.Enum):
    """What an export holds besides events.

    NATIVE only.
    """

    AGENTS = "agents"
    """The registered agents, with their needs and cursors.

    An export of the whole log, without `since`, `until` and `filter`, also holds what was decided
    for them: their inboxes, and what they hold of each datum. Servers of versions before can't
    import it.
    """
    VECTORS = "vectors"
    """The vectors used for matching.

    Without them, they are computed again after the import. With an open filter also the backgrounds
    of scores, so that the copy scores alike.
    """
    SETTINGS = "settings"
    """The project's settings: its retention."""


class ImportMode(enum.Enum):
    """How events are imported."""

    EXACT = "exact"
    """Unchanged: sequences, times and revisions are kept.

    The project must be empty, or hold exactly the beginning of the file, in which case the rest is
    added. Otherwise refused (PROJECT_NOT_EMPTY). Agents go on where they were, with what was
    decided for them, unless events are left out or changed, or the project has agents of its own:
    then it is decided anew from their cursors on.
    """
    REPLAY = "replay"
    """As new events at the end of the project's log.

    The metadata "original_sequence" and "original_time" hold the event's original sequence and
    time. Events that the exporting service wrote itself (registrations, feedback) are left out, and
    so are agents. CloudEvents from other sources keep their attributes instead, as metadata
    "cloudevents_<name>", "cloudevents_time" for one. An event that Publish would refuse is refused
    (IMPORT_MALFORMED).
    """


class RedactionAction(enum.Enum):
    """What to do with a value."""

    REMOVE = "remove"
    """Removes the value from its object, or sets it to null in an array."""
    REPLACE = "replace"
    """Sets the value to `replacement`."""
    HASH = "hash"
    """Sets the value to a string: the first 16 hexadecimal digits of its SHA-256, keyed with the
    import's salt.

    Equal values stay equal within an import.
    """


@dataclass(frozen=True, slots=True)
class Redaction:
    """A rule that changes values in JSON payloads.

    Attributes:
        json_pointer: The value to change: a JSON pointer (RFC 6901) of 1 to 256 characters; "*" as
            a part stands for every element of an array or every member of an object.
        action: What to do with the value.
        data_keys: The data keys it applies to: at most 32 globs. Empty: all.
        replacement: The new value, with REPLACE: JSON, at most 4,096 bytes.
    """

    json_pointer: str
    action: RedactionAction = RedactionAction.REMOVE
    data_keys: tuple[str, ...] = ()
    replacement: bytes = b""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export holds.

    Attributes:
        cut_sequence: The log was exported up to this sequence.
        first_sequence: The first event; empty if there is none.
        last_sequence: The last event; empty if there is none.
        event_count: Number of events.
        agent_count: Number of agents.
        vector_count: Number of vectors.
        digest: Digest of everything in the file, in hexadecimal; the guide describes how it is
            computed. Empty with PARQUET.
    """

    cut_sequence: str
    first_sequence: str
    last_sequence: str
    event_count: int
    agent_count: int
    vector_count: int
    digest: str


def export_summary(message: transfer_service_pb2.ExportSummary) -> ExportSummary:
    """The `ExportSummary` of a message."""
    return ExportSummary(
        cut_sequence=message.cut_sequence,
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        event_count=message.event_count,
        agent_count=message.agent_count,
        vector_count=message.vector_count,
        digest=message.digest,
    )


@dataclass(frozen=True, slots=True)
class ExportPiece:
    """A piece of the file, and progress.

    Attributes:
        data: The next bytes, at most about 1 MiB unless a single event is larger.
        event_count: Number of events written so far, including those of an interrupted call.
        byte_count: Number of bytes written so far, including those of an interrupted call.
        total_count: Total number of events to examine, including those that the filter leaves out.
        scanned_count: Number of events examined so far.
        resume_token: If set, an interrupted export can resume with this token after the bytes up to
            this item's byte_count; discard whatever was received after them. Never set with
            PARQUET.
        summary: What was exported. Only in the last item.
    """

    data: bytes
    event_count: int
    byte_count: int
    total_count: int
    scanned_count: int
    resume_token: str = ""
    summary: ExportSummary | None = None


def export_piece(message: transfer_service_pb2.ExportProjectResponse) -> ExportPiece:
    """The `ExportPiece` of a message."""
    return ExportPiece(
        data=message.data,
        event_count=message.event_count,
        byte_count=message.byte_count,
        total_count=message.total_count,
        scanned_count=message.scanned_count,
        resume_token=message.resume_token,
        summary=export_summary(message.summary) if message.HasField("summary") else None,
    )


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """Progress of an import.

    Attributes:
        byte_count: Number of bytes of the file read so far.
        event_count: Number of events read so far.
    """

    byte_count: int
    event_count: int


def import_progress(message: transfer_service_pb2.ImportProjectResponse) -> ImportProgress:
    """The `ImportProgress` of a message."""
    return ImportProgress(
        byte_count=message.byte_count,
        event_count=message.event_count,
    )


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported or, with dry_run, what would have been.

    Attributes:
        dry_run: True if dry_run was set and nothing was changed.
        format: The format of the file.
        source_project: The project that the file was exported from. Empty if the file does not say.
        read_count: Number of events in the file.
        imported_count: Number of events imported.
        skipped_count: Number of events left out by the filter or the range, or because they are not
            replayed.
        present_count: Number of events that already existed.
        remapped_count: Number of events whose data key was renamed.
        redacted_count: Number of events whose payload was changed.
        agent_count: Number of agents imported.
        vector_count: Number of vectors imported.
        first_sequence: The first imported event, by its sequence in this project. Empty if there is
            none.
        last_sequence: The last imported event.
        digest: The verified digest of the file; see `ExportSummary.digest`. Empty if the format has
            none.
    """

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


def import_report(message: transfer_service_pb2.ImportReport) -> ImportReport:
    """The `ImportReport` of a message."""
    return ImportReport(
        dry_run=message.dry_run,
        format=_EXPORT_FORMATS[message.format],
        source_project=message.source_project,
        read_count=message.read_count,
        imported_count=message.imported_count,
        skipped_count=message.skipped_count,
        present_count=message.present_count,
        remapped_count=message.remapped_count,
        redacted_count=message.redacted_count,
        agent_count=message.agent_count,
        vector_count=message.vector_count,
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        digest=message.digest,
    )


_EXPORT_FORMATS = {
    1: ExportFormat.NATIVE,
    2: ExportFormat.JSON_LINES,
    3: ExportFormat.CLOUD_EVENTS,
    4: ExportFormat.PARQUET,
    5: ExportFormat.LEGACY_JSON,
}

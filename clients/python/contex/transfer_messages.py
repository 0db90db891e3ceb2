"""Requests and answers of TransferService, and of ProjectService where it keeps and removes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from .errors import ContexError
from .keeping import (
    ErasedData,
    Finding,
    FindingKind,
    RemovedEvents,
    Retention,
    RetentionInfo,
    VerifyStep,
    VerifySummary,
)
from .moments import At, position
from .retry import Retry
from .transfer import (
    ExportFormat,
    ExportPart,
    ExportPiece,
    ExportSummary,
    ImportMode,
    ImportProgress,
    ImportReport,
    Redaction,
)
from .v1 import event_pb2, project_service_pb2, transfer_service_pb2

CHUNK_BYTES = 512 * 1024
TAKE_OVER_S = 15.0
"""So long an import belongs to a server that was killed."""
_HELD_BYTES = 4 * 1024 * 1024
_LIMITS = ("store_seconds", "store_events", "store_bytes", "archive_seconds")

Progress = Callable[[ExportPiece], object]
Imported = Callable[[ImportProgress], object]


def export(
    project: str,
    format: ExportFormat,
    *,
    compress: bool,
    since: At | None,
    until: At | None,
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    include: Iterable[ExportPart],
    resume_token: str,
) -> transfer_service_pb2.ExportRequest:
    """An export."""
    return transfer_service_pb2.ExportRequest(
        project=project,
        format=transfer_service_pb2.ExportFormat.Value(f"EXPORT_FORMAT_{format.name}"),
        compress=compress,
        since=None if since is None else position(since),
        until=None if until is None else position(until),
        filter=event_pb2.EventFilter(
            event_types=event_types, data_keys=data_keys, publishers=publishers
        ),
        include=[
            transfer_service_pb2.ExportPart.Value(f"EXPORT_PART_{part.name}") for part in include
        ],
        resume_token=resume_token,
    )


def start(
    project: str,
    *,
    mode: ImportMode,
    format: ExportFormat | None,
    since: At | None,
    until: At | None,
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    dry_run: bool,
    remap_keys: Mapping[str, str],
    redactions: Iterable[Redaction],
    import_id: str,
) -> transfer_service_pb2.ImportStart:
    """The beginning of an import."""
    return transfer_service_pb2.ImportStart(
        project=project,
        mode=transfer_service_pb2.ImportMode.Value(f"IMPORT_MODE_{mode.name}"),
        format=transfer_service_pb2.ExportFormat.Value(
            f"EXPORT_FORMAT_{format.name if format else 'UNSPECIFIED'}"
        ),
        since=None if since is None else position(since),
        until=None if until is None else position(until),
        filter=event_pb2.EventFilter(
            event_types=event_types, data_keys=data_keys, publishers=publishers
        ),
        dry_run=dry_run,
        remap_keys=[
            transfer_service_pb2.KeyMapping(from_prefix=old, to_prefix=new)
            for old, new in remap_keys.items()
        ],
        redactions=[
            transfer_service_pb2.Redaction(
                data_keys=redaction.data_keys,
                json_pointer=redaction.json_pointer,
                action=transfer_service_pb2.RedactionAction.Value(
                    f"REDACTION_ACTION_{redaction.action.name}"
                ),
                replacement=redaction.replacement,
            )
            for redaction in redactions
        ],
        import_id=import_id,
    )


class Pieces:
    """The pieces of an export, handed out at places from which it can be gone on with.

    A message that can't be gone on from is held back until one comes that can, so that what
    was handed out is never to be dropped; where too much would be held, it is handed out and
    nothing is gone on with any more.
    """

    def __init__(self, request: transfer_service_pb2.ExportRequest) -> None:
        self.request = request
        self.resumable = request.format != transfer_service_pb2.EXPORT_FORMAT_PARQUET
        self._held: list[bytes] = []

    def again(self) -> transfer_service_pb2.ExportRequest:
        """The request of the next call."""
        self._held.clear()
        return self.request

    def take(self, message: transfer_service_pb2.ExportResponse) -> Iterator[ExportPiece]:
        """The piece that is complete with a message."""
        self._held.append(message.data)
        if message.resume_token:
            self.request.resume_token = message.resume_token
        elif not message.HasField("summary") and self.resumable:
            if sum(map(len, self._held)) < _HELD_BYTES:
                return
            self.resumable = False
        data = b"".join(self._held)
        self._held.clear()
        yield ExportPiece(
            data,
            message.event_count,
            message.byte_count,
            message.total_count,
            message.scanned_count,
            message.resume_token,
            _summary(message.summary) if message.HasField("summary") else None,
        )


def _summary(message: transfer_service_pb2.ExportSummary) -> ExportSummary:
    return ExportSummary(
        **{name: getattr(message, name) for name in ExportSummary.__dataclass_fields__}
    )


class PartialFile:
    """A file that is written as `<path>.part`, and goes on where it was left."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._note = self._path.with_name(f"{self._path.name}.part.resume")
        self.resume_token = ""
        size = 0
        if self._part.exists() and self._note.exists():
            count, _, token = self._note.read_text().partition(" ")
            if count.isdigit() and self._part.stat().st_size >= int(count):
                size, self.resume_token = int(count), token
        self._file = self._part.open("r+b" if self._part.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, piece: ExportPiece) -> None:
        """Adds a piece; what was written before it stays, whatever happens."""
        self._file.write(piece.data)
        if piece.resume_token:
            self._file.flush()
            self._note.write_text(f"{self._file.tell()} {piece.resume_token}")

    def complete(self) -> None:
        """Puts the file in its place."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)
        self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves it to be gone on with."""
        self._file.close()


@contextlib.contextmanager
def source_of(
    source: str | os.PathLike[str] | BinaryIO, project: str
) -> Iterator[tuple[BinaryIO, str]]:
    """A file to import, and an id: the same when the same file is imported into the same
    project again; of an open file, another each time."""
    if not isinstance(source, str | os.PathLike):
        yield source, uuid.uuid4().hex
        return
    path = Path(source)
    stat = path.stat()
    text = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{project}"
    with path.open("rb") as file:
        yield file, hashlib.sha256(text.encode()).hexdigest()[:32]


def import_progress(message: transfer_service_pb2.ImportResponse) -> ImportProgress:
    """How far an import is."""
    return ImportProgress(message.byte_count, message.event_count)


def import_report(message: transfer_service_pb2.ImportReport) -> ImportReport:
    """What was imported."""
    fields = {name: getattr(message, name) for name in ImportReport.__dataclass_fields__}
    name = transfer_service_pb2.ExportFormat.Name(message.format)
    fields["format"] = ExportFormat[name.removeprefix("EXPORT_FORMAT_")]
    return ImportReport(**fields)


def retention_message(retention: Retention) -> project_service_pb2.Retention:
    """A retention as it is sent."""
    limits = {name: getattr(retention, name) for name in _LIMITS}
    return project_service_pb2.Retention(
        **{name: value for name, value in limits.items() if value is not None},
        legal_hold=retention.legal_hold,
    )


def retention(message: project_service_pb2.Retention) -> Retention:
    """A retention that was received."""
    limits = {
        name: getattr(message, name)
        for name in _LIMITS
        if message.HasField(name)  # type: ignore[arg-type]
    }
    return Retention(**limits, legal_hold=message.legal_hold)


def retention_info(message: project_service_pb2.GetRetentionResponse) -> RetentionInfo:
    """How long a project is kept."""
    return RetentionInfo(
        retention(message.retention), retention(message.effective), message.has_archive
    )


def remove_events(project: str, before: At, reason: str) -> project_service_pb2.RemoveEventsRequest:
    """What is to be removed."""
    return project_service_pb2.RemoveEventsRequest(
        project=project, before=position(before), reason=reason
    )


def removed_events(message: project_service_pb2.RemoveEventsResponse) -> RemovedEvents:
    """What was removed."""
    return RemovedEvents(message.removed_count, message.first_sequence)


def erase(
    project: str, subject: str | None, data_key: str | None, reason: str, request_id: str
) -> project_service_pb2.EraseDataRequest:
    """What is to be erased.

    Raises:
        ValueError: Not exactly one of subject and data_key is given.
    """
    if (subject is None) == (data_key is None):
        raise ValueError("give a subject or a data_key, and not both")
    request = project_service_pb2.EraseDataRequest(
        project=project, request_id=request_id, reason=reason
    )
    if subject is not None:
        request.subject = subject
    if data_key is not None:
        request.data_key = data_key
    return request


def erased(message: project_service_pb2.EraseDataResponse) -> ErasedData:
    """What was erased."""
    return ErasedData(message.erased_count, message.sequence, message.duplicate)


def verify_step(message: project_service_pb2.VerifyProjectResponse) -> Iterator[VerifyStep]:
    """How far a verification is."""
    summary = message.summary
    yield VerifyStep(
        message.event_count,
        message.total_count,
        _finding(message.finding) if message.HasField("finding") else None,
        VerifySummary(
            **{name: getattr(summary, name) for name in VerifySummary.__dataclass_fields__}
        )
        if message.HasField("summary")
        else None,
    )


def _finding(message: project_service_pb2.Finding) -> Finding:
    try:
        name = project_service_pb2.FindingKind.Name(message.kind)
        kind = FindingKind[name.removeprefix("FINDING_KIND_")]
    except (ValueError, KeyError):
        kind = FindingKind.OTHER
    return Finding(kind, message.place, message.detail, message.repairable, message.repaired)


def import_delay(retry: Retry, failure: ContexError) -> float:
    """Seconds until an import is gone on with; raises the failure where it is not."""
    if failure.reason == "IMPORT_IN_PROGRESS" and retry.attempt_timeout() > 1.0:
        return 1.0
    return retry.delay_after(failure)

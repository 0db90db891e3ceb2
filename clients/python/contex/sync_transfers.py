"""Files, retention and erasure: the part of the blocking client that is about keeping."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import grpc

from . import transfer_messages as messages
from .errors import from_rpc_error
from .keeping import ErasedData, RemovedEvents, Retention, RetentionInfo, VerifyStep
from .moments import At
from .retry import Retry
from .sync_answer_stream import SyncAnswerStream
from .sync_history import History
from .transfer import (
    ExportFormat,
    ExportPart,
    ExportPiece,
    ExportSummary,
    ImportMode,
    ImportReport,
    Redaction,
)
from .v1 import project_service_pb2, transfer_service_pb2

_LONG_S = 600.0
"""Calls that rewrite what is stored may take minutes."""


class Transfers(History):
    """See `Client`."""

    # -- retention ---------------------------------------------------------------

    def retention(self, project: str) -> RetentionInfo:
        """Tells how long a project is kept, and where."""
        request = project_service_pb2.GetRetentionRequest(project=project)
        return messages.retention_info(self._once(self._projects.GetRetention, request))

    def set_retention(self, project: str, retention: Retention) -> Retention:
        """Decides how long a project is kept; returns what holds.

        What the project had set before is replaced as a whole.
        """
        request = project_service_pb2.SetRetentionRequest(
            project=project, retention=messages.retention_message(retention)
        )
        response = self._repeated(self._projects.SetRetention, request)
        return messages.retention(response.effective)

    def remove_events(self, project: str, before: At, *, reason: str) -> RemovedEvents:
        """Removes archived events before a place for good, in whole segments.

        Args:
            project: The project.
            before: A sequence, a time with a zone, or Unix milliseconds.
            reason: Why, for the audit.

        Raises:
            FailedPrecondition: LEGAL_HOLD, ARCHIVE_DISABLED.
        """
        request = messages.remove_events(project, before, reason)
        return messages.removed_events(
            self._once(self._projects.RemoveEvents, request, timeout=_LONG_S)
        )

    def erase(
        self,
        project: str,
        *,
        subject: str | None = None,
        data_key: str | None = None,
        reason: str,
        request_id: str | None = None,
    ) -> ErasedData:
        """Makes payloads unreadable everywhere: those of a subject, or of a data key.

        Args:
            project: The project.
            subject: All events whose metadata name this subject; or ...
            data_key: ... all events of this data key.
            reason: Why: it stands in every event that was erased.
            request_id: Makes the call idempotent; by default a fresh one.

        Raises:
            FailedPrecondition: LEGAL_HOLD, ARCHIVE_DISABLED.
            DataKeyNotFound: The data key never had an event.
            ValueError: Not exactly one of subject and data_key is given.
        """
        request = messages.erase(project, subject, data_key, reason, request_id or uuid.uuid4().hex)
        retry = Retry(_LONG_S)
        return messages.erased(self._repeated(self._projects.EraseData, request, retry))

    def verify(self, project: str, *, repair: bool = False) -> SyncAnswerStream[VerifyStep]:
        """Reads a project end to end and tells what differs between what is kept in several
        places; with `repair`, whatever can be derived is made anew.
        """
        request = project_service_pb2.VerifyProjectRequest(project=project, repair=repair)
        return self._answers(self._projects.VerifyProject, request, messages.verify_step)

    # -- files -------------------------------------------------------------------

    def export(
        self,
        project: str,
        format: ExportFormat = ExportFormat.NATIVE,
        *,
        compress: bool = False,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        include: Iterable[ExportPart] = (),
        resume_token: str = "",
    ) -> SyncAnswerStream[ExportPiece]:
        """Streams a project as a file, in pieces; a lost connection is taken up again.

        Args:
            project: The project.
            format: What the file looks like.
            compress: Compresses JSON lines and CloudEvents with zstandard.
            since: Lower end.
            until: Upper end, the cut; by default the end of the log as it is now.
            event_types: Only these types.
            data_keys: Only data keys that fit one of these globs.
            publishers: Only these publishers.
            include: What else goes with the events; native only.
            resume_token: Goes on with an export, behind the piece that had this token.

        Raises:
            FormatUnavailable: The server lacks what the format needs.
        """
        pieces = messages.Pieces(
            messages.export(
                project,
                format,
                compress=compress,
                since=since,
                until=until,
                event_types=event_types,
                data_keys=data_keys,
                publishers=publishers,
                include=include,
                resume_token=resume_token,
            )
        )
        return self._resumed_answers(
            self._transfers.Export,
            pieces.again,
            pieces.take,
            lambda: Retry(self._timeout if pieces.resumable else 0.0),
        )

    def export_to(
        self,
        project: str,
        path: str | os.PathLike[str],
        format: ExportFormat = ExportFormat.NATIVE,
        *,
        progress: messages.Progress | None = None,
        compress: bool = False,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        include: Iterable[ExportPart] = (),
    ) -> ExportSummary:
        """Exports into a file. Arguments as of `export`.

        It is written as `<path>.part` and put in its place when it is complete. What an
        earlier attempt with the same arguments left there is gone on with.

        Args:
            progress: Called with each piece.
        """
        file = messages.PartialFile(path)
        try:
            pieces = self.export(
                project,
                format,
                compress=compress,
                since=since,
                until=until,
                event_types=event_types,
                data_keys=data_keys,
                publishers=publishers,
                include=include,
                resume_token=file.resume_token,
            )
            summary = None
            with pieces:
                for piece in pieces:
                    file.write(piece)
                    summary = piece.summary
                    if progress is not None:
                        progress(piece)
            if summary is None:
                raise RuntimeError("the export ended without a summary")
            file.complete()
            return summary
        finally:
            file.close()

    def import_from(
        self,
        project: str,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        mode: ImportMode = ImportMode.EXACT,
        format: ExportFormat | None = None,
        progress: messages.Imported | None = None,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        dry_run: bool = False,
        remap_keys: Mapping[str, str] | None = None,
        redactions: Iterable[Redaction] = (),
        import_id: str | None = None,
    ) -> ImportReport:
        """Imports a file. Nothing of it is to be seen before all of it was checked.

        Args:
            project: The project to import into.
            source: A path, or a file that is open for reading bytes and can seek.
            mode: As the events are, or as new ones.
            format: What the file looks like; by default found out.
            progress: Called with what was read so far.
            since: Only events from here on, ...
            until: ... and up to here.
            event_types: Only these types.
            data_keys: Only data keys that fit one of these globs.
            publishers: Only these publishers.
            dry_run: Reads and checks, and changes nothing.
            remap_keys: New prefixes of data keys by old ones.
            redactions: What is changed in payloads.
            import_id: An interrupted import of this id is gone on with. By default it follows
                from the path, its size and time; of an open file it can't be gone on with.

        Raises:
            InvalidArgument: The file is damaged (IMPORT_MALFORMED).
            FailedPrecondition: PROJECT_NOT_EMPTY, IMPORT_IN_PROGRESS.
        """
        with messages.source_of(source, project) as (file, found_id):
            start = messages.start(
                project,
                mode=mode,
                format=format,
                since=since,
                until=until,
                event_types=event_types,
                data_keys=data_keys,
                publishers=publishers,
                dry_run=dry_run,
                remap_keys=remap_keys or {},
                redactions=redactions,
                import_id=import_id or found_id,
            )
            return self._import(start, file, progress or (lambda _: None))

    def clone(
        self,
        project: str,
        target_project: str,
        target: Transfers | None = None,
        *,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        include: Iterable[ExportPart] = (ExportPart.AGENTS, ExportPart.VECTORS),
        redactions: Iterable[Redaction] = (),
        progress: messages.Progress | None = None,
    ) -> ImportReport:
        """Copies a project, or a part of it, into another that is empty.

        Args:
            project: What is copied.
            target_project: The project to be.
            target: The client of another server; by default this one.
            since: Lower end.
            until: Upper end.
            event_types: Only these types.
            data_keys: Only data keys that fit one of these globs.
            publishers: Only these publishers.
            include: What else is copied.
            redactions: What is changed in payloads on the way.
            progress: Called while it is read.

        Raises:
            FailedPrecondition: PROJECT_NOT_EMPTY.
        """
        with tempfile.TemporaryFile(prefix="contex-clone") as file:
            pieces = self.export(
                project,
                since=since,
                until=until,
                event_types=event_types,
                data_keys=data_keys,
                publishers=publishers,
                include=include,
            )
            with pieces:
                for piece in pieces:
                    file.write(piece.data)
                    if progress is not None:
                        progress(piece)
            file.seek(0)
            return (target or self).import_from(target_project, file, redactions=redactions)

    def _import(
        self,
        start: transfer_service_pb2.ImportStart,
        file: BinaryIO,
        progress: messages.Imported,
    ) -> ImportReport:
        retry: Retry | None = None
        origin, read = file.tell(), 0
        while True:
            self._check_open()
            begun, ended = threading.Event(), threading.Event()
            call = self._transfers.Import(
                _file_requests(start, file, begun, ended), metadata=self._metadata
            )
            try:
                first = next(call)
                file.seek(origin + first.resume_offset)
                begun.set()
                for response in call:
                    progress(messages.import_progress(response))
                    if response.byte_count > read:
                        read, retry = response.byte_count, None
                    if response.HasField("report"):
                        return messages.import_report(response.report)
                raise RuntimeError("the import ended without a report")
            except grpc.RpcError as error:
                retry = retry or Retry(self._timeout + messages.TAKE_OVER_S)
                delay = messages.import_delay(retry, from_rpc_error(error))
            finally:
                ended.set()
                begun.set()
                call.cancel()
            time.sleep(delay)


def _file_requests(
    start: transfer_service_pb2.ImportStart,
    file: BinaryIO,
    begun: threading.Event,
    ended: threading.Event,
) -> Iterator[transfer_service_pb2.ImportRequest]:
    """What is sent: the start, and when it is known from where on, the file."""
    yield transfer_service_pb2.ImportRequest(start=start)
    begun.wait()
    while not ended.is_set() and (data := file.read(messages.CHUNK_BYTES)):
        yield transfer_service_pb2.ImportRequest(data=data)
    if not ended.is_set():
        yield transfer_service_pb2.ImportRequest(finish=transfer_service_pb2.ImportFinish())

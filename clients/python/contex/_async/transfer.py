"""Methods of `contex.v1.TransferService`: exports, imports and copies."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, BinaryIO

from contex.backoff import Retry
from contex.credentials import Shown
from contex.errors import ContexError
from contex.lazy import transfer as values
from contex.lazy import transfer_service_pb2, transfer_service_pb2_grpc, wire

from .answer_stream import AnswerStream
from .calls import AsyncCalls
from .transport import Event, Reader, StreamCall, duplex, in_thread, sleep

if TYPE_CHECKING:
    from contex.transfer import (
        ExportFormat,
        ExportPart,
        ExportPiece,
        ExportSummary,
        ImportFile,
        ImportMode,
        ImportProgress,
        ImportReport,
        Redaction,
    )
    from contex.wire import At, Metadata


class AsyncTransferService(AsyncCalls):
    """See `AsyncClient`."""

    @property
    def _transfers(self) -> transfer_service_pb2_grpc.TransferServiceAsyncStub:
        return self._connection.stub(transfer_service_pb2_grpc.TransferServiceStub)

    def export(
        self,
        project: str,
        format: ExportFormat | None = None,
        *,
        compress: bool = False,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        event_type_prefixes: Iterable[str] = (),
        metadata: Metadata = (),
        exclude_service_events: bool = False,
        include: Iterable[ExportPart] = (),
        resume_token: str = "",
    ) -> AnswerStream[ExportPiece]:
        """Streams a project as a file, in pieces, resuming after a lost connection.

        The range and the filters are those of `list_events`; its upper end is the cut.

        Args:
            format: The format of the file; by default native.
            compress: Compresses JSON lines and CloudEvents with zstandard.
            include: What to export besides events; native only.
            resume_token: Continues an export after the piece that had this token.

        Raises:
            FormatUnavailable: The server lacks what the format needs.
        """
        progress = values.ExportProgress(
            wire.message(
                transfer_service_pb2.ExportProjectRequest,
                project=project,
                format=wire.enum_number(
                    values.ExportFormat,
                    format or values.ExportFormat.NATIVE,
                    transfer_service_pb2.ExportFormat,
                    "format",
                ),
                compress=compress,
                since=wire.position(since, "since"),
                until=wire.position(until, "until"),
                filter=wire.event_filter(
                    event_types,
                    data_keys,
                    publishers,
                    event_type_prefixes,
                    metadata,
                    exclude_service_events,
                ),
                include=[
                    wire.enum_number(
                        values.ExportPart, part, transfer_service_pb2.ExportPart, f"include[{i}]"
                    )
                    for i, part in enumerate(wire.several(include, "include"))
                ],
                resume_token=resume_token,
            )
        )
        return self._answers(
            lambda metadata: self._transfers.ExportProject(
                progress.next_request(), metadata=metadata
            ),
            progress.take,
            lambda: Retry(self._timeout if progress.resumable else 0.0),
        )

    async def export_to(
        self,
        project: str,
        path: str | os.PathLike[str],
        format: ExportFormat | None = None,
        *,
        progress: Callable[[ExportPiece], object] | None = None,
        compress: bool = False,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        event_type_prefixes: Iterable[str] = (),
        metadata: Metadata = (),
        exclude_service_events: bool = False,
        include: Iterable[ExportPart] = (),
    ) -> ExportSummary:
        """Exports into a file.

        It is written as `<path>.part` and moved to its place when it is complete. An earlier
        attempt with the same arguments is continued. A symlink is followed; a device or a pipe is
        written into, and nothing of that is continued. Other arguments as in `export`.

        Args:
            format: The format of the file. By default its suffix tells: `.jsonl` is JSON lines,
                `.ce.jsonl` CloudEvents and `.parquet` Parquet, anything else native.
            compress: Compresses JSON lines and CloudEvents with zstandard; without it, only a
                file with a further suffix `.zst` is compressed.
        """
        file = values.export_file(path)
        try:
            summary = None
            async with self.export(
                project,
                format or values.format_of(path),
                compress=compress or values.is_compressed(path),
                since=since,
                until=until,
                event_types=event_types,
                data_keys=data_keys,
                publishers=publishers,
                event_type_prefixes=event_type_prefixes,
                metadata=metadata,
                exclude_service_events=exclude_service_events,
                include=include,
                resume_token=file.resume_token,
            ) as pieces:
                async for piece in pieces:
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

    async def import_from(
        self,
        project: str,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        mode: ImportMode | None = None,
        format: ExportFormat | None = None,
        progress: Callable[[ImportProgress], object] | None = None,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        event_type_prefixes: Iterable[str] = (),
        metadata: Metadata = (),
        exclude_service_events: bool = False,
        dry_run: bool = False,
        remap_keys: Mapping[str, str] | None = None,
        redactions: Iterable[Redaction] = (),
        import_id: str | None = None,
    ) -> ImportReport:
        """Imports a file. Nothing of it becomes visible before all of it has been checked.

        The range and the filters are those of `list_events`.

        Args:
            project: The project to import into.
            source: A path, or a seekable file that is open for reading bytes.
            mode: Import events exactly as they are (the default), or publish them as new ones.
            format: The format of the file; by default it is detected.
            progress: Called with what was read so far.
            dry_run: Read and check, but change nothing.
            remap_keys: New prefixes of data keys, by the old ones.
            redactions: Changes to payloads.
            import_id: An interrupted import with this id is resumed. By default it is derived
                from the path, size and time of the file; an open file can't be resumed.

        Raises:
            ValueError: The open file is not seekable, as a pipe is.
            InvalidArgument: The file is damaged (IMPORT_MALFORMED).
            FailedPrecondition: PROJECT_NOT_EMPTY, IMPORT_IN_PROGRESS.
        """
        with values.import_file(source, project) as file:
            start = wire.message(
                transfer_service_pb2.ImportStart,
                project=project,
                mode=wire.enum_number(
                    values.ImportMode,
                    mode or values.ImportMode.EXACT,
                    transfer_service_pb2.ImportMode,
                    "mode",
                ),
                format=transfer_service_pb2.EXPORT_FORMAT_UNSPECIFIED
                if format is None
                else wire.enum_number(
                    values.ExportFormat, format, transfer_service_pb2.ExportFormat, "format"
                ),
                since=wire.position(since, "since"),
                until=wire.position(until, "until"),
                filter=wire.event_filter(
                    event_types,
                    data_keys,
                    publishers,
                    event_type_prefixes,
                    metadata,
                    exclude_service_events,
                ),
                dry_run=dry_run,
                remap_keys=[
                    wire.message(transfer_service_pb2.KeyMapping, from_prefix=old, to_prefix=new)
                    for old, new in (remap_keys or {}).items()
                ],
                redactions=values.to_redactions(redactions),
                import_id=import_id or file.import_id,
            )
            return await self._import(start, file, progress or (lambda _: None))

    async def clone(
        self,
        project: str,
        target_project: str,
        target: AsyncTransferService | None = None,
        *,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        event_type_prefixes: Iterable[str] = (),
        metadata: Metadata = (),
        exclude_service_events: bool = False,
        include: Iterable[ExportPart] | None = None,
        redactions: Iterable[Redaction] = (),
        progress: Callable[[ExportPiece], object] | None = None,
    ) -> ImportReport:
        """Copies a project, or a part of it, into another that is empty.

        The range and the filters are those of `list_events`.

        Args:
            project: What to copy.
            target_project: The new project.
            target: The client of another server; by default this one.
            include: What to copy besides events; by default agents and vectors.
            redactions: Changes to payloads on the way.
            progress: Called with each piece that is read.

        Raises:
            FailedPrecondition: PROJECT_NOT_EMPTY.
        """
        import tempfile

        if include is None:
            include = (values.ExportPart.AGENTS, values.ExportPart.VECTORS)
        with tempfile.TemporaryFile(prefix="contex-clone") as file:
            async with self.export(
                project,
                since=since,
                until=until,
                event_types=event_types,
                data_keys=data_keys,
                publishers=publishers,
                event_type_prefixes=event_type_prefixes,
                metadata=metadata,
                exclude_service_events=exclude_service_events,
                include=include,
            ) as pieces:
                async for piece in pieces:
                    file.write(piece.data)
                    if progress is not None:
                        progress(piece)
            file.seek(0)
            return await (target or self).import_from(target_project, file, redactions=redactions)

    async def _import(
        self,
        start: transfer_service_pb2.ImportStart,
        file: ImportFile,
        progress: Callable[[ImportProgress], object],
    ) -> ImportReport:
        """Sends a file, over as many calls as it takes."""
        retry: Retry | None = None
        byte_count = 0
        shown = self._shown()
        may_renew = True

        def on_response(response: transfer_service_pb2.ImportProjectResponse) -> None:
            nonlocal retry, byte_count, may_renew
            progress(values.import_progress(response))
            if response.byte_count > byte_count:
                byte_count, retry, may_renew = response.byte_count, None, True

        while True:
            try:
                return await self._try_import(start, file, shown, on_response)
            except ContexError as failure:
                if may_renew and shown.is_renewed(failure):
                    may_renew = False
                    continue
                retry = retry or Retry(self._timeout + values.TAKEOVER_S)
                delay = values.import_delay(retry, failure)
            await sleep(delay)

    async def _try_import(
        self,
        start: transfer_service_pb2.ImportStart,
        file: ImportFile,
        shown: Shown,
        on_response: Callable[[transfer_service_pb2.ImportProjectResponse], None],
    ) -> ImportReport:
        """Sends a file over one call, from where the server asks for it."""
        self._check_open()
        upload = _Upload(start, file)
        reader: Reader[transfer_service_pb2.ImportProjectResponse] = Reader()

        def open_call() -> StreamCall[transfer_service_pb2.ImportProjectResponse]:
            return duplex(self._transfers.ImportProject, upload.requests(), shown.metadata())

        try:
            first = await reader.read(open_call)
            if first is not None:
                upload.resume(first.resume_offset)
                while (response := await reader.read(open_call)) is not None:
                    on_response(response)
                    if response.HasField("report"):
                        return values.import_report(response.report)
            raise RuntimeError("the import ended without a report")
        finally:
            upload.end()
            reader.close()


class _Upload:
    """The requests of one call: the start and, once the server says from where on, the file."""

    def __init__(self, start: transfer_service_pb2.ImportStart, file: ImportFile) -> None:
        self._start = start
        self._file = file
        self._place = 0
        self._resumed = Event()
        self._ended = False

    def resume(self, place: int) -> None:
        """Sends the file from a place on."""
        self._place = place
        self._resumed.set()

    def end(self) -> None:
        """Sends nothing more."""
        self._ended = True
        self._resumed.set()

    async def requests(self) -> AsyncIterator[transfer_service_pb2.ImportProjectRequest]:
        """What is sent."""
        yield wire.message(transfer_service_pb2.ImportProjectRequest, start=self._start)
        await self._resumed.wait()
        while not self._ended and (data := await in_thread(self._file.read, self._place)):
            self._place += len(data)
            yield wire.message(transfer_service_pb2.ImportProjectRequest, data=data)
        if not self._ended:
            yield wire.message(
                transfer_service_pb2.ImportProjectRequest,
                finish=transfer_service_pb2.ImportFinish(),
            )

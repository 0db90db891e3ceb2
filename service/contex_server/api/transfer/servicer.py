"""TransferService: validate, call the domain, convert."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from contex.v1 import transfer_service_pb2

from contex_server.api.shared.cursors import Token, encode_text
from contex_server.api.transfer import checks
from contex_server.audit.recorder import Audit
from contex_server.edge.grpc import Write
from contex_server.edge.identity import caller
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.transfer.exporter import Exporter, Piece
from contex_server.transfer.importer import Import, Imports
from contex_server.transfer.plan import Report

_MESSAGE_BYTES = 1024 * 1024


class TransferServicer:
    """See `protos/contex/v1/transfer_service.proto`."""

    def __init__(self, exporter: Exporter, imports: Imports, audit: Audit, limits: Limits) -> None:
        self._exporter = exporter
        self._imports = imports
        self._audit = audit
        self._limits = limits

    async def export(self, request: transfer_service_pb2.ExportRequest, write: Write) -> None:
        """Export."""
        wanted = checks.export(request, self._limits)
        events = 0
        try:
            pieces = self._exporter.export(wanted)
            async with aclosing(pieces):
                async for piece in pieces:
                    events = piece.events
                    for message in _messages(wanted.project, piece):
                        await write(message.SerializeToString())
        finally:
            self._audit.exported(wanted.project, caller(), "Export", events)

    async def import_(
        self, requests: AsyncIterator[transfer_service_pb2.ImportRequest], write: Write
    ) -> None:
        """Import."""
        async with aclosing(_parts(requests)) as parts:
            first = await anext(parts, None)
            if first is None or first.WhichOneof("part") != "start":
                raise invalid_field("start", "must come first")
            started = await self._imports.begin(checks.start(first.start, self._limits), caller())
            keep = True
            try:
                await write(_progress(started))
                async for request in parts:
                    match request.WhichOneof("part"):
                        case "data":
                            if len(request.data) > _MESSAGE_BYTES:
                                raise invalid_field(
                                    "data", f"must have at most {_MESSAGE_BYTES} bytes"
                                )
                            await started.feed(request.data)
                            await write(_progress(started))
                        case "finish":
                            report = await started.finish()
                            keep = False
                            await write(_progress(started, report))
                            return
                        case part:
                            raise invalid_field(part or "part", "must be data or finish")
                # The client has gone without a word: what it sent stays for it to go on.
            except ContexError as error:
                keep = error.reason not in _FINAL
                raise
            finally:
                await started.leave(keep=keep)


_FINAL = {Reason.IMPORT_MALFORMED, Reason.PROJECT_NOT_EMPTY}
"""Nothing that is sent again makes these go away."""


async def _parts(
    requests: AsyncIterator[transfer_service_pb2.ImportRequest],
) -> AsyncGenerator[transfer_service_pb2.ImportRequest, None]:
    async for request in requests:
        yield request


def _messages(project: str, piece: Piece) -> list[transfer_service_pb2.ExportResponse]:
    """A piece, cut into messages; how far it is stands in the last."""
    found = []
    data = piece.data
    for start in range(0, len(data) or 1, _MESSAGE_BYTES):
        part = data[start : start + _MESSAGE_BYTES]
        found.append(
            transfer_service_pb2.ExportResponse(
                data=part,
                event_count=piece.events,
                byte_count=piece.bytes - len(data) + start + len(part),
                total_count=piece.total,
                scanned_count=piece.scanned,
            )
        )
    last = found[-1]
    if piece.resume:
        last.resume_token = encode_text(Token.EXPORT, project, piece.resume)
    if piece.summary is not None:
        summary = piece.summary
        last.summary.CopyFrom(
            transfer_service_pb2.ExportSummary(
                cut_sequence=summary.cut,
                first_sequence=summary.first,
                last_sequence=summary.last,
                event_count=summary.events,
                agent_count=summary.agents,
                vector_count=summary.vectors,
                digest=summary.digest,
            )
        )
    return found


def _progress(started: Import, report: Report | None = None) -> bytes:
    response = transfer_service_pb2.ImportResponse(
        resume_offset=started.resume_offset,
        byte_count=started.byte_count,
        event_count=started.report.read,
    )
    if report is not None:
        response.report.CopyFrom(
            transfer_service_pb2.ImportReport(
                dry_run=report.dry_run,
                format=transfer_service_pb2.ExportFormat.ValueType(report.format),
                source_project=report.source,
                read_count=report.read,
                imported_count=report.imported,
                skipped_count=report.skipped,
                present_count=report.present,
                remapped_count=report.remapped,
                redacted_count=report.redacted,
                agent_count=report.agents,
                vector_count=report.vectors,
                first_sequence=report.first,
                last_sequence=report.last,
                digest=report.digest,
            )
        )
    return response.SerializeToString()

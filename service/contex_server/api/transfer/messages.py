"""Pieces of files and reports as the API has them."""

from __future__ import annotations

from contex.v1 import transfer_service_pb2 as pb

from contex_server.api.shared.cursors import Token, encode_text
from contex_server.transfer.exporter import ExportChunk
from contex_server.transfer.importer import Import
from contex_server.transfer.request import ImportReport

MESSAGE_BYTES = 1024 * 1024
"""Bytes of a file in one message, of an export or an import."""


def export_messages(realm: str, piece: ExportChunk) -> list[pb.ExportProjectResponse]:
    """A piece of the file, cut into messages; the last one says how far the export is."""
    messages, data, summary = [], piece.data, piece.summary
    for start in range(0, len(data) or 1, MESSAGE_BYTES):
        part = data[start : start + MESSAGE_BYTES]
        messages.append(
            pb.ExportProjectResponse(
                data=part,
                event_count=piece.events,
                byte_count=piece.bytes - len(data) + start + len(part),
                total_count=piece.total,
                scanned_count=piece.scanned,
            )
        )
    last = messages[-1]
    if piece.resume:
        last.resume_token = encode_text(Token.EXPORT, realm, piece.resume)
    if summary is not None:
        last.summary.CopyFrom(
            pb.ExportSummary(
                cut_sequence=summary.cut,
                first_sequence=summary.first,
                last_sequence=summary.last,
                event_count=summary.events,
                agent_count=summary.agents,
                vector_count=summary.vectors,
                digest=summary.digest,
            )
        )
    return messages


def progress_message(started: Import, report: ImportReport | None = None) -> bytes:
    """How far an import is, and what came of it once it has finished, serialised."""
    response = pb.ImportProjectResponse(
        resume_offset=started.resume_offset,
        byte_count=started.byte_count,
        event_count=started.report.read,
    )
    if report is not None:
        response.report.CopyFrom(
            pb.ImportReport(
                dry_run=report.dry_run,
                format=pb.ExportFormat.ValueType(report.format),
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

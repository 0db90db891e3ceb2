"""AuditService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from contex.v1 import audit_service_pb2 as pb

from contex_server.api.audit import checks
from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, encode_text
from contex_server.audit.files import CsvWriter, JsonLinesWriter, ParquetWriter, Writer
from contex_server.audit.reader import matching_records
from contex_server.audit.records import AuditRecord
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.model import Range
from contex_server.kernel.protobuf import timestamp
from contex_server.rooms import Rooms

_SCANNED_ROWS = 20_000
_PIECE_ROWS = 4_000
"""Rows in a piece of a file: about 1 MiB."""
_PARQUET_ROWS = 20_000
_WRITERS: dict[int, tuple[Callable[[], Writer], int]] = {
    pb.AUDIT_FORMAT_UNSPECIFIED: (CsvWriter, _PIECE_ROWS),
    pb.AUDIT_FORMAT_CSV: (CsvWriter, _PIECE_ROWS),
    pb.AUDIT_FORMAT_JSON_LINES: (JsonLinesWriter, _PIECE_ROWS),
    pb.AUDIT_FORMAT_PARQUET: (ParquetWriter, _PARQUET_ROWS),
}
_MESSAGE_BYTES = 1024 * 1024


class AuditServicer:
    """See `protos/contex/v1/audit_service.proto`."""

    SERVICE = pb.DESCRIPTOR.services_by_name["AuditService"]

    def __init__(self, settings: Settings, rooms: Rooms, drain: Drain) -> None:
        self._trail = rooms.audit.reader
        self._audit = rooms.audit.writer
        self._limits = settings.limits

    async def list_records(
        self, request: pb.ListRecordsRequest, call: Call
    ) -> pb.ListRecordsResponse:
        project = fields.project(request.project)
        wanted = checks.wanted(request, self._limits, call.scope)
        size = fields.page_size(request.page_size, self._limits)
        backwards = fields.is_backwards(request.order)
        after = fields.lower_end(request.since, request.HasField("since"))
        until = fields.upper_end(request.until, request.HasField("until"))
        token = Token.AUDIT_BACK_PAGE if backwards else Token.AUDIT_PAGE
        resume = checks.resume(token, project, request.page_token)
        response = pb.ListRecordsResponse()
        scanned = 0
        last = resume
        rows = self._trail.read(project, Range(after, until, backwards), wanted, resume=resume)
        async with aclosing(rows):
            async for row, is_wanted in rows:
                if len(response.records) == size or scanned == _SCANNED_ROWS:
                    response.next_page_token = encode_text(token, project, str(last))
                    break
                scanned += 1
                last = row.id
                if is_wanted:
                    response.records.append(_record_message(row))
        return response

    async def export_records(self, request: pb.ExportRecordsRequest, call: Call) -> None:
        project = fields.project(request.project)
        wanted = checks.wanted(request, self._limits, call.scope)
        after = fields.lower_end(request.since, request.HasField("since"))
        until = fields.upper_end(request.until, request.HasField("until"))
        make, piece_rows = _WRITERS[checks.file_format(request.format)]
        writer = await asyncio.to_thread(make)
        count = 0
        rows: list[AuditRecord] = []

        async def send(piece: bytes) -> None:
            for start in range(0, len(piece) or 1, _MESSAGE_BYTES):
                part = piece[start : start + _MESSAGE_BYTES]
                message = pb.ExportRecordsResponse(data=part, record_count=count)
                await call.write(message.SerializeToString())

        try:
            found = matching_records(self._trail.read(project, Range(after, until), wanted))
            async with aclosing(found):
                async for row in found:
                    rows.append(row)
                    if len(rows) == piece_rows:
                        count += len(rows)
                        await send(await asyncio.to_thread(writer.add, rows))
                        rows = []
            count += len(rows)
            await send(await asyncio.to_thread(lambda: writer.add(rows) + writer.end()))
        finally:
            self._audit.exported(project, call.origin, call.method, count)


def _record_message(row: AuditRecord) -> pb.AuditRecord:
    return pb.AuditRecord(
        record_id=str(row.id),
        time=timestamp(row.id.note.ms),
        action=pb.AuditAction.Value(f"AUDIT_ACTION_{row.action}"),
        actor=row.actor,
        actor_verified=row.verified,
        peer=row.peer,
        client=row.client,
        request_id=row.request_id,
        agent_id=row.agent_id,
        data_key=row.data_key,
        sequence=row.sequence,
        revision=row.revision,
        event_type=row.event_type,
        count=row.count,
        stream_id=row.stream_id,
        detail=row.detail,
    )

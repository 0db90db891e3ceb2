"""AuditService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

from contex.v1 import audit_service_pb2 as pb
from contex.v1 import event_pb2

from contex_server.agents.visibility import Viewer
from contex_server.api.shared import fields
from contex_server.api.shared.convert import convert
from contex_server.api.shared.cursors import Token, decode_text, encode_text, invalid_token
from contex_server.api.shared.servicer import Servicer
from contex_server.audit.files import CsvWriter, JsonLinesWriter, ParquetWriter, Writer
from contex_server.audit.records import AuditAction, AuditFilter, AuditRecord, RecordId
from contex_server.kernel.call import Call
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks
from contex_server.kernel.protobuf import timestamp
from contex_server.kernel.scope import Scope

_MAX_ACTIONS = 16
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


class AuditServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["AuditService"]

    async def list_records(
        self, request: pb.ListRecordsRequest, call: Call
    ) -> pb.ListRecordsResponse:
        backwards = request.order == event_pb2.ORDER_BACKWARDS
        token = Token.AUDIT_BACK_PAGE if backwards else Token.AUDIT_PAGE
        with Checks() as check:
            record_filter = check(_record_filter, request.filter, self._limits, call.scope)
            size = check(fields.page_size, request.page_size, self._limits)
            span = check(fields.span, request, order=request.order)
            last = check(_last_read, token, call.realm, request.page_token)
        record_filter = await self._seen(call, record_filter)
        response = pb.ListRecordsResponse()
        scanned = size_bytes = 0
        rows = self._rooms.audit.reader.read(call.project, span, record_filter, resume=last)
        async with aclosing(rows):
            async for row, passes in rows:
                record = _record_message(row) if passes else None
                size_bytes += 0 if record is None else record.ByteSize()
                full = len(response.records) == size or (
                    response.records and size_bytes > self._limits.page_bytes
                )
                if full or scanned == _SCANNED_ROWS:
                    response.next_page_token = encode_text(token, call.realm, str(last))
                    break
                scanned += 1
                last = row.id
                if record is not None:
                    response.records.append(record)
        return response

    async def export_records(self, request: pb.ExportRecordsRequest, call: Call) -> None:
        with Checks() as check:
            record_filter = check(_record_filter, request.filter, self._limits, call.scope)
            span = check(fields.span, request)
            file_format = check(fields.enum, request.format, pb.AuditFormat.DESCRIPTOR, "format")
        record_filter = await self._seen(call, record_filter)
        make, piece_rows = _WRITERS[file_format]
        writer = await asyncio.to_thread(make)
        count = 0
        rows: list[AuditRecord] = []

        async def send(piece: bytes) -> None:
            for start in range(0, len(piece) or 1, _MESSAGE_BYTES):
                part = piece[start : start + _MESSAGE_BYTES]
                message = pb.ExportRecordsResponse(data=part, record_count=count)
                await call.write(message.SerializeToString())

        records = self._rooms.audit.reader.read(call.project, span, record_filter)
        try:
            async with aclosing(records):
                async for row, passes in records:
                    if passes:
                        rows.append(row)
                    if len(rows) == piece_rows:
                        count += len(rows)
                        await send(await asyncio.to_thread(writer.add, rows))
                        rows = []
            count += len(rows)
            await send(await asyncio.to_thread(lambda: writer.add(rows) + writer.end()))
        finally:
            self._audit.exported(call.project, call.origin, call.method, count)

    async def _seen(self, call: Call, record_filter: AuditFilter) -> AuditFilter:
        """The filter with the agents that the caller may see."""
        viewer = Viewer.of(call)
        if viewer.sees_all:
            return record_filter
        seen = await self._rooms.agents.registry.visible(call.project, viewer)
        return replace(record_filter, seen=frozenset(seen))


def _record_filter(message: pb.AuditFilter, limits: Limits, scope: Scope) -> AuditFilter:
    """A filter, which also keeps out what the caller may not see."""
    with Checks() as check:
        check(fields.check_count, "filter.actions", len(message.actions), _MAX_ACTIONS)
        actions = [check(_action, n, f"filter.actions[{i}]") for i, n in enumerate(message.actions)]
        actors = check(fields.publisher.all_of, message.actors, "filter.actors", limits)
        agents = check(fields.agent_id.all_of, message.agent_ids, "filter.agent_ids", limits)
        keys = check(fields.key_glob.all_of, message.data_keys, "filter.data_keys", limits)
        request_id = check(fields.request_id, message.request_id, "filter.request_id")
    return AuditFilter(frozenset(actions), actors, agents, keys, request_id, scope)


def _action(value: pb.AuditAction.ValueType, field: str) -> AuditAction:
    fields.enum(value, pb.AuditAction.DESCRIPTOR, field, unspecified=False)
    return AuditAction(pb.AuditAction.Name(value).removeprefix("AUDIT_ACTION_"))


def _last_read(token: Token, realm: str, text: str) -> RecordId | None:
    """The record to continue after; None: from the beginning of the range."""
    last = decode_text(token, realm, text)
    try:
        return RecordId.parse(last) if text else None
    except ValueError:
        raise invalid_token("page_token") from None


def _record_message(row: AuditRecord) -> pb.AuditRecord:
    return convert(
        pb.AuditRecord,
        row,
        record_id=str(row.id),
        time=timestamp(row.id.note.ms),
        action=pb.AuditAction.Value(f"AUDIT_ACTION_{row.action}"),
    )

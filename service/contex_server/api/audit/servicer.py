"""AuditService: validate, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from contex.v1 import audit_service_pb2

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_text, encode_text
from contex_server.audit.files import (
    CsvWriter,
    JsonLinesWriter,
    ParquetWriter,
    Writer,
)
from contex_server.audit.recorder import Audit
from contex_server.audit.trail import Action, AuditTrail, Place, Row, Wanted, wanted_rows
from contex_server.edge.grpc import Write
from contex_server.edge.identity import caller
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.protobuf import timestamp

_SCANNED_ROWS = 20_000
_ACTIONS = 16
_PIECE_ROWS = 4_000
"""Rows of a piece of a file: about 1 MiB."""
_PARQUET_ROWS = 20_000
_WRITERS: dict[int, tuple[Callable[[], Writer], int]] = {
    audit_service_pb2.AUDIT_FORMAT_UNSPECIFIED: (CsvWriter, _PIECE_ROWS),
    audit_service_pb2.AUDIT_FORMAT_CSV: (CsvWriter, _PIECE_ROWS),
    audit_service_pb2.AUDIT_FORMAT_JSON_LINES: (JsonLinesWriter, _PIECE_ROWS),
    audit_service_pb2.AUDIT_FORMAT_PARQUET: (ParquetWriter, _PARQUET_ROWS),
}
_MESSAGE_BYTES = 1024 * 1024

RangeLike = audit_service_pb2.ListRecordsRequest | audit_service_pb2.ExportRecordsRequest


class AuditServicer:
    """See `protos/contex/v1/audit_service.proto`."""

    def __init__(self, trail: AuditTrail, audit: Audit, limits: Limits) -> None:
        self._trail = trail
        self._audit = audit
        self._limits = limits

    async def list_records(
        self, request: audit_service_pb2.ListRecordsRequest
    ) -> audit_service_pb2.ListRecordsResponse:
        """ListRecords."""
        project = fields.project(request.project)
        wanted = _wanted(request, self._limits)
        size = fields.page_size(request.page_size, self._limits)
        backwards = fields.is_backwards(request.order)
        after = fields.lower_end(request.since, request.HasField("since"))
        until = fields.upper_end(request.until, request.HasField("until"))
        token = Token.AUDIT_BACK_PAGE if backwards else Token.AUDIT_PAGE
        resume = _resume(token, project, request.page_token) if request.page_token else None
        response = audit_service_pb2.ListRecordsResponse()
        scanned = 0
        last = resume
        rows = self._trail.rows(project, after, until, wanted, backwards=backwards, resume=resume)
        async with aclosing(rows):
            async for row, is_wanted in rows:
                if len(response.records) == size or scanned == _SCANNED_ROWS:
                    response.next_page_token = encode_text(token, project, str(last))
                    break
                scanned += 1
                last = row.place
                if is_wanted:
                    response.records.append(_record(row))
        return response

    async def export_records(
        self, request: audit_service_pb2.ExportRecordsRequest, write: Write
    ) -> None:
        """ExportRecords."""
        project = fields.project(request.project)
        wanted = _wanted(request, self._limits)
        if request.format not in _WRITERS:
            raise invalid_field("format", f"{request.format} is no AuditFormat")
        after = fields.lower_end(request.since, request.HasField("since"))
        until = fields.upper_end(request.until, request.HasField("until"))
        make, piece_rows = _WRITERS[request.format]
        writer = await asyncio.to_thread(make)
        count = 0
        rows: list[Row] = []

        async def send(piece: bytes) -> None:
            for start in range(0, len(piece) or 1, _MESSAGE_BYTES):
                part = piece[start : start + _MESSAGE_BYTES]
                message = audit_service_pb2.ExportRecordsResponse(data=part, record_count=count)
                await write(message.SerializeToString())

        try:
            found = wanted_rows(self._trail.rows(project, after, until, wanted))
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
            self._audit.exported(project, caller(), "ExportRecords", count)


def _wanted(request: RangeLike, limits: Limits) -> Wanted:
    message = request.filter
    if len(message.actions) > _ACTIONS:
        raise invalid_field("filter.actions", f"must have at most {_ACTIONS} entries")
    actions = set()
    for index, action in enumerate(message.actions):
        name = audit_service_pb2.AuditAction.Name(action) if action in _NAMES else ""
        if not name:
            raise invalid_field(f"filter.actions[{index}]", f"{action} is no AuditAction")
        actions.add(Action(name.removeprefix("AUDIT_ACTION_")))
    for field, values in (
        ("filter.actors", message.actors),
        ("filter.agent_ids", message.agent_ids),
    ):
        if len(values) > limits.filter_entries:
            raise invalid_field(field, f"must have at most {limits.filter_entries} entries")
    for index, actor in enumerate(message.actors):
        fields.publisher(actor, f"filter.actors[{index}]")
    for index, agent_id in enumerate(message.agent_ids):
        fields.agent_id(agent_id, f"filter.agent_ids[{index}]")
    return Wanted(
        frozenset(actions),
        frozenset(message.actors),
        frozenset(message.agent_ids),
        fields.data_keys(message.data_keys, "filter.data_keys", limits),
        fields.request_id(message.request_id, "filter.request_id"),
    )


_NAMES = frozenset(audit_service_pb2.AuditAction.values()) - {0}


def _resume(token: Token, project: str, text: str) -> Place:
    try:
        return Place.parse(decode_text(token, project, text, "page_token"))
    except ValueError:
        raise ContexError(
            Reason.CURSOR_INVALID, "page_token: damaged", field="page_token"
        ) from None


def _record(row: Row) -> audit_service_pb2.AuditRecord:
    return audit_service_pb2.AuditRecord(
        record_id=str(row.place),
        time=timestamp(row.place.note.ms),
        action=audit_service_pb2.AuditAction.Value(f"AUDIT_ACTION_{row.action}"),
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

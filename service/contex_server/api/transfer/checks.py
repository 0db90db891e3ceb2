"""Checks every field of the requests for exports and imports against its limit."""

from __future__ import annotations

import orjson
from contex.v1 import transfer_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_text
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import EventFilter
from contex_server.kernel.scope import EVERYTHING, Scope
from contex_server.transfer.exporter import ExportPart, ExportRequest
from contex_server.transfer.items import FileFormat
from contex_server.transfer.redaction import KeyMapping, Redaction, RedactionAction
from contex_server.transfer.request import ImportMode, ImportRequest

_MAX_PARTS = 8
_MAX_CHANGES = 32
_REPLACEMENT_BYTES = 4_096
_COMPRESSIBLE = (FileFormat.JSON_LINES, FileFormat.CLOUD_EVENTS)


def export(request: pb.ExportProjectRequest, limits: Limits, scope: Scope) -> ExportRequest:
    file_format = _format(request.format, "format") or FileFormat.NATIVE
    if file_format is FileFormat.LEGACY_JSON:
        raise invalid_field("format", "LEGACY_JSON is imported only")
    if request.compress and file_format not in _COMPRESSIBLE:
        raise invalid_field("compress", "is for JSON_LINES and CLOUD_EVENTS")
    fields.check_count("include", len(request.include), _MAX_PARTS)
    for index, part in enumerate(request.include):
        fields.enum(part, pb.ExportPart.DESCRIPTOR, f"include[{index}]", unspecified=False)
        if file_format is not FileFormat.NATIVE:
            raise invalid_field(f"include[{index}]", "only the native format holds it")
    if request.resume_token and file_format is FileFormat.PARQUET:
        raise invalid_field("resume_token", "a Parquet export can't be resumed")
    span = fields.span(request)
    return ExportRequest(
        request.project,
        file_format,
        request.compress,
        span.after,
        span.until,
        fields.event_filter(request.filter, limits, scope),
        frozenset(map(ExportPart, request.include)),
        decode_text(Token.EXPORT, request.project, request.resume_token, "resume_token"),
    )


def start(message: pb.ImportStart, limits: Limits) -> ImportRequest:
    project = fields.project(message.project, "start.project")
    mode = ImportMode(
        fields.enum(message.mode, pb.ImportMode.DESCRIPTOR, "start.mode") or ImportMode.EXACT
    )
    file_format = _format(message.format, "start.format")
    if file_format is FileFormat.PARQUET:
        raise invalid_field("start.format", "PARQUET is exported only")
    if file_format is FileFormat.LEGACY_JSON and mode is ImportMode.EXACT:
        raise invalid_field("start.mode", "what an older service wrote is replayed only")
    for field in ("remap_keys", "redactions"):
        fields.check_count(f"start.{field}", len(getattr(message, field)), _MAX_CHANGES)
    span = fields.span(message, "start.")
    return ImportRequest(
        project,
        mode,
        file_format,
        fields.event_filter(message.filter, limits, EVERYTHING, "start.filter"),
        span.after,
        span.until,
        message.dry_run,
        tuple(_mapping(m, f"start.remap_keys[{i}]") for i, m in enumerate(message.remap_keys)),
        tuple(
            _redaction(r, f"start.redactions[{i}]", limits)
            for i, r in enumerate(message.redactions)
        ),
        fields.import_id(message.import_id, "start.import_id"),
    )


def _format(value: int, field: str) -> FileFormat | None:
    return FileFormat(value) if fields.enum(value, pb.ExportFormat.DESCRIPTOR, field) else None


def _mapping(message: pb.KeyMapping, field: str) -> KeyMapping:
    return KeyMapping(
        fields.key_start(message.from_prefix, f"{field}.from_prefix"),
        fields.key_prefix(message.to_prefix, f"{field}.to_prefix"),
    )


def _redaction(message: pb.Redaction, field: str, limits: Limits) -> Redaction:
    keys = fields.key_glob.all_of(message.data_keys, f"{field}.data_keys", limits)
    path = fields.json_pointer(message.json_pointer, f"{field}.json_pointer", limits, low=1)
    number = fields.enum(message.action, pb.RedactionAction.DESCRIPTOR, f"{field}.action")
    action = RedactionAction(number or RedactionAction.REMOVE)
    replacement, field = None, f"{field}.replacement"
    if (action is RedactionAction.REPLACE) != bool(message.replacement):
        raise invalid_field(field, "goes with REPLACE, and only with that")
    if len(message.replacement) > _REPLACEMENT_BYTES:
        raise invalid_field(field, f"must have at most {_REPLACEMENT_BYTES} bytes")
    if message.replacement:
        try:
            replacement = orjson.loads(message.replacement)
        except ValueError:
            raise invalid_field(field, "must be JSON") from None
    return Redaction(EventFilter(data_keys=keys), path, action, replacement)

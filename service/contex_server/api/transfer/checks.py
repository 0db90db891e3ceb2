"""Checks every field of the requests for exports and imports against its limit."""

from __future__ import annotations

from typing import Any

import orjson
from contex.v1 import transfer_service_pb2 as pb

from contex_server.agents.visibility import Viewer
from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_text
from contex_server.kernel.call import Call
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, invalid_field
from contex_server.kernel.model import EventFilter
from contex_server.kernel.scope import EVERYTHING
from contex_server.transfer.exporter import ExportPart, ExportRequest
from contex_server.transfer.items import FileFormat
from contex_server.transfer.redaction import KeyMapping, Redaction, RedactionAction
from contex_server.transfer.request import ImportMode, ImportRequest

_MAX_PARTS = 8
_MAX_CHANGES = 32
_REPLACEMENT_BYTES = 4_096
_COMPRESSIBLE = (FileFormat.JSON_LINES, FileFormat.CLOUD_EVENTS)


def export(request: pb.ExportProjectRequest, limits: Limits, call: Call) -> ExportRequest:
    token, parts = Token.EXPORT, pb.ExportPart.DESCRIPTOR
    with Checks() as check:
        file_format = check(_format, request.format, "format") or FileFormat.NATIVE
        if file_format is FileFormat.LEGACY_JSON:
            check.refuse("format", "LEGACY_JSON is imported only")
        if request.compress and file_format not in _COMPRESSIBLE:
            check.refuse("compress", "is for JSON_LINES and CLOUD_EVENTS")
        check(fields.check_count, "include", len(request.include), _MAX_PARTS)
        for index, part in enumerate(request.include):
            check(fields.enum, part, parts, f"include[{index}]", unspecified=False)
            if file_format is not FileFormat.NATIVE:
                check.refuse(f"include[{index}]", "only the native format holds it")
        if request.resume_token and file_format is FileFormat.PARQUET:
            check.refuse("resume_token", "a Parquet export can't be resumed")
        span = check(fields.span, request)
        event_filter = check(fields.event_filter, request.filter, limits, call.scope)
        place = check(decode_text, token, call.realm, request.resume_token, "resume_token")
    return ExportRequest(
        request.project,
        file_format,
        request.compress,
        span.after,
        span.until,
        event_filter,
        frozenset(map(ExportPart, request.include)),
        place,
        Viewer.of(call),
    )


def start(message: pb.ImportStart, limits: Limits) -> ImportRequest:
    with Checks() as check:
        project = check(fields.project, message.project, "start.project")
        mode = check(fields.enum, message.mode, pb.ImportMode.DESCRIPTOR, "start.mode")
        mode = mode or pb.IMPORT_MODE_EXACT
        file_format = check(_format, message.format, "start.format")
        if file_format is FileFormat.PARQUET:
            check.refuse("start.format", "PARQUET is exported only")
        if file_format is FileFormat.LEGACY_JSON and mode == pb.IMPORT_MODE_EXACT:
            check.refuse("start.mode", "what an older service wrote is replayed only")
        for field in ("remap_keys", "redactions"):
            count = len(getattr(message, field))
            check(fields.check_count, f"start.{field}", count, _MAX_CHANGES)
        span = check(fields.span, message, "start.")
        event_filter = check(
            fields.event_filter, message.filter, limits, EVERYTHING, "start.filter"
        )
        mappings = [
            check(_mapping, m, f"start.remap_keys[{i}]") for i, m in enumerate(message.remap_keys)
        ]
        redactions = [
            check(_redaction, r, f"start.redactions[{i}]", limits)
            for i, r in enumerate(message.redactions)
        ]
        import_id = check(fields.import_id, message.import_id, "start.import_id")
    return ImportRequest(
        project,
        ImportMode(mode),
        file_format,
        event_filter,
        span.after,
        span.until,
        message.dry_run,
        tuple(mappings),
        tuple(redactions),
        import_id,
    )


def _format(value: int, field: str) -> FileFormat | None:
    return FileFormat(value) if fields.enum(value, pb.ExportFormat.DESCRIPTOR, field) else None


def _mapping(message: pb.KeyMapping, field: str) -> KeyMapping:
    with Checks() as check:
        old = check(fields.key_start, message.from_prefix, f"{field}.from_prefix")
        new = check(fields.key_prefix, message.to_prefix, f"{field}.to_prefix")
    return KeyMapping(old, new)


def _redaction(message: pb.Redaction, field: str, limits: Limits) -> Redaction:
    pointer, kinds = message.json_pointer, pb.RedactionAction.DESCRIPTOR
    with Checks() as check:
        keys = check(fields.key_glob.all_of, message.data_keys, f"{field}.data_keys", limits)
        path = check(fields.json_pointer, pointer, f"{field}.json_pointer", limits, low=1)
        number = check(fields.enum, message.action, kinds, f"{field}.action")
        action = RedactionAction(number or RedactionAction.REMOVE)
        if number is not None:
            replacement = check(_replacement, message, action, f"{field}.replacement")
    return Redaction(EventFilter(data_keys=keys), path, action, replacement)


def _replacement(message: pb.Redaction, action: RedactionAction, field: str) -> Any:
    if (action is RedactionAction.REPLACE) != bool(message.replacement):
        raise invalid_field(field, "goes with REPLACE, and only with that")
    if len(message.replacement) > _REPLACEMENT_BYTES:
        raise invalid_field(field, f"must have at most {_REPLACEMENT_BYTES} bytes")
    try:
        return orjson.loads(message.replacement) if message.replacement else None
    except ValueError:
        raise invalid_field(field, "must be JSON") from None

"""Checks every field of the requests for exports and imports against its limit."""

from __future__ import annotations

import re

import orjson
from contex.v1 import transfer_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_text
from contex_server.api.transfer.messages import MESSAGE_BYTES
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import EventFilter
from contex_server.kernel.scope import EVERYTHING, Scope
from contex_server.matching.delta import parse_pointer
from contex_server.transfer.exporter import ExportPart, ExportRequest
from contex_server.transfer.items import FileFormat
from contex_server.transfer.redaction import KeyMapping, Redaction, RedactionAction
from contex_server.transfer.request import ImportMode, ImportRequest

_IMPORT_ID = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_PARTS = 8
_CHANGES = 32
_REPLACEMENT_BYTES = 4_096
_COMPRESSIBLE = (FileFormat.JSON_LINES, FileFormat.CLOUD_EVENTS)


def export(request: pb.ExportRequest, limits: Limits, scope: Scope) -> ExportRequest:
    """An export of what the caller may see."""
    project = fields.project(request.project)
    found = _format(request.format, "format") or FileFormat.NATIVE
    if found is FileFormat.LEGACY_JSON:
        raise invalid_field("format", "LEGACY_JSON is imported only")
    if request.compress and found not in _COMPRESSIBLE:
        raise invalid_field("compress", "is for JSON_LINES and CLOUD_EVENTS")
    fields.check_count("include", len(request.include), _PARTS)
    parts = set()
    for index, part in enumerate(request.include):
        if int(part) not in list(ExportPart):
            raise invalid_field(f"include[{index}]", f"{part} is no ExportPart")
        if found is not FileFormat.NATIVE:
            raise invalid_field(f"include[{index}]", "only the native format holds it")
        parts.add(ExportPart(part))
    after = fields.lower_end(request.since, request.HasField("since"))
    until = fields.upper_end(request.until, request.HasField("until"))
    chosen = fields.event_filter(request.filter, limits, scope)
    resume = ""
    if request.resume_token:
        if found is FileFormat.PARQUET:
            raise invalid_field("resume_token", "a Parquet export can't be resumed")
        resume = decode_text(Token.EXPORT, project, request.resume_token, "resume_token")
    return ExportRequest(
        project, found, request.compress, after, until, chosen, frozenset(parts), resume
    )


def start(message: pb.ImportStart, limits: Limits) -> ImportRequest:
    """An import."""
    project = fields.project(message.project, "start.project")
    if message.mode not in (0, *ImportMode):
        raise invalid_field("start.mode", f"{message.mode} is no ImportMode")
    mode = ImportMode(message.mode or ImportMode.EXACT)
    found = _format(message.format, "start.format")
    if found is FileFormat.PARQUET:
        raise invalid_field("start.format", "PARQUET is exported only")
    if found is FileFormat.LEGACY_JSON and mode is ImportMode.EXACT:
        raise invalid_field("start.mode", "what an older service wrote is replayed only")
    for field in ("remap_keys", "redactions"):
        fields.check_count(f"start.{field}", len(getattr(message, field)), _CHANGES)
    if not _IMPORT_ID.fullmatch(message.import_id):
        raise invalid_field("start.import_id", "must be at most 64 characters of A-Z a-z 0-9 _ . -")
    return ImportRequest(
        project,
        mode,
        found,
        fields.event_filter(message.filter, limits, EVERYTHING, "start.filter"),
        fields.lower_end(message.since, message.HasField("since"), "start.since"),
        fields.upper_end(message.until, message.HasField("until"), "start.until"),
        message.dry_run,
        tuple(_mapping(m, f"start.remap_keys[{i}]") for i, m in enumerate(message.remap_keys)),
        tuple(
            _redaction(r, f"start.redactions[{i}]", limits)
            for i, r in enumerate(message.redactions)
        ),
        message.import_id,
    )


def data(value: bytes) -> bytes:
    """A piece of an imported file."""
    if len(value) > MESSAGE_BYTES:
        raise invalid_field("data", f"must have at most {MESSAGE_BYTES} bytes")
    return value


def _format(value: int, field: str) -> FileFormat | None:
    if value not in (0, *FileFormat):
        raise invalid_field(field, f"{value} is no ExportFormat")
    return FileFormat(value) if value else None


def _mapping(message: pb.KeyMapping, field: str) -> KeyMapping:
    return KeyMapping(
        fields.data_key(message.from_prefix, f"{field}.from_prefix"),
        fields.part_of_key(message.to_prefix, f"{field}.to_prefix"),
    )


def _redaction(message: pb.Redaction, field: str, limits: Limits) -> Redaction:
    keys = fields.data_keys(message.data_keys, f"{field}.data_keys", limits)
    pointer, most = message.json_pointer, limits.json_pointer_chars
    if not 1 <= len(pointer) <= most:
        raise invalid_field(f"{field}.json_pointer", f"must have 1 to {most} characters")
    try:
        path = tuple(parse_pointer(pointer))
    except ValueError as error:
        problem = f"must be a JSON pointer (RFC 6901): {error}"
        raise invalid_field(f"{field}.json_pointer", problem) from None
    if message.action not in (0, *RedactionAction):
        raise invalid_field(f"{field}.action", f"{message.action} is no RedactionAction")
    action = RedactionAction(message.action or RedactionAction.REMOVE)
    replacement = None
    if (action is RedactionAction.REPLACE) != bool(message.replacement):
        raise invalid_field(f"{field}.replacement", "goes with REPLACE, and only with that")
    if message.replacement:
        if len(message.replacement) > _REPLACEMENT_BYTES:
            problem = f"must have at most {_REPLACEMENT_BYTES} bytes"
            raise invalid_field(f"{field}.replacement", problem)
        try:
            replacement = orjson.loads(message.replacement)
        except ValueError:
            raise invalid_field(f"{field}.replacement", "must be JSON") from None
    return Redaction(EventFilter(data_keys=keys), path, action, replacement)

"""Checks every field of the requests about the audit against its limit."""

from __future__ import annotations

from contex.v1 import audit_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_text, invalid_token
from contex_server.audit.records import AuditAction, AuditFilter, RecordId
from contex_server.kernel.config import Limits
from contex_server.kernel.scope import Scope

_MAX_ACTIONS = 16


def record_filter(message: pb.AuditFilter, limits: Limits, scope: Scope) -> AuditFilter:
    """A filter, which also keeps out what the caller may not see."""
    fields.check_count("filter.actions", len(message.actions), _MAX_ACTIONS)
    return AuditFilter(
        frozenset(_action(n, f"filter.actions[{i}]") for i, n in enumerate(message.actions)),
        fields.publisher.all_of(message.actors, "filter.actors", limits),
        fields.agent_id.all_of(message.agent_ids, "filter.agent_ids", limits),
        fields.key_glob.all_of(message.data_keys, "filter.data_keys", limits),
        fields.request_id(message.request_id, "filter.request_id"),
        scope,
    )


def _action(value: pb.AuditAction.ValueType, field: str) -> AuditAction:
    fields.enum(value, pb.AuditAction.DESCRIPTOR, field, unspecified=False)
    return AuditAction(pb.AuditAction.Name(value).removeprefix("AUDIT_ACTION_"))


def last_read(token: Token, project: str, text: str) -> RecordId | None:
    """The record to continue after; None: from the beginning of the range."""
    last = decode_text(token, project, text)
    try:
        return RecordId.parse(last) if text else None
    except ValueError:
        raise invalid_token("page_token") from None

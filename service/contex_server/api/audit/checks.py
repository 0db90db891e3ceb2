"""Checks every field of the requests about the audit against its limit."""

from __future__ import annotations

from contex.v1 import audit_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_text, invalid_token
from contex_server.audit.records import AuditAction, AuditFilter, RecordId
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.scope import Scope

RangeLike = pb.ListRecordsRequest | pb.ExportRecordsRequest

_ACTIONS = 16
_NAMES = frozenset(pb.AuditAction.values()) - {0}
_FORMATS = frozenset(pb.AuditFormat.values())


def wanted(request: RangeLike, limits: Limits, scope: Scope) -> AuditFilter:
    """Which records are wanted, of those that the caller may see."""
    message = request.filter
    if len(message.actions) > _ACTIONS:
        raise invalid_field("filter.actions", f"must have at most {_ACTIONS} entries")
    actions = set()
    for index, action in enumerate(message.actions):
        name = pb.AuditAction.Name(action) if action in _NAMES else ""
        if not name:
            raise invalid_field(f"filter.actions[{index}]", f"{action} is no AuditAction")
        actions.add(AuditAction(name.removeprefix("AUDIT_ACTION_")))
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
    return AuditFilter(
        frozenset(actions),
        frozenset(message.actors),
        frozenset(message.agent_ids),
        fields.data_keys(message.data_keys, "filter.data_keys", limits),
        fields.request_id(message.request_id, "filter.request_id"),
        scope,
    )


def file_format(value: int) -> int:
    """The format of an exported file."""
    if value not in _FORMATS:
        raise invalid_field("format", f"{value} is no AuditFormat")
    return value


def resume(token: Token, project: str, text: str) -> RecordId | None:
    """The record to continue after; None: from the beginning of the range."""
    if not text:
        return None
    try:
        return RecordId.parse(decode_text(token, project, text, "page_token"))
    except ValueError:
        raise invalid_token("page_token") from None

"""Audit records as the API has them."""

from __future__ import annotations

from contex.v1 import audit_service_pb2

from contex_server.audit.records import AuditRecord
from contex_server.kernel.protobuf import timestamp


def record_message(row: AuditRecord) -> audit_service_pb2.AuditRecord:
    """A record."""
    return audit_service_pb2.AuditRecord(
        record_id=str(row.id),
        time=timestamp(row.id.note.ms),
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

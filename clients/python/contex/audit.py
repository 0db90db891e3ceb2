"""Values of `contex.v1.AuditService`: who did what, when and from where."""

from __future__ import annotations

from collections.abc import Iterable

from ._values.audit import *
from .lazy import audit_service_pb2, wire


def audit_filter(
    actions: Iterable[AuditAction],
    actors: Iterable[str],
    agent_ids: Iterable[str],
    data_keys: Iterable[str],
    request_id: str,
) -> audit_service_pb2.AuditFilter:
    """Which records are meant."""
    return wire.message(
        audit_service_pb2.AuditFilter,
        actions=[
            wire.enum_number(
                AuditAction, action, audit_service_pb2.AuditAction, f"actions[{index}]"
            )
            for index, action in enumerate(wire.several(actions, "actions"))
        ],
        actors=wire.several(actors, "actors"),
        agent_ids=wire.several(agent_ids, "agent_ids"),
        data_keys=wire.several(data_keys, "data_keys"),
        request_id=request_id,
    )

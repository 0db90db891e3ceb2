"""Values of `contex.v1.AuditService`: who did what, when and from where."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from .lazy import audit_service_pb2, wire


class AuditAction(enum.Enum):
    """What was done."""

    PUBLISHED = "published"
    DELETED = "deleted"
    REGISTERED = "registered"
    UNREGISTERED = "unregistered"
    DELIVERED = "delivered"
    ACKNOWLEDGED = "acknowledged"
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBED = "unsubscribed"
    EXPORTED = "exported"
    JUDGED = "judged"
    ADMINISTERED = "administered"
    IMPORTED = "imported"
    REFUSED = "refused"
    OTHER = "other"
    """An action that this client does not know; it can't be asked for."""


class AuditFormat(enum.Enum):
    """The format of an exported audit."""

    CSV = "csv"
    JSON_LINES = "json_lines"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One action: who did what, when and from where.

    Attributes:
        record_id: Identifies the record in its project.
        time: When it was done (UTC).
        actor: Who did it, by the name the client gave, which is verified only if
            `actor_verified`.
        peer: The client's address.
        client: The client's user agent.
        agent_id: The agent it was about. The same goes for the other attributes.
    """

    record_id: str
    time: datetime
    action: AuditAction
    actor: str = ""
    actor_verified: bool = False
    peer: str = ""
    client: str = ""
    request_id: str = ""
    agent_id: str = ""
    data_key: str = ""
    sequence: str = ""
    revision: int = 0
    event_type: str = ""
    count: int = 0
    stream_id: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditPiece:
    """A piece of an exported file.

    Attributes:
        data: Its bytes; the file is all pieces joined.
        record_count: Number of records in the pieces so far.
    """

    data: bytes
    record_count: int


def audit_filter(
    actions: Iterable[AuditAction],
    actors: Iterable[str],
    agent_ids: Iterable[str],
    data_keys: Iterable[str],
    request_id: str,
) -> audit_service_pb2.AuditFilter:
    """Which records are meant."""
    return audit_service_pb2.AuditFilter(
        actions=[
            wire.enum_number(AuditAction(action), audit_service_pb2.AuditAction)
            for action in wire.several(actions)
        ],
        actors=wire.several(actors),
        agent_ids=wire.several(agent_ids),
        data_keys=wire.several(data_keys),
        request_id=request_id,
    )

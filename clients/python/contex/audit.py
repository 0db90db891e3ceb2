"""Values of `contex.v1.AuditService`: who did what, when and from where."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from .lazy import LazyModule

if TYPE_CHECKING:
    from . import wire
    from .v1 import audit_service_pb2
else:
    wire = LazyModule("contex.wire")
    audit_service_pb2 = LazyModule("contex.v1.audit_service_pb2")


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
        action: What was done.
        actor: Who did it, by the name the client gave, which is verified only if
            `actor_verified`.
        peer: The client's address.
        client: The client's user agent.
        request_id: The request.
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


def audit_record(message: audit_service_pb2.AuditRecord) -> AuditRecord:
    """A record."""
    action = wire.enum_member(AuditAction, audit_service_pb2.AuditAction, message.action)
    return wire.to_value(AuditRecord, message, action=action)


def audit_piece(message: audit_service_pb2.ExportRecordsResponse) -> Iterator[AuditPiece]:
    """The piece of a file in one message."""
    yield AuditPiece(message.data, message.record_count)

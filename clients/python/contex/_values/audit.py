# Generated from protos/ by `make generate`.

"""The values of `contex.audit` that stand for messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contex.v1 import (
        audit_service_pb2,
    )

__all__ = ["AuditAction", "AuditFormat", "AuditPiece", "AuditRecord", "audit_piece", "audit_record"]


class AuditAction(enum.Enum):
    """What was done."""

    PUBLISHED = "published"
    """An event was published."""
    DELETED = "deleted"
    """A datum was deleted, or expired ("data_expired", by the service itself)."""
    REGISTERED = "registered"
    """An agent was registered, or its registration replaced or changed."""
    UNREGISTERED = "unregistered"
    """An agent was unregistered."""
    DELIVERED = "delivered"
    """An event was sent to an agent."""
    ACKNOWLEDGED = "acknowledged"
    """An agent acknowledged deliveries."""
    SUBSCRIBED = "subscribed"
    """A Subscribe or `listen` stream was opened."""
    UNSUBSCRIBED = "unsubscribed"
    """A Subscribe or `listen` stream ended."""
    EXPORTED = "exported"
    """Data were read in bulk: Replay, StreamState, ExportRecords, ExportFeedback, ExportProject.

    Recorded when the call ends, however it ends.
    """
    JUDGED = "judged"
    """Feedback on a match was recorded."""
    ADMINISTERED = "administered"
    """The service was administered: the matching model was changed."""
    IMPORTED = "imported"
    """A file was imported.

    Recorded once the import is visible.
    """
    REFUSED = "refused"
    """A call was refused.

    The detail is its method and the reason, such as "Publish: INVALID_FIELD". Failures of the
    service itself (INTERNAL, UNAVAILABLE, DATA_LOSS) are not recorded, except that a call was
    refused during a shutdown.
    """
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


class AuditFormat(enum.Enum):
    """The format of an export.

    All formats have the same columns, in this order: time (ISO 8601, UTC, milliseconds), action,
    actor, actor_verified, peer, client, request_id, agent_id, data_key, sequence, revision,
    event_type, count, stream_id, detail, record_id. Later versions may add columns at the end.
    """

    CSV = "csv"
    """CSV (RFC 4180) with a header line.

    Text that a spreadsheet would read as a formula is prefixed with an apostrophe.
    """
    JSON_LINES = "json_lines"
    """One JSON object per line."""
    PARQUET = "parquet"
    """Apache Parquet with zstd compression.

    Needs the server's extra "parquet" (FORMAT_UNAVAILABLE).
    """


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One action.

    Attributes:
        record_id: Identifies the record in its project.
        time: When it happened, by the store's clock (UTC).
        action: What was done.
        actor: Who did it: the identity that the caller proved; where access is off, the name that
            it gave. Empty if it gave none; "contex" for the service.
        actor_verified: Whether it was proved: true for the service itself.
        peer: Where it came from: the client's address as gRPC reports it, such as
            "ipv4:10.0.0.7:51834". Empty in records of deliveries; see the SUBSCRIBED record of the
            same stream_id.
        client: The client's user agent, such as "contex-python/0.1.0 grpc-python-asyncio/1.85.1".
        request_id: The request_id of the call, if it had one.
        agent_id: The agent involved.
        data_key: The data key involved.
        sequence: The event involved: the one published, deleted, delivered or judged, or the one
            that records a registration. With ACKNOWLEDGED, the position acknowledged; with
            SUBSCRIBED and UNSUBSCRIBED, where the stream began or ended.
        revision: The revision of that event.
        event_type: The type of that event.
        count: With EXPORTED: the number of events, data or records that were read. With REFUSED:
            the number of refused calls of the project since the REFUSED record before, this one
            included.
        stream_id: With SUBSCRIBED, UNSUBSCRIBED and DELIVERED: the stream.
        detail: Further details in plain words, such as "Replay" or "resend".
        claimed_actor: The name that the client gave, if it proved another one.
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
    claimed_actor: str = ""


def audit_record(message: audit_service_pb2.AuditRecord) -> AuditRecord:
    """The `AuditRecord` of a message."""
    return AuditRecord(
        record_id=message.record_id,
        time=message.time.ToDatetime(tzinfo=UTC),
        action=_AUDIT_ACTIONS.get(message.action, AuditAction.OTHER),
        actor=message.actor,
        actor_verified=message.actor_verified,
        peer=message.peer,
        client=message.client,
        request_id=message.request_id,
        agent_id=message.agent_id,
        data_key=message.data_key,
        sequence=message.sequence,
        revision=message.revision,
        event_type=message.event_type,
        count=message.count,
        stream_id=message.stream_id,
        detail=message.detail,
        claimed_actor=message.claimed_actor,
    )


@dataclass(frozen=True, slots=True)
class AuditPiece:
    """A piece of the file.

    Attributes:
        data: The next bytes of the file, at most about 1 MiB; can be empty.
        record_count: Number of records in the pieces so far.
    """

    data: bytes
    record_count: int


def audit_piece(message: audit_service_pb2.ExportRecordsResponse) -> AuditPiece:
    """The `AuditPiece` of a message."""
    return AuditPiece(
        data=message.data,
        record_count=message.record_count,
    )


_AUDIT_ACTIONS = {
    1: AuditAction.PUBLISHED,
    2: AuditAction.DELETED,
    3: AuditAction.REGISTERED,
    4: AuditAction.UNREGISTERED,
    5: AuditAction.DELIVERED,
    6: AuditAction.ACKNOWLEDGED,
    7: AuditAction.SUBSCRIBED,
    8: AuditAction.UNSUBSCRIBED,
    9: AuditAction.EXPORTED,
    10: AuditAction.JUDGED,
    11: AuditAction.ADMINISTERED,
    12: AuditAction.IMPORTED,
    13: AuditAction.REFUSED,
}

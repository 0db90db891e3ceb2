# Generated from protos/ by `make generate`.

"""The values of `contex.server` that stand for messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contex.v1 import (
        server_service_pb2,
    )

__all__ = ["Feature", "ServerInfo", "ServerLimits", "server_info", "server_limits"]


class Feature(enum.Enum):
    """What a server can do that another may not, by its version or its settings."""

    MATCHING = "matching"
    """Registrations, Match, Explain and Backtest."""
    AUDIT = "audit"
    """AuditService."""
    DELIVERIES = "deliveries"
    """What agents were sent is recorded: GetAgentContext and ListDeliveries."""
    ARCHIVE = "archive"
    """Old events move to an archive.

    Without it, RemoveEvents is refused, and so is EraseData by key.
    """
    SEALING = "sealing"
    """Events may name a subject, whose data are encrypted and can be erased."""
    PARQUET = "parquet"
    """Exports as Parquet."""
    ACCESS = "access"
    """AccessService: callers have to prove who they are."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of a server.

    Texts are counted in characters (code points) or in bytes of UTF-8, as the names say.

    Attributes:
        payload_bytes: Bytes of an event's payload.
        events_per_batch: Events of one publish or batch.
        batch_bytes: Bytes of one publish or batch.
        request_message_bytes: Bytes of any request message. gRPC itself refuses larger ones,
            without a reason.
        response_message_bytes: Bytes of the largest message that the server sends, on a stream or
            in answer: a client must be able to receive it. 4 MiB, gRPC's own default, as long as
            payloads have at most 1 MiB; otherwise payload_bytes and 3 MiB, which is at most 11 MiB
            unless page_bytes is raised too. What would exceed it is cut, and the message says so.
        batches_in_flight: Batches of a PublishStream that the server works on at a time. To send
            more ahead gains nothing.
        project_chars: Characters of a project's name.
        data_key_chars: Characters of a data key.
        event_type_chars: Characters of an event type.
        publisher_chars: Characters of a publisher's name, and of the identity in "contex-identity".
        request_id_chars: Characters of a request_id.
        agent_id_chars: Characters of an agent_id.
        subject_chars: Characters of a subject.
        description_bytes: Bytes of a description.
        content_type_chars: Characters of a content type.
        metadata_entries: Entries of an event's metadata.
        metadata_key_chars: Characters of a key of metadata.
        metadata_bytes: Bytes of all keys and values of an event's metadata.
        needs_per_agent: Needs of an agent, and questions of a Match.
        need_chars: Characters of a need.
        max_matches: Data that an answer returns for each need.
        context_tokens: Tokens of a context that can be asked for.
        filter_entries: Entries of each list of a filter.
        glob_chars: Characters of a glob over data keys.
        json_pointers: JSON pointers of a list.
        json_pointer_chars: Characters of a JSON pointer.
        comment_chars: Characters of a comment or a reason.
        page_size: Items of a page.
        page_bytes: Bytes after which a page ends, whatever its size.
        page_scanned_events: Events after which a page ends that examines them.
        needs_bytes: Bytes of all needs of an agent, or questions of a Match, texts and exclusions.
        min_valid_seconds: Seconds that a fact which expires must be valid at least; also the
            shortest ttl of an agent.
        max_valid_seconds: Seconds that it may be valid at most; also the longest ttl of an agent.
    """

    payload_bytes: int
    events_per_batch: int
    batch_bytes: int
    request_message_bytes: int
    response_message_bytes: int
    batches_in_flight: int
    project_chars: int
    data_key_chars: int
    event_type_chars: int
    publisher_chars: int
    request_id_chars: int
    agent_id_chars: int
    subject_chars: int
    description_bytes: int
    content_type_chars: int
    metadata_entries: int
    metadata_key_chars: int
    metadata_bytes: int
    needs_per_agent: int
    need_chars: int
    max_matches: int
    context_tokens: int
    filter_entries: int
    glob_chars: int
    json_pointers: int
    json_pointer_chars: int
    comment_chars: int
    page_size: int
    page_bytes: int
    page_scanned_events: int
    needs_bytes: int
    min_valid_seconds: int
    max_valid_seconds: int


def server_limits(message: server_service_pb2.ServerLimits) -> ServerLimits:
    """The `ServerLimits` of a message."""
    return ServerLimits(
        payload_bytes=message.payload_bytes,
        events_per_batch=message.events_per_batch,
        batch_bytes=message.batch_bytes,
        request_message_bytes=message.request_message_bytes,
        response_message_bytes=message.response_message_bytes,
        batches_in_flight=message.batches_in_flight,
        project_chars=message.project_chars,
        data_key_chars=message.data_key_chars,
        event_type_chars=message.event_type_chars,
        publisher_chars=message.publisher_chars,
        request_id_chars=message.request_id_chars,
        agent_id_chars=message.agent_id_chars,
        subject_chars=message.subject_chars,
        description_bytes=message.description_bytes,
        content_type_chars=message.content_type_chars,
        metadata_entries=message.metadata_entries,
        metadata_key_chars=message.metadata_key_chars,
        metadata_bytes=message.metadata_bytes,
        needs_per_agent=message.needs_per_agent,
        need_chars=message.need_chars,
        max_matches=message.max_matches,
        context_tokens=message.context_tokens,
        filter_entries=message.filter_entries,
        glob_chars=message.glob_chars,
        json_pointers=message.json_pointers,
        json_pointer_chars=message.json_pointer_chars,
        comment_chars=message.comment_chars,
        page_size=message.page_size,
        page_bytes=message.page_bytes,
        page_scanned_events=message.page_scanned_events,
        needs_bytes=message.needs_bytes,
        min_valid_seconds=message.min_valid_seconds,
        max_valid_seconds=message.max_valid_seconds,
    )


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is, and what it takes.

    Attributes:
        version: The server's version, such as "0.1.0".
        api_revision: Revision of the API, which grows with every addition to it: a client that
            needs an addition can compare. 1 is the first that has this call.
        limits: How much a request may hold, and a response does hold.
        request_window_seconds: For how long a request_id is remembered: a call that is repeated
            with it later may take effect twice. At least 600, which is the default. Stop repeating
            somewhat earlier, for the network takes its time.
        min_ping_interval_ms: Keepalive pings that come more often, with no data sent in between,
            make the server close the connection (GOAWAY, "too_many_pings"). By default 5,000.
        heartbeat_interval_ms: After how long without a message a stream sends a checkpoint or a
            heartbeat, if the request does not say. By default 15,000. A client should take the
            connection for broken after three.
        min_heartbeat_interval_ms: The shortest heartbeat interval that a request may ask for.
        max_heartbeat_interval_ms: The longest heartbeat interval that a request may ask for.
        features: What this server can do that others may not. Ignore members that you don't know.
    """

    version: str
    api_revision: int
    limits: ServerLimits
    request_window_seconds: int
    min_ping_interval_ms: int
    heartbeat_interval_ms: int
    min_heartbeat_interval_ms: int
    max_heartbeat_interval_ms: int
    features: tuple[Feature, ...]


def server_info(message: server_service_pb2.GetServerInfoResponse) -> ServerInfo:
    """The `ServerInfo` of a message."""
    return ServerInfo(
        version=message.version,
        api_revision=message.api_revision,
        limits=server_limits(message.limits),
        request_window_seconds=message.request_window_seconds,
        min_ping_interval_ms=message.min_ping_interval_ms,
        heartbeat_interval_ms=message.heartbeat_interval_ms,
        min_heartbeat_interval_ms=message.min_heartbeat_interval_ms,
        max_heartbeat_interval_ms=message.max_heartbeat_interval_ms,
        features=tuple(_FEATURES.get(one, Feature.OTHER) for one in message.features),
    )


_FEATURES = {
    1: Feature.MATCHING,
    2: Feature.AUDIT,
    3: Feature.DELIVERIES,
    4: Feature.ARCHIVE,
    5: Feature.SEALING,
    6: Feature.PARQUET,
    7: Feature.ACCESS,
}

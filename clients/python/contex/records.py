"""What is on record of a project: deliveries, the audit, its size and activity."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from .past import Moment
from .values import Agent, Event, MatchedEvent


@dataclass(frozen=True, slots=True)
class DeliveredNeed:
    """Why an event was sent.

    Attributes:
        need_index: Position of the need in the agent's list at the time.
        need: Its text; empty if that registration is no longer on record.
        score: The probability, rounded to four digits.
    """

    need_index: int
    need: str
    score: float


@dataclass(frozen=True, slots=True)
class KnownDatum:
    """A datum that an agent had been sent.

    Attributes:
        data_key: Its key.
        sequence: The event that it had been sent last, ...
        revision: ... its revision, ...
        sent_time: ... when (UTC), ...
        needs: ... and why.
        acknowledged: Whether the agent had acknowledged it.
        latest_sequence: The datum's latest event at the moment.
        latest_revision: Its revision.
        deleted: Whether the datum was deleted by then.
        event: The event that it had been sent, where it can be told.
    """

    data_key: str
    sequence: str
    revision: int
    sent_time: datetime
    needs: tuple[DeliveredNeed, ...]
    acknowledged: bool
    latest_sequence: str
    latest_revision: int
    deleted: bool
    event: Event | None = None

    @property
    def stale(self) -> bool:
        """Whether what the agent knew was out of date."""
        return self.sequence != self.latest_sequence


class HeldBackReason(enum.Enum):
    """Why a datum was not sent."""

    MIN_DELTA = "min_delta"
    """The update changed nothing that the agent asked for."""
    EXCLUDED = "excluded"
    """The need excludes the key."""
    BELOW_THRESHOLD = "below_threshold"
    """The score is below the threshold."""
    ANSWER_FULL = "answer_full"
    """The answer to the registration had no room for it."""
    OTHER = "other"
    """For a reason that this client does not know."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A datum that was not sent for a reason."""

    reason: HeldBackReason
    data: MatchedEvent


@dataclass(frozen=True, slots=True)
class AgentStream:
    """A Listen stream of an agent.

    Attributes:
        stream_id: Identifies it.
        opened_time: When it was opened (UTC).
        closed_time: When it ended; None while it is open, or where its server died.
        peer: The client's address.
        client: Its user agent.
        start_sequence: Where the stream started.
    """

    stream_id: str
    opened_time: datetime
    closed_time: datetime | None
    peer: str
    client: str
    start_sequence: str


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent knew at a moment.

    Attributes:
        as_of: The moment.
        agent: Its registration then.
        known: The data that it had been sent, by key.
        pending: What existed, matched, and had not been sent, best first.
        held_back: What was not sent for a reason.
        streams: Its streams, newest first.
        last_sent_time: When it was last sent anything; None: never.
        last_sent_sequence: The newest event that it had been sent; empty: none.
    """

    as_of: Moment
    agent: Agent
    known: tuple[KnownDatum, ...]
    pending: tuple[MatchedEvent, ...]
    held_back: tuple[HeldBack, ...]
    streams: tuple[AgentStream, ...]
    last_sent_time: datetime | None = None
    last_sent_sequence: str = ""


class DeliveryKind(enum.Enum):
    """How an event was sent."""

    STREAM = "stream"
    """By a Listen stream."""
    NEEDS_CHANGED = "needs_changed"
    """By a Listen stream, after a change of needs."""
    ANSWER = "answer"
    """In the answer to a registration or its change."""
    OTHER = "other"
    """In a way that this client does not know."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that was sent to an agent.

    Attributes:
        agent_id: The agent.
        sequence: The event.
        data_key: Its data key.
        revision: Its revision.
        time: When it was sent (UTC).
        kind: How.
        resend: Whether the agent had been sent it before.
        needs: Why.
        position: Where the stream stood with the message.
        stream_id: The stream; empty for an answer.
    """

    agent_id: str
    sequence: str
    data_key: str
    revision: int
    time: datetime
    kind: DeliveryKind
    resend: bool
    needs: tuple[DeliveredNeed, ...]
    position: str
    stream_id: str = ""


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
    """What a newer server knows; it can't be asked for."""


class AuditFormat(enum.Enum):
    """The format of an export."""

    CSV = "csv"
    JSON_LINES = "json_lines"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One action: who did what, when and from where.

    Attributes:
        record_id: Identifies it in its project.
        time: When (UTC).
        action: What.
        actor: Who, by the name given; not verified unless `actor_verified`.
        peer: From which address.
        client: By which user agent.
        request_id: By which request.
        agent_id: The agent concerned, and likewise the rest.
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
        data: Its bytes; the pieces joined are the file.
        record_count: Records in the pieces so far.
    """

    data: bytes
    record_count: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A project's size and positions; see `contex.v1.GetStatsResponse`."""

    event_count: int
    first_sequence: str
    last_sequence: str
    event_bytes: int
    data_key_count: int
    deleted_key_count: int
    agent_count: int
    subscriber_count: int
    listener_count: int
    events_per_second: float
    snapshot_sequence: str
    snapshot_count: int
    snapshot_bytes: int
    archived_sequence: str
    counted_since: str
    store_event_count: int
    archive_event_count: int
    archive_bytes: int
    segment_count: int
    removed_event_count: int
    warnings: tuple[str, ...]


class ActivityDimension(enum.Enum):
    """What events are counted by."""

    TOTAL = "total"
    """All together."""
    DATA_KEY = "data_key"
    EVENT_TYPE = "event_type"
    PUBLISHER = "publisher"
    NEED = "need"
    """By the needs that they were delivered for."""


@dataclass(frozen=True, slots=True)
class ActivitySeries:
    """Counts of one name.

    Attributes:
        name: A data key, type, publisher or need; empty for all together.
        total: Events in the range.
        counts: Events in each bucket, oldest first.
    """

    name: str
    total: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """How many events there were, over time.

    Attributes:
        series: The names with the most events, most first.
        total: All together.
        start_time: Where the first bucket begins (UTC).
        end_time: Where the last one ends.
        bucket_seconds: Length of a bucket.
        name_count: How many names had events.
        peak_hours: 24 numbers: events by the hour of the local day.
        counted_since: Since when events are counted; `"0-0"`: from the beginning.
    """

    series: tuple[ActivitySeries, ...]
    total: ActivitySeries
    start_time: datetime
    end_time: datetime
    bucket_seconds: int
    name_count: int
    peak_hours: tuple[int, ...]
    counted_since: str

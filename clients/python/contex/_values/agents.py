# Generated from protos/ by `make generate`.

"""The values of `contex.agents` that stand for messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from contex._values.events import (
    _MATCH_KINDS,
    Context,
    Event,
    EventFilter,
    MatchedEvent,
    MatchKind,
    Moment,
    context,
    event,
    event_filter,
    matched_event,
    moment,
)
from contex.methods import (
    NeedMethods,
    RegistrationMethods,
)

if TYPE_CHECKING:
    from contex.v1 import (
        agent_service_pb2,
        consumer_pb2,
    )

__all__ = [
    "Agent",
    "AgentContext",
    "AgentProgress",
    "AgentStream",
    "Blocked",
    "BlockedKey",
    "Consumer",
    "ConsumerGroup",
    "DecidingState",
    "DeliveredNeed",
    "Delivery",
    "DeliveryKind",
    "HeldBack",
    "HeldBackReason",
    "KnownDatum",
    "MinDelta",
    "Missed",
    "Need",
    "NeedsChanged",
    "ParkCause",
    "ParkedDelivery",
    "Registration",
    "RegistrationOutcome",
    "Resync",
    "SeekResult",
    "StaleReason",
    "WaitUntil",
    "WithheldDatum",
    "agent",
    "agent_context",
    "agent_progress",
    "agent_stream",
    "blocked",
    "blocked_key",
    "consumer",
    "consumer_group",
    "delivered_need",
    "delivery",
    "held_back",
    "known_datum",
    "min_delta",
    "missed",
    "need",
    "parked_delivery",
    "registration",
    "resync",
    "seek_result",
    "withheld_datum",
]


@dataclass(frozen=True, slots=True)
class Need(NeedMethods):
    """One thing that an agent wants to know.

    Attributes:
        text: The need in plain words, 1 to 1,000 characters. Empty with a filter; one of the two is
            required.
        threshold: Lowest score that matches: above 0, at most 1. None: the agent's threshold.
            Refused with a filter, which passes an event or does not.
        max_matches: Maximum number of data items that a response returns for this need, 1 to 100.
            None: the agent's.
        exclude_data_keys: Data keys that never match this need: at most 32 globs; see
            `EventFilter.data_keys`.
        filter: The need as a filter, in place of words: what passes it matches, with score 1. It
            has the limits of EventFilter, and counts towards the bytes that an agent's needs may
            have in total. An empty filter passes every event but the service's own, which only pass
            a filter whose types or prefixes of types name them. Where data are returned for it, the
            newest come first; they are judged by their latest event.
        id: Identifies the text or the filter, wherever it stands and whoever has it: 8 hex digits.
            Exclusions, threshold and maximum make no difference. Returned only; ignored in a
            request.
    """

    text: str = ""
    threshold: float | None = None
    max_matches: int | None = None
    exclude_data_keys: tuple[str, ...] = ()
    filter: EventFilter | None = None
    id: str = field(default="", compare=False)


def need(message: agent_service_pb2.Need) -> Need:
    """The `Need` of a message."""
    return Need(
        text=message.text,
        threshold=message.threshold if message.HasField("threshold") else None,
        max_matches=message.max_matches if message.HasField("max_matches") else None,
        exclude_data_keys=tuple(message.exclude_data_keys),
        filter=event_filter(message.filter) if message.HasField("filter") else None,
        id=message.id,
    )


@dataclass(frozen=True, slots=True)
class MinDelta:
    """Which updates are worth pushing.

    An update is an event whose data key already had an event described by the same text. All other
    events are always pushed.

    Attributes:
        payload_changed: Push an update only if it changes the payload.
        json_pointers: Push an update only if it changes the value at one of these JSON pointers
            (RFC 6901): at most 16 of at most 256 characters; "" is the whole payload. Payloads that
            are not JSON are compared as a whole. Implies payload_changed.
    """

    payload_changed: bool = False
    json_pointers: tuple[str, ...] = ()


def min_delta(message: agent_service_pb2.MinDelta) -> MinDelta:
    """The `MinDelta` of a message."""
    return MinDelta(
        payload_changed=message.payload_changed,
        json_pointers=tuple(message.json_pointers),
    )


class DecidingState(enum.Enum):
    """How what an agent gets is being decided."""

    LIVE = "live"
    """Together with the agents that follow the end of the log."""
    CATCHING_UP = "catching_up"
    """By itself, because the agent stands before the others: its past is filled in, or what it
    missed.
    """
    NEEDS_CHANGED = "needs_changed"
    """By itself, because its needs changed: what they bring is being looked up."""
    NOT_BEGUN = "not_begun"
    """Not yet: it was registered just now."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class AgentProgress:
    """How far an agent is: what is decided for it, and what it has not acknowledged of that.

    Attributes:
        decided_sequence: Up to this event it is decided what the agent gets. Empty: nothing is
            decided yet.
        deciding_state: How what comes after it is being decided.
        deciding_lag_ms: How long the oldest event after decided_sequence has been in the log: the
            lag of deciding. 0 if there is none.
        acknowledged_sequence: The durable cursor: the sequence up to which the agent has
            acknowledged.
        unacknowledged_count: Number of entries of the agent's inbox after what it has acknowledged,
            changes of its own needs included; of what was trimmed, those that are left. Counted up
            to 1,000, in `list_agents` up to 100.
        has_more_unacknowledged: Whether there are more than were counted.
        lag_ms: How long ago the event of the first of these entries was written: the lag of the
            agent. 0 if there is none.
    """

    decided_sequence: str
    deciding_state: DecidingState
    deciding_lag_ms: int
    acknowledged_sequence: str
    unacknowledged_count: int
    has_more_unacknowledged: bool
    lag_ms: int


def agent_progress(message: agent_service_pb2.AgentProgress) -> AgentProgress:
    """The `AgentProgress` of a message."""
    return AgentProgress(
        decided_sequence=message.decided_sequence,
        deciding_state=_DECIDING_STATES.get(message.deciding_state, DecidingState.OTHER),
        deciding_lag_ms=message.deciding_lag_ms,
        acknowledged_sequence=message.acknowledged_sequence,
        unacknowledged_count=message.unacknowledged_count,
        has_more_unacknowledged=message.has_more_unacknowledged,
        lag_ms=message.lag_ms,
    )


class WaitUntil(enum.Enum):
    """What an agent is waited for to have done."""

    ACKNOWLEDGED = "acknowledged"
    """It has nothing left to process up to the event: everything up to there is decided, and it has
    acknowledged whatever of that it was to get.

    So an agent that gets nothing up to there has passed as soon as that is decided. One that
    acknowledged a later event has passed, too, unless it has not acknowledged what its registration
    brought, which is older than its place.
    """
    DECIDED = "decided"
    """It is decided what it gets up to the event, whether it was there or not: that is in its
    inbox.
    """


@dataclass(frozen=True, slots=True)
class Agent:
    """A registration.

    Attributes:
        agent_id: Unique in the project: 1 to 128 characters of A-Z a-z 0-9 _ . : / @ + -, starting
            with a letter or digit.
        needs: What the agent needs, 1 to 32 of them.
        threshold: Lowest score that matches: above 0, at most 1.
        max_matches: Maximum number of data items that `register` and `update` return for each need,
            1 to 100. Does not limit live deliveries.
        registered_time: When the agent was first registered (UTC).
        updated_time: When the registration last changed (UTC).
        acknowledged_sequence: The durable cursor: the sequence up to which the agent has
            acknowledged.
        min_delta: Which updates are pushed; None: all.
        muted_kinds: Kinds of deliveries that the agent does without: UPDATED, LEFT, DELETED or
            EXPIRED.
        exclude_own: Whether what the agent publishes itself, as the publisher that is named like
            it, is not delivered to it.
        ttl: How long the agent may go without a contact; then it expires and is unregistered. None:
            it never expires.
        last_contact_time: When the agent was last in contact, by the store's clock: when it
            registered, changed its registration, acknowledged, or had an open `listen` stream,
            which counts every 5 seconds or oftener (UTC). None: not since it was imported, or since
            a version that does not note it. Only in answers about the present.
        progress: How far the agent is with what it gets. Set by `get_agent` and `list_agents`.
        identity: Whose agent it is: the identity that registered it, whose rights it has. Empty: of
            nobody, as it was registered while access was off; it gets what those may see who listen
            for it.
        readable_data_keys: Globs over the data keys that its identity may read; only these are
            matched. Empty: all of them, unless sees_nothing.
        sees_nothing: Whether its identity may read nothing of the project.
    """

    agent_id: str
    needs: tuple[Need, ...]
    threshold: float
    max_matches: int
    registered_time: datetime
    updated_time: datetime
    acknowledged_sequence: str
    min_delta: MinDelta | None = None
    muted_kinds: tuple[MatchKind, ...] = ()
    exclude_own: bool = False
    ttl: timedelta | None = None
    last_contact_time: datetime | None = None
    progress: AgentProgress | None = None
    identity: str = ""
    readable_data_keys: tuple[str, ...] = ()
    sees_nothing: bool = False


def agent(message: agent_service_pb2.Agent) -> Agent:
    """The `Agent` of a message."""
    return Agent(
        agent_id=message.agent_id,
        needs=tuple(map(need, message.needs)),
        threshold=message.threshold,
        max_matches=message.max_matches,
        registered_time=message.registered_time.ToDatetime(tzinfo=UTC),
        updated_time=message.updated_time.ToDatetime(tzinfo=UTC),
        acknowledged_sequence=message.acknowledged_sequence,
        min_delta=min_delta(message.min_delta) if message.HasField("min_delta") else None,
        muted_kinds=tuple(_MATCH_KINDS.get(one, MatchKind.OTHER) for one in message.muted_kinds),
        exclude_own=message.exclude_own,
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
        last_contact_time=message.last_contact_time.ToDatetime(tzinfo=UTC)
        if message.HasField("last_contact_time")
        else None,
        progress=agent_progress(message.progress) if message.HasField("progress") else None,
        identity=message.identity,
        readable_data_keys=tuple(message.readable_data_keys),
        sees_nothing=message.sees_nothing,
    )


class RegistrationOutcome(enum.Enum):
    """What a registration did."""

    REGISTERED = "registered"
    """There was no such agent before."""
    CHANGED = "changed"
    """The registration was changed."""
    UNCHANGED = "unchanged"
    """It was the same already: nothing was written, and there is no event."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class Registration(RegistrationMethods):
    """A registration and what matches it now.

    Attributes:
        agent: The registration as it stands.
        data: The live data that match: each item once, best score first, with the needs it met. At
            most max_matches for each need.
        sequence: The sequence as of which the data are returned.
        cursor: Pass this to `listen` to continue without a gap: the position of last_seen_sequence
            if that was given, of the durable cursor otherwise.
        context: The data written out; set if max_context_tokens or context_format was given.
        omitted_count: Number of data that matched but are in neither `data` nor `context`, because
            even without their payloads the response would have grown beyond 3.5 MiB: those with the
            lowest scores.
        outcome: What the registration did.
    """

    agent: Agent
    data: tuple[MatchedEvent, ...]
    sequence: str
    cursor: str
    context: Context | None = None
    omitted_count: int = 0
    outcome: RegistrationOutcome | None = None


def registration(message: agent_service_pb2.RegisterAgentResponse) -> Registration:
    """The `Registration` of a message."""
    return Registration(
        agent=agent(message.agent),
        data=tuple(map(matched_event, message.data)),
        sequence=message.sequence,
        cursor=message.cursor,
        context=context(message.context) if message.HasField("context") else None,
        omitted_count=message.omitted_count,
        outcome=_REGISTRATION_OUTCOMES.get(message.outcome, RegistrationOutcome.OTHER)
        if message.outcome
        else None,
    )


@dataclass(frozen=True, slots=True)
class NeedsChanged:
    """The agent's needs from here on.

    What the change brings follows as events, before anything that was published later: data that
    match now as MATCHED, data that the agent holds and that match no longer as LEFT. Sent where the
    change lies in the agent's inbox, so also to an agent that was away.

    Attributes:
        agent: The registration.
        data: Always empty; earlier versions sent here what matched newly.
        omitted_count: Always 0.
    """

    agent: Agent
    data: tuple[MatchedEvent, ...]
    omitted_count: int = 0


@dataclass(frozen=True, slots=True)
class Resync:
    """From here on, only the latest delivery of each datum follows, in the order in which they
    changed last, up to where the inbox is whole.

    Sent if ListenRequest.conflate asked for that, and if the stream begins in a part of the inbox
    that was trimmed: after what was acknowledged has been kept for as long as records of deliveries
    are, or because the inbox had grown beyond its bound (CONTEX_INBOX_BYTES). Sent again if the
    inbox is trimmed further before the stream has read it, with what is left out since; some of
    that it may have been sent before. Whoever keeps the latest delivery of each key, by what `kind`
    says, need not do anything: nothing that changed is missing. Erasures are never left out.

    Attributes:
        superseded_count: How many deliveries are left out because a later one of their datum
            follows. Of a trimmed inbox these are those that the agent had not acknowledged when it
            was trimmed, at any time.
        dropped_count: Likewise deliveries of events without a data key: nothing tells of them any
            more, but they can be read from the log. Always 0 with conflate, which leaves none of
            them out.
    """

    superseded_count: int
    dropped_count: int


def resync(message: agent_service_pb2.Resync) -> Resync:
    """The `Resync` of a message."""
    return Resync(
        superseded_count=message.superseded_count,
        dropped_count=message.dropped_count,
    )


@dataclass(frozen=True, slots=True)
class DeliveredNeed:
    """Why an event was sent.

    Attributes:
        need_index: Position of the need in the agent's list at the time, from 0.
        need: The text of the need. Empty if that registration is no longer on record, or if the
            response has no room for it: it holds at most 512 KiB of them.
        score: The calibrated probability, rounded to four digits.
    """

    need_index: int
    need: str
    score: float


def delivered_need(message: agent_service_pb2.DeliveredNeed) -> DeliveredNeed:
    """The `DeliveredNeed` of a message."""
    return DeliveredNeed(
        need_index=message.need_index,
        need=message.need,
        score=message.score,
    )


class StaleReason(enum.Enum):
    """Why an agent had not been told of a change to a datum that it held."""

    ON_ITS_WAY = "on_its_way"
    """The delivery was in the agent's inbox, and had not been sent.

    Of a moment of the past also if it was decided later: when something was decided is not on
    record.
    """
    UNDECIDED = "undecided"
    """What the change meant to the agent had not been decided yet."""
    MIN_DELTA = "min_delta"
    """The agent's min_delta: the update changed nothing that the agent asked for."""
    MUTED = "muted"
    """The agent does without deliveries of this kind (muted_kinds)."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class KnownDatum:
    """A datum that an agent had been sent.

    Attributes:
        data_key: Its key.
        sequence: The last event of this key that it had been sent.
        revision: The revision of that event.
        sent_time: When that event was sent (UTC).
        needs: Why that event was sent.
        acknowledged: Whether the agent had acknowledged it.
        latest_sequence: The latest event of the datum at that moment. `stale` says whether the
            agent lacked it.
        latest_revision: The revision of the latest event.
        deleted: Whether the datum had been deleted, or had expired, by then.
        event: The event that the agent had been sent. None with omit_payloads, if the response
            would have grown beyond 3 MiB, or if the event can no longer be read.
        stale: Whether the agent's knowledge was out of date: there was a newer revision, or the
            datum had been deleted or erased, had expired, or no longer met the agent's needs, and
            the agent had not been told so. What it published itself and does without (exclude_own)
            it knows.
        stale_reason: Why it had not been told. None if the datum was not stale, or if no record
            says why.
        pending_kind: What it was to be told, or would have been: UPDATED, LEFT, DELETED, EXPIRED,
            ERASED; also MATCHED, if the datum was to leave and to come again. None if the datum was
            not stale, or if it was not yet decided whether the newer revision met the agent's
            needs.
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
    stale: bool = False
    stale_reason: StaleReason | None = None
    pending_kind: MatchKind | None = None


def known_datum(message: agent_service_pb2.KnownDatum) -> KnownDatum:
    """The `KnownDatum` of a message."""
    return KnownDatum(
        data_key=message.data_key,
        sequence=message.sequence,
        revision=message.revision,
        sent_time=message.sent_time.ToDatetime(tzinfo=UTC),
        needs=tuple(map(delivered_need, message.needs)),
        acknowledged=message.acknowledged,
        latest_sequence=message.latest_sequence,
        latest_revision=message.latest_revision,
        deleted=message.deleted,
        event=event(message.event) if message.HasField("event") else None,
        stale=message.stale,
        stale_reason=_STALE_REASONS.get(message.stale_reason, StaleReason.OTHER)
        if message.stale_reason
        else None,
        pending_kind=_MATCH_KINDS.get(message.pending_kind, MatchKind.OTHER)
        if message.pending_kind
        else None,
    )


class HeldBackReason(enum.Enum):
    """Why a datum was not sent."""

    MIN_DELTA = "min_delta"
    """The agent's min_delta: the update changed nothing that the agent asked for."""
    EXCLUDED = "excluded"
    """The need excludes the key."""
    BELOW_THRESHOLD = "below_threshold"
    """The score is below the need's threshold."""
    ANSWER_FULL = "answer_full"
    """Only of earlier versions: it existed when the agent registered but did not fit into the
    response.
    """
    MUTED = "muted"
    """The agent does without deliveries of this kind (muted_kinds)."""
    OWN = "own"
    """The agent published it itself, and does without that (exclude_own)."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A datum that was held back.

    Attributes:
        reason: Why it was held back.
        data: The datum as of that moment, with the need and the score.
    """

    reason: HeldBackReason
    data: MatchedEvent


def held_back(message: agent_service_pb2.HeldBack) -> HeldBack:
    """The `HeldBack` of a message."""
    return HeldBack(
        reason=_HELD_BACK_REASONS.get(message.reason, HeldBackReason.OTHER),
        data=matched_event(message.data),
    )


@dataclass(frozen=True, slots=True)
class AgentStream:
    """One `listen` stream of an agent.

    Attributes:
        stream_id: Identifies the stream.
        opened_time: When it was opened (UTC).
        closed_time: When it ended (UTC). None if it was still open, or if its server crashed.
        peer: The client's address.
        client: The client's user agent.
        start_sequence: The position that it started from.
    """

    stream_id: str
    opened_time: datetime
    closed_time: datetime | None
    peer: str
    client: str
    start_sequence: str


def agent_stream(message: agent_service_pb2.AgentStream) -> AgentStream:
    """The `AgentStream` of a message."""
    return AgentStream(
        stream_id=message.stream_id,
        opened_time=message.opened_time.ToDatetime(tzinfo=UTC),
        closed_time=message.closed_time.ToDatetime(tzinfo=UTC)
        if message.HasField("closed_time")
        else None,
        peer=message.peer,
        client=message.client,
        start_sequence=message.start_sequence,
    )


@dataclass(frozen=True, slots=True)
class WithheldDatum:
    """A datum that an agent may no longer read.

    Attributes:
        data_key: Its key.
        revision: The last revision that was decided for the agent while it had the right.
        since_sequence: The registration since which it is withheld.
        since_time: When that was (UTC).
    """

    data_key: str
    revision: int
    since_sequence: str
    since_time: datetime


def withheld_datum(message: agent_service_pb2.WithheldDatum) -> WithheldDatum:
    """The `WithheldDatum` of a message."""
    return WithheldDatum(
        data_key=message.data_key,
        revision=message.revision,
        since_sequence=message.since_sequence,
        since_time=message.since_time.ToDatetime(tzinfo=UTC),
    )


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent knew at a moment.

    Attributes:
        as_of: The moment.
        agent: The registration as of that moment, with the cursor that the agent had acknowledged.
        known: The data that the agent had been sent, by key, except those it was told were deleted
            or had expired.
        pending: What existed and matched its needs but had not been sent yet, best score first.
        held_back: What matched or nearly matched but was held back for a reason.
        streams: The agent's streams, newest first, at most 10. They show whether it was connected.
        last_sent_time: When the agent was last sent anything (UTC). None: never.
        last_sent_sequence: The newest event that it had been sent. Empty if there was none.
        known_omitted_count: Number of data that are missing in `known`, as the response has room
            for 1 MiB of them without their payloads: the last by key.
        pending_omitted_count: Number of data that are missing in `pending`, as it holds at most
            1,000, and about 1 MiB: those with the lowest scores.
        held_back_omitted_count: Number of data that are missing in `held_back`, likewise.
        withheld: The data that the agent had been sent and was told are withheld since, by key; at
            most 1,000.
    """

    as_of: Moment
    agent: Agent
    known: tuple[KnownDatum, ...]
    pending: tuple[MatchedEvent, ...]
    held_back: tuple[HeldBack, ...]
    streams: tuple[AgentStream, ...]
    last_sent_time: datetime | None = None
    last_sent_sequence: str = ""
    known_omitted_count: int = 0
    pending_omitted_count: int = 0
    held_back_omitted_count: int = 0
    withheld: tuple[WithheldDatum, ...] = ()


def agent_context(message: agent_service_pb2.GetAgentContextResponse) -> AgentContext:
    """The `AgentContext` of a message."""
    return AgentContext(
        as_of=moment(message.as_of),
        agent=agent(message.agent),
        known=tuple(map(known_datum, message.known)),
        pending=tuple(map(matched_event, message.pending)),
        held_back=tuple(map(held_back, message.held_back)),
        streams=tuple(map(agent_stream, message.streams)),
        last_sent_time=message.last_sent_time.ToDatetime(tzinfo=UTC)
        if message.HasField("last_sent_time")
        else None,
        last_sent_sequence=message.last_sent_sequence,
        known_omitted_count=message.known_omitted_count,
        pending_omitted_count=message.pending_omitted_count,
        held_back_omitted_count=message.held_back_omitted_count,
        withheld=tuple(map(withheld_datum, message.withheld)),
    )


class DeliveryKind(enum.Enum):
    """How an event was sent."""

    STREAM = "stream"
    """By a `listen` stream."""
    NEEDS_CHANGED = "needs_changed"
    """By a `listen` stream, in a needs_changed message."""
    ANSWER = "answer"
    """In the answer of `register` or `update`."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of an event to an agent.

    It is recorded before the event is sent, so everything that an agent has received is on record.
    A recorded event may have been lost on the way; it is then sent and recorded again.

    Attributes:
        agent_id: The agent.
        sequence: The event.
        data_key: Its data key.
        revision: Its revision.
        time: When it was sent (UTC).
        kind: How it was sent.
        change: What it told the agent of the datum. Unspecified with `DeliveryKind.ANSWER`, and of
            what earlier versions sent.
        resend: Whether the agent had already been sent this event.
        needs: Why it was sent: the needs and their probabilities.
        position: The stream's position at the message that carried the event: resuming with that
            message's cursor resumes here.
        stream_id: The stream. Empty with `DeliveryKind.ANSWER`.
    """

    agent_id: str
    sequence: str
    data_key: str
    revision: int
    time: datetime
    kind: DeliveryKind
    change: MatchKind | None
    resend: bool
    needs: tuple[DeliveredNeed, ...]
    position: str
    stream_id: str = ""


def delivery(message: agent_service_pb2.Delivery) -> Delivery:
    """The `Delivery` of a message."""
    return Delivery(
        agent_id=message.agent_id,
        sequence=message.sequence,
        data_key=message.data_key,
        revision=message.revision,
        time=message.time.ToDatetime(tzinfo=UTC),
        kind=_DELIVERY_KINDS.get(message.kind, DeliveryKind.OTHER),
        change=_MATCH_KINDS.get(message.change, MatchKind.OTHER) if message.change else None,
        resend=message.resend,
        needs=tuple(map(delivered_need, message.needs)),
        position=message.position,
        stream_id=message.stream_id,
    )


@dataclass(frozen=True, slots=True)
class Missed:
    """Deliveries are missing from here on: retention, or the bound of an inbox
    (CONTEX_INBOX_BYTES), has removed them before a consumer had them.

    Of each datum the latest follows.

    Attributes:
        superseded_count: Deliveries that a later one of their datum stands for.
        dropped_count: Deliveries of which nothing tells any more: of events without a data key.
        removed_count: Deliveries that were removed while they were outstanding, and have to be
            given up.
    """

    superseded_count: int
    dropped_count: int
    removed_count: int


def missed(message: consumer_pb2.Missed) -> Missed:
    """The `Missed` of a message."""
    return Missed(
        superseded_count=message.superseded_count,
        dropped_count=message.dropped_count,
        removed_count=message.removed_count,
    )


@dataclass(frozen=True, slots=True)
class Blocked:
    """As many deliveries are outstanding as may be (10,000), most of them probably behind one that
    blocks its data key.

    Attributes:
        data_key: The data key behind which most wait.
        waiting_count: How many wait behind it.
        sequence: The delivery that they wait for.
        consumer: Who has it; empty if it waits for a retry.
    """

    data_key: str
    waiting_count: int
    sequence: str
    consumer: str


def blocked(message: consumer_pb2.Blocked) -> Blocked:
    """The `Blocked` of a message."""
    return Blocked(
        data_key=message.data_key,
        waiting_count=message.waiting_count,
        sequence=message.sequence,
        consumer=message.consumer,
    )


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer.

    Attributes:
        name: Its name.
        outstanding_count: Deliveries that it has.
        oldest_outstanding_ms: How long it has had the one that it got or extended the longest ago.
            0: it has none.
        last_contact_time: When it last got, settled or asked for something; a connected one asks
            every 5 seconds or oftener (UTC).
    """

    name: str
    outstanding_count: int
    oldest_outstanding_ms: int
    last_contact_time: datetime


def consumer(message: consumer_pb2.Consumer) -> Consumer:
    """The `Consumer` of a message."""
    return Consumer(
        name=message.name,
        outstanding_count=message.outstanding_count,
        oldest_outstanding_ms=message.oldest_outstanding_ms,
        last_contact_time=message.last_contact_time.ToDatetime(tzinfo=UTC),
    )


@dataclass(frozen=True, slots=True)
class BlockedKey:
    """A data key whose deliveries wait.

    Attributes:
        data_key: The key.
        waiting_count: How many wait.
        sequence: The event of the delivery that they wait for.
        consumer: Who has it; empty if it waits for a retry, or to be given to somebody.
        attempt: How often it was tried.
    """

    data_key: str
    waiting_count: int
    sequence: str
    consumer: str
    attempt: int


def blocked_key(message: consumer_pb2.BlockedKey) -> BlockedKey:
    """The `BlockedKey` of a message."""
    return BlockedKey(
        data_key=message.data_key,
        waiting_count=message.waiting_count,
        sequence=message.sequence,
        consumer=message.consumer,
        attempt=message.attempt,
    )


@dataclass(frozen=True, slots=True)
class ConsumerGroup:
    """The consumers of an agent, and what they share.

    Attributes:
        position_sequence: Up to this event, deliveries have been handed out. Empty if nobody has
            ever consumed: then the backlog is what the agent has not acknowledged.
        backlog_count: Deliveries that were not yet handed out, counted up to 10,000.
        has_more_backlog: Whether there are more than were counted.
        lag_ms: How long ago the event of the oldest delivery was written that is not settled. 0:
            there is none.
        outstanding_count: Deliveries that are outstanding: with a consumer, waiting for a retry, or
            for an earlier one of their data key.
        delayed_count: Of these, those that wait for a retry, or to be given to somebody.
        waiting_count: Of these, those that wait for an earlier one of their data key.
        parked_count: Deliveries that are parked.
        missed: What consumers of the agent have missed so far.
        consumers: The consumers, by name. Also those that have left and whose claims have not run
            out.
        blocked_keys: The data keys behind which most deliveries wait, at most 10.
    """

    position_sequence: str
    backlog_count: int
    has_more_backlog: bool
    lag_ms: int
    outstanding_count: int
    delayed_count: int
    waiting_count: int
    parked_count: int
    missed: Missed
    consumers: tuple[Consumer, ...]
    blocked_keys: tuple[BlockedKey, ...]


def consumer_group(message: consumer_pb2.GetConsumerGroupResponse) -> ConsumerGroup:
    """The `ConsumerGroup` of a message."""
    return ConsumerGroup(
        position_sequence=message.position_sequence,
        backlog_count=message.backlog_count,
        has_more_backlog=message.has_more_backlog,
        lag_ms=message.lag_ms,
        outstanding_count=message.outstanding_count,
        delayed_count=message.delayed_count,
        waiting_count=message.waiting_count,
        parked_count=message.parked_count,
        missed=missed(message.missed),
        consumers=tuple(map(consumer, message.consumers)),
        blocked_keys=tuple(map(blocked_key, message.blocked_keys)),
    )


class ParkCause(enum.Enum):
    """What led to a delivery being parked."""

    CONSUMER = "consumer"
    """A consumer has parked it."""
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    """It was tried as often as a consumer allows (`max_attempts` of `consume`)."""
    SEEK = "seek"
    """It had been sent on its way again when the agent's place was moved (`seek_consumers`), or its
    past was asked for (RegisterAgentRequest.last_seen_sequence).
    """
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class ParkedDelivery:
    """A delivery that was put aside.

    Attributes:
        parked_id: Names it while it is parked.
        matched: The event and why it was delivered.
        attempts: How often it was tried.
        consumer: Who had it last.
        parked_time: When it was parked (UTC).
        reason: Why, in the consumer's words. Empty with TOO_MANY_ATTEMPTS.
        cause: What led to it.
    """

    parked_id: str
    matched: MatchedEvent
    attempts: int
    consumer: str
    parked_time: datetime
    reason: str
    cause: ParkCause


def parked_delivery(message: consumer_pb2.ParkedDelivery) -> ParkedDelivery:
    """The `ParkedDelivery` of a message."""
    return ParkedDelivery(
        parked_id=message.parked_id,
        matched=matched_event(message.matched),
        attempts=message.attempts,
        consumer=message.consumer,
        parked_time=message.parked_time.ToDatetime(tzinfo=UTC),
        reason=message.reason,
        cause=_PARK_CAUSES.get(message.cause, ParkCause.OTHER),
    )


@dataclass(frozen=True, slots=True)
class SeekResult:
    """The place was moved.

    Attributes:
        position_sequence: After this event consumers go on; the agent's durable cursor is there,
            too.
        cleared_count: Deliveries that were outstanding, and are no more: whoever had them has lost
            them.
    """

    position_sequence: str
    cleared_count: int


def seek_result(message: consumer_pb2.SeekConsumerGroupResponse) -> SeekResult:
    """The `SeekResult` of a message."""
    return SeekResult(
        position_sequence=message.position_sequence,
        cleared_count=message.cleared_count,
    )


_DECIDING_STATES = {
    1: DecidingState.LIVE,
    2: DecidingState.CATCHING_UP,
    3: DecidingState.NEEDS_CHANGED,
    4: DecidingState.NOT_BEGUN,
}

_REGISTRATION_OUTCOMES = {
    1: RegistrationOutcome.REGISTERED,
    2: RegistrationOutcome.CHANGED,
    3: RegistrationOutcome.UNCHANGED,
}

_STALE_REASONS = {
    1: StaleReason.ON_ITS_WAY,
    2: StaleReason.UNDECIDED,
    3: StaleReason.MIN_DELTA,
    4: StaleReason.MUTED,
}

_HELD_BACK_REASONS = {
    1: HeldBackReason.MIN_DELTA,
    2: HeldBackReason.EXCLUDED,
    3: HeldBackReason.BELOW_THRESHOLD,
    4: HeldBackReason.ANSWER_FULL,
    5: HeldBackReason.MUTED,
    6: HeldBackReason.OWN,
}

_DELIVERY_KINDS = {1: DeliveryKind.STREAM, 2: DeliveryKind.NEEDS_CHANGED, 3: DeliveryKind.ANSWER}

_PARK_CAUSES = {1: ParkCause.CONSUMER, 2: ParkCause.TOO_MANY_ATTEMPTS, 3: ParkCause.SEEK}

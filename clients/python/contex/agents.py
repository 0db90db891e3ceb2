"""Values of `contex.v1.AgentService`: registrations, and what agents were sent."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from . import events
from .events import Context, Event, MatchedEvent, MatchesByNeed, Moment, by_need
from .lazy import agent_service_pb2, wire


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that an agent wants to know; a plain string does if it needs no option.

    Attributes:
        text: The need in plain words.
        threshold: Lowest score that matches; by default the agent's.
        max_matches: Maximum number of data that an answer returns for it; by default the agent's.
        exclude_data_keys: Globs for data keys that never match it.
    """

    text: str
    threshold: float | None = None
    max_matches: int | None = None
    exclude_data_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MinDelta:
    """When an update is pushed; an empty one pushes every update.

    An update is an event whose key had an earlier event that is described by the same text.

    Attributes:
        payload_changed: Only if it changes the payload.
        json_pointers: Only if it changes the value at one of these; `""` is the whole payload.
    """

    payload_changed: bool = False
    json_pointers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agent:
    """A registration.

    Attributes:
        agent_id: Unique in the project.
        needs: What the agent wants to know, each in one line of plain words.
        threshold: Lowest score that matches.
        max_matches: Maximum number of data that a registration returns for each need.
        registered_time: When it was registered first (UTC).
        updated_time: When the registration last changed (UTC).
        acknowledged_sequence: The durable cursor, where a `listen` without a start resumes.
        need_specs: The needs with their own thresholds, limits and exclusions.
        min_delta: Which updates are pushed; None: all.
    """

    agent_id: str
    needs: tuple[str, ...]
    threshold: float
    max_matches: int
    registered_time: datetime
    updated_time: datetime
    acknowledged_sequence: str
    need_specs: tuple[Need, ...] = ()
    min_delta: MinDelta | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """The answer to registering or updating an agent.

    Attributes:
        data: The data that match now, each once, best score first.
        sequence: They are the state as of this sequence.
        cursor: Where to `listen` from to miss nothing; empty after an update, which does not
            change where the agent listens.
        context: The data as text, if a budget or a format was given.
    """

    agent: Agent
    data: tuple[MatchedEvent, ...]
    sequence: str
    cursor: str
    context: Context | None = None

    def by_need(self) -> MatchesByNeed:
        """Groups the data by need: the agent's needs in their order, best score first."""
        return by_need(self.agent.needs, self.data)


@dataclass(frozen=True, slots=True)
class NeedsChanged:
    """A change of an agent's registration, made while it listened or was away.

    Attributes:
        data: The data that match it and did not match the one before, best score first.
    """

    agent: Agent
    data: tuple[MatchedEvent, ...]


@dataclass(frozen=True, slots=True)
class DeliveredNeed:
    """Why an event was sent.

    Attributes:
        need_index: Position of the need in the agent's list at that time.
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
        sequence: The last event of it that the agent had been sent.
        revision: That event's revision.
        sent_time: When it was sent (UTC).
        needs: Why it was sent.
        acknowledged: Whether the agent had acknowledged it.
        latest_sequence: The datum's latest event at the moment.
        latest_revision: The latest event's revision.
        deleted: Whether the datum was deleted by then.
        event: The event that the agent had been sent, if it is known.
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
        """Whether the agent's knowledge was out of date."""
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
    """The answer to the registration was full."""
    OTHER = "other"
    """A reason that this client does not know."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A datum that was deliberately not sent."""

    reason: HeldBackReason
    data: MatchedEvent


@dataclass(frozen=True, slots=True)
class AgentStream:
    """A Listen stream of an agent.

    Attributes:
        opened_time: When it was opened (UTC).
        closed_time: When it ended; None if it is open, or if its server died.
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
        agent: Its registration then.
        known: The data that it had been sent, by key.
        pending: The data that matched but had not been sent yet, best first.
        held_back: The data that were deliberately not sent.
        streams: Its streams, newest first.
        last_sent_time: When it was last sent something; None if never.
        last_sent_sequence: The newest event that it had been sent; empty if none.
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
    """On a Listen stream."""
    NEEDS_CHANGED = "needs_changed"
    """On a Listen stream, after its needs were changed."""
    ANSWER = "answer"
    """In the answer to a registration or a change of one."""
    OTHER = "other"
    """A way that this client does not know."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that was sent to an agent.

    Attributes:
        sequence: The event.
        time: When it was sent (UTC).
        resend: Whether the agent had been sent it before.
        position: The stream's position after the message.
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


# -- to messages ---------------------------------------------------------------------------------


def to_needs(needs: Iterable[str | Need]) -> list[agent_service_pb2.Need]:
    """The messages for needs, plain text included."""
    return [
        agent_service_pb2.Need(
            text=need.text,
            threshold=need.threshold,
            max_matches=need.max_matches,
            exclude_data_keys=wire.several(need.exclude_data_keys),
        )
        for need in (Need(one) if isinstance(one, str) else one for one in wire.several(needs))
    ]


def to_lines_or_needs(
    needs: Iterable[str | Need],
) -> tuple[list[str], list[agent_service_pb2.Need]]:
    """The needs as lines if none has an option, which older servers understand too."""
    needs = wire.several(needs)
    lines = [need for need in needs if isinstance(need, str)]
    return (lines, []) if len(lines) == len(needs) else ([], to_needs(needs))


def to_min_delta(min_delta: MinDelta | None) -> agent_service_pb2.MinDelta | None:
    """The message for a delta."""
    if min_delta is None:
        return None
    return agent_service_pb2.MinDelta(
        payload_changed=min_delta.payload_changed,
        json_pointers=wire.several(min_delta.json_pointers),
    )


# -- from messages -------------------------------------------------------------------------------


def registration(
    message: agent_service_pb2.RegisterAgentResponse | agent_service_pb2.UpdateAgentResponse,
) -> Registration:
    """A new or changed registration with the data that match it."""
    return Registration(
        wire.to_value(Agent, message.agent),
        tuple(map(events.matched_event, message.data)),
        message.sequence,
        message.cursor if isinstance(message, agent_service_pb2.RegisterAgentResponse) else "",
        events.context(message),
    )


def needs_changed(message: agent_service_pb2.NeedsChanged) -> NeedsChanged:
    """A change of a registration, as a stream reports it."""
    data = tuple(events.matched_event(datum, backfilled=True) for datum in message.data)
    return NeedsChanged(wire.to_value(Agent, message.agent), data)

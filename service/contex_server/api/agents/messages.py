"""Registrations, and what agents are sent and knew, as the API has them."""

from __future__ import annotations

from collections.abc import Iterator

from contex.v1 import agent_service_pb2 as pb
from contex.v1 import event_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.agents.context import AgentContext, KnownDatum
from contex_server.agents.journal import Stream
from contex_server.agents.journal_reader import RecordedDelivery
from contex_server.agents.registry import Registered
from contex_server.agents.staleness import Staleness
from contex_server.api.match import messages as match_messages
from contex_server.api.match.messages import BatchRoom
from contex_server.api.shared import wire
from contex_server.api.shared.convert import convert
from contex_server.api.shared.cursors import Token
from contex_server.api.state.messages import moment_message
from contex_server.events.feed import Chunk, Part
from contex_server.events.stream import Message
from contex_server.inbox.progress import AgentProgress
from contex_server.kernel.model import BEGINNING, Agent, EventFilter, Need, Sequence
from contex_server.kernel.protobuf import timestamp
from contex_server.kernel.scope import NOTHING
from contex_server.matching.context import ContextFormat


def registered_message(registered: Registered, progress: AgentProgress | None = None) -> pb.Agent:
    message = agent_message(registered.agent, registered.acknowledged)
    if registered.contact_ms:
        message.last_contact_time.CopyFrom(timestamp(registered.contact_ms))
    if progress is not None:
        message.progress.CopyFrom(progress_message(progress))
    return message


def progress_message(progress: AgentProgress) -> pb.AgentProgress:
    return pb.AgentProgress(
        decided_sequence="" if progress.decided is None else str(progress.decided),
        deciding_state=pb.DecidingState.Value(f"DECIDING_STATE_{progress.state.name}"),
        deciding_lag_ms=progress.deciding_lag_ms,
        acknowledged_sequence=str(progress.acknowledged),
        unacknowledged_count=progress.unacknowledged,
        has_more_unacknowledged=progress.more,
        lag_ms=progress.lag_ms,
    )


def agent_message(agent: Agent, acknowledged: Sequence) -> pb.Agent:
    delta = agent.min_delta
    return pb.Agent(
        agent_id=agent.agent_id,
        needs=[_need_message(need) for need in agent.needs],
        threshold=agent.threshold,
        max_matches=agent.max_matches,
        registered_time=timestamp(agent.registered_ms),
        updated_time=timestamp(agent.updated_ms),
        acknowledged_sequence=str(acknowledged),
        min_delta=None
        if delta is None
        else pb.MinDelta(payload_changed=True, json_pointers=delta.json_pointers),
        muted_kinds=[event_pb2.MatchKind.ValueType(change) for change in sorted(agent.muted)],
        exclude_own=agent.exclude_own,
        ttl=_ttl_message(agent.ttl_ms) if agent.ttl_ms else None,
        identity=agent.identity,
        readable_data_keys=sorted(agent.scope.data_keys or ()),
        sees_nothing=agent.scope == NOTHING,
    )


def _ttl_message(ttl_ms: int) -> Duration:
    seconds, ms = divmod(ttl_ms, 1000)
    return Duration(seconds=seconds, nanos=ms * 1_000_000)


def _need_message(need: Need) -> pb.Need:
    return pb.Need(
        text=need.text if need.filter is None else "",
        threshold=need.own_threshold,
        max_matches=need.own_max_matches,
        exclude_data_keys=sorted(need.exclude),
        filter=None if need.filter is None else _filter_message(need.filter),
        id=need.id,
    )


def _filter_message(wanted: EventFilter) -> event_pb2.EventFilter:
    return event_pb2.EventFilter(
        event_types=sorted(wanted.event_types),
        data_keys=sorted(wanted.data_keys),
        publishers=sorted(wanted.publishers),
        event_type_prefixes=wanted.type_prefixes,
        metadata=dict(sorted(wanted.metadata)),
        exclude_service_events=wanted.without_service,
    )


def listen_responses(
    project: str, message: Message, form: ContextFormat, room: BatchRoom, cursor: Sequence
) -> list[Part]:
    """Serialised ListenResponses, each with the places of the deliveries that it carries.

    They are several if one would be too large with what is written out. `cursor` is what the agent
    has acknowledged, as a change of its registration tells.
    """
    chunk = message.chunk
    if chunk is None:
        return [((), wire.bare_response(project, message, inbox=True))]
    if form not in chunk.parts:
        # Agents with the same needs are sent the same.
        first, *others = chunk.deliveries or (None,)
        shared = first if first is not None and first.instead is None else None
        name = form, chunk.position, getattr(chunk.position, "proof", b""), *others
        parts = shared.rendered.get(name) if shared is not None and shared.rendered else None
        if parts is None:
            parts = list(_parts(project, chunk, form, room, cursor))
            if shared is not None:
                shared.keep(name, parts)
        chunk.parts[form] = parts
    return [*chunk.parts[form]]


def _parts(
    project: str, chunk: Chunk, form: ContextFormat, room: BatchRoom, cursor: Sequence
) -> Iterator[Part]:
    kind, batches = wire.RESPONSE_EVENTS, match_messages.matched_batches(chunk, form, room)
    if isinstance(chunk.instead, Agent):
        kind = wire.RESPONSE_NEEDS_CHANGED
        changed = pb.NeedsChanged(agent=agent_message(chunk.instead, cursor))
        batches = iter([(chunk, changed.SerializeToString())])
    elif chunk.instead is not None:
        kind = wire.RESPONSE_RESYNC
        superseded, dropped = chunk.instead
        resync = pb.Resync(superseded_count=superseded, dropped_count=dropped)
        batches = iter([(Chunk([], chunk.position), resync.SerializeToString())])
    for part, content in batches:
        places = [delivery.sequence for delivery in part.deliveries]
        yield places, wire.response(project, kind, content, part.position, Token.INBOX)


def context_message(context: AgentContext) -> pb.GetAgentContextResponse:
    knowledge = context.knowledge
    return pb.GetAgentContextResponse(
        as_of=moment_message(context.moment),
        agent=agent_message(context.agent, knowledge.cursor),
        known=map(_known_message, context.known),
        pending=map(match_messages.datum_message, context.pending),
        held_back=[
            pb.HeldBack(
                reason=pb.HeldBackReason.Value(f"HELD_BACK_REASON_{reason.name}"),
                data=match_messages.datum_message(datum),
            )
            for reason, datum in context.held_back
        ],
        streams=map(_stream_message, context.streams),
        last_sent_time=_time(knowledge.sent_ms),
        last_sent_sequence="" if knowledge.sent == BEGINNING else str(knowledge.sent),
        known_omitted_count=context.known_omitted,
        pending_omitted_count=context.pending_omitted,
        held_back_omitted_count=context.held_back_omitted,
        withheld=[
            pb.WithheldDatum(
                data_key=datum.data_key,
                revision=datum.revision,
                since_sequence=str(datum.since),
                since_time=timestamp(datum.since.ms),
            )
            for datum in context.withheld
        ],
    )


def delivery_message(sending: RecordedDelivery) -> pb.Delivery:
    datum, message = sending.datum, sending.message
    return convert(
        pb.Delivery,
        sending,
        sequence=str(datum.event),
        data_key=datum.data_key,
        revision=datum.revision,
        time=timestamp(datum.sent_ms),
        kind=pb.DeliveryKind.Value(f"DELIVERY_KIND_{message.kind.upper()}"),
        resend=datum.resend,
        position=str(message.position),
        stream_id=message.stream_id,
        change=event_pb2.MatchKind.ValueType(datum.change or 0),
    )


def _known_message(datum: KnownDatum) -> pb.KnownDatum:
    delivery, latest, stale = datum.delivery, datum.latest, datum.staleness
    return convert(
        pb.KnownDatum,
        datum,
        data_key=delivery.data_key,
        sequence=str(delivery.event),
        revision=delivery.revision,
        sent_time=timestamp(delivery.sent_ms),
        latest_sequence=str(latest.sequence if latest else delivery.event),
        latest_revision=latest.revision if latest else delivery.revision,
        deleted=latest is not None and latest.deleted,
        stale=stale is not None,
        stale_reason=_stale_reason(stale),
        pending_kind=event_pb2.MatchKind.ValueType((stale and stale.pending) or 0),
        event=None if datum.entry is None else wire.event_message(datum.entry),
    )


def _stale_reason(stale: Staleness | None) -> pb.StaleReason.ValueType:
    name = "UNSPECIFIED" if stale is None or stale.reason is None else stale.reason.name
    return pb.StaleReason.Value(f"STALE_REASON_{name}")


def _stream_message(stream: Stream) -> pb.AgentStream:
    return pb.AgentStream(
        stream_id=stream.stream_id,
        opened_time=timestamp(stream.opened_ms),
        closed_time=_time(stream.closed_ms),
        peer=stream.origin.peer,
        client=stream.origin.client,
        start_sequence=str(stream.start),
    )


def _time(unix_ms: int) -> Timestamp | None:
    return timestamp(unix_ms) if unix_ms else None

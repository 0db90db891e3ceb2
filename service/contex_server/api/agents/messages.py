"""What agents were sent and knew, as the API has it."""

from __future__ import annotations

from contex.v1 import agent_service_pb2, event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from contex_server.agents import recorder
from contex_server.agents.context import AgentContext, Held, KnownDatum
from contex_server.agents.journal import Stream
from contex_server.agents.journals import Sending, Why
from contex_server.api.shared import wire
from contex_server.kernel.model import BEGINNING
from contex_server.kernel.protobuf import timestamp

_KINDS = {
    recorder.STREAM: agent_service_pb2.DELIVERY_KIND_STREAM,
    recorder.NEEDS_CHANGED: agent_service_pb2.DELIVERY_KIND_NEEDS_CHANGED,
    recorder.ANSWER: agent_service_pb2.DELIVERY_KIND_ANSWER,
}
_HELD = {
    Held.MIN_DELTA: agent_service_pb2.HELD_BACK_REASON_MIN_DELTA,
    Held.EXCLUDED: agent_service_pb2.HELD_BACK_REASON_EXCLUDED,
    Held.BELOW_THRESHOLD: agent_service_pb2.HELD_BACK_REASON_BELOW_THRESHOLD,
    Held.ANSWER_FULL: agent_service_pb2.HELD_BACK_REASON_ANSWER_FULL,
}


def context_message(context: AgentContext) -> agent_service_pb2.GetAgentContextResponse:
    """What an agent knew."""
    knowledge = context.knowledge
    return agent_service_pb2.GetAgentContextResponse(
        as_of=wire.moment_message(context.moment),
        agent=wire.agent_message(context.agent, knowledge.cursor),
        known=[_known_message(datum) for datum in context.known],
        pending=wire.data_messages(context.pending),
        held_back=[
            agent_service_pb2.HeldBack(reason=_HELD[held], data=wire.data_messages([datum])[0])
            for held, datum in context.held_back
            if held is not None
        ],
        streams=[_stream_message(stream) for stream in context.streams],
        last_sent_time=_time(knowledge.sent_ms),
        last_sent_sequence="" if knowledge.sent == BEGINNING else str(knowledge.sent),
    )


def delivery_message(sending: Sending) -> agent_service_pb2.Delivery:
    """A delivery."""
    datum, message = sending.datum, sending.message
    return agent_service_pb2.Delivery(
        agent_id=sending.agent_id,
        sequence=str(datum.event),
        data_key=datum.data_key,
        revision=datum.revision,
        time=timestamp(sending.place.ms),
        kind=_KINDS[message.kind],
        resend=datum.resend,
        needs=_needs(sending.needs),
        position=str(message.position),
        stream_id=message.stream_id,
    )


def _known_message(datum: KnownDatum) -> agent_service_pb2.KnownDatum:
    known, latest = datum.known, datum.latest
    return agent_service_pb2.KnownDatum(
        data_key=datum.data_key,
        sequence=str(known.event),
        revision=known.revision,
        sent_time=timestamp(known.sent_ms),
        needs=_needs(datum.needs),
        acknowledged=datum.acknowledged,
        latest_sequence=str(latest.sequence if latest else known.event),
        latest_revision=latest.revision if latest else known.revision,
        deleted=latest is not None and latest.deleted,
        event=_event(datum),
    )


def _event(datum: KnownDatum) -> event_pb2.Event | None:
    return None if datum.entry is None else wire.event_message(datum.entry)


def _needs(needs: tuple[Why, ...]) -> list[agent_service_pb2.DeliveredNeed]:
    return [
        agent_service_pb2.DeliveredNeed(
            need_index=need.need_index, need=need.need, score=need.score
        )
        for need in needs
    ]


def _stream_message(stream: Stream) -> agent_service_pb2.AgentStream:
    return agent_service_pb2.AgentStream(
        stream_id=stream.stream_id,
        opened_time=timestamp(stream.opened_ms),
        closed_time=_time(stream.closed_ms),
        peer=stream.origin.peer,
        client=stream.origin.client,
        start_sequence=str(stream.start),
    )


def _time(unix_ms: int) -> Timestamp | None:
    return timestamp(unix_ms) if unix_ms else None

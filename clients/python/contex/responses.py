"""Turns protobuf responses into values, the same for both clients."""

from __future__ import annotations

from datetime import UTC

from . import errors
from .v1 import agent_service_pb2, event_pb2, event_service_pb2
from .values import (
    Agent,
    BatchResult,
    Durability,
    Event,
    Match,
    MatchedEvent,
    Receipt,
    Registration,
)


def receipts(response: event_service_pb2.PublishResponse) -> tuple[Receipt, ...]:
    """One receipt for each event of a publish."""
    durability = _durability(response.durability)
    return tuple(
        Receipt(receipt.sequence, receipt.revision, durability, response.duplicate)
        for receipt in response.receipts
    )


def batch_result(response: event_service_pb2.PublishStreamResponse) -> BatchResult:
    """The answer to one batch of a publish stream."""
    if response.WhichOneof("outcome") == "refused":
        return BatchResult(response.request_id, error=errors.from_refusal(response.refused))
    published = response.published
    return BatchResult(response.request_id, receipts(published), published.duplicate)


def event(message: event_pb2.Event) -> Event:
    """An event."""
    return Event(
        sequence=message.sequence,
        event_type=message.event_type,
        data_key=message.data_key,
        payload=message.payload,
        content_type=message.content_type,
        description=message.description,
        publisher=message.publisher,
        metadata=dict(message.metadata),
        revision=message.revision,
        previous_sequence=message.previous_sequence,
    )


def matched_event(message: event_pb2.MatchedEvent) -> MatchedEvent:
    """An event with its matches."""
    return MatchedEvent(
        event=event(message.event),
        matches=tuple(_match(match) for match in message.matches),
        payload_omitted=message.payload_omitted,
    )


def agent(message: agent_service_pb2.Agent) -> Agent:
    """A registration."""
    return Agent(
        agent_id=message.agent_id,
        needs=tuple(message.needs),
        threshold=message.threshold,
        max_matches=message.max_matches,
        registered_time=message.registered_time.ToDatetime(tzinfo=UTC),
        updated_time=message.updated_time.ToDatetime(tzinfo=UTC),
        acknowledged_sequence=message.acknowledged_sequence,
    )


def registered(message: agent_service_pb2.RegisterAgentResponse) -> Registration:
    """A registration with its data and where to listen from."""
    data = tuple(matched_event(datum) for datum in message.data)
    return Registration(agent(message.agent), data, message.sequence, message.cursor)


def updated(message: agent_service_pb2.UpdateAgentResponse) -> Registration:
    """A changed registration with its data."""
    data = tuple(matched_event(datum) for datum in message.data)
    return Registration(agent(message.agent), data, message.sequence, cursor="")


def _match(message: event_pb2.Match) -> Match:
    return Match(
        need_index=message.need_index,
        need=message.need,
        score=message.score,
        cosine=message.parts.cosine,
        threshold=message.parts.threshold,
        model=message.parts.model,
    )


def _durability(durability: event_pb2.Durability.ValueType) -> Durability:
    # A level that a newer server added includes all that this client knows.
    return Durability(min(durability, Durability.REPLICATED)) if durability else Durability.FSYNC

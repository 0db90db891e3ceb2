"""Builds the protobuf requests, the same for both clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from google.protobuf import timestamp_pb2

from . import payload as payloads
from .v1 import agent_service_pb2, event_pb2, event_service_pb2
from .values import Durability, Event, MatchedEvent, NewEvent

Start = Literal["beginning", "end"]


def publish(
    project: str,
    events: Sequence[NewEvent],
    *,
    publisher: str,
    durability: Durability | None,
    request_id: str | None,
) -> event_service_pb2.PublishRequest:
    """A publish of events together, with a fresh request_id unless one is given."""
    return event_service_pb2.PublishRequest(
        project=project,
        events=[_new_event(event) for event in events],
        request_id=new_request_id() if request_id is None else request_id,
        durability=_durability(durability),
        publisher=publisher,
    )


def publish_batch(
    project: str, events: Sequence[NewEvent], *, publisher: str, durability: Durability | None
) -> event_service_pb2.PublishStreamRequest:
    """One batch of a publish stream, with a fresh request_id."""
    return event_service_pb2.PublishStreamRequest(
        project=project,
        events=[_new_event(event) for event in events],
        request_id=new_request_id(),
        durability=_durability(durability),
        publisher=publisher,
    )


def list_events(
    project: str,
    *,
    since: str | datetime | None,
    until: str | datetime | None,
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    backwards: bool,
    page_size: int,
) -> event_service_pb2.ListEventsRequest:
    """The first page of a range of events."""
    return event_service_pb2.ListEventsRequest(
        project=project,
        since=_position(since),
        until=_position(until),
        filter=_filter(event_types, data_keys, publishers),
        order=_order(backwards),
        page_size=page_size,
    )


def replay(
    project: str,
    *,
    since: str | datetime | None,
    until: str | datetime | None,
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    backwards: bool,
) -> event_service_pb2.ReplayRequest:
    """A bounded range as a stream."""
    return event_service_pb2.ReplayRequest(
        project=project,
        since=_position(since),
        until=_position(until),
        filter=_filter(event_types, data_keys, publishers),
        order=_order(backwards),
    )


def subscribe(
    project: str,
    *,
    start: Start | None,
    after_sequence: str | None,
    from_time: datetime | None,
    cursor: str | None,
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    heartbeat_interval_ms: int,
) -> event_service_pb2.SubscribeRequest:
    """A subscription; at most one of the four start positions may be given."""
    _at_most_one(start=start, after_sequence=after_sequence, from_time=from_time, cursor=cursor)
    request = event_service_pb2.SubscribeRequest(
        project=project,
        filter=_filter(event_types, data_keys, publishers),
        heartbeat_interval_ms=heartbeat_interval_ms,
    )
    if start == "beginning":
        request.from_beginning = True
    elif start == "end":
        request.from_end = True
    elif start is not None:
        raise ValueError(f"start must be 'beginning' or 'end', not {start!r}")
    if after_sequence is not None:
        request.after_sequence = after_sequence
    if from_time is not None:
        request.from_time.CopyFrom(_timestamp(from_time))
    if cursor is not None:
        request.cursor = cursor
    return request


def listen(
    project: str,
    agent_id: str,
    *,
    cursor: str | None,
    after_sequence: str | None,
    heartbeat_interval_ms: int,
) -> agent_service_pb2.ListenRequest:
    """An agent's stream; without a start position, from its durable cursor."""
    _at_most_one(cursor=cursor, after_sequence=after_sequence)
    request = agent_service_pb2.ListenRequest(
        project=project, agent_id=agent_id, heartbeat_interval_ms=heartbeat_interval_ms
    )
    if cursor is not None:
        request.cursor = cursor
    if after_sequence is not None:
        request.after_sequence = after_sequence
    return request


def register_agent(
    project: str,
    agent_id: str,
    needs: Iterable[str],
    *,
    last_seen_sequence: str | None,
    threshold: float | None,
    max_matches: int | None,
) -> agent_service_pb2.RegisterAgentRequest:
    """A registration."""
    request = agent_service_pb2.RegisterAgentRequest(
        project=project, agent_id=agent_id, needs=_lines(needs), max_matches=max_matches or 0
    )
    if last_seen_sequence is not None:
        request.last_seen_sequence = last_seen_sequence
    if threshold is not None:
        request.threshold = threshold
    return request


def update_agent(
    project: str,
    agent_id: str,
    *,
    needs: Iterable[str] | None,
    threshold: float | None,
    max_matches: int | None,
) -> agent_service_pb2.UpdateAgentRequest:
    """A change of a registration; what is `None` stays."""
    request = agent_service_pb2.UpdateAgentRequest(
        project=project, agent_id=agent_id, needs=_lines(needs or ())
    )
    if threshold is not None:
        request.threshold = threshold
    if max_matches is not None:
        request.max_matches = max_matches
    return request


def acknowledge(
    project: str,
    agent_id: str,
    position: str | Event | MatchedEvent | None,
    *,
    cursor: str | None,
) -> agent_service_pb2.AcknowledgeRequest:
    """Moves a durable cursor to an event or to a cursor: exactly one of the two."""
    if (position is None) == (cursor is None):
        raise ValueError("give a position or a cursor")
    request = agent_service_pb2.AcknowledgeRequest(project=project, agent_id=agent_id)
    if cursor is not None:
        request.cursor = cursor
    elif isinstance(position, MatchedEvent):
        request.sequence = position.event.sequence
    elif isinstance(position, Event):
        request.sequence = position.sequence
    elif position is not None:
        request.sequence = position
    return request


def new_request_id() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


def _new_event(event: NewEvent) -> event_service_pb2.NewEvent:
    if event.tombstone and event.payload is None:
        payload, content_type = b"", event.content_type or ""
    else:
        payload, content_type = payloads.encode(event.payload, event.content_type)
    return event_service_pb2.NewEvent(
        data_key=event.data_key,
        event_type=event.event_type,
        payload=payload,
        content_type=content_type,
        description=event.description,
        metadata=event.metadata,
        tombstone=event.tombstone,
        expected_revision=event.expected_revision,
    )


def _durability(durability: Durability | None) -> event_pb2.Durability.ValueType:
    if durability is None:
        return event_pb2.DURABILITY_UNSPECIFIED
    return event_pb2.Durability.ValueType(Durability(durability))


def _position(at: str | datetime | None) -> event_pb2.Position | None:
    if at is None:
        return None
    if isinstance(at, datetime):
        return event_pb2.Position(time=_timestamp(at))
    return event_pb2.Position(sequence=at)


def _timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    if time.tzinfo is None or time.utcoffset() is None:
        # protobuf would take it for UTC, its writer most likely meant local time.
        raise ValueError(f"a datetime needs a time zone: {time!r}")
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def _filter(
    event_types: Iterable[str], data_keys: Iterable[str], publishers: Iterable[str]
) -> event_pb2.EventFilter:
    return event_pb2.EventFilter(
        event_types=_lines(event_types),
        data_keys=_lines(data_keys),
        publishers=_lines(publishers),
    )


def _lines(lines: Iterable[str]) -> list[str]:
    if isinstance(lines, str):  # its characters would be taken for the lines
        raise TypeError(f"expected several strings, not the one {lines!r}")
    return list(lines)


def _order(backwards: bool) -> event_pb2.Order.ValueType:
    return event_pb2.ORDER_BACKWARDS if backwards else event_pb2.ORDER_FORWARDS


def _at_most_one(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"only one of {', '.join(names)} may be given")

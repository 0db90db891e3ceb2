"""Builds the protobuf requests, the same for both clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeVar

from . import payload as payloads
from .moments import At, position, timestamp
from .v1 import agent_service_pb2, event_pb2, event_service_pb2, match_service_pb2
from .values import (
    ContextFormat,
    Durability,
    Event,
    MatchedEvent,
    MinDelta,
    Need,
    NewEvent,
)

Start = Literal["beginning", "end"]


class PageRequest(Protocol):
    """Asks for a page."""

    page_token: str


class Page(Protocol):
    """A page of an answer."""

    next_page_token: str


T = TypeVar("T")


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
    since: At | None,
    until: At | None,
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    backwards: bool,
    page_size: int,
) -> event_service_pb2.ListEventsRequest:
    """The first page of a range of events."""
    return event_service_pb2.ListEventsRequest(
        project=project,
        since=position(since),
        until=position(until),
        filter=_filter(event_types, data_keys, publishers),
        order=order(backwards),
        page_size=page_size,
    )


def replay(
    project: str,
    *,
    since: At | None,
    until: At | None,
    event_types: Iterable[str],
    data_keys: Iterable[str],
    publishers: Iterable[str],
    backwards: bool,
) -> event_service_pb2.ReplayRequest:
    """A bounded range as a stream."""
    return event_service_pb2.ReplayRequest(
        project=project,
        since=position(since),
        until=position(until),
        filter=_filter(event_types, data_keys, publishers),
        order=order(backwards),
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
        request.from_time.CopyFrom(timestamp(from_time))
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
    context_format: ContextFormat | None,
) -> agent_service_pb2.ListenRequest:
    """An agent's stream; without a start position, from its durable cursor."""
    _at_most_one(cursor=cursor, after_sequence=after_sequence)
    request = agent_service_pb2.ListenRequest(
        project=project,
        agent_id=agent_id,
        heartbeat_interval_ms=heartbeat_interval_ms,
        context_format=_context_format(context_format),
    )
    if cursor is not None:
        request.cursor = cursor
    if after_sequence is not None:
        request.after_sequence = after_sequence
    return request


def register_agent(
    project: str,
    agent_id: str,
    needs: Iterable[str | Need],
    *,
    last_seen_sequence: str | None,
    threshold: float | None,
    max_matches: int | None,
    min_delta: MinDelta | None,
    max_context_tokens: int | None,
    context_format: ContextFormat | None,
) -> agent_service_pb2.RegisterAgentRequest:
    """A registration."""
    lines, specs = _lines_or_specs(needs)
    return agent_service_pb2.RegisterAgentRequest(
        project=project,
        agent_id=agent_id,
        needs=lines,
        need_specs=specs,
        last_seen_sequence=last_seen_sequence,
        threshold=threshold,
        max_matches=max_matches or 0,
        min_delta=_min_delta(min_delta),
        max_context_tokens=max_context_tokens,
        context_format=_context_format(context_format),
    )


def update_agent(
    project: str,
    agent_id: str,
    *,
    needs: Iterable[str | Need] | None,
    threshold: float | None,
    max_matches: int | None,
    min_delta: MinDelta | None,
    max_context_tokens: int | None,
    context_format: ContextFormat | None,
) -> agent_service_pb2.UpdateAgentRequest:
    """A change of a registration; what is `None` stays."""
    lines, specs = _lines_or_specs(needs or ())
    return agent_service_pb2.UpdateAgentRequest(
        project=project,
        agent_id=agent_id,
        needs=lines,
        need_specs=specs,
        threshold=threshold,
        max_matches=max_matches,
        min_delta=_min_delta(min_delta),
        max_context_tokens=max_context_tokens,
        context_format=_context_format(context_format),
    )


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
    elif position is not None:
        request.sequence = _sequence(position)
    return request


def match(
    project: str,
    questions: Iterable[str | Need],
    *,
    threshold: float | None,
    max_matches: int | None,
    data_keys: Iterable[str],
    as_of: At | None,
    max_context_tokens: int | None,
    context_format: ContextFormat | None,
) -> match_service_pb2.MatchRequest:
    """Questions about the data."""
    return match_service_pb2.MatchRequest(
        project=project,
        questions=_specs(questions),
        threshold=threshold,
        max_matches=max_matches or 0,
        data_keys=several(data_keys),
        as_of=position(as_of),
        max_context_tokens=max_context_tokens,
        context_format=_context_format(context_format),
    )


def explain(
    project: str,
    *,
    need: str | None,
    agent_id: str | None,
    need_index: int,
    data_key: str | None,
    sequence: str | None,
    threshold: float | None,
    as_of: At | None,
) -> match_service_pb2.ExplainRequest:
    """Why a need, in words or of an agent, and a datum, by key or sequence, match or don't."""
    if (need is None) == (agent_id is None):
        raise ValueError("give a need or an agent_id")
    if (data_key is None) == (sequence is None):
        raise ValueError("give a data_key or a sequence")
    request = match_service_pb2.ExplainRequest(
        project=project,
        threshold=threshold,
        as_of=position(as_of),
    )
    if data_key is not None:
        request.data_key = data_key
    if sequence is not None:
        request.sequence = sequence
    if need is not None:
        request.text = need
    if agent_id is not None:
        agent_need = match_service_pb2.AgentNeed(agent_id=agent_id, need_index=need_index)
        request.agent_need.CopyFrom(agent_need)
    return request


def backtest(
    project: str,
    needs: Iterable[str | Need],
    *,
    threshold: float | None,
    since: At | None,
    until: At | None,
    min_delta: MinDelta | None,
    summary_only: bool,
) -> match_service_pb2.BacktestRequest:
    """What needs would have received in a range of the log."""
    return match_service_pb2.BacktestRequest(
        project=project,
        needs=_specs(needs),
        threshold=threshold,
        since=position(since),
        until=position(until),
        min_delta=_min_delta(min_delta),
        summary_only=summary_only,
    )


def record_feedback(
    project: str,
    agent_id: str,
    event: str | Event | MatchedEvent,
    *,
    need_index: int | None,
    useful: bool,
    comment: str,
    request_id: str | None,
) -> match_service_pb2.RecordFeedbackRequest:
    """A judgement of a match, by default of its best one, with a fresh request_id."""
    if need_index is None:
        best = event.matches[:1] if isinstance(event, MatchedEvent) else ()
        need_index = best[0].need_index if best else 0
    return match_service_pb2.RecordFeedbackRequest(
        project=project,
        agent_id=agent_id,
        sequence=_sequence(event),
        need_index=need_index,
        useful=useful,
        comment=comment,
        request_id=new_request_id() if request_id is None else request_id,
    )


def export_feedback(
    project: str, *, since: At | None, until: At | None
) -> match_service_pb2.ExportFeedbackRequest:
    """The feedback of a project."""
    return match_service_pb2.ExportFeedbackRequest(
        project=project, since=position(since), until=position(until)
    )


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


def _sequence(event: str | Event | MatchedEvent) -> str:
    if isinstance(event, MatchedEvent):
        return event.event.sequence
    return event.sequence if isinstance(event, Event) else event


def _lines_or_specs(
    needs: Iterable[str | Need],
) -> tuple[list[str], list[agent_service_pb2.Need]]:
    """Needs as lines where none has an option, which older servers understand too."""
    needs = several(needs)
    lines = [need for need in needs if isinstance(need, str)]
    return (lines, []) if len(lines) == len(needs) else ([], _specs(needs))


def _specs(needs: Iterable[str | Need]) -> list[agent_service_pb2.Need]:
    return [_spec(Need(need) if isinstance(need, str) else need) for need in several(needs)]


def _spec(need: Need) -> agent_service_pb2.Need:
    return agent_service_pb2.Need(
        text=need.text,
        threshold=need.threshold,
        max_matches=need.max_matches,
        exclude_data_keys=several(need.exclude_data_keys),
    )


def _min_delta(min_delta: MinDelta | None) -> agent_service_pb2.MinDelta | None:
    if min_delta is None:
        return None
    return agent_service_pb2.MinDelta(
        payload_changed=min_delta.payload_changed,
        json_pointers=several(min_delta.json_pointers),
    )


def _context_format(
    context_format: ContextFormat | None,
) -> event_pb2.ContextFormat.ValueType:
    if context_format is None:
        return event_pb2.CONTEXT_FORMAT_UNSPECIFIED
    name = ContextFormat(context_format).name
    return event_pb2.ContextFormat.Value(f"CONTEXT_FORMAT_{name}")


def _filter(
    event_types: Iterable[str], data_keys: Iterable[str], publishers: Iterable[str]
) -> event_pb2.EventFilter:
    return event_pb2.EventFilter(
        event_types=several(event_types),
        data_keys=several(data_keys),
        publishers=several(publishers),
    )


def several(items: Iterable[T]) -> list[T]:
    """Items as a list.

    Raises:
        TypeError: They are one string.
    """
    if isinstance(items, str):  # its characters would be taken for the items
        raise TypeError(f"expected several strings, not the one {items!r}")
    return list(items)


def order(backwards: bool) -> event_pb2.Order.ValueType:
    """In which order a range is read."""
    return event_pb2.ORDER_BACKWARDS if backwards else event_pb2.ORDER_FORWARDS


def _at_most_one(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"only one of {', '.join(names)} may be given")

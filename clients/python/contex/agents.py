"""Values of `contex.v1.AgentService`: registrations, and what agents were sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from . import events
from ._values.agents import *
from ._values.events import EventFilter, MatchKind
from .lazy import agent_service_pb2, event_pb2, wire

Needed: TypeAlias = "str | EventFilter | Need"
"""What a need may be given as: words, a filter, or either with options."""


def to_needs(needs: Iterable[Needed]) -> list[agent_service_pb2.Need]:
    """The messages for needs, plain text and filters included."""
    return wire.each(wire.several(needs, "needs"), _to_need, "needs")


def _to_need(need: Needed) -> agent_service_pb2.Need:
    if isinstance(need, str):
        need = Need(need)
    elif isinstance(need, EventFilter):
        need = Need(filter=need)
    elif not isinstance(need, Need):
        expected = "a string, an EventFilter or a Need"
        raise TypeError(f"text: expected {expected}, not {type(need).__name__} {need!r}")
    return wire.message(
        agent_service_pb2.Need,
        text=need.text,
        threshold=need.threshold,
        max_matches=need.max_matches,
        exclude_data_keys=wire.several(need.exclude_data_keys, "exclude_data_keys"),
        filter=None if need.filter is None else _to_filter(need.filter),
    )


def _to_filter(given: EventFilter) -> event_pb2.EventFilter:
    if not isinstance(given, EventFilter):
        raise TypeError(f"filter: expected an EventFilter, not {type(given).__name__} {given!r}")
    return wire.event_filter(
        given.event_types,
        given.data_keys,
        given.publishers,
        given.event_type_prefixes,
        given.metadata,
        given.exclude_service_events,
    )


def to_min_delta(min_delta: MinDelta | None) -> agent_service_pb2.MinDelta | None:
    """The message for a delta."""
    if min_delta is None:
        return None
    return wire.message(
        agent_service_pb2.MinDelta,
        payload_changed=min_delta.payload_changed,
        json_pointers=wire.several(min_delta.json_pointers, "json_pointers"),
    )


def to_muted_kinds(kinds: Iterable[MatchKind]) -> list[event_pb2.MatchKind.ValueType]:
    """The kinds of deliveries that an agent does without."""

    def number(kind: MatchKind) -> event_pb2.MatchKind.ValueType:
        return wire.enum_number(MatchKind, kind, event_pb2.MatchKind, "muted_kinds")

    return list(map(number, wire.several(kinds, "muted_kinds")))


def updated(message: agent_service_pb2.UpdateAgentResponse) -> Registration:
    """A changed registration; where the agent listens stays as it was, so there is no cursor."""
    context = events.context(message.context) if message.HasField("context") else None
    data = tuple(map(events.matched_event, message.data))
    return Registration(
        agent(message.agent), data, message.sequence, "", context, message.omitted_count
    )


def needs_changed(message: agent_service_pb2.NeedsChanged) -> NeedsChanged:
    """A change of a registration, as a stream reports it."""
    return NeedsChanged(agent(message.agent), ())

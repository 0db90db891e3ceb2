"""Values of `contex.v1.AgentService`: registrations, and what agents were sent."""

from __future__ import annotations

from collections.abc import Iterable

from . import events
from ._values.agents import *
from .lazy import agent_service_pb2, wire


def to_needs(needs: Iterable[str | Need]) -> list[agent_service_pb2.Need]:
    """The messages for needs, plain text included."""
    return wire.each(wire.several(needs, "needs"), _to_need, "needs")


def _to_need(need: str | Need) -> agent_service_pb2.Need:
    if isinstance(need, str):
        need = Need(need)
    elif not isinstance(need, Need):
        raise TypeError(f"text: expected a string or a Need, not {type(need).__name__} {need!r}")
    return wire.message(
        agent_service_pb2.Need,
        text=need.text,
        threshold=need.threshold,
        max_matches=need.max_matches,
        exclude_data_keys=wire.several(need.exclude_data_keys, "exclude_data_keys"),
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


def updated(message: agent_service_pb2.UpdateAgentResponse) -> Registration:
    """A changed registration; where the agent listens stays as it was, so there is no cursor."""
    context = events.context(message.context) if message.HasField("context") else None
    data = tuple(map(events.matched_event, message.data))
    return Registration(agent(message.agent), data, message.sequence, "", context)


def needs_changed(message: agent_service_pb2.NeedsChanged) -> NeedsChanged:
    """A change of a registration, as a stream reports it."""
    data = tuple(events.matched_event(datum, backfilled=True) for datum in message.data)
    return NeedsChanged(agent(message.agent), data, message.omitted_count)

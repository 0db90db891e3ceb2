"""What an agent is sent besides the events that match: the data that changed needs bring."""

from __future__ import annotations

from collections.abc import Iterable

from contex_server.events.feed import Delivery, NeedsChange
from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    BEGINNING,
    SERVICE_TYPES,
    Agent,
    Event,
    Sequence,
)
from contex_server.match.agent_codec import registered_agent
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index


async def needs_change(
    engine: MatchEngine, index: Index, agent: Agent, event: Event, as_of: Sequence
) -> NeedsChange | None:
    """What changed needs bring an agent: the data that they match and the previous did not.

    None if the registration is another agent's, or leaves the needs as they were.

    Args:
        engine: What matching shares.
        index: The project's data.
        agent: The agent as it is registered now.
        event: A registration; later data are left out.
        as_of: The position of the index.
    """
    agent_id, previous = registered_agent(event.payload)
    if agent_id != agent.agent_id or previous is None:
        return None
    matched = await engine.work(
        index.search_new,
        (agent.needs, await engine.encode_needs(index, agent.needs)),
        (previous, await engine.encode_needs(index, previous)),
        as_of,
        event.sequence,
    )
    entries = await engine.log.get(index.project, [index.latest[key] for key, _ in matched])
    data = []
    for (_, matches), entry in zip(matched, entries, strict=True):
        if entry is not None:
            datum = event_codec.decode(entry)
            data.append(await engine.delivery(index.project, agent, entry, datum, matches, as_of))
    stored = await engine.agents.agent(index.project, agent_id)
    return NeedsChange(agent, stored.cursor if stored else BEGINNING, tuple(data))


def spans(deliveries: Iterable[Delivery]) -> list[list[Delivery]]:
    """Splits deliveries after each event that changes who is matched, or how."""
    parts: list[list[Delivery]] = [[]]
    for delivery in deliveries:
        if delivery.event is None:
            delivery.event = event_codec.decode(delivery.entry)
        parts[-1].append(delivery)
        if delivery.event.event_type in SERVICE_TYPES:
            parts.append([])
    return [span for span in parts if span]

"""What a change of an agent's needs brings it."""

from __future__ import annotations

from dataclasses import replace

from contex_server.events.feed import Delivery, NeedsChange
from contex_server.kernel import event_codec
from contex_server.kernel.model import BEGINNING, Agent, Event, Need, Sequence
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index
from contex_server.matching.encoding import Encoding
from contex_server.matching.search import SearchResult, search


async def needs_change(
    engine: MatchEngine,
    project: str,
    index: Index,
    position: Sequence,
    agent: Agent,
    encodings: tuple[Encoding, ...],
    previous: tuple[Need, ...],
    event: Event,
) -> NeedsChange:
    """The data that an agent's needs match and its previous ones did not, as of a change.

    Args:
        engine: What matching shares.
        project: The project.
        index: Its index, which nobody changes meanwhile.
        position: What the index is as of.
        agent: The agent, as it is now.
        encodings: Those of its needs.
        previous: The needs that were replaced.
        event: The change.

    Raises:
        ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
    """
    previous_encodings = await engine.encode_needs(project, index.model.id, previous)

    def find_new() -> SearchResult:
        def is_older(data_key: str) -> bool:
            return index.latest[data_key] <= event.sequence

        scorer, model = engine.scorer, index.model.id
        everything = [
            (replace(need, max_matches=len(index.data) or 1), encoding)
            for need, encoding in zip(previous, previous_encodings, strict=True)
        ]
        matched_before = {
            data_key
            for data_key, _ in search(index.data, scorer, model, everything, position, is_older)
        }
        return search(
            index.data,
            scorer,
            model,
            list(zip(agent.needs, encodings, strict=True)),
            position,
            lambda data_key: is_older(data_key) and data_key not in matched_before,
        )

    matched = await engine.work(find_new)
    entries = await engine.log.get(project, [index.latest[key] for key, _ in matched])
    data = []
    for (_, matches), entry in zip(matched, entries, strict=True):
        if entry is not None:
            datum = event_codec.decode(entry)
            matches = await engine.with_passages(project, datum, matches, position)
            data.append(Delivery(datum.sequence, entry, matches, datum, agent=agent))
    stored = await engine.agents.agent(project, agent.agent_id)
    return NeedsChange(agent, stored.cursor if stored else BEGINNING, tuple(data))

"""A project's data, the needs that are matched with them, and where each datum lies."""

from __future__ import annotations

from collections.abc import Iterable

from contex_server.kernel.model import SERVICE_TYPES, Agent, Event, KeyState, Match, Sequence
from contex_server.matching.background import Background
from contex_server.matching.data import DataIndex
from contex_server.matching.encoding import Encoding
from contex_server.matching.models import Model
from contex_server.matching.needs import NeedIndex
from contex_server.matching.score import Scorer
from contex_server.state.fold import state_of


class Index:
    """The data of a project, the needs that are matched with them, and where each datum lies."""

    def __init__(self, model: Model, scorer: Scorer) -> None:
        self.model = model
        self.scorer = scorer
        self.data = DataIndex(model.dimension, scorer, Background(model.prior))
        self.needs = NeedIndex(model.dimension, scorer, self.data, model.id)
        self.latest: dict[str, Sequence] = {}

    def apply(self, state: KeyState, encodings: dict[bytes, Encoding]) -> None:
        """Takes the latest event of a data key in."""
        encoding = encodings.get(state.digest)
        if state.deleted or encoding is None:
            change = self.data.remove(state.data_key)
            self.latest.pop(state.data_key, None)
        else:
            change = self.data.put(state.data_key, state.digest, encoding)
            self.latest[state.data_key] = state.sequence
        self.needs.changed(change)

    def apply_all(self, states: Iterable[KeyState], encodings: dict[bytes, Encoding]) -> None:
        """Takes the latest events of several data keys in."""
        for state in states:
            self.apply(state, encodings)

    def match(
        self, events: list[Event], encodings: dict[bytes, Encoding]
    ) -> list[dict[str, tuple[Match, ...]]]:
        """Takes events in, in log order, and finds the agents that each concerns.

        All of them are judged by the data as of the last of them.
        """
        for event in events:
            if event.data_key and event.event_type not in SERVICE_TYPES:
                self.apply(state_of(event), encodings)
        if not self.needs.needs:
            return [{} for _ in events]
        texts = {d: encodings[d] for e in events if (d := e.text_digest) in encodings}
        pairs = dict(zip(texts, self.needs.scan(list(texts.values())), strict=True))
        matched: list[dict[str, tuple[Match, ...]]] = []
        for event in events:
            digest = event.text_digest
            if digest not in pairs:
                matched.append({})
                continue
            text = self.data.text(digest)
            matched.append(
                self.needs.match(
                    texts[digest], pairs[digest], event.data_key, text.serial if text else None
                )
            )
        return matched

    def match_alone(
        self,
        agent: Agent,
        needs: tuple[Encoding, ...],
        events: list[Event],
        encodings: dict[bytes, Encoding],
    ) -> list[tuple[Match, ...]]:
        """What events are to one agent, by the data as they are; none is taken in."""
        alone = NeedIndex(self.model.dimension, self.scorer, self.data, self.model.id)
        alone.set_agent(agent, needs)
        texts = {d: encodings[d] for e in events if (d := e.text_digest) in encodings}
        pairs = dict(zip(texts, alone.scan(list(texts.values())), strict=True))
        found = []
        for event in events:
            digest = event.text_digest
            matches: tuple[Match, ...] = ()
            if digest in pairs:
                text = self.data.text(digest)
                by_agent = alone.match(
                    texts[digest], pairs[digest], event.data_key, text.serial if text else None
                )
                matches = by_agent.get(agent.agent_id, ())
            found.append(matches)
        return found

"""The needs of the agents that listen here, in words and as filters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cachetools import LRUCache

from contex_server.kernel.model import Agent, Event, Match, Need
from contex_server.matching.changes import TextChange, best_first
from contex_server.matching.encoding import Encoding
from contex_server.matching.filter_index import FilterIndex
from contex_server.matching.rules import Data, Needs

_KEPT = 50_000
"""What is kept of scans, in needs found: many updates of a datum leave its text as it was."""
_KEPT_BYTES = 400
"""A need found and its match."""

MatchesByAgent = dict[str, tuple[Match, ...]]


def in_words(needs: Iterable[Need]) -> list[tuple[int, Need]]:
    """The needs in words, each with its position among all."""
    return [(index, need) for index, need in enumerate(needs) if need.filter is None]


class AgentNeeds:
    """Needs by agent, of both kinds. Not for use by several threads at once.

    Attributes:
        texts: Those in words, under a project's rule: of an agent that has filters too, by their
            positions among those in words.
        filters: The others.
    """

    def __init__(self, texts: Needs) -> None:
        self.texts = texts
        self.filters = FilterIndex()
        self._positions: dict[str, list[int]] = {}
        """Of agents that have both kinds: where those in words stand among all."""
        # What a text meets, by its digest, and the version of the needs that it holds for.
        self._scanned: LRUCache[bytes, Any] = LRUCache(_KEPT, _size_of)
        self._scanned_version = 0

    @property
    def needs(self) -> int:
        """Number of different needs."""
        return self.texts.needs + self.filters.needs

    @property
    def nbytes(self) -> int:
        """Memory in bytes; may be asked while needs are being changed."""
        kept = _KEPT_BYTES * int(self._scanned.currsize)
        return self.texts.nbytes + self.filters.nbytes + kept

    def changed(self, change: TextChange) -> None:
        """Follows a change of the data."""
        self.texts.changed(change)

    def set_agent(self, agent: Agent, encodings: Sequence[Encoding]) -> None:
        """Adds an agent, or replaces it; with encodings of its needs in words, in their order."""
        worded = in_words(agent.needs)
        self.filters.set_agent(agent)
        self._positions.pop(agent.agent_id, None)
        if len(worded) == len(agent.needs):
            self.texts.set_agent(agent, encodings)
        elif worded:
            self._positions[agent.agent_id] = [index for index, _ in worded]
            texts = tuple(need for _, need in worded)
            self.texts.set_agent(replace(agent, needs=texts), encodings)
        else:
            self.texts.remove_agent(agent.agent_id)

    def remove_agent(self, agent_id: str) -> None:
        """Removes an agent, if present."""
        self.filters.remove_agent(agent_id)
        self.texts.remove_agent(agent_id)
        self._positions.pop(agent_id, None)

    def match(
        self, events: Sequence[Event], encodings: dict[bytes, Encoding], data: Data
    ) -> list[MatchesByAgent]:
        """For each event, by agent, the needs that it meets, best first.

        Two events of one text share their matches by words.
        """
        matched: list[MatchesByAgent] = [{} for _ in events]
        if self.texts.needs:
            self._match_texts(events, encodings, data, matched)
        if self.filters.needs:
            for by_agent, event in zip(matched, events, strict=True):
                for agent_id, exact in self.filters.match(event).items():
                    worded = by_agent.get(agent_id)
                    by_agent[agent_id] = exact if worded is None else best_first([*exact, *worded])
        return matched

    def _match_texts(
        self,
        events: Sequence[Event],
        encodings: dict[bytes, Encoding],
        data: Data,
        matched: list[MatchesByAgent],
    ) -> None:
        needs = self.texts
        texts = {d: encodings[d] for e in events if (d := e.text_digest) in encodings}
        found = self._scan(texts)
        for place, event in enumerate(events):
            digest = event.text_digest
            if digest in texts:
                text = data.text(digest)
                by_agent = needs.match(
                    texts[digest], found[digest], event.data_key, text.serial if text else None
                )
                for agent_id in by_agent.keys() & self._positions.keys():
                    positions = self._positions[agent_id]
                    by_agent[agent_id] = repositioned(by_agent[agent_id], positions)
                matched[place] = by_agent

    def _scan(self, texts: dict[bytes, Encoding]) -> dict[bytes, Any]:
        """What the scan of the needs in words returns of each text."""
        needs = self.texts
        if self._scanned_version != needs.version:
            self._scanned.clear()
            self._scanned_version = needs.version
        found = {digest: self._scanned[digest] for digest in texts if digest in self._scanned}
        new = {digest: text for digest, text in texts.items() if digest not in found}
        scanned = dict(zip(new, needs.scan(list(new.values())), strict=True))
        for digest, each in scanned.items():
            if _size_of(each) < _KEPT:
                self._scanned[digest] = each
        return found | scanned


def _size_of(found: Any) -> int:
    return 1 + len(found)


def repositioned(matches: Iterable[Match], positions: Sequence[int]) -> tuple[Match, ...]:
    """Matches of needs in words, by the positions of these among all needs."""
    return tuple([m._replace(need_index=positions[m.need_index]) for m in matches])

"""Needs and data by meaning: which agents an event concerns, and which data an agent needs."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.score import Scorer
from contex_server.matching.vectors import VectorIndex
from contex_server.model import Agent, Match

Vectors = NDArray[np.float32]


class NeedIndex:
    """The needs of agents; finds those that an event meets.

    A need that several agents share is one row of the vector index.
    """

    def __init__(self, dimension: int, scorer: Scorer, model_id: str) -> None:
        self._scorer = scorer
        self._model_id = model_id
        self._vectors: VectorIndex[bytes] = VectorIndex(dimension)
        self._agents: dict[str, Agent] = {}
        self._wanted_by: dict[bytes, dict[str, list[int]]] = {}
        self._floor: float | None = None

    def __len__(self) -> int:
        return len(self._agents)

    def set_agent(self, agent: Agent, need_vectors: Vectors) -> None:
        """Adds an agent, or replaces it.

        Args:
            agent: The agent.
            need_vectors: float32 [len(agent.needs), dimension], rows of length 1.

        Raises:
            ValueError: The vectors have another shape; nothing changed.
        """
        _require_shape(agent, need_vectors, self._vectors.dimension)
        before = self._agents.get(agent.agent_id)
        wanted: dict[bytes, list[int]] = {}
        for index, need in enumerate(agent.needs):
            wanted.setdefault(need.digest, []).append(index)
        new = [digest for digest in wanted if digest not in self._vectors]
        if new:
            self._vectors.put_many(new, need_vectors[[wanted[digest][0] for digest in new]])
        for digest, indexes in wanted.items():
            self._wanted_by.setdefault(digest, {})[agent.agent_id] = indexes
        self._agents[agent.agent_id] = agent
        self._floor = None
        if before is not None:
            self._release(before.agent_id, {need.digest for need in before.needs} - wanted.keys())

    def remove_agent(self, agent_id: str) -> None:
        """Removes an agent, if it is there."""
        agent = self._agents.pop(agent_id, None)
        if agent is not None:
            self._floor = None
            self._release(agent_id, {need.digest for need in agent.needs})

    def match(self, event_vectors: Vectors) -> list[dict[str, tuple[Match, ...]]]:
        """Finds the agents that events concern.

        Args:
            event_vectors: float32 [n, dimension], rows of length 1.

        Returns:
            For each event, by agent id, the needs that it meets with a score of at least
            the agent's threshold, best first. Agents without one are absent.

        Raises:
            ValueError: The vectors have another shape.
        """
        hits = self._vectors.range_search(event_vectors, self._lowest_floor())
        scores = self._scorer.score(hits.cosines).tolist()
        cosines = hits.cosines.tolist()
        edges = hits.bounds.tolist()
        found: list[dict[str, tuple[Match, ...]]] = []
        for start, end in pairwise(edges):
            by_agent: defaultdict[str, list[Match]] = defaultdict(list)
            for hit in range(start, end):
                score, cosine = scores[hit], cosines[hit]
                for agent_id, indexes in self._wanted_by[hits.keys[hit]].items():
                    agent = self._agents[agent_id]
                    if score >= agent.threshold:
                        by_agent[agent_id] += [
                            self._match(agent, index, score, cosine) for index in indexes
                        ]
            found.append({agent_id: _best_first(ms) for agent_id, ms in by_agent.items()})
        return found

    def _match(self, agent: Agent, index: int, score: float, cosine: float) -> Match:
        need = agent.needs[index].text
        return Match(index, need, score, cosine, agent.threshold, self._model_id)

    def _lowest_floor(self) -> float:
        if self._floor is None:
            thresholds = {agent.threshold for agent in self._agents.values()}
            self._floor = min(map(self._scorer.floor, thresholds), default=1.0)
        return self._floor

    def _release(self, agent_id: str, digests: Iterable[bytes]) -> None:
        for digest in digests:
            agents = self._wanted_by[digest]
            del agents[agent_id]
            if not agents:
                del self._wanted_by[digest]
                self._vectors.remove(digest)


class DataIndex:
    """A project's data; finds those that an agent needs.

    Data of the same describing text are one row of the vector index.
    """

    def __init__(self, dimension: int, scorer: Scorer, model_id: str) -> None:
        self._scorer = scorer
        self._model_id = model_id
        self._vectors: VectorIndex[bytes] = VectorIndex(dimension)
        self._digests: dict[str, bytes] = {}
        self._described_by: dict[bytes, set[str]] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def has_digest(self, digest: bytes) -> bool:
        """Whether a datum of this describing text is in the index."""
        return digest in self._described_by

    def put(self, data_key: str, digest: bytes, vector: Vectors) -> None:
        """Adds a datum, or replaces it.

        Args:
            data_key: Its key.
            digest: Identifies its describing text.
            vector: float32 [dimension], of length 1; the text's embedding.

        Raises:
            ValueError: The vector has another shape; nothing changed.
        """
        before = self._digests.get(data_key)
        if before == digest:
            return
        if digest not in self._described_by:
            self._vectors.put(digest, vector)
            self._described_by[digest] = set()
        self._described_by[digest].add(data_key)
        self._digests[data_key] = digest
        if before is not None:
            self._release(data_key, before)

    def remove(self, data_key: str) -> None:
        """Removes a datum, if it is there."""
        digest = self._digests.pop(data_key, None)
        if digest is not None:
            self._release(data_key, digest)

    def search(self, agent: Agent, need_vectors: Vectors) -> list[tuple[str, tuple[Match, ...]]]:
        """Finds the data that an agent needs.

        Each need takes the `agent.max_matches` best data whose score reaches the agent's
        threshold; where scores are equal, the first by key.

        Args:
            agent: The agent.
            need_vectors: float32 [len(agent.needs), dimension], rows of length 1.

        Returns:
            Each datum once, with the needs that took it, best first; best datum first.

        Raises:
            ValueError: The vectors have another shape.
        """
        _require_shape(agent, need_vectors, self._vectors.dimension)
        floor = self._scorer.floor(agent.threshold)
        hits = self._vectors.search(need_vectors, agent.max_matches, floor)
        scores = self._scorer.score(hits.cosines).tolist()
        cosines = hits.cosines.tolist()
        edges = hits.bounds.tolist()
        by_key: defaultdict[str, list[Match]] = defaultdict(list)
        for index, (start, end) in enumerate(pairwise(edges)):
            candidates = (
                (-scores[hit], data_key, cosines[hit])
                for hit in range(start, end)
                if scores[hit] >= agent.threshold
                for data_key in self._described_by[hits.keys[hit]]
            )
            for negated, data_key, cosine in heapq.nsmallest(agent.max_matches, candidates):
                by_key[data_key].append(
                    Match(
                        index,
                        agent.needs[index].text,
                        -negated,
                        cosine,
                        agent.threshold,
                        self._model_id,
                    )
                )
        found = [(data_key, _best_first(matches)) for data_key, matches in by_key.items()]
        found.sort(key=lambda item: (-item[1][0].score, item[0]))
        return found

    def _release(self, data_key: str, digest: bytes) -> None:
        keys = self._described_by[digest]
        keys.remove(data_key)
        if not keys:
            del self._described_by[digest]
            self._vectors.remove(digest)


def _best_first(matches: list[Match]) -> tuple[Match, ...]:
    return tuple(sorted(matches, key=lambda match: (-match.score, match.need_index)))


def _require_shape(agent: Agent, need_vectors: Vectors, dimension: int) -> None:
    expected = len(agent.needs), dimension
    if need_vectors.shape != expected:
        raise ValueError(f"need vectors of shape {need_vectors.shape}, not {expected}")

"""Which agents have which needs: a need that several agents share is one row of an index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from contex_server.kernel.model import Agent
from contex_server.matching.encoding import Encoding


class NeedsByAgent(ABC):
    """Agents, and the rows of their needs; the index that inherits it keeps what a row holds."""

    def __init__(self) -> None:
        self._agents: dict[str, Agent] = {}
        self._row_of: dict[bytes, int] = {}
        self._agents_of: dict[int, dict[str, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._agents)

    @property
    def needs(self) -> int:
        """Number of different needs."""
        return len(self._row_of)

    def set_agent(self, agent: Agent, needs: Sequence[Encoding]) -> None:
        """Adds an agent with the encodings of its needs, or replaces it."""
        indexes_of: dict[bytes, list[int]] = {}
        for index, need in enumerate(agent.needs):
            indexes_of.setdefault(need.digest, []).append(index)
        new = [digest for digest in indexes_of if digest not in self._row_of]
        rows = self._add([needs[indexes_of[digest][0]] for digest in new])
        for digest, row in zip(new, rows, strict=True):
            self._row_of[digest] = row
            self._agents_of[row] = {}
        for digest, indexes in indexes_of.items():
            self._agents_of[self._row_of[digest]][agent.agent_id] = indexes
        before = self._agents.get(agent.agent_id)
        self._agents[agent.agent_id] = agent
        dropped = {need.digest for need in before.needs} - indexes_of.keys() if before else set()
        self._release(agent.agent_id, dropped)
        self._thresholds_changed(indexes_of.keys() | dropped)

    def remove_agent(self, agent_id: str) -> None:
        """Removes an agent, if present."""
        agent = self._agents.pop(agent_id, None)
        if agent is not None:
            digests = {need.digest for need in agent.needs}
            self._release(agent_id, digests)
            self._thresholds_changed(digests)

    @abstractmethod
    def _add(self, needs: Sequence[Encoding]) -> list[int]:
        """Takes rows for needs; their thresholds are set at once after."""

    @abstractmethod
    def _remove(self, row: int) -> None:
        """Frees the row of a need that no agent has any more."""

    @abstractmethod
    def _set_thresholds(self, rows: list[int], thresholds: list[float]) -> None:
        """Sets the lowest score that matches, for some needs."""

    def _thresholds_changed(self, digests: Iterable[bytes]) -> None:
        """Sets each need's threshold to the lowest that an agent has set."""
        rows = [row for digest in digests if (row := self._row_of.get(digest)) is not None]
        thresholds = [
            min(
                self._agents[agent_id].needs[index].threshold
                for agent_id, indexes in self._agents_of[row].items()
                for index in indexes
            )
            for row in rows
        ]
        self._set_thresholds(rows, thresholds)

    def _release(self, agent_id: str, digests: Iterable[bytes]) -> None:
        for digest in digests:
            row = self._row_of[digest]
            agents = self._agents_of[row]
            del agents[agent_id]
            if not agents:
                del self._agents_of[row], self._row_of[digest]
                self._remove(row)

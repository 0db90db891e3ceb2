"""Which agents have which needs: a need that several agents share is one row of an index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from contex_server.kernel.model import Agent, Need
from contex_server.matching.encoding import Encoding

Place = tuple[int, Need]
"""A need as an agent has it: its index among the agent's needs, and its settings."""


class NeedsByAgent(ABC):
    """Agents, and the rows of their needs; the index that inherits it keeps what a row holds.

    Agents that have a need at the same index with the same settings get the same matches for it,
    so a row keeps them together: a thousand of them take one decision, and one match.
    """

    def __init__(self) -> None:
        self.version = 0
        self._agents: dict[str, Agent] = {}
        self._row_of: dict[bytes, int] = {}
        self._agents_of: dict[int, dict[Place, dict[str, None]]] = {}

    def __len__(self) -> int:
        return len(self._agents)

    @property
    def needs(self) -> int:
        """Number of different needs."""
        return len(self._row_of)

    def set_agent(self, agent: Agent, needs: Sequence[Encoding]) -> None:
        """Adds an agent with the encodings of its needs, or replaces it."""
        self.version += 1
        agent_id, before = agent.agent_id, self._agents.get(agent.agent_id)
        places = dict.fromkeys(enumerate(agent.needs))
        old = dict.fromkeys(enumerate(before.needs)) if before else {}
        new: dict[bytes, Encoding] = {}
        for need, encoding in zip(agent.needs, needs, strict=True):
            if need.digest not in self._row_of:
                new.setdefault(need.digest, encoding)
        for digest, row in zip(new, self._add(list(new.values())), strict=True):
            self._row_of[digest] = row
            self._agents_of[row] = {}
        for place in places:
            _, need = place
            row = self._row_of[need.digest]
            self._agents_of[row].setdefault(place, {})[agent_id] = None
        self._agents[agent_id] = agent
        self._release(agent_id, [place for place in old if place not in places])
        self._thresholds_changed(need.digest for _, need in (places | old))

    def remove_agent(self, agent_id: str) -> None:
        """Removes an agent, if present."""
        self.version += 1
        agent = self._agents.pop(agent_id, None)
        if agent is not None:
            self._release(agent_id, list(enumerate(agent.needs)))
            self._thresholds_changed(need.digest for need in agent.needs)

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
        rows = [row for digest in {*digests} if (row := self._row_of.get(digest)) is not None]
        thresholds = [min(need.threshold for _, need in self._agents_of[row]) for row in rows]
        self._set_thresholds(rows, thresholds)

    def _release(self, agent_id: str, places: Sequence[Place]) -> None:
        for place in places:
            _, need = place
            row = self._row_of[need.digest]
            agents_of = self._agents_of[row]
            del agents_of[place][agent_id]
            if not agents_of[place]:
                del agents_of[place]
            if not agents_of:
                del self._agents_of[row], self._row_of[need.digest]
                self._remove(row)

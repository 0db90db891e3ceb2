"""The agents that a process decides for in a project, and where they stand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from contex_server.inbox.subscriber import Subscriber
from contex_server.kernel.model import Sequence
from contex_server.log.inboxes import shard_of


@dataclass(slots=True)
class Roster:
    """The agents of some shards.

    Attributes:
        known: All of them.
        behind: Those that wait for a pass behind the live one, or have one.
        left: Where agents left in a pass behind the live one, which begins with the next of the id.
        wake: Set when there is something to do behind the live pass.
    """

    known: dict[str, Subscriber] = field(default_factory=dict)
    behind: dict[str, Subscriber] = field(default_factory=dict)
    left: dict[str, Sequence] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _by_number: dict[tuple[int, int], str] = field(default_factory=dict)

    def add(self, subscriber: Subscriber) -> None:
        """Adds an agent, or what is now known of it."""
        agent_id = subscriber.agent.agent_id
        self.known[agent_id] = subscriber
        self._by_number[shard_of(agent_id), subscriber.number] = agent_id

    def remove(self, agent_id: str) -> None:
        """Removes an agent."""
        subscriber = self.known.pop(agent_id)
        self._by_number.pop((shard_of(agent_id), subscriber.number), None)
        self.behind.pop(agent_id, None)

    def agent_of(self, shard: int, number: int) -> str | None:
        """The agent that has a number among the holders of data; None if it is gone."""
        return self._by_number.get((shard, number))

    def let_wait(self, subscriber: Subscriber) -> None:
        """An agent waits for a pass behind the live one."""
        agent_id = subscriber.agent.agent_id
        self.add(subscriber)
        self.left.pop(agent_id, None)
        self.behind[agent_id] = subscriber
        self.wake.set()

    def replace(self, subscriber: Subscriber) -> None:
        """Another registration is in force for an agent that is behind."""
        agent_id = subscriber.agent.agent_id
        self.add(subscriber)
        if agent_id in self.behind:
            self.behind[agent_id] = subscriber

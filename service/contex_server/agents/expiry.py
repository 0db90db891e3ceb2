"""Agents that expire: nobody was in contact with them for as long as their registration says."""

from __future__ import annotations

import time

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.model import AGENT_UNREGISTERED
from contex_server.log.agents import AgentStore
from contex_server.log.expiry import Due, Expiring

_PAUSE_S = 3.0
"""Two looks that are further apart than this were interrupted: processes or the store were away."""
_BATCH = 100


class AgentExpiry(Expiring):
    """What `Expirer` lets expire of agents.

    Agents could not be in contact while servers or the store were away. So it tells the store for
    how long it has looked without interruption, and an agent gets as much time to come back.

    Attributes:
        expired: How many agents this process has unregistered.
    """

    def __init__(self, store: AgentStore) -> None:
        self.expired = 0
        self._store = store
        self._since = self._looked = time.monotonic()

    async def due(self) -> Due:
        """See `Expiring.due`."""
        due = await self._store.expiring()
        now = time.monotonic()
        if now > self._looked + _PAUSE_S:
            self._since = now
        self._looked = now
        return due

    def interrupted(self) -> None:
        """The store has refused something, so perhaps contacts, too."""
        self._since = time.monotonic()

    async def expire(self, project: str, count: int) -> tuple[int, bool]:
        """See `Expiring.expire`."""
        count = min(count, _BATCH)
        agents = await self._store.may_have_expired(project, count)
        bodies = {agent_id: unregistered_body(agent_id, "expired") for agent_id in agents}
        looked_ms = int((time.monotonic() - self._since) * 1000)
        expired = await self._store.expire_agents(project, bodies, AGENT_UNREGISTERED, looked_ms)
        self.expired += len(expired)
        self._looked = time.monotonic()
        return len(expired), len(agents) == count and bool(expired)


def unregistered_body(agent_id: str, reason: str = "") -> bytes:
    """The event that announces that an agent is registered no more."""
    payload = {"agent_id": agent_id, **({"reason": reason} if reason else {})}
    return event_codec.encode(AGENT_UNREGISTERED, orjson.dumps(payload), {})

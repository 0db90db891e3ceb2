"""How far agents are: what is decided for them, and what they have not acknowledged of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from contex_server.inbox.subscriber import head_of
from contex_server.kernel.inbox_ids import entry_of, event_of, inbox_id, kept_place, last_place
from contex_server.kernel.model import Sequence
from contex_server.log.inboxes import Backlog, InboxPosition, InboxStore
from contex_server.match.agent_codec import AgentDamaged

_AGENTS = 250
"""Agents that are asked about in one turn."""


class DecidingState(Enum):
    """How it is decided what an agent gets; see `contex.v1.DecidingState`."""

    LIVE = auto()
    CATCHING_UP = auto()
    NEEDS_CHANGED = auto()
    NOT_BEGUN = auto()


class Passing(Enum):
    """What it is to have passed an event; see `contex.v1.WaitUntil`."""

    ACKNOWLEDGED = auto()
    DECIDED = auto()


class Standpoint(NamedTuple):
    """What the registration says of an agent's progress."""

    agent_id: str
    registered_ms: int
    acknowledged: Sequence


@dataclass(frozen=True, slots=True)
class AgentProgress:
    """How far an agent is; see `contex.v1.AgentProgress`.

    Attributes:
        decided: None: nothing is decided yet.
        first: The place of the first entry of the inbox that is not acknowledged, or may have been
            before it was trimmed; None: there is none.
    """

    decided: Sequence | None
    state: DecidingState
    deciding_lag_ms: int
    acknowledged: Sequence
    unacknowledged: int
    more: bool
    lag_ms: int
    first: Sequence | None

    def has_passed(self, event: Sequence, passing: Passing) -> bool:
        """Whether the agent has passed an event.

        What a registration brings is older than its place in the inbox: an agent that has not
        acknowledged that has passed nothing.
        """
        if self.state in (DecidingState.NOT_BEGUN, DecidingState.NEEDS_CHANGED):
            return False
        if passing is Passing.DECIDED:
            return self.decided is not None and self.decided >= event
        if self.first is not None and (self.first <= last_place(event) or entry_of(self.first)):
            return False
        return self.acknowledged > event or (self.decided is not None and self.decided >= event)


@dataclass(frozen=True, slots=True)
class ProgressReader:
    """Tells how far agents are."""

    store: InboxStore

    async def read(
        self, project: str, agents: Iterable[Standpoint], most: int
    ) -> dict[str, AgentProgress]:
        """How far some agents are. Entries that are not acknowledged are counted up to `most`."""
        found: dict[str, AgentProgress] = {}
        every = list(agents)
        for start in range(0, len(every), _AGENTS):
            some = every[start : start + _AGENTS]
            # Asked first: the inboxes that are read then have everything up to there.
            positions = await self.store.positions(project, [each.agent_id for each in some])
            places = {
                each.agent_id: kept_place(each.acknowledged, positions[each.agent_id].place)
                for each in some
            }
            asked = [_undecided_after(each, positions[each.agent_id]) for each in some]
            backlog = await self.store.backlog(project, asked, places, most)
            found |= {each.agent_id: _progress(each, positions, backlog) for each in some}
        return found


def _progress(
    agent: Standpoint, positions: dict[str, InboxPosition], backlog: Backlog
) -> AgentProgress:
    position = positions[agent.agent_id]
    state = _state(agent, position)
    unread = backlog.unread[agent.agent_id]
    oldest = first = unread.first
    if kept_place(agent.acknowledged, position.place) < position.trimmed:
        # What was let go of without a trace may have come right after what was acknowledged.
        after = inbox_id(agent.acknowledged.next())
        oldest, first = first or position.trimmed, min(first or after, after)
    undecided = backlog.undecided[_undecided_after(agent, position)]
    begun = state is not DecidingState.NOT_BEGUN
    return AgentProgress(
        position.position if begun else None,
        state,
        _age_ms(undecided, backlog.now_ms),
        agent.acknowledged,
        unread.counted if begun else 0,  # Until then, the inbox may be an earlier agent's.
        begun and unread.more,
        _age_ms(oldest and event_of(oldest), backlog.now_ms) if begun else 0,
        first if begun else None,
    )


def _undecided_after(agent: Standpoint, position: InboxPosition) -> Sequence:
    """Up to where nothing waits to be decided, by what is known: of an agent that was imported that
    is what it has acknowledged."""
    return max(position.position, agent.acknowledged)


def _state(agent: Standpoint, position: InboxPosition) -> DecidingState:
    try:
        registered_ms, awaits, is_first = head_of(position.record)
    except AgentDamaged:
        return DecidingState.NOT_BEGUN
    # Earlier versions did not tell when an agent was registered.
    if registered_ms and registered_ms < agent.registered_ms:
        return DecidingState.NOT_BEGUN
    if awaits:
        return DecidingState.NOT_BEGUN if is_first else DecidingState.NEEDS_CHANGED
    return DecidingState.CATCHING_UP if position.is_own else DecidingState.LIVE


def _age_ms(event: Sequence | None, now_ms: int) -> int:
    return 0 if event is None else max(0, now_ms - event.ms)

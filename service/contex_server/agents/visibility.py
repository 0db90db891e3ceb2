"""Which agents a caller may see. See docs/adr/0034.

Names, needs and progress of an agent tell of the data that it gets: so they are for those who may
see these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from contex.v1 import event_pb2

from contex_server.events.feed import Delivery
from contex_server.events.stream import Show, data_key_of
from contex_server.kernel import event_codec
from contex_server.kernel.call import Call
from contex_server.kernel.errors import agent_not_found, permission_denied
from contex_server.kernel.model import Agent, Change
from contex_server.kernel.scope import EVERYTHING, NOTHING, Scope
from contex_server.log.agents import AgentRecord, AgentStore
from contex_server.match.agent_codec import intact


def is_visible(
    agent_identity: str, agent_scope: Scope, caller_identity: str, caller_scope: Scope
) -> bool:
    """Whether a caller may see an agent: one that sees everything, one of the same identity, or one
    that may see all that the agent's identity may. Nobody's agent is for the first alone, and one
    that may see nothing any more for these two.
    """
    if caller_scope.is_open:
        return True
    if not agent_identity:
        return False
    if agent_identity == caller_identity:
        return True
    return agent_scope != NOTHING and caller_scope.covers(agent_scope)


Gets = Callable[[Change | None, str], bool]
"""Whether a caller may be sent a delivery that says this of a data key."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks for agents, and for what these get."""

    identity: str = ""
    scope: Scope = EVERYTHING

    @classmethod
    def of(cls, call: Call) -> Self:
        """Who makes a call."""
        return cls(call.origin.identity, call.scope)

    @property
    def sees_all(self) -> bool:
        """Whether nothing is hidden, so that nothing need be looked up."""
        return self.scope.is_open

    def sees(self, agent: Agent) -> bool:
        """Whether an agent is visible."""
        return self.sees_all or is_visible(*standing(agent), self.identity, self.scope)

    def may_change(self, agent: Agent) -> bool:
        """Whether an agent may be changed, or consumed for: by its own identity, and by who sees
        everything."""
        identity, _ = standing(agent)
        return self.sees_all or (bool(identity) and identity == self.identity)

    def gets(self, agent: Agent) -> Gets | None:
        """Whether the caller may be sent what an agent that it sees gets; None: all of it.

        Of its own agent it is told what is withheld, which names a key that it was sent before.
        """
        if self.sees_all:
            return None
        scope, (identity, _) = self.scope, standing(agent)
        told = Change.WITHHELD if identity and identity == self.identity else None

        def gets(change: Change | None, data_key: str) -> bool:
            return scope.admits(data_key) or (change is not None and change is told)

        return gets

    def shown(self, project: str, records: Iterable[AgentRecord]) -> list[AgentRecord]:
        """The registrations that are visible, of some that are stored."""
        if self.sees_all:
            return list(records)
        return [r for r in records if any(self.sees(agent) for agent, _ in intact(project, [r]))]


LeavesOut = Callable[[Iterable[str]], Awaitable[None]]
"""Refuses to leave out what is told of these data keys, if it may still be the caller's."""


def shown_to(viewer: Viewer, agent: Agent, leaves_out: LeavesOut | None = None) -> Show | None:
    """What a caller is sent of an agent's deliveries; None: all of them."""
    gets = viewer.gets(agent)
    if gets is None:
        return None

    async def shown(deliveries: Sequence[Delivery]) -> list[Delivery]:
        kept, left_out = list[Delivery](), set[str]()
        for each in deliveries:
            if each.instead is None:
                if not gets(each.change, data_key := data_key_of(each)):
                    left_out.add(data_key)
                    continue
                each = concealed(each)
            kept.append(each)
        if left_out and leaves_out is not None:
            await leaves_out(left_out)
        return kept

    return shown


def concealed(delivery: Delivery) -> Delivery:
    """A delivery without what a part of the project does not show, and without content if it is
    withheld. Another one than that which other readers share."""
    entry = delivery.entry
    if delivery.change is Change.WITHHELD:
        entry = event_codec.without_payload(entry)
    return Delivery(
        delivery.sequence, entry, change=delivery.change, told=without_counts(delivery.told)
    )


def without_counts(told: bytes) -> bytes:
    """What is told of an event, without how many data its scores were measured against."""
    if not told:
        return told
    message = event_pb2.MatchedEvent.FromString(told)
    for match in message.matches:
        if match.HasField("parts"):
            match.parts.background_passages = 0
    return message.SerializeToString()


def standing(agent: Agent) -> tuple[str, Scope]:
    """Whose an agent is, and what its identity may see."""
    return agent.identity, agent.scope


async def visible_among(
    store: AgentStore, project: str, agent_ids: Iterable[str], viewer: Viewer
) -> set[str]:
    """The agents of some that are registered and visible."""
    records = await store.some_agents(project, list(agent_ids))
    return {record.agent_id for record in viewer.shown(project, records.values())}


async def check_access(
    store: AgentStore, project: str, agent_id: str, viewer: Viewer, method: str, *, changes: bool
) -> None:
    """Refuses an agent that is not visible as one that there is not; and to change one that is
    another's, or to take its id.

    Raises:
        ContexError: AGENT_NOT_FOUND, PERMISSION_DENIED.
    """
    if viewer.sees_all:
        return
    record = await store.agent(project, agent_id)
    agents = [] if record is None else [agent for agent, _ in intact(project, [record])]
    takes_id = method == "RegisterAgent"
    if takes_id and record is None:
        return
    if not any(map(viewer.sees, agents)) and not takes_id:
        raise agent_not_found(project, agent_id)
    if changes and not any(map(viewer.may_change, agents)):
        raise permission_denied(method, project, viewer.identity)

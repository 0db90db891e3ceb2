"""An agent as deciders see it: the registration that is in force where it stands in the log."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import orjson

from contex_server.kernel.inbox_ids import last_place
from contex_server.kernel.model import BEGINNING, Agent, Sequence
from contex_server.match.agent_codec import AgentDamaged, decode_agent, encode_agent

_TEXTS = 256
"""Needs of an agent whose words are kept, the current ones included."""
_STEPS = 1_000
"""Registrations that are remembered to have brought something."""
MARGIN = 0.05
"""How far below its threshold a need has to fall to be no longer met, at most a third of it: a
datum that is near the threshold doesn't come and go with each revision."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A registration that holds from where the agent stands, once what it brings is known.

    Attributes:
        event: Its event.
        missed: It is the one in force, and `event` the place after which the log begins: what lay
            between had not been decided when it was removed, so what it led to is told instead.
    """

    event: Sequence
    agent: Agent
    missed: bool = False


@dataclass(slots=True)
class Subscriber:
    """An agent for which is decided.

    Attributes:
        agent: The registration in force.
        number: Names it among the holders of data; another registration of its id has another.
        event: The event of the registration in force.
        begin: Where its inbox begins: what an earlier agent of its id was sent is not its own.
        awaited: A registration that is not in force yet.
        texts: The words of its needs, present and former, by id; filters are written out.
        steps: The events of the registrations that brought something.
        position: Where it stands by itself; None: where its shard stands.
        adopted: Where the log ended when deciding began for an agent of an earlier version.
        steps_in: Whether the inbox begins with what the registration at `begin` brought.
        kind: The same for agents that are judged alike: an event means the same to those that were
            sent the same of its datum before.
    """

    agent: Agent
    number: int
    event: Sequence
    begin: Sequence
    awaited: Awaited | None = None
    texts: dict[str, str] = field(default_factory=dict)
    steps: list[Sequence] = field(default_factory=list)
    position: Sequence | None = None
    adopted: Sequence = BEGINNING
    steps_in: bool = False
    kind: object = field(init=False)

    def __post_init__(self) -> None:
        agent = self.agent
        needs = tuple([(n.digest, n.text, n.threshold, n.exclude) for n in agent.needs])
        own = (agent.agent_id, agent.identity) if agent.exclude_own else ()
        self.kind = _kind(needs, agent.muted, agent.min_delta, own, agent.scope)
        self.texts |= {need.id: need.text for need in self.agent.needs}
        if self.awaited is not None:
            self.texts |= {need.id: need.text for need in self.awaited.agent.needs}

    @property
    def first_place(self) -> Sequence:
        """The place after which its inbox begins: before that is what an earlier agent of its id
        was sent."""
        return last_place(self.begin.prev() if self.steps_in else self.begin)

    @property
    def watched(self) -> Agent:
        """The agent with the thresholds below which its needs are no longer met."""
        return watched(self.agent)

    def is_past(self, event: Sequence) -> bool:
        """Whether an event is decided for the agent, which stands further on than its pass."""
        return self.position is not None and self.position >= event

    def in_force(self) -> Subscriber:
        """The same once the awaited registration holds."""
        awaited = self.awaited
        assert awaited is not None
        kept = dict(list(self.texts.items())[-_TEXTS:])
        return replace(
            self,
            agent=awaited.agent,
            event=awaited.event,
            awaited=None,
            texts=kept,
            steps=[*self.steps[1 - _STEPS :], awaited.event],
            position=awaited.event,
        )


@lru_cache(maxsize=4_096)
def _kind(*_judged_by: Hashable) -> object:
    return object()


def watched(agent: Agent) -> Agent:
    """An agent with the thresholds below which its needs are no longer met; filters have none."""
    needs = [
        replace(need, threshold=lowest(need.threshold)) if need.filter is None else need
        for need in agent.needs
    ]
    return replace(agent, needs=tuple(needs))


def lowest(threshold: float) -> float:
    """The score below which a need that was met is no longer."""
    return threshold - min(MARGIN, threshold / 3)


def encode_subscriber(subscriber: Subscriber) -> bytes:
    """A subscriber as it is stored; its position is kept apart."""
    awaited = subscriber.awaited
    return orjson.dumps(
        {
            "agent": orjson.Fragment(encode_agent(subscriber.agent)),
            "number": subscriber.number,
            "event": str(subscriber.event),
            "begin": str(subscriber.begin),
            "awaited": None
            if awaited is None
            else [
                str(awaited.event),
                orjson.Fragment(encode_agent(awaited.agent)),
                awaited.missed,
            ],
            "texts": subscriber.texts,
            "steps": [str(step) for step in subscriber.steps],
            "adopted": str(subscriber.adopted),
            "steps_in": subscriber.steps_in,
        }
    )


def head_of(record: bytes) -> tuple[int, bool, bool]:
    """When the agent was registered for which a subscriber decides, in unix milliseconds, whether a
    registration awaits, and whether that is its first; it is cheaper than all of the subscriber.

    Raises:
        AgentDamaged: It is nothing that `encode_subscriber` wrote.
    """
    try:
        fields: dict[str, Any] = orjson.loads(record)
        awaited = fields["awaited"]
        is_first = awaited is not None and awaited[0] == fields["event"]
        return int(fields["agent"]["registered_ms"]), awaited is not None, is_first
    except (ValueError, KeyError, TypeError) as error:
        raise AgentDamaged(f"no subscriber: {type(error).__name__}") from error


def _steps_of(fields: dict[str, Any]) -> list[str]:
    """The steps of a record that does not say whether the inbox begins with one."""
    awaited = fields["awaited"]
    return [*fields["steps"], *([] if awaited is None else awaited[:1])]


def decode_subscriber(record: bytes, position: Sequence | None) -> Subscriber:
    """Reads what `encode_subscriber` wrote.

    Raises:
        AgentDamaged: It is nothing that it wrote.
    """
    try:
        fields: dict[str, Any] = orjson.loads(record)
        awaited = fields["awaited"]
        return Subscriber(
            decode_agent(orjson.dumps(fields["agent"])),
            int(fields["number"]),
            Sequence.parse(fields["event"]),
            Sequence.parse(fields["begin"]),
            None
            if awaited is None
            else Awaited(
                Sequence.parse(awaited[0]), decode_agent(orjson.dumps(awaited[1])), awaited[2]
            ),
            dict(fields["texts"]),
            [Sequence.parse(step) for step in fields["steps"]],
            position,
            Sequence.parse(fields["adopted"]),
            bool(fields.get("steps_in", fields["begin"] in _steps_of(fields))),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentDamaged(f"no subscriber: {type(error).__name__}") from error

"""Which need of an agent a caller means, after the needs were reordered or changed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from textwrap import shorten

from contex_server.agents.journal_reader import JournalReader
from contex_server.agents.visibility import Viewer
from contex_server.kernel.errors import ContexError, agent_not_found, invalid_field
from contex_server.kernel.model import Agent, Need, Sequence
from contex_server.log.agents import AgentStore
from contex_server.match.agent_codec import decode_agent, intact

_SHOWN = 100
"""Characters of a need's text in an error."""


@dataclass(frozen=True, slots=True)
class NeedReference:
    """A need as a caller names it.

    Attributes:
        index: Its position in the agent's list, in the registration that the caller knows.
        text: Its text; "" if the caller knows the position alone.
        prefix: What the names of the request's fields begin with.
    """

    agent_id: str
    index: int
    text: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class NeedReader:
    """Reads needs of registrations that may have changed since."""

    agents: AgentStore
    journals: JournalReader

    async def get(
        self,
        project: str,
        reference: NeedReference,
        *,
        event: Sequence | None,
        as_of: Sequence | None,
        viewer: Viewer,
    ) -> Need:
        """The need that a reference is about.

        A position is one in the first registration by which the event was sent for the need at it,
        else in the first by which the event was sent, else in that as of the event. With a text,
        it may be in any that has the text there: of those by which the event was sent, that as of
        the event, and the current one.

        Args:
            event: The event that the need is asked about, if the caller names one.
            as_of: The moment of the registration if there is no event; None: now.

        Raises:
            ContexError: AGENT_NOT_FOUND; INVALID_FIELD if there is no need at this position, or
                none with this text.
        """
        stored = await self.agents.agent(project, reference.agent_id)
        if stored is None:
            raise agent_not_found(project, reference.agent_id)
        current = next((agent for agent, _ in intact(project, [stored])), None)
        if current is None or not viewer.sees(current):
            raise agent_not_found(project, reference.agent_id)
        first: Agent | None = None
        async with aclosing(
            self._registrations(project, reference, current, event, as_of, viewer)
        ) as registrations:
            async for agent in registrations:
                if not viewer.sees(agent):
                    continue  # Of the id, but another one's.
                first = first or agent
                if _has(agent, reference):
                    return agent.needs[reference.index]
                if not reference.text:
                    break
        raise _refused(first or current, reference)

    async def _registrations(
        self,
        project: str,
        reference: NeedReference,
        current: Agent,
        event: Sequence | None,
        as_of: Sequence | None,
        viewer: Viewer,
    ) -> AsyncGenerator[Agent, None]:
        """The registrations that may be meant, the likeliest first."""
        agent_id = reference.agent_id
        if event is not None:
            sent = await self.journals.sent_by(project, agent_id, event, viewer.scope)
            if reference.text:
                sent.reverse()
            # First those by which the event was sent for the need at this position.
            sent.sort(key=lambda pair: all(i != reference.index for i, _ in pair[0].needs))
            for _, record in sent:
                yield decode_agent(record)
        place = as_of if event is None else event
        if place is not None:
            record = await self.journals.registration_at(project, agent_id, place)
            if record:
                yield decode_agent(record)
        if place is None or event is not None:
            yield current


def _has(agent: Agent, reference: NeedReference) -> bool:
    if reference.index >= len(agent.needs):
        return False
    return reference.text in ("", agent.needs[reference.index].text)


def _refused(agent: Agent, reference: NeedReference) -> ContexError:
    index, count = reference.index, len(agent.needs)
    if not reference.text:
        problem = f"must be below {count}, not {index}"
        return invalid_field(f"{reference.prefix}need_index", problem)
    texts = [need.text for need in agent.needs]
    held = f"is {_shown(texts[index])}" if index < count else f"does not exist (there are {count})"
    problem = f"need {index} of agent {agent.agent_id!r} {held}, not {_shown(reference.text)}"
    if reference.text in texts:
        problem += f", which is need {texts.index(reference.text)}"
    return invalid_field(f"{reference.prefix}need", problem)


def _shown(text: str) -> str:
    return repr(shorten(text, _SHOWN, placeholder=" …"))

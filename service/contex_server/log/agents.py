"""What agents need of the store: registrations with their cursors, and journals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from contex_server.kernel.model import SERVICE, UNKNOWN, Origin, Range, Sequence
from contex_server.log.audit import Note
from contex_server.log.expiry import Due


class AgentRecord(NamedTuple):
    """A registration as stored, opaque to the log, and the agent's durable cursor.

    Attributes:
        contact_ms: When the agent was last in contact, unix milliseconds; 0: not known.
    """

    agent_id: str
    record: bytes
    cursor: Sequence
    contact_ms: int = 0


class AgentWrite(NamedTuple):
    """A change of a registration, and the event that announces it.

    Attributes:
        expected: The record to replace, as it was read; b"" if there must be none.
        record: The new record; b"" removes the registration.
        cursor: The new durable cursor. None keeps the current one, and puts a new agent's
            on the sequence of the event.
        ttl_ms: How long the agent may go without a contact; 0: for ever.
    """

    project: str
    agent_id: str
    expected: bytes
    record: bytes
    cursor: Sequence | None
    event_type: str
    body: bytes
    origin: Origin = UNKNOWN
    ttl_ms: int = 0


class AgentWritten(NamedTuple):
    """The sequence of the event, and the durable cursor after the change.

    Attributes:
        contact_ms: When it was written, unix milliseconds; 0 of a removal.
    """

    sequence: Sequence
    cursor: Sequence
    contact_ms: int = 0


class Contact(NamedTuple):
    """What is known of agents that are in contact.

    Attributes:
        ms: The time, unix milliseconds.
        shortest_ttl_ms: The shortest time for which one of them may go without a contact; 0: none
            expires.
        gone: Those that are not registered.
    """

    ms: int
    shortest_ttl_ms: int
    gone: frozenset[str]


class RestoredAgent(NamedTuple):
    """A registration that comes from elsewhere; its `ttl_ms` begins when it is stored."""

    record: bytes
    cursor: Sequence
    ttl_ms: int


class AgentStore(Protocol):
    """Registrations and durable cursors. See `EventLog` for errors.

    Registering and acknowledging are contacts of the agent.
    """

    async def write_agent(self, write: AgentWrite) -> AgentWritten | None:
        """Applies a change; returns None if the stored record is not the expected one."""

    async def agent(self, project: str, agent_id: str) -> AgentRecord | None:
        """A registration; None if there is none."""

    async def agents(self, project: str, after: str, count: int) -> list[AgentRecord]:
        """The first `count` registrations with an id greater than `after`, by id."""

    async def some_agents(self, project: str, agent_ids: Iterable[str]) -> dict[str, AgentRecord]:
        """Registrations by id, without those that there are not."""

    async def acknowledge(
        self,
        project: str,
        agent_id: str,
        sequence: Sequence,
        origin: Origin = SERVICE,
        place: Sequence | None = None,
    ) -> Sequence | None:
        """Moves a durable cursor forward, never back, and settles what consumers have up to there.

        `place` is the id of an inbox, where that is inside of what an event brought. Returns the
        cursor afterwards, or None if the agent is not registered.
        """

    async def contact(self, project: str, agent_ids: Iterable[str]) -> Contact:
        """Notes that agents are in contact."""

    async def expiring(self) -> Due:
        """The projects with agents that may have expired, by the store's clock."""

    async def may_have_expired(self, project: str, count: int) -> list[str]:
        """The first `count` agents of which it is due to look whether they have expired."""

    async def expire_agents(
        self,
        project: str,
        bodies: Mapping[str, bytes],
        event_type: str,
        looked_ms: int,
        origin: Origin = SERVICE,
    ) -> list[str]:
        """Unregisters those of some agents that have gone without a contact for as long as they
        may, by the store's clock: each once, whoever calls.

        Args:
            bodies: For each agent the body of the event that announces it.
            looked_ms: For how long the caller has looked for such agents without interruption.
                Agents had no longer than this to come back.

        Returns:
            Those that were unregistered.
        """

    async def set_cursors(self, project: str, cursors: Mapping[str, Sequence]) -> None:
        """Moves durable cursors, also back, of a project that nobody uses yet."""

    async def restore_agents(self, project: str, agents: Mapping[str, RestoredAgent]) -> int:
        """Stores the registrations and cursors of agents that are not registered yet.

        Returns the number of agents added.
        """


class SentEvent(NamedTuple):
    """An event in a message to an agent.

    Attributes:
        needs: The needs that it met: index in the agent's list, and score.
    """

    sequence: Sequence
    data_key: str
    revision: int
    deleted: bool
    needs: tuple[tuple[int, float], ...]


class Sent(NamedTuple):
    """A message to an agent, as it is noted in its journal.

    Attributes:
        stream_id: The stream that carries it, or "".
        number: Its number in the stream, from 1; a message is noted once.
        kind: How it is sent; opaque to the log.
        registration: The registration that the needs belong to: when it was last updated,
            unix milliseconds.
        position: The stream's position after the message.
        needs: The needs of that registration.
        events: What it carries.
    """

    agent_id: str
    stream_id: str
    number: int
    kind: str
    registration: int
    position: Sequence
    needs: tuple[str, ...]
    events: tuple[SentEvent, ...]


class Sending(NamedTuple):
    """A part of an inbox that is sent to an agent.

    Attributes:
        after: The id after which it begins.
        upto: The id up to which it goes.
    """

    agent_id: str
    stream_id: str
    after: Sequence
    upto: Sequence


class JournalStore(Protocol):
    """The journal of each agent: what it registered, was sent and acknowledged.

    See `EventLog` for errors.
    """

    async def note_sent(
        self, project: str, messages: Iterable[Sent], *, repeated: bool = False
    ) -> None:
        """Notes messages in their agents' journals.

        Set `repeated` when a call is retried: messages that are already noted are skipped.
        """

    async def note_sending(
        self, project: str, sendings: Iterable[Sending], *, repeated: bool = False
    ) -> None:
        """Notes how far inboxes are about to be sent; set `repeated` as in `note_sent`."""

    async def sent(self, project: str, agent_id: str) -> dict[str, bytes]:
        """What an agent was sent last of each data key by earlier versions, as it is stored."""

    async def note_stream(
        self, project: str, agent_id: str, stream_id: str, start: Sequence | None, origin: Origin
    ) -> None:
        """Notes that a stream of an agent was opened at `start`, or has ended if it is None."""

    async def journal(self, project: str, agent_id: str, span: Range, count: int) -> list[Note]:
        """The first `count` notes of a range of a journal, in its direction."""

    async def journal_notes(
        self, project: str, places: Iterable[tuple[str, Sequence]]
    ) -> list[Note | None]:
        """Notes by agent and sequence; None where a note no longer exists."""

    async def journals(self, project: str) -> list[str]:
        """The ids of all agents that have or had a journal, sorted."""

    async def receivers(self, project: str, sequence: Sequence) -> dict[str, list[Sequence]]:
        """The agents that an event was sent to, each with the notes in its journal."""

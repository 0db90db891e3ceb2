"""What the service needs of a log. `tests/contract` holds every implementation to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple, Protocol

from contex_server.model import Append, Appended, Entry, KeyState, Sequence


class Bounds(NamedTuple):
    """What can be read of a project.

    Attributes:
        first: The oldest event that is still there; None if the log is empty.
        tail: The newest event there ever was; "0-0" if there was none.
        trimmed: Whether events before `first` have been removed.
        length: How many events are there.
    """

    first: Sequence | None
    tail: Sequence
    trimmed: bool
    length: int = 0


class AgentRecord(NamedTuple):
    """A registration as it is stored: opaque to the log, with the agent's durable cursor."""

    agent_id: str
    record: bytes
    cursor: Sequence


class AgentWrite(NamedTuple):
    """A change of a registration and the event that tells it.

    Attributes:
        expected: The record that is replaced, as it was read; b"" for none.
        record: The new record; b"" removes the registration.
        cursor: Where to set the durable cursor. None keeps it, and puts that of a
            new agent on the event's own sequence.
        body: The serialised event.
    """

    project: str
    agent_id: str
    expected: bytes
    record: bytes
    cursor: Sequence | None
    body: bytes


class AgentWritten(NamedTuple):
    """The sequence of the event, and where the durable cursor stands now."""

    sequence: Sequence
    cursor: Sequence


class Follower(Protocol):
    """Waits for new events of the projects of one bucket. Not shared between tasks."""

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, list[Entry]]:
        """Waits up to two seconds for events after the given position of each project.

        Cancelling is safe: nothing is consumed until the result is returned.

        Raises:
            ContexError: STORE_UNAVAILABLE; the next poll connects anew.
        """
        ...

    async def close(self) -> None:
        """Gives the connection back."""
        ...


class EventLog(Protocol):
    """The immutable logs of all projects, and what is kept beside each.

    Every method may raise `ContexError` with STORE_UNAVAILABLE; writes also with
    STORE_FULL. After STORE_UNAVAILABLE the outcome of a write is unknown.
    """

    async def append(self, append: Append) -> Appended:
        """Appends drafts, all or none, and returns when the durability is reached.

        Appends reach the log in the order of the calls, for one durability.

        Raises:
            ContexError: REVISION_CONFLICT; OVERLOADED, with nothing sent.
        """
        ...

    async def read(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Entry]:
        """The first `count` events in (after, until], oldest first."""
        ...

    async def read_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Entry]:
        """The last `count` events in (after, until], newest first."""
        ...

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        """The events of the given sequences, None where there is none."""
        ...

    async def bounds(self, project: str) -> Bounds:
        """What can be read."""
        ...

    def bucket(self, project: str) -> int:
        """The bucket whose follower sees the project."""
        ...

    def follower(self, bucket: int) -> Follower:
        """A new follower of a bucket."""
        ...

    def state(self, project: str) -> AsyncIterator[list[KeyState]]:
        """The latest event of every key, in chunks.

        A key that changes meanwhile may come twice or with its newer event; none that
        existed at the start is missing.
        """
        ...

    async def vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> dict[bytes, bytes]:
        """The encodings that are stored for these text digests under a model."""
        ...

    async def missing_vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> set[bytes]:
        """Those of the text digests that nothing is stored for under a model."""
        ...

    async def put_vectors(self, project: str, model: str, vectors: Mapping[bytes, bytes]) -> None:
        """Stores encodings; what is there already stays."""
        ...

    async def model(self, project: str) -> str:
        """The model that decides in a project: the first that anything was stored under,
        until it is changed; "" if nothing was."""
        ...

    async def change_model(
        self, project: str, expected: str, model: str, body: bytes
    ) -> Sequence | None:
        """Lets another model decide, and appends the event that tells it.

        What was stored under the old model is dropped. Returns the event's sequence, or None
        if `expected` did not decide any more.
        """
        ...

    async def claim(self, project: str, task: str, owner: str, ttl_ms: int) -> bool:
        """Takes or keeps a task that one process in the whole deployment does.

        Returns whether it is `owner`'s for the next `ttl_ms`.
        """
        ...

    async def disclaim(self, project: str, task: str, owner: str) -> None:
        """Gives a task back, if it is still `owner`'s."""
        ...

    async def write_agent(self, write: AgentWrite) -> AgentWritten | None:
        """Applies a change, or returns None if the record was not the expected one."""
        ...

    async def agent(self, project: str, agent_id: str) -> AgentRecord | None:
        """A registration."""
        ...

    async def agents(self, project: str, after: str, count: int) -> list[AgentRecord]:
        """The first `count` registrations with an id greater than `after`, by id."""
        ...

    async def acknowledge(self, project: str, agent_id: str, sequence: Sequence) -> Sequence | None:
        """Moves a durable cursor forward; returns where it stands, None without agent."""
        ...

    async def ping(self) -> None:
        """Returns if the store answers."""
        ...

    async def close(self) -> None:
        """Writes what is pending, then closes every connection."""
        ...

"""What the service needs of a log. `tests/contract` holds every implementation to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from contex_server.kernel.model import (
    SERVICE,
    UNKNOWN,
    Append,
    Appended,
    Entry,
    EventFilter,
    KeyState,
    Origin,
    Sequence,
)


class Bounds(NamedTuple):
    """What can be read of a project.

    Attributes:
        first: The oldest event that is still there; None if the log is empty.
        tail: The newest event there ever was; "0-0" if there was none.
        trimmed: Whether events before `first` have been removed.
        length: How many events are there.
        now_ms: The store's clock, unix milliseconds.
        added: How many events there ever were.
    """

    first: Sequence | None
    tail: Sequence
    trimmed: bool
    length: int = 0
    now_ms: int = 0
    added: int = 0


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
        event_type: Its type.
        body: The serialised event.
        origin: Who made the call.
    """

    project: str
    agent_id: str
    expected: bytes
    record: bytes
    cursor: Sequence | None
    event_type: str
    body: bytes
    origin: Origin = UNKNOWN


class AgentWritten(NamedTuple):
    """The sequence of the event, and where the durable cursor stands now."""

    sequence: Sequence
    cursor: Sequence


class SnapshotInfo(NamedTuple):
    """A snapshot of a project's state.

    Attributes:
        sequence: The state is as of this event.
        events: How many events had been counted then, ...
        bytes: ... and their bytes; see `Counters`.
        keys: How many keys it holds.
        size: Its bytes as it is stored.
    """

    sequence: Sequence
    events: int
    bytes: int
    keys: int
    size: int = 0


class Counters(NamedTuple):
    """What the store counts of a project.

    Attributes:
        events: Events that were ever appended.
        bytes: Bytes of those since `counted_since`.
        keys: Keys that ever were, ...
        deleted: ... and those whose latest event is a deletion.
        agents: Registrations.
        counted_since: "0-0" if from the beginning.
        snapshots: Snapshots that were taken, ...
        snapshot_bytes: ... and their bytes.
    """

    events: int
    bytes: int
    keys: int
    deleted: int
    agents: int
    counted_since: Sequence
    snapshots: int = 0
    snapshot_bytes: int = 0


class Dimension(StrEnum):
    """What events are counted by."""

    DATA_KEY = "k"
    EVENT_TYPE = "t"
    PUBLISHER = "p"
    NEED = "n"


class Tier(StrEnum):
    """How finely: by minute, hour after hour, or by hour, day after day."""

    MINUTES = "minutes"
    HOURS = "hours"


class Note(NamedTuple):
    """A line of a stream of records: the audit, or an agent's journal.

    Attributes:
        sequence: When it was written, and its place.
        fields: What it says; functions/journal.lua and `projections` know how to read it.
    """

    sequence: Sequence
    fields: dict[bytes, bytes]


class SentEvent(NamedTuple):
    """An event in a message to an agent.

    Attributes:
        needs: The needs it met: position in the agent's list, and score.
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
        number: Its number in the stream, from 1: a message is noted once.
        kind: How it is sent; opaque to the log.
        registration: Which registration the needs are of: when it was updated, unix ms.
        position: Where the stream stands with it.
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

    async def narrow(
        self,
        project: str,
        after: Sequence,
        until: Sequence,
        wanted: EventFilter,
        *,
        backwards: bool = False,
    ) -> tuple[Sequence, Sequence]:
        """The first part of (after, until], in the order of reading, that may hold an event that
        passes a filter: none before it does, and what comes after it remains to be asked for."""
        ...

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        """The events of the given sequences, None where there is none."""
        ...

    async def bounds(self, project: str) -> Bounds:
        """What can be read."""
        ...

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        """The event at a sequence and those before it of the same data key, newest first.

        It ends after `count`, when `max_bytes` are exceeded, at the key's first event, and
        in front of one that can't be read any more.
        """
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

    async def state_now(
        self, project: str, max_keys: int
    ) -> tuple[Sequence, list[KeyState]] | None:
        """The latest event of every key at one moment, and the sequence that this is as of.

        None where there are more than `max_keys`, which would hold up the store.
        """
        ...

    async def latest(self, project: str, data_keys: Iterable[str]) -> dict[str, KeyState]:
        """The latest event of some keys, of those that ever had one."""
        ...

    async def put_snapshot(self, project: str, info: SnapshotInfo, snapshot: bytes) -> bool:
        """Stores a snapshot; False if there is one at its sequence or after it."""
        ...

    async def snapshot_before(self, project: str, until: Sequence) -> SnapshotInfo | None:
        """The newest snapshot at or before a sequence."""
        ...

    async def snapshots(self, project: str, after: Sequence, count: int) -> list[SnapshotInfo]:
        """The first `count` snapshots after a sequence, in order."""
        ...

    async def snapshot(self, project: str, sequence: Sequence) -> bytes | None:
        """A snapshot, as it was stored."""
        ...

    async def counters(self, project: str) -> Counters:
        """What is counted of a project as events are appended."""
        ...

    async def activity(
        self, project: str, dimension: Dimension, tier: Tier, numbers: Iterable[int]
    ) -> list[dict[bytes, bytes]]:
        """Counts by name, for hours or days given by their number since 1970.

        A value is "<slot>:<count> …", in no order: the minute of the hour, or the hour of the
        day, in UTC. Minutes are kept for eight days.
        """
        ...

    async def roll_up(self, project: str) -> int:
        """Adds up the counts of hours that are over, for reading days; how many those were."""
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
        self, project: str, expected: str, model: str, event_type: str, body: bytes
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

    async def acknowledge(
        self, project: str, agent_id: str, sequence: Sequence, origin: Origin = SERVICE
    ) -> Sequence | None:
        """Moves a durable cursor forward; returns where it stands, None without agent."""
        ...

    async def note_sent(
        self, project: str, messages: Iterable[Sent], *, repeated: bool = False
    ) -> None:
        """Notes messages in the journals of their agents.

        With `repeated`, messages of streams that are noted already are left.
        """
        ...

    async def note_stream(
        self, project: str, agent_id: str, stream_id: str, start: Sequence | None, origin: Origin
    ) -> None:
        """Notes that a stream of an agent is opened at `start`, or, with None, has ended."""
        ...

    async def journal(
        self, project: str, agent_id: str, after: Sequence, until: Sequence, count: int
    ) -> list[Note]:
        """The first `count` notes of an agent's journal in (after, until], oldest first."""
        ...

    async def journal_back(
        self, project: str, agent_id: str, until: Sequence, after: Sequence, count: int
    ) -> list[Note]:
        """The last `count` notes in (after, until], newest first."""
        ...

    async def journal_notes(
        self, project: str, places: Iterable[tuple[str, Sequence]]
    ) -> list[Note | None]:
        """Notes by agent and place, None where there is none any more."""
        ...

    async def journals(self, project: str) -> list[str]:
        """The agents that have a journal, or had one, by id."""
        ...

    async def receivers(self, project: str, sequence: Sequence) -> dict[str, list[Sequence]]:
        """The agents that an event was sent to, each with the places in its journal."""
        ...

    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        """Adds records of actions to the audit; what they hold is opaque to the log."""
        ...

    async def audit(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Note]:
        """The first `count` records of the audit in (after, until], oldest first."""
        ...

    async def audit_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Note]:
        """The last `count` records in (after, until], newest first."""
        ...

    async def put_presence(self, project: str, owner: str, presence: str) -> None:
        """Says what a server process has open in a project; "" takes it back."""
        ...

    async def presence(self, project: str) -> dict[str, str]:
        """What each server process said last."""
        ...

    async def ping(self) -> None:
        """Returns if the store answers."""
        ...

    async def close(self) -> None:
        """Writes what is pending, then closes every connection."""
        ...

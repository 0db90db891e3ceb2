"""What the client hands out and takes: frozen dataclasses, no protobuf in sight."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from . import payload as payloads
from .errors import ContexError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Durability(enum.IntEnum):
    """What an acknowledgement promises. Ordered: each level includes those before."""

    MEMORY = 1
    """The store has it in memory; a crash of the store may lose it."""
    FSYNC = 2
    """It is on the store's disk. The server's default."""
    REPLICATED = 3
    """On the store's disk and acknowledged by at least one replica."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact to publish.

    Attributes:
        data_key: Name of the datum; empty only for an event of a type of your own.
        payload: Bytes, text, or anything with a JSON form. `None` is JSON null, and nothing
            at all where `tombstone` is set.
        description: What the datum is, in plain words; the best way to have it found.
        event_type: Empty for `data_published` or `data_deleted`.
        content_type: Media type; by default the one that goes with the payload's type.
        metadata: Free annotations.
        tombstone: Deletes the datum. The history stays.
        expected_revision: Refuses the publish unless the key is at this revision; 0 for
            "never had an event".
    """

    data_key: str = ""
    payload: object = None
    description: str = ""
    event_type: str = ""
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    tombstone: bool = False
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where one published event went.

    Attributes:
        sequence: Its place in the project's log.
        revision: Its data key's revision; 0 without a key.
        durability: What was reached when it was acknowledged.
        duplicate: True if the request was answered before and nothing was appended now.
    """

    sequence: str
    revision: int
    durability: Durability
    duplicate: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The answer to one batch of a publish stream.

    Attributes:
        request_id: The batch's id; publish with it again to retry a refused batch.
        receipts: One for each event, in order; empty if the batch was refused.
        duplicate: True if the batch had been appended before.
        error: Why the batch was refused, or `None`.
    """

    request_id: str
    receipts: tuple[Receipt, ...] = ()
    duplicate: bool = False
    error: ContexError | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One immutable entry of a project's log.

    Attributes:
        sequence: Its place in the log, `"{unix_ms}-{n}"`. Compare as two integers.
        event_type: What happened.
        data_key: The datum it is about; empty for none.
        payload: The fact, exactly as it was published.
        content_type: Media type of the payload; empty means JSON.
        description: What the datum is, in the publisher's words.
        publisher: Who published it.
        metadata: Annotations of the publisher.
        revision: How many events the key has had, this one included; 0 without a key.
        previous_sequence: The key's previous event; empty for the first.
    """

    sequence: str
    event_type: str
    data_key: str
    payload: bytes
    content_type: str
    description: str
    publisher: str
    metadata: Mapping[str, str] = field(hash=False)
    revision: int
    previous_sequence: str

    @property
    def value(self) -> object:
        """The payload decoded by its content type: JSON value, `str` or `bytes`.

        Raises:
            ValueError: The payload is not what its content type says.
        """
        return payloads.decode(self.payload, self.content_type)

    @property
    def time(self) -> datetime:
        """When the store appended it (UTC, to the millisecond)."""
        return _EPOCH + timedelta(milliseconds=int(self.sequence.partition("-")[0]))


@dataclass(frozen=True, slots=True)
class Match:
    """Why an event reached an agent.

    Attributes:
        need_index: Position of the need in the agent's list, from 0.
        need: The need, in the agent's words.
        score: How well the event fits, 0 to 1; at least the threshold.
        cosine: Cosine of the two embeddings, -1 to 1.
        threshold: The threshold that was applied.
        model: Identity of the embedding model.
    """

    need_index: int
    need: str
    score: float
    cosine: float
    threshold: float
    model: str


@dataclass(frozen=True, slots=True)
class MatchedEvent:
    """An event with the reasons why it matched.

    Attributes:
        event: The event.
        matches: One entry for each need it met, best score first.
        payload_omitted: True when the payload was left out of a large answer; read it with
            `get_event`.
    """

    event: Event
    matches: tuple[Match, ...]
    payload_omitted: bool = False

    @property
    def score(self) -> float:
        """The best score of its matches."""
        return max((match.score for match in self.matches), default=0.0)


@dataclass(frozen=True, slots=True)
class Agent:
    """A registration.

    Attributes:
        agent_id: Unique in the project.
        needs: What the agent wants to know, one line of plain words each.
        threshold: Lowest score that matches.
        max_matches: How many data a registration returns for each need.
        registered_time: When it was registered first (UTC).
        updated_time: When the registration last changed (UTC).
        acknowledged_sequence: The durable cursor: where a `listen` without a start goes on.
    """

    agent_id: str
    needs: tuple[str, ...]
    threshold: float
    max_matches: int
    registered_time: datetime
    updated_time: datetime
    acknowledged_sequence: str


@dataclass(frozen=True, slots=True)
class Registration:
    """The answer to registering or updating an agent.

    Attributes:
        agent: The registration as it stands.
        data: The data that match now, each once, best score first.
        sequence: They are the state as of this sequence.
        cursor: `listen` from here to go on without a gap; empty after an update, which does
            not move where the agent listens.
    """

    agent: Agent
    data: tuple[MatchedEvent, ...]
    sequence: str
    cursor: str

    def by_need(self) -> dict[str, list[tuple[MatchedEvent, Match]]]:
        """Groups the data by need: every need of the agent in its order, best score first."""
        grouped: dict[str, list[tuple[MatchedEvent, Match]]] = {n: [] for n in self.agent.needs}
        for datum in self.data:
            for match in datum.matches:
                grouped.setdefault(match.need, []).append((datum, match))
        for found in grouped.values():
            found.sort(key=lambda pair: pair[1].score, reverse=True)
        return grouped

"""What the client hands out and takes: frozen dataclasses, no protobuf in sight."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
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


class ContextFormat(enum.StrEnum):
    """How data are written out for an agent's prompt."""

    JSON = "json"
    """A JSON array of `{"data_key", "description", "data"}`."""
    YAML = "yaml"
    """The same as YAML."""
    MARKDOWN = "markdown"
    """A heading for each datum, its description, and the payload."""
    TOON = "toon"
    """The same as JSON in TOON, which needs fewer tokens for uniform data."""


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
class Erasure:
    """That, when and why a payload was erased.

    Attributes:
        request_id: The request that erased it.
        payload_digest: SHA-256 of what was erased.
    """

    time: datetime
    request_id: str
    reason: str
    payload_digest: bytes


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
        opaque: True where the payload could not be described: it is matched by key and
            description only.
        erased: Set where payload and description were erased; they are empty then.
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
    opaque: bool = False
    erased: Erasure | None = None

    @property
    def value(self) -> object:
        """The payload decoded by its content type: JSON value, `str` or `bytes`; None where it
        was erased.

        Raises:
            ValueError: The payload is not what its content type says.
        """
        if self.erased is not None:
            return None
        return payloads.decode(self.payload, self.content_type)

    @property
    def time(self) -> datetime:
        """When the store appended it (UTC, to the millisecond)."""
        return _EPOCH + timedelta(milliseconds=int(self.sequence.partition("-")[0]))


@dataclass(frozen=True, slots=True)
class Match:
    """Why an event reached an agent, and what the score was made of.

    Attributes:
        need_index: Position of the need in the agent's list, from 0.
        need: The need, in the agent's words.
        score: The probability that the event answers the need, 0 to 1; at least the threshold,
            except in an explanation.
        cosine: Cosine of the embeddings of the need and of the passage, -1 to 1.
        threshold: The threshold that was applied.
        model: Identity of the embedding model.
        path: Where in the payload the deciding passage lies, for example `/servers/3`; empty for
            the head: key, description and outline.
        passage: The words of that passage, 400 characters at most.
        background_mean: Mean of the need's cosines over the project's own data.
        background_deviation: Standard deviation of the same.
        standing: By how many of these deviations the cosine lies above the mean.
        lexical: How much of the need's words the passage has, weighted by their rarity, 0 to 1.
        background_passages: How many passages of the project the background was made of.
        background_sequence: The background is that of the project as of this sequence.
        scorer: Identity of the formula and its fitted weights.
        share: Logarithm of the passage's weight against all that compete with it; near 0 where
            nothing else comes close.
    """

    need_index: int
    need: str
    score: float
    cosine: float
    threshold: float
    model: str
    path: str = ""
    passage: str = ""
    background_mean: float = 0.0
    background_deviation: float = 0.0
    standing: float = 0.0
    lexical: float = 0.0
    background_passages: int = 0
    background_sequence: str = ""
    scorer: str = ""
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class MatchedEvent:
    """An event with the reasons why it matched.

    Attributes:
        event: The event.
        matches: One entry for each need it met, best score first.
        payload_omitted: True when the payload was left out of a large answer; read it with
            `get_event`.
        context: The event written out, where `listen` was given a `context_format`.
        backfilled: True for a datum that a change of the needs brought into a stream: it matches
            now, and lies before the stream's position.
    """

    event: Event
    matches: tuple[Match, ...]
    payload_omitted: bool = False
    context: str = ""
    backfilled: bool = False

    @property
    def score(self) -> float:
        """The best score of its matches."""
        return max((match.score for match in self.matches), default=0.0)


MatchesByNeed = dict[str, list[tuple[MatchedEvent, Match]]]


def by_need(needs: Iterable[str], data: Iterable[MatchedEvent]) -> MatchesByNeed:
    """Groups data by need: every need in its order, and of each the best score first."""
    grouped: MatchesByNeed = {need: [] for need in needs}
    for datum in data:
        for match in datum.matches:
            grouped.setdefault(match.need, []).append((datum, match))
    for found in grouped.values():
        found.sort(key=lambda pair: pair[1].score, reverse=True)
    return grouped


@dataclass(frozen=True, slots=True)
class OmittedDatum:
    """A datum that matched and did not fit into the budget.

    Attributes:
        data_key: Its key.
        sequence: The event that it is.
        score: Its best score.
        tokens: Tokens that it would have taken.
    """

    data_key: str
    sequence: str
    score: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Context:
    """Data written out within a budget.

    Attributes:
        text: The data that fit, best first; empty if no format was asked for.
        format: The format, or `None`.
        tokens: Tokens of what was kept.
        token_counter: What counted them: a tokenizer's name, or `"estimate"`.
        omitted: The data that matched and were left out, best first.
    """

    text: str
    format: ContextFormat | None
    tokens: int
    token_counter: str
    omitted: tuple[OmittedDatum, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that an agent wants to know; plain text where no option is needed.

    Attributes:
        text: In plain words.
        threshold: Lowest score that matches; by default the agent's.
        max_matches: How many data an answer returns for it; by default the agent's.
        exclude_data_keys: Globs over data keys that never match it.
    """

    text: str
    threshold: float | None = None
    max_matches: int | None = None
    exclude_data_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MinDelta:
    """When an update is worth pushing. An empty one: always.

    An update is an event of a key that had an event before which is described by the same text.

    Attributes:
        payload_changed: Only if it changes the payload.
        json_pointers: Only if it changes the value at one of these; `""` is the whole.
    """

    payload_changed: bool = False
    json_pointers: tuple[str, ...] = ()


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
        need_specs: The needs with their own thresholds, maxima and exclusions.
        min_delta: Which updates are pushed; `None`: all.
    """

    agent_id: str
    needs: tuple[str, ...]
    threshold: float
    max_matches: int
    registered_time: datetime
    updated_time: datetime
    acknowledged_sequence: str
    need_specs: tuple[Need, ...] = ()
    min_delta: MinDelta | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """The answer to registering or updating an agent.

    Attributes:
        agent: The registration as it stands.
        data: The data that match now, each once, best score first.
        sequence: They are the state as of this sequence.
        cursor: `listen` from here to go on without a gap; empty after an update, which does
            not move where the agent listens.
        context: The data written out, where a budget or a format was given.
    """

    agent: Agent
    data: tuple[MatchedEvent, ...]
    sequence: str
    cursor: str
    context: Context | None = None

    def by_need(self) -> MatchesByNeed:
        """Groups the data by need: every need of the agent in its order, best score first."""
        return by_need(self.agent.needs, self.data)


@dataclass(frozen=True, slots=True)
class NeedsChanged:
    """An agent's registration was changed while it listens, or while it was away.

    Attributes:
        agent: The registration as it is from here on.
        data: The data that match it now and did not before, best score first.
    """

    agent: Agent
    data: tuple[MatchedEvent, ...]

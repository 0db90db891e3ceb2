"""Values of `contex.v1.EventService`, and what other services say about events.

The methods are in `_async/events.py`, and so on for each service.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from . import payload as payloads
from .errors import ContexError, from_refusal
from .lazy import event_pb2, event_service_pb2, wire

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Durability(enum.IntEnum):
    """What an acknowledgement guarantees. Each level includes the ones before it."""

    MEMORY = 1
    """The event is in the store's memory; a crash of the store may lose it."""
    FSYNC = 2
    """The event is on the store's disk. The server's default."""
    REPLICATED = 3
    """The event is on the store's disk and on at least one replica."""


class ContextFormat(enum.StrEnum):
    """The format of data as text for an agent's prompt."""

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
        payload: Bytes, text, or anything with a JSON form. None is JSON null, but no payload at
            all if `tombstone` is set.
        description: What the datum is, in plain words; the best way to have it found.
        event_type: A type of your own; empty for `data_published` or `data_deleted`.
        content_type: Media type; by default the one that fits the payload's Python type.
        metadata: Free annotations.
        tombstone: Deletes the datum. Its history stays.
        expected_revision: Refuse to publish unless the key is at this revision; 0: it never had
            an event.
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
    """The receipt for one published event.

    Attributes:
        sequence: Its place in the project's log.
        revision: Its data key's revision; 0 without a key.
        durability: The level that it had reached when it was acknowledged.
        duplicate: True if the request was a repetition and nothing was published now.
    """

    sequence: str
    revision: int
    durability: Durability
    duplicate: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The answer to one batch of a publish stream.

    Attributes:
        request_id: The batch's id; use it to retry a refused batch.
        receipts: One for each event, in order; empty if the batch was refused.
        duplicate: True if the batch had been published before.
        error: Why the batch was refused; None if it was not.
    """

    request_id: str
    receipts: tuple[Receipt, ...] = ()
    duplicate: bool = False
    error: ContexError | None = None


@dataclass(frozen=True, slots=True)
class Erasure:
    """The erasure of a payload.

    Attributes:
        time: When it was erased (UTC).
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
        data_key: The datum it is about; empty if there is none.
        payload: The fact, exactly as it was published.
        content_type: Media type of the payload; empty means JSON.
        description: What the datum is, in the publisher's words.
        metadata: Annotations of the publisher.
        revision: Number of events that the key has had, including this one; 0 without a key.
        previous_sequence: The key's previous event; empty for the first.
        opaque: True if the payload could not be described, so that only key and description are
            matched.
        erased: Set if payload and description were erased, in which case they are empty.
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
        """The payload decoded by its content type: a JSON value, `str` or `bytes`.

        None if it was erased.

        Raises:
            ValueError: The payload is not what its content type says.
        """
        if self.erased is not None:
            return None
        return payloads.decode(self.payload, self.content_type)

    @property
    def time(self) -> datetime:
        """When the store appended the event (UTC, in milliseconds)."""
        return _EPOCH + timedelta(milliseconds=int(self.sequence.partition("-")[0]))


@dataclass(frozen=True, slots=True)
class Match:
    """Why an event reached an agent, and how its score came about.

    Attributes:
        need_index: Position of the need in the agent's list, from 0.
        need: The need, in the agent's words.
        score: The probability that the event answers the need, 0 to 1. It is at least the
            threshold, except in an explanation.
        cosine: Cosine of the embeddings of the need and of the passage, -1 to 1.
        threshold: The threshold that was applied.
        model: Identity of the embedding model.
        path: Where in the payload the best passage is, for example `/servers/3`; empty for the
            head: key, description and outline.
        passage: The text of that passage, up to 400 characters.
        background_mean: Mean of the need's cosines over the project's own data.
        background_deviation: Their standard deviation.
        standing: How many standard deviations the cosine is above the mean.
        lexical: Share of the need's words that the passage contains, weighted by their rarity, 0
            to 1.
        background_passages: Number of the project's passages in the background.
        background_sequence: The background is that of the project as of this sequence.
        scorer: Identity of the formula and its fitted weights.
        share: Logarithm of the passage's weight relative to everything that competes with it; near
            0 if nothing else comes close.
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
    """An event that matched, and why.

    Attributes:
        matches: One entry for each need it met, best score first.
        payload_omitted: True if the payload was left out of a large answer; `get_event` has it.
        context: The event as text, if `listen` was given a `context_format`.
        backfilled: True for a datum that matches since the needs were changed, and is older than
            the stream's position.
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
    """Groups data by need: the needs in their order, the data of each by best score first."""
    grouped: MatchesByNeed = {need: [] for need in needs}
    for datum in data:
        for match in datum.matches:
            grouped.setdefault(match.need, []).append((datum, match))
    for found in grouped.values():
        found.sort(key=lambda pair: pair[1].score, reverse=True)
    return grouped


@dataclass(frozen=True, slots=True)
class OmittedDatum:
    """A datum that matched but did not fit into the budget.

    Attributes:
        sequence: Its latest event.
        tokens: Tokens that it would have needed.
    """

    data_key: str
    sequence: str
    score: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Context:
    """Data as text, within a budget.

    Attributes:
        text: The data that fit, best first; empty if no format was requested.
        format: The format; None if none was requested, or if this client does not know it.
        tokens: Number of tokens of the data that fit.
        token_counter: How they were counted: a tokenizer's name, or `"estimate"`.
        omitted: The data that matched but did not fit, best first.
    """

    text: str
    format: ContextFormat | None
    tokens: int
    token_counter: str
    omitted: tuple[OmittedDatum, ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment that an answer is about.

    Attributes:
        sequence: The newest event at that moment; `"0-0"` if there was none yet.
        time: The instant (UTC).
    """

    sequence: str
    time: datetime


# -- to messages ---------------------------------------------------------------------------------


def to_new_event(event: NewEvent) -> event_service_pb2.NewEvent:
    """The message for an event to publish."""
    if event.tombstone and event.payload is None:
        payload, content_type = b"", event.content_type or ""
    else:
        payload, content_type = payloads.encode(event.payload, event.content_type)
    return event_service_pb2.NewEvent(
        data_key=event.data_key,
        event_type=event.event_type,
        payload=payload,
        content_type=content_type,
        description=event.description,
        metadata=event.metadata,
        tombstone=event.tombstone,
        expected_revision=event.expected_revision,
    )


def to_durability(durability: Durability | None) -> event_pb2.Durability.ValueType:
    """The level to ask for; None leaves it to the server."""
    if durability is None:
        return event_pb2.DURABILITY_UNSPECIFIED
    return event_pb2.Durability.ValueType(Durability(durability))


def to_context_format(context_format: ContextFormat | None) -> event_pb2.ContextFormat.ValueType:
    """The format to ask for; None asks for no text."""
    if context_format is None:
        return event_pb2.CONTEXT_FORMAT_UNSPECIFIED
    return wire.enum_number(ContextFormat(context_format), event_pb2.ContextFormat)


def sequence_of(event: str | Event | MatchedEvent) -> str:
    """The sequence of an event that is given in any form."""
    if isinstance(event, MatchedEvent):
        return event.event.sequence
    return event.sequence if isinstance(event, Event) else event


# -- from messages -------------------------------------------------------------------------------


def receipts(response: event_service_pb2.PublishResponse) -> tuple[Receipt, ...]:
    """One receipt for each event of a publish."""
    # A level that a newer server has added includes all that this client knows.
    level = Durability(min(response.durability or Durability.FSYNC, Durability.REPLICATED))
    return tuple(
        Receipt(receipt.sequence, receipt.revision, level, response.duplicate)
        for receipt in response.receipts
    )


def batch_result(response: event_service_pb2.PublishStreamResponse) -> BatchResult:
    """The answer to one batch of a publish stream."""
    if response.WhichOneof("outcome") == "refused":
        return BatchResult(response.request_id, error=from_refusal(response.refused))
    published = response.published
    return BatchResult(response.request_id, receipts(published), published.duplicate)


def event(message: event_pb2.Event) -> Event:
    """An event."""
    return Event(
        sequence=message.sequence,
        event_type=message.event_type,
        data_key=message.data_key,
        payload=message.payload,
        content_type=message.content_type,
        description=message.description,
        publisher=message.publisher,
        metadata=dict(message.metadata),
        revision=message.revision,
        previous_sequence=message.previous_sequence,
        opaque=message.opaque,
        erased=wire.to_value(Erasure, message.erased) if message.HasField("erased") else None,
    )


def match(message: event_pb2.Match) -> Match:
    """A match with the parts of its score."""
    parts = message.parts
    return Match(
        need_index=message.need_index,
        need=message.need,
        score=message.score,
        cosine=parts.cosine,
        threshold=parts.threshold,
        model=parts.model,
        path=message.path,
        passage=message.passage,
        background_mean=parts.background_mean,
        background_deviation=parts.background_deviation,
        standing=parts.standing,
        lexical=parts.lexical,
        background_passages=parts.background_passages,
        background_sequence=parts.background_sequence,
        scorer=parts.scorer,
        share=parts.share,
    )


def matched_event(message: event_pb2.MatchedEvent, *, backfilled: bool = False) -> MatchedEvent:
    """An event with its matches."""
    return MatchedEvent(
        event=event(message.event),
        matches=tuple(map(match, message.matches)),
        payload_omitted=message.payload_omitted,
        context=message.context,
        backfilled=backfilled,
    )


class _Answer(Protocol):
    """A response that may contain its data as text."""

    @property
    def context(self) -> event_pb2.Context: ...

    def HasField(self, field_name: Literal["context"], /) -> bool: ...


def context(response: _Answer) -> Context | None:
    """The data of a response as text; None if it was not asked for."""
    if not response.HasField("context"):
        return None
    written = response.context
    formats = {wire.enum_number(known, event_pb2.ContextFormat): known for known in ContextFormat}
    return wire.to_value(
        Context,
        written,
        format=formats.get(written.format),  # None too for a format that a newer server has added
    )


def moment(message: event_pb2.Moment) -> Moment:
    """The moment of an answer."""
    return Moment(message.sequence, wire.instant(message.time))

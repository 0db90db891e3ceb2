# Generated from protos/ by `make generate`.

"""The values of `contex.events` that stand for messages."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from contex.methods import (
    EventFilterMethods,
    EventMethods,
    MatchedEventMethods,
)

if TYPE_CHECKING:
    from contex.v1 import (
        event_pb2,
    )

__all__ = [
    "Context",
    "ContextFormat",
    "Durability",
    "Erasure",
    "Event",
    "EventFilter",
    "KeyState",
    "Match",
    "MatchKind",
    "MatchedEvent",
    "Moment",
    "OmittedDatum",
    "context",
    "erasure",
    "event",
    "event_filter",
    "match",
    "matched_event",
    "moment",
    "omitted_datum",
]


class Durability(enum.IntEnum):
    """What an acknowledgement promises.

    Each level includes the ones before it.
    """

    MEMORY = 1
    """In the store's memory.

    A crash of the store can lose it.
    """
    FSYNC = 2
    """On the store's disk (fsync).

    A crash of the process or of the machine does not lose it. The default.
    """
    REPLICATED = 3
    """On the store's disk, and acknowledged by at least one replica."""


class ContextFormat(enum.StrEnum):
    """How data are written out for an agent's prompt."""

    JSON = "json"
    """A JSON array of {"data_key", "description", "data"}.

    Where a fact that was listened to is gone, or no longer meets the agent's needs, "deleted",
    "expired", "erased" or "left", which is true, takes the place of "data".
    """
    YAML = "yaml"
    """The same as YAML."""
    MARKDOWN = "markdown"
    """For each datum a heading, its description and the payload: Markdown and text unchanged,
    everything else in a code block.

    "(deleted)" and so on where the fact is gone, "(left)" where it no longer meets the agent's
    needs.
    """
    TOON = "toon"
    """The structure of the JSON form in TOON (token-oriented object notation), which needs fewer
    tokens for uniform data.
    """


class KeyState(enum.StrEnum):
    """What a data key is at a place in the log."""

    ABSENT = "absent"
    """It has never had an event."""
    PRESENT = "present"
    """It has a datum: its latest event is neither a deletion nor an expiry."""
    DELETED = "deleted"
    """Its latest event deleted it, or says that it expired."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """Records when and why a payload was erased.

    Attributes:
        time: When it was erased, by the store's clock (UTC).
        request_id: The request_id of the request that erased it; empty if it was removed by the
            project's retention.
        reason: The reason given in that request, or the rule, such as "retention: keeps the last 3
            revisions".
        payload_digest: SHA-256 of what was erased: of the encrypted form if the event named a
            subject, otherwise of the payload. Whoever kept a copy of those bytes can prove that
            they are what was erased.
    """

    time: datetime
    request_id: str
    reason: str
    payload_digest: bytes


def erasure(message: event_pb2.Erased) -> Erasure:
    """The `Erasure` of a message."""
    return Erasure(
        time=message.time.ToDatetime(tzinfo=UTC),
        request_id=message.request_id,
        reason=message.reason,
        payload_digest=message.payload_digest,
    )


@dataclass(frozen=True, slots=True)
class Event(EventMethods):
    """One immutable entry of a project's log.

    Attributes:
        sequence: Position in the project's log, "{unix_ms}-{n}". Set by the store.
        event_type: What happened. The service itself writes "data_published", "data_deleted",
            "data_expired", "agent_registered", "agent_unregistered", "match_feedback",
            "data_erased", "matching_model_changed" and "matching_background_changed"; publishers
            can use any other type.
        data_key: The datum that this event is about. Empty if it is not about a datum.
        payload: The fact itself, exactly as published. Empty in "data_deleted" and "data_expired".
        content_type: Media type of the payload. Empty means "application/json".
        description: The publisher's description of the datum, in plain words: given with this
            event, or with an earlier one and kept. Used for matching.
        publisher: Who published it: the identity that the caller proved. Where access is off, the
            name that it gave.
        metadata: Free-form annotations by the publisher. Not used for matching. "subject" names the
            person whose data the event holds (1 to 128 characters of A-Z a-z 0-9 _ . : / @ + -);
            payload and description are then encrypted at rest and can be erased.
        revision: Number of events of this data key, including this one: 1 for the first. Deletions
            and expiries count, and a key that is published again after one continues the count. 0
            if the event has no data key.
        previous_sequence: Sequence of the previous event of the same data key; empty for the first.
        opaque: True if the payload's bytes could not be described; the event is then matched by its
            key and description only.
        erased: Set if payload and description were erased or removed as later revisions came
            (Retention.keep_revisions). Both are then empty, and the event no longer matches
            anything. All other fields are unchanged.
        valid_until: Until when the datum is valid, if it does not last: as published, or
            `valid_for` after the append, by the store's clock (UTC). Within about a second of this
            time the service writes "data_expired", unless a later event of the data key comes
            first; until then the datum is part of the state.
        claimed_publisher: The name that the publisher gave itself, if it proved another one. Not
            verified: filters don't look at it.
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
    valid_until: datetime | None = None
    claimed_publisher: str = ""


def event(message: event_pb2.Event) -> Event:
    """The `Event` of a message."""
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
        erased=erasure(message.erased) if message.HasField("erased") else None,
        valid_until=message.valid_until.ToDatetime(tzinfo=UTC)
        if message.HasField("valid_until")
        else None,
        claimed_publisher=message.claimed_publisher,
    )


@dataclass(frozen=True, slots=True)
class EventFilter(EventFilterMethods):
    """Selects events.

    An event passes if it passes every list that is not empty; it passes a list if any of its
    entries fits. Types and prefixes of types count as one list; of metadata, all entries must fit.
    An empty filter passes everything.

    Attributes:
        event_types: Exact event types, at most 32.
        data_keys: Globs over data keys, at most 32 of at most 512 characters: "*" matches any run
            of characters, "?" exactly one, and a character after a backslash itself ("\\*" a star,
            "\\\\" a backslash). An event without a data key passes no glob.
        publishers: Exact publishers, at most 32.
        event_type_prefixes: What event types begin with ("order."), at most 32 of 1 to 64 printable
            characters.
        metadata: Entries that the event's metadata must have, with exactly these values: at most
            32, with the limits of NewEvent.metadata.
        exclude_service_events: Leaves out what the service writes about itself: registrations,
            feedback, erasures and changes of matching, that is all reserved types but
            "data_published", "data_deleted" and "data_expired".
    """

    event_types: tuple[str, ...] = ()
    data_keys: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    event_type_prefixes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    exclude_service_events: bool = False


def event_filter(message: event_pb2.EventFilter) -> EventFilter:
    """The `EventFilter` of a message."""
    return EventFilter(
        event_types=tuple(message.event_types),
        data_keys=tuple(message.data_keys),
        publishers=tuple(message.publishers),
        event_type_prefixes=tuple(message.event_type_prefixes),
        metadata=dict(message.metadata),
        exclude_service_events=message.exclude_service_events,
    )


class MatchKind(enum.Enum):
    """What a delivery tells an agent of a datum.

    An agent that keeps the last delivery of each data key, and drops the key with LEFT, DELETED and
    EXPIRED, and with ERASED unless it keeps a later revision, holds exactly what exists and meets
    its needs.
    """

    MATCHED = "matched"
    """The datum meets the agent's needs, and the agent does not hold it.

    Also each event without a data key that meets them.
    """
    UPDATED = "updated"
    """A new revision of a datum that the agent holds, and that still meets its needs.

    While its text stays the same it meets those in words; otherwise each of these counts as met
    down to 0.05 (at most a third) below its threshold, so that a datum near the threshold does not
    come and go. It meets a filter if it passes it.
    """
    LEFT = "left"
    """A datum that the agent holds meets its needs no longer: by a new revision, which comes with
    this, or because the needs changed.

    Sent once; `matches` is empty.
    """
    DELETED = "deleted"
    """A datum that the agent holds was deleted; or another one, whose deletion passes a filter
    among the agent's needs.

    `matches` has the filters that the deletion passes.
    """
    EXPIRED = "expired"
    """A datum that the agent holds has expired; or another one, likewise."""
    ERASED = "erased"
    """Revisions of a datum that the agent was once sent were erased: forget them.

    Comes to every agent that was ever sent one of them, whatever it holds now. The event is that
    which tells of the erasure, with the datum's key and the last erased revision; `matches` is
    empty.
    """
    WITHHELD = "withheld"
    """The agent may no longer read a datum that it holds: its rights have changed.

    It is not kept up to date about it from here on. The event is the registration that says so,
    with the datum's key and the last revision that was decided for the agent while it had the
    right; there is no content, and `matches` is empty. Drop what you keep of it. When the right is
    given back, what meets the needs then comes as MATCHED.
    """
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class Match:
    """Why an event reached an agent: one of its needs, and how well it fits.

    Attributes:
        need_index: Position of the need in the agent's list when it matched, from 0. To refer to
            the need later, use it along with `need`: the agent's needs may have been reordered.
        need: The need, in the agent's words; a filter is written out ("key=orders/*,
            type=order.paid"), at most 1,000 characters.
        score: 1 if the need is a filter (0 in `Explanation` if the event fails it). Otherwise the
            calibrated probability that the event answers the need, 0 to 1: of the pairs with a
            score near 0.7, about 70 % are right. At least the need's threshold, except in
            `Explanation`.
        cosine: Cosine of the embeddings of the need and the passage, -1 to 1.
        threshold: The threshold that was applied.
        model: Identity of the embedding model.
        path: Where in the payload the passage is that decided the score: a JSON pointer
            ("/servers/3", "/servers/3-7" for several items) in JSON, YAML and TOML; headings
            ("Install > Linux") in Markdown; "rows 2-9" in CSV; a path of elements
            ("/catalog/book[3]") in XML; "paragraphs 3-5" in text. Empty for the head: key,
            description and outline.
        passage: The text of that passage, at most 400 characters.
        background_mean: Mean of the need's cosines with data, by the background.
        background_deviation: Standard deviation of the same cosines.
        standing: (cosine - background_mean) / background_deviation: how far, for this need, the
            passage stands out from what is usual.
        lexical: Share of the need's words found in the passage, weighted by their rarity (BM25
            divided by the value for a perfect passage), 0 to 1.
        background_passages: The number of the project's data that the background sums up; 0 if it
            is the shipped one alone. (Of a relative score, the number of passages.)
        background_sequence: The version of the background: the sequence of the event since which it
            holds, "0" for the shipped one. (Of a relative score, the sequence as of which the data
            were summed up.)
        scorer: Identity of the formula and of its fitted weights.
        share: Of a relative score, as earlier versions computed it: logarithm of the passage's
            weight among everything that competes with it. 0 if the score is absolute.
        usual_cosine: Mean of the passage's cosines with the nearest of the shipped needs, which are
            of many trades: what a need of this kind has anyway.
        coverage: Share of the need's single words that the datum has anywhere, weighted by their
            rarity, 0 to 1.
        expected_coverage: The coverage that a datum with as many different words has by chance.
        need_id: The need's stable id; see `Need.id`.
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
    usual_cosine: float = 0.0
    coverage: float = 0.0
    expected_coverage: float = 0.0
    need_id: str = ""


def match(message: event_pb2.Match) -> Match:
    """The `Match` of a message."""
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
        usual_cosine=parts.usual_cosine,
        coverage=parts.coverage,
        expected_coverage=parts.expected_coverage,
        need_id=message.need_id,
    )


@dataclass(frozen=True, slots=True)
class MatchedEvent(MatchedEventMethods):
    """An event with the reasons for its match.

    Attributes:
        event: The complete event (but see payload_omitted).
        matches: One entry for each need that was met, best score first. Empty where `kind` says so.
        payload_omitted: True if the payload was left out: in unary responses because the message
            would have grown beyond 3 MiB (read it with `get_event`), in a `listen` stream because
            the event can no longer be read: then only its sequence, data key and revision are
            there.
        context: The event, written out in the format that the stream asked for. Empty if it asked
            for none, or if context_omitted.
        context_omitted: True if `context` was left out because the message would have grown beyond
            limits.response_message_bytes: written out, an event can be six times as large. What it
            would have held is in `event`.
        kind: What the delivery tells the agent of the datum.
        backfilled: Always False; earlier versions set it for what a change of the needs brought.
    """

    event: Event
    matches: tuple[Match, ...]
    payload_omitted: bool = False
    context: str = ""
    context_omitted: bool = False
    kind: MatchKind | None = None
    backfilled: bool = False


def matched_event(message: event_pb2.MatchedEvent, backfilled: bool = False) -> MatchedEvent:
    """The `MatchedEvent` of a message."""
    return MatchedEvent(
        event=event(message.event),
        matches=tuple(map(match, message.matches)),
        payload_omitted=message.payload_omitted,
        context=message.context,
        context_omitted=message.context_omitted,
        kind=_MATCH_KINDS.get(message.kind, MatchKind.OTHER) if message.kind else None,
        backfilled=backfilled,
    )


@dataclass(frozen=True, slots=True)
class OmittedDatum:
    """A datum that matched but did not fit into the budget.

    Attributes:
        data_key: Its key.
        sequence: Its latest event.
        score: Its best score.
        tokens: The number of tokens it would have needed by itself.
    """

    data_key: str
    sequence: str
    score: float
    tokens: int


def omitted_datum(message: event_pb2.OmittedDatum) -> OmittedDatum:
    """The `OmittedDatum` of a message."""
    return OmittedDatum(
        data_key=message.data_key,
        sequence=message.sequence,
        score=message.score,
        tokens=message.tokens,
    )


@dataclass(frozen=True, slots=True)
class Context:
    """Data written out within a token budget, and within what a message has room for: 1.25 MiB of
    text.

    All of the data that match take about tokens + omitted_tokens.

    Attributes:
        text: The data that fit, best score first, in `format`. Empty if the format is unspecified.
        format: The format; None if there is none or if this client does not know it.
        tokens: Number of tokens of the data that fit.
        token_counter: What counted the tokens: the name of the server's tokenizer, or "estimate".
            The estimate is one token for every 3 bytes of UTF-8, rounded up, and errs on the high
            side for English and JSON.
        omitted: The data that matched but did not fit, best score first; at most 256 KiB of them
            are listed.
        omitted_count: Number of the data that matched but did not fit, listed or not.
        omitted_tokens: Number of tokens that they would have needed, each by itself.
    """

    text: str
    format: ContextFormat | None
    tokens: int
    token_counter: str
    omitted: tuple[OmittedDatum, ...] = ()
    omitted_count: int = 0
    omitted_tokens: int = 0


def context(message: event_pb2.PromptContext) -> Context:
    """The `Context` of a message."""
    return Context(
        text=message.text,
        format=_CONTEXT_FORMATS.get(message.format),
        tokens=message.tokens,
        token_counter=message.token_counter,
        omitted=tuple(map(omitted_datum, message.omitted)),
        omitted_count=message.omitted_count,
        omitted_tokens=message.omitted_tokens,
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment as of which a response holds.

    Attributes:
        sequence: The newest event included: the response reflects everything up to it and nothing
            after it. "0-0" if there was no event yet.
        time: The instant meant: the one in the request; the event's own if the request gave a
            sequence; otherwise the store's clock (UTC).
    """

    sequence: str
    time: datetime


def moment(message: event_pb2.Moment) -> Moment:
    """The `Moment` of a message."""
    return Moment(
        sequence=message.sequence,
        time=message.time.ToDatetime(tzinfo=UTC),
    )


_CONTEXT_FORMATS = {
    1: ContextFormat.JSON,
    2: ContextFormat.YAML,
    3: ContextFormat.MARKDOWN,
    4: ContextFormat.TOON,
}

_MATCH_KINDS = {
    1: MatchKind.MATCHED,
    2: MatchKind.UPDATED,
    3: MatchKind.LEFT,
    4: MatchKind.DELETED,
    5: MatchKind.EXPIRED,
    6: MatchKind.ERASED,
    7: MatchKind.WITHHELD,
}

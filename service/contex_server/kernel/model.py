"""The values of the domain. No I/O, no dependency."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from operator import itemgetter
from typing import NamedTuple, Self

from contex_server.kernel import globs
from contex_server.kernel.scope import EVERYTHING as UNRESTRICTED
from contex_server.kernel.scope import Scope

DATA_PUBLISHED = "data_published"
DATA_DELETED = "data_deleted"
DATA_EXPIRED = "data_expired"
AGENT_REGISTERED = "agent_registered"
AGENT_UNREGISTERED = "agent_unregistered"
MATCH_FEEDBACK = "match_feedback"
MODEL_CHANGED = "matching_model_changed"
BACKGROUND_CHANGED = "matching_background_changed"
DATA_ERASED = "data_erased"
SERVICE_TYPES = frozenset(
    {
        AGENT_REGISTERED,
        AGENT_UNREGISTERED,
        MATCH_FEEDBACK,
        MODEL_CHANGED,
        BACKGROUND_CHANGED,
        DATA_ERASED,
    }
)
"""What the service writes about itself: matched by filters alone that name it."""
DELETIONS = frozenset({DATA_DELETED, DATA_EXPIRED})
"""What leaves a data key without a datum."""
RESERVED_TYPES = SERVICE_TYPES | DELETIONS | {DATA_PUBLISHED}

SUBJECT = "subject"
"""The metadata that names the person whose data an event holds."""
SEALED_TAG = 0x72
"""The first byte of a body whose payload is sealed, and of no other."""

_SEQUENCE = re.compile(r"(0|[1-9][0-9]{0,19})(?:-(0|[1-9][0-9]{0,19}))?")
_U64_MAX = 2**64 - 1


class Sequence(NamedTuple):
    """An event's position in its project's log; ordered as a pair of integers."""

    ms: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "{unix_ms}-{n}" or "{unix_ms}" (n = 0).

        Raises:
            ValueError: The text is no sequence.
        """
        found = _SEQUENCE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:40]!r} is not of the form {{unix_ms}}-{{n}}")
        ms, n = int(found[1]), int(found[2] or 0)
        if ms > _U64_MAX or n > _U64_MAX:
            raise ValueError(f"{text[:48]!r} exceeds 64 bits")
        return cls(ms, n)

    def next(self) -> Sequence:
        """The smallest sequence after this one."""
        return Sequence(self.ms, self.n + 1) if self.n < _U64_MAX else Sequence(self.ms + 1, 0)

    def prev(self) -> Sequence:
        """The greatest sequence before this one.

        Raises:
            ValueError: This is the first sequence.
        """
        if self.n:
            return Sequence(self.ms, self.n - 1)
        if not self.ms:
            raise ValueError("nothing is before sequence 0")
        return Sequence(self.ms - 1, _U64_MAX)

    def __str__(self) -> str:
        return f"{self.ms}-{self.n}"


class Proven(Sequence):
    """The sequence of an event, with what shows whether a log is the one that it was read from.

    Attributes:
        proof: `event_codec.proof` of the event; b"" where it isn't known which event stood there.
    """

    proof: bytes

    @classmethod
    def of(cls, sequence: Sequence, proof: bytes = b"") -> Self:
        """A sequence at which there was an event."""
        self = cls(*sequence)
        self.proof = proof
        return self


BEGINNING = Sequence(0, 0)
END_OF_TIME = Sequence(_U64_MAX, _U64_MAX)


class Range(NamedTuple):
    """The part (after, until] of a stream, and the direction in which it is read."""

    after: Sequence = BEGINNING
    until: Sequence = END_OF_TIME
    backwards: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be in it."""
        return self.after >= self.until

    def rest(self, last: Sequence) -> Range:
        """What is left to read after `last`, wherever that lies."""
        if not self.backwards:
            return Range(max(self.after, last), self.until)
        until = min(self.until, last.prev()) if last > BEGINNING else BEGINNING
        return Range(self.after, until, backwards=True)


class Durability(IntEnum):
    """What an acknowledgement promises; the numbers are those of the API."""

    MEMORY = 1
    FSYNC = 2
    REPLICATED = 3


class Origin(NamedTuple):
    """Who makes a call, and from where.

    Attributes:
        identity: The identity that was proved; where access is off, the name that the client gives
            itself.
        peer: Its address, as gRPC writes it.
        client: Its user agent.
        claimed: The name that the client gives itself, beside an identity that was proved; None if
            none was.
    """

    identity: str = ""
    peer: str = ""
    client: str = ""
    claimed: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` wrote."""
        return cls(*text.split("\t"))

    @property
    def parts(self) -> tuple[str, ...]:
        """As it is stored: three parts, and a fourth one if the identity was proved."""
        known = self.identity, self.peer, self.client
        return known if self.claimed is None else (*known, self.claimed)

    def __str__(self) -> str:
        return "\t".join(self.parts)


class Change(IntEnum):
    """What a delivery tells an agent of a datum; the numbers are those of the API, and stored.

    REGISTERED is not delivered as such: from here on, the agent's needs are others. WITHHELD has no
    content: the agent's identity may no longer read the datum.
    """

    MATCHED = 1
    UPDATED = 2
    LEFT = 3
    DELETED = 4
    EXPIRED = 5
    ERASED = 6
    WITHHELD = 7
    REGISTERED = 15


MUTABLE = frozenset({Change.UPDATED, Change.LEFT, Change.DELETED, Change.EXPIRED})
"""What an agent may do without."""

UNKNOWN = Origin()
SERVICE = Origin("contex")
"""The service itself."""


# Not frozen: one is made for each event that is published, and a frozen one costs three times
# as much to make.
@dataclass(slots=True)
class NewEvent:
    """An event on its way into the log.

    Attributes:
        body: The serialised `contex.v1.Event`, without what only the store knows.
        payload: With `content_type` and `description`, what it is described by; dropped then.
        tombstone: Deletes the key; the event takes over the digest of the deleted datum.
        expected_revision: The revision of the key that the append depends on, if any.
        expected_state: Or what the key is: "absent", "present" or "deleted"; "" if it may be any.
        validity: How long it is valid: "+<milliseconds>" after the append, "<unix milliseconds>",
            a time to come, or "=<unix milliseconds>", which the body says already; "" if it lasts.
        subject: Whose data it holds; it is sealed then.
        digest: Identifies the describing text, 16 bytes; empty: not matched.
        carries: Keeps the datum's description; `description` is then what that is taken to be.
        bare: The body of one that carries, before it was described and sealed.
        was: What the datum's description was taken to be; see functions/events.lua.
        described: What it is with this event, likewise.
    """

    body: bytes
    data_key: str = ""
    event_type: str = DATA_PUBLISHED
    payload: bytes = b""
    content_type: str = ""
    description: str = ""
    tombstone: bool = False
    expected_revision: int | None = None
    subject: str = ""
    digest: bytes = b""
    carries: bool = False
    bare: bytes = b""
    was: str = "*"
    described: str = "?"
    expected_state: str = ""
    validity: str = ""


@dataclass(slots=True)
class Lane:
    """Keeps appends in order, also where one has to be repeated.

    An append is refused that was made at an earlier turn.

    Attributes:
        turn: How often one of its appends has been refused for a wrong description.
    """

    turn: int = 0


@dataclass(slots=True)
class Append:
    """Events that are appended together or not at all.

    Attributes:
        publisher: Who is named in the events.
        origin: Who made the call.
        vectors: Encodings of the events' texts by digest, as `matching/encoding.py` packs
            them, for those that the store may not have yet.
        model: The embedding model they come from.
        lane: Of several that must stay in order, the lane they share.
        turn: The lane's turn when this one was handed over.
        encrypted: Whether all its events are sealed.
        scope: What the caller may publish, and see of what was published before.
    """

    project: str
    events: list[NewEvent]
    request_id: str = ""
    durability: Durability = Durability.FSYNC
    publisher: str = ""
    origin: Origin = UNKNOWN
    vectors: dict[bytes, bytes] = field(default_factory=dict)
    model: str = ""
    lane: Lane | None = None
    turn: int = 0
    encrypted: bool = False
    scope: Scope = UNRESTRICTED


class Appended(NamedTuple):
    """Where an append went: consecutive sequences from `first`, one revision for each event."""

    first: Sequence
    revisions: tuple[int, ...]
    durability: Durability
    duplicate: bool = False


_sequence = tuple.__new__
"""A named tuple's own constructor takes twice as long."""


class Entry(NamedTuple):
    """An event as it lies in the log: cheap enough to hold millions.

    Attributes:
        id: Its sequence as text.
        body: The serialised `contex.v1.Event` without its sequence.
    """

    id: bytes
    body: bytes

    @property
    def sequence(self) -> Sequence:
        """Its position, parsed."""
        ms, n = self.id.split(b"-")
        return _sequence(Sequence, (int(ms), int(n)))


body_of = itemgetter(1)
"""The body of an `Entry`, for `map`: where each of many is looked at, a frame is what costs."""


def body_bytes(entries: Iterable[Entry]) -> int:
    """The bytes of events' bodies."""
    return sum(map(len, map(body_of, entries)))


class KeyState(NamedTuple):
    """The latest event of a data key: cheap enough to make 500,000 a second."""

    data_key: str
    revision: int
    sequence: Sequence
    deleted: bool
    digest: bytes


@dataclass(frozen=True, slots=True)
class Erasure:
    """That, when and why a payload was erased; see `contex.v1.Erased`."""

    unix_ms: int
    request_id: str
    reason: str
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Event:
    """An event, decoded; see `contex.v1.Event`."""

    sequence: Sequence
    event_type: str
    data_key: str = ""
    payload: bytes = b""
    content_type: str = ""
    description: str = ""
    publisher: str = ""
    revision: int = 0
    previous_sequence: Sequence | None = None
    text_digest: bytes = b""
    opaque: bool = False
    erased: Erasure | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    valid_until_ms: int | None = None
    claimed_publisher: str = ""

    @property
    def deletes(self) -> bool:
        """Whether it leaves its data key without a datum."""
        return self.event_type in DELETIONS

    @property
    def links(self) -> Links:
        """What ties the event to others."""
        previous = self.previous_sequence
        return Links(
            self.data_key,
            self.revision,
            "" if previous is None else str(previous),
            self.text_digest,
            self.event_type,
            self.publisher,
            self.valid_until_ms,
        )


class Links(NamedTuple):
    """What ties an event to others.

    Attributes:
        data_key: Its data key, or "".
        previous_sequence: That of the key's event before it, or "".
        valid_until_ms: Until when it is valid, in unix milliseconds; None if it lasts.
    """

    data_key: str
    revision: int
    previous_sequence: str
    text_digest: bytes
    event_type: str
    publisher: str
    valid_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a reader wants: each non-empty part must fit; equal filters share work.

    Attributes:
        event_types: Exact types.
        data_keys: Globs; see `kernel.globs`.
        publishers: Exact publishers.
        scope: What the reader may see; nothing else passes, whatever is wanted.
        type_prefixes: What types may begin with instead.
        metadata: Entries that the event's must have.
        without_service: Leaves out what the service writes about itself.
    """

    event_types: frozenset[str] = frozenset()
    data_keys: frozenset[str] = frozenset()
    publishers: frozenset[str] = frozenset()
    scope: Scope = UNRESTRICTED
    type_prefixes: tuple[str, ...] = ()
    metadata: frozenset[tuple[str, str]] = frozenset()
    without_service: bool = False

    @property
    def is_open(self) -> bool:
        """Whether everything passes."""
        wanted = self.data_keys or self.publishers or self.metadata
        return not wanted and not self.limits_types and self.scope.is_open

    @property
    def names_types(self) -> bool:
        """Whether it says which types pass."""
        return bool(self.event_types or self.type_prefixes)

    @property
    def by_key_alone(self) -> bool:
        """Whether any data event of a key passes if one does."""
        return not (self.names_types or self.publishers or self.metadata)

    @property
    def limits_types(self) -> bool:
        """Whether some types don't pass."""
        return bool(self.event_types or self.type_prefixes or self.without_service)

    def passes(self, event: Event) -> bool:
        """Whether the event is wanted."""
        if self.limits_types and not self.admits_type(event.event_type):
            return False
        if self.publishers and event.publisher not in self.publishers:
            return False
        if self.metadata and not self.metadata <= event.metadata.items():
            return False
        return self.admits_key(event.data_key)

    def passes_as_need(self, event: Event) -> bool:
        """The same for an agent, which gets the service's own events only if a type names them."""
        if event.event_type in SERVICE_TYPES and not self.names_types:
            return False
        return self.passes(event)

    def admits_type(self, event_type: str) -> bool:
        """Whether events of this type are wanted, as far as the type goes."""
        if self.without_service and event_type in SERVICE_TYPES:
            return False
        if not self.event_types and not self.type_prefixes:
            return True
        return event_type in self.event_types or event_type.startswith(self.type_prefixes)

    def fingerprint(self) -> tuple[object, ...]:
        """What tells it from others, but for the scope, in the same words in every version: it is
        part of tokens and of what is stored."""
        names = (self.event_types, self.data_keys, self.publishers)
        added = (self.type_prefixes, sorted(self.metadata), self.without_service)
        return (*map(sorted, names), *(added if any(added) else ()))

    def admits_key(self, data_key: str) -> bool:
        """Whether events of this data key are wanted, as far as the key goes."""
        if not self.scope.admits(data_key):
            return False
        return not self.data_keys or (bool(data_key) and globs.match(self.data_keys, data_key))


EVERYTHING = EventFilter()
_NEED_ID_BYTES = 4


def need_id_of(digest: bytes) -> str:
    """What identifies a need to clients."""
    return digest[:_NEED_ID_BYTES].hex()


@dataclass(frozen=True, slots=True)
class Need:
    """One line of what an agent wants.

    Attributes:
        text: Its words; of a filter, the filter written out.
        digest: Identifies its text or filter.
        threshold: Lowest score that matches, in (0, 1]; 1 of a filter.
        max_matches: How many data an answer returns for it.
        exclude: Globs over data keys that never match.
        own_threshold: The threshold where the need has one of its own; else None.
        own_max_matches: The maximum, likewise.
        filter: Which events it wants; None: those that answer its words.
    """

    text: str
    digest: bytes
    threshold: float
    max_matches: int
    exclude: frozenset[str] = frozenset()
    own_threshold: float | None = None
    own_max_matches: int | None = None
    filter: EventFilter | None = None

    @property
    def id(self) -> str:
        """Identifies its text or filter to clients."""
        return need_id_of(self.digest)

    def excludes(self, data_key: str) -> bool:
        """Whether the data key is one of those that never match."""
        return globs.match(self.exclude, data_key)

    def passes(self, event: Event) -> bool:
        """Whether an event passes its filter, and is not excluded; False if it has words."""
        passes = self.filter is not None and self.filter.passes_as_need(event)
        return passes and not self.excludes(event.data_key)


@dataclass(frozen=True, slots=True)
class MinDelta:
    """Which updates of a datum are worth pushing.

    Attributes:
        json_pointers: Only those that change one of these values; empty: the payload.
    """

    json_pointers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agent:
    """A registration.

    Attributes:
        threshold: Threshold of needs that have none of their own.
        max_matches: Maximum of needs that have none of their own.
        registered_ms: When it was registered first, unix milliseconds.
        updated_ms: When it last changed, unix milliseconds.
        min_delta: Which updates are pushed; None: all.
        muted: What it does without.
        exclude_own: Whether what it publishes itself is not sent to it.
        ttl_ms: How long it may go without a contact; 0: for ever.
        identity: Whose agent it is; "" of one that was registered while access was off.
        groups: The groups that its identity had when it registered.
        scope: What its identity may read; only that is matched.
    """

    agent_id: str
    needs: tuple[Need, ...]
    threshold: float
    max_matches: int
    registered_ms: int
    updated_ms: int
    min_delta: MinDelta | None = None
    muted: frozenset[Change] = frozenset()
    exclude_own: bool = False
    ttl_ms: int = 0
    identity: str = ""
    groups: frozenset[str] = frozenset()
    scope: Scope = UNRESTRICTED


class Match(NamedTuple):
    """Why an event reached an agent; see `contex.v1.Match` and `ScoreParts`.

    Tens of thousands are made each second: a frozen dataclass takes five times as long.

    Attributes:
        passage: Position of the passage that decided, from 0.
        path: Where the passage lies; filled in by who has the event.
        passage_text: Its words, likewise.
        need_id: The need's `id`.
        exact: The need is a filter: there is a score, and nothing that it is made of.
    """

    need_index: int
    need: str
    score: float
    passage: int
    cosine: float
    standing: float
    lexical: float
    share: float
    mean: float
    deviation: float
    threshold: float
    model: str
    scorer: str
    background_passages: int
    background_as_of: Sequence = BEGINNING
    path: str = ""
    passage_text: str = ""
    usual: float = 0.0
    coverage: float = 0.0
    expected: float = 0.0
    need_id: str = ""
    exact: bool = False

    @property
    def nbytes(self) -> int:
        """About how long its message is; not less."""
        texts = (self.need, self.path, self.passage_text, self.model, self.scorer)
        return _NUMBERS_BYTES + sum(map(utf8_bytes, texts))


_NUMBERS_BYTES = 218
"""What a match takes besides its texts: 12 doubles, four integers, a sequence, the need's id, tags
and lengths."""


def utf8_bytes(text: str) -> int:
    """The length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())

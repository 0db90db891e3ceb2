"""The data that match some needs, with their events and as context for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contex_server.kernel.model import Entry, Event, Match, utf8_bytes
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.matching.context import ContextFormat

MatchedEvents = Sequence[tuple[LogSequence, tuple[Match, ...]]]
"""Sequences of events with their matches, best first."""
HEADS_BYTES = 512 * 1024
"""What a response has for data without their payloads, once that for payloads is used up."""
LISTED_BYTES = 256 * 1024
"""What a response has for the names of data that did not fit into its context."""
_OMITTED_BYTES = 64
"""What a datum that did not fit takes besides its key."""


@dataclass(frozen=True, slots=True)
class ContextBudget:
    """The context that a caller wants besides the data."""

    tokens: int | None = None
    """Maximum number of tokens; None: no limit."""
    form: ContextFormat = ContextFormat.UNSPECIFIED

    @property
    def is_requested(self) -> bool:
        """Whether a context is wanted at all."""
        return self.tokens is not None or self.form is not ContextFormat.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class MatchedDatum:
    """A datum with its latest event.

    Attributes:
        entry: The event as it lies in the log; without its payload if the response had no room.
        event: The event, decoded; with its payload.
    """

    entry: Entry
    matches: tuple[Match, ...]
    payload_omitted: bool
    event: Event

    @property
    def nbytes(self) -> int:
        """About how long its message is."""
        return len(self.entry.body) + 64 + sum([match.nbytes for match in self.matches])


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that a response has for data.

    Attributes:
        payloads: A datum beyond this many comes without its payload.
        total: A datum that even so is beyond this many is left out, with all that follow.
    """

    payloads: int
    total: int


@dataclass(frozen=True, slots=True)
class OmittedDatum:
    """A datum that did not fit into the budget."""

    data_key: str
    sequence: LogSequence
    score: float
    tokens: int


@dataclass(frozen=True, slots=True)
class RenderedContext:
    """Matched data rendered for a prompt."""

    text: str
    form: ContextFormat
    tokens: int
    counter: str
    omitted: tuple[OmittedDatum, ...]

    def listed(self) -> tuple[OmittedDatum, ...]:
        """The first of those that did not fit, as many as a response has room for."""
        size_bytes = 0
        for count, datum in enumerate(self.omitted):
            size_bytes += _OMITTED_BYTES + utf8_bytes(datum.data_key)
            if size_bytes > LISTED_BYTES:
                return self.omitted[:count]
        return self.omitted


@dataclass(frozen=True, slots=True)
class MatchResult:
    """The data that match as of a sequence, best first; `omitted` counts those without room."""

    data: tuple[MatchedDatum, ...]
    sequence: LogSequence
    context: RenderedContext | None = None
    omitted: int = 0

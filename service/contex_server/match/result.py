"""The data that match some needs, with their events and as context for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contex_server.kernel import event_codec
from contex_server.kernel.model import Entry, Event, Match
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.match.engine import MatchEngine
from contex_server.matching.context import ContextFormat

MatchedEvents = Sequence[tuple[LogSequence, tuple[Match, ...]]]
"""Sequences of events with their matches, best first."""
_FETCH = 64


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
    """A datum with its latest event; the payload is left out if the response had no room."""

    entry: Entry
    matches: tuple[Match, ...]
    payload_omitted: bool


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


@dataclass(frozen=True, slots=True)
class MatchResult:
    """The data that match as of a sequence, best first."""

    data: tuple[MatchedDatum, ...]
    sequence: LogSequence
    context: RenderedContext | None = None


async def fetch_data(
    engine: MatchEngine,
    project: str,
    matched: MatchedEvents,
    as_of: LogSequence,
    max_bytes: int,
) -> list[tuple[MatchedDatum, Event] | None]:
    """Reads the events that matched; None for each that can no longer be read.

    Payloads beyond a total of `max_bytes` are left out; `as_of` is what the data are as of.
    """
    data: list[tuple[MatchedDatum, Event] | None] = []
    for start in range(0, len(matched), _FETCH):
        part = matched[start : start + _FETCH]
        entries = await engine.log.get(project, [sequence for sequence, _ in part])
        for entry, (_, matches) in zip(entries, part, strict=True):
            if entry is None:
                data.append(None)
                continue
            event = event_codec.decode(entry)
            matches = await engine.with_passages(project, event, matches, as_of)
            omit = len(entry.body) > max_bytes
            if omit:
                entry = event_codec.without_payload(entry)
            max_bytes -= len(entry.body)
            data.append((MatchedDatum(entry, matches, omit), event))
    return data

"""The data that match some needs, with their events and as context for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from contex_server.kernel import event_codec
from contex_server.kernel.model import Entry, Event, Match
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.match.engine import MatchEngine
from contex_server.matching.context import ContextFormat, ContextItem, fit_to_budget
from contex_server.matching.tokens import ESTIMATED_BYTES, TokenCounter

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
    matched: Sequence[tuple[LogSequence, tuple[Match, ...]]],
    as_of: LogSequence,
    max_bytes: int,
) -> list[tuple[MatchedDatum, Event] | None]:
    """Reads the events that matched.

    Args:
        engine: What matching shares.
        project: The project.
        matched: The events' sequences with their matches.
        as_of: What the matches were judged by.
        max_bytes: Total size; payloads beyond it are left out.

    Returns:
        One for each; None if the event can no longer be read.
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


async def build_result(
    engine: MatchEngine,
    project: str,
    matched: Sequence[tuple[LogSequence, tuple[Match, ...]]],
    as_of: LogSequence,
    budget: ContextBudget,
    counter: TokenCounter,
    max_bytes: int,
) -> MatchResult:
    """The result of a query; with a budget, only the data that fit into it."""
    if budget.is_requested:
        max_bytes //= 2  # The other half of the response is for the context.
    fetched = await fetch_data(engine, project, matched, as_of, max_bytes)
    data = [found for found in fetched if found is not None]
    if not budget.is_requested:
        return MatchResult(tuple(datum for datum, _ in data), as_of)
    items = [
        ContextItem(
            event.data_key,
            event.description,
            b"" if datum.payload_omitted else event.payload,
            event.content_type,
            frozenset(match.need_index for match in datum.matches),
        )
        for datum, event in data
    ]
    # What is too large for any response is not rendered to be counted.
    candidates = [i for i, (datum, _) in enumerate(data) if not datum.payload_omitted]
    fitted = await engine.work(
        partial(fit_to_budget, [items[i] for i in candidates], budget.tokens, budget.form, counter)
    )
    kept = {candidates[i] for i in fitted.kept}
    tokens = {candidates[i]: count for i, count in fitted.omitted}
    omitted = tuple(
        OmittedDatum(
            event.data_key,
            event.sequence,
            datum.matches[0].score,
            tokens[i] if i in tokens else -(-len(event.payload) // ESTIMATED_BYTES),
        )
        for i, (datum, event) in enumerate(data)
        if i not in kept
    )
    context = RenderedContext(fitted.text, budget.form, fitted.tokens, counter.name, omitted)
    return MatchResult(tuple(data[i][0] for i in sorted(kept)), as_of, context)

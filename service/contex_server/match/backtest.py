"""What needs would have received in a range of the log, had they been registered then."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from contex_server.events.feed import Chunk, Delivery
from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    BACKGROUND_CHANGED,
    SERVICE_TYPES,
    Agent,
    Entry,
    Event,
    Match,
    MinDelta,
    Need,
    Range,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.right_of_way import RIGHT_OF_WAY
from contex_server.kernel.scope import Scope
from contex_server.kernel.slices import sliced
from contex_server.log.pages import pages
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index
from contex_server.match.past import PastIndex, PastIndexes
from contex_server.match.queries import counted_in
from contex_server.match.turns import each
from contex_server.matching.encoding import Encoding
from contex_server.state.reader import StateReader

THRESHOLD_STEPS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""The thresholds that a summary counts at."""
_AGENT = "backtest"
_PAGE_EVENTS = 500
_PROGRESS_S = 1.0


@dataclass(slots=True)
class BacktestProgress:
    """How far a backtest has come; `events_total` is an estimate.

    For a caller that does not see everything, both numbers are of what it sees so far.
    """

    sequence: LogSequence
    events_read: int
    events_total: int
    events_matched: int


@dataclass(slots=True)
class NeedSummary:
    """What a need would have received, at its threshold and at each of `THRESHOLD_STEPS`."""

    threshold: float
    events_matched: int = 0
    events_at_threshold: list[int] = field(default_factory=lambda: [0] * len(THRESHOLD_STEPS))


@dataclass(slots=True)
class BacktestSummary:
    """What a backtest found; `updates_held_back` are those that `min_delta` would hold back."""

    needs: list[NeedSummary]
    events_judged: int = 0
    events_matched: int = 0
    updates_held_back: int = 0
    data_keys: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class BacktestQuery:
    """Which needs, and the range of the log."""

    project: str
    needs: tuple[Need, ...]
    span: Range
    min_delta: MinDelta | None
    events: bool  # whether to return the events that match, too
    scope: Scope  # what the caller may see; other events are not judged
    caller: str  # who shares turns with their other backtests


class BacktestRunner:
    """Runs backtests, with the code that matches live."""

    def __init__(self, states: StateReader, engine: MatchEngine, past: PastIndexes) -> None:
        self._states = states
        self._engine = engine
        self._past = past

    async def run(
        self, query: BacktestQuery
    ) -> AsyncGenerator[Chunk | BacktestProgress | BacktestSummary, None]:
        """See `MatchService.Backtest`.

        Starts with the state and the background before the range, then applies and matches each
        event on its own: it is judged against data and background as of itself.

        Raises:
            ContexError: SEQUENCE_TRIMMED, OVERLOADED.
        """
        # Matches down to the lowest step; the needs' own thresholds are applied in `_judge`.
        lowest = min(THRESHOLD_STEPS[0], *(need.threshold for need in query.needs))
        needs = tuple(replace(need, threshold=lowest) for need in query.needs)
        agent = Agent(_AGENT, needs, lowest, 1, 0, 0, query.min_delta)
        summary = BacktestSummary([NeedSummary(need.threshold) for need in query.needs])
        total = await self._estimate(query) if query.scope.is_open else 0
        progress = BacktestProgress(query.span.after, 0, total, 0)
        reported = time.monotonic()
        past: PastIndex | None = None
        engine, project = self._engine, query.project
        source = pages(engine.log, project, query.span, max_events=_PAGE_EVENTS)
        async with aclosing(source), AsyncExitStack() as stack:
            async for page in source:
                if not page.entries:
                    break
                if past is None:
                    since = query.span.after
                    state = await self._states.at(project, since)
                    opening = self._past.open(project, state, since, query.caller)
                    past = await stack.enter_async_context(opening)
                    index = past.index
                    encodings = await engine.encode_needs(index, needs, registered=False)
                    await index.worker.work(index.needs.set_agent, agent, encodings)
                chunk = await self._judge(query, agent, past.index, page.entries, summary)
                past.grown()
                if chunk.deliveries and query.events:
                    yield chunk
                progress.sequence = chunk.position
                progress.events_read += len(page.entries)
                if not query.scope.is_open:
                    progress.events_read = progress.events_total = summary.events_judged
                progress.events_total = max(progress.events_total, progress.events_read)
                progress.events_matched = summary.events_matched
                if time.monotonic() - reported >= _PROGRESS_S:
                    reported = time.monotonic()
                    yield progress
        yield progress
        yield summary

    async def _estimate(self, query: BacktestQuery) -> int:
        """The number of events in the range, if they were spread evenly over time."""
        bounds, span = await self._engine.log.bounds(query.project), query.span
        if bounds.first is None:
            return 0
        start, end = max(bounds.first.ms, span.after.ms), min(bounds.tail.ms, span.until.ms)
        duration = bounds.tail.ms - bounds.first.ms or 1
        return int(bounds.length * max(0, min(1, (end - start) / duration)))

    async def _judge(
        self,
        query: BacktestQuery,
        agent: Agent,
        index: Index,
        entries: list[Entry],
        summary: BacktestSummary,
    ) -> Chunk:
        await RIGHT_OF_WAY.give()
        engine, project = self._engine, query.project
        events = [event_codec.decode(entry) async for entry in sliced(entries)]
        encodings = await engine.encode_events(index, events)
        matched: list[tuple[Match, ...]] = []
        for part in _split(events):
            matched += await each(index.worker, partial(_match_alone, index, encodings), part)
            if part[-1].event_type == BACKGROUND_CHANGED:
                await engine.use_background(index, part[-1].sequence)
        deliveries: list[Delivery] = []
        async for entry, event, matches in sliced(zip(entries, events, matched, strict=True)):
            if not query.scope.admits(event.data_key):
                continue
            if event.event_type in SERVICE_TYPES and not matches:
                continue
            summary.events_judged += 1
            delivered = tuple(
                match._replace(threshold=query.needs[match.need_index].threshold)
                for match in matches
                if match.score >= query.needs[match.need_index].threshold
            )
            if matches and not await engine.is_significant(project, agent, event):
                summary.updates_held_back += bool(delivered)
                continue
            for match in matches:
                need = summary.needs[match.need_index]
                need.events_matched += match.score >= need.threshold
                for step, threshold in enumerate(THRESHOLD_STEPS):
                    need.events_at_threshold[step] += match.score >= threshold
            if delivered:
                summary.events_matched += 1
                summary.data_keys.add(event.data_key)
                delivered = await engine.with_passages(project, event, delivered, event.sequence)
                delivered = counted_in(query.scope, delivered)
                deliveries.append(Delivery(event.sequence, entry, delivered, event))
        return Chunk(deliveries, entries[-1].sequence)


def _split(events: Sequence[Event]) -> list[list[Event]]:
    """Splits events after each one that changes the background."""
    parts: list[list[Event]] = [[]]
    for event in events:
        parts[-1].append(event)
        if event.event_type == BACKGROUND_CHANGED:
            parts.append([])
    return [part for part in parts if part]


def _match_alone(index: Index, encodings: dict[bytes, Encoding], event: Event) -> tuple[Match, ...]:
    return index.match([event], encodings)[0].get(_AGENT, ())

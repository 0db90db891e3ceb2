"""What needs would have received in a range of the log, had they been registered then."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from contex_server.events.feed import Chunk, Delivery
from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    SERVICE_TYPES,
    Agent,
    Entry,
    Event,
    Match,
    MinDelta,
    Need,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.match.index import Index
from contex_server.match.matchers import Matchmaker
from contex_server.match.questions import Questions
from contex_server.matching.encoding import Encoding
from contex_server.state.states import States

STEPS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""The thresholds that a summary counts at."""
_AGENT = "backtest"
_PAGE_EVENTS = 500
_PROGRESS_S = 1.0


@dataclass(slots=True)
class Progress:
    """How far a backtest has come; `total` is an estimate."""

    sequence: LogSequence
    read: int
    total: int
    matched: int


@dataclass(slots=True)
class NeedSummary:
    """What a need would have received, at its threshold and at `STEPS`."""

    threshold: float
    matched: int = 0
    at_steps: list[int] = field(default_factory=lambda: [0] * len(STEPS))


@dataclass(slots=True)
class Summary:
    """What a backtest found."""

    needs: list[NeedSummary]
    judged: int = 0
    matched: int = 0
    held_back: int = 0
    data_keys: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Backtest:
    """What is asked.

    Attributes:
        since: After this event.
        until: Up to and including this one.
        scope: What the caller may see: no other events are judged.
    """

    project: str
    needs: tuple[Need, ...]
    since: LogSequence
    until: LogSequence
    min_delta: MinDelta | None
    events: bool
    scope: Scope


class Backtests:
    """Runs backtests, with the code that matches live."""

    def __init__(
        self,
        log: EventLog,
        states: States,
        matchmaker: Matchmaker,
        questions: Questions,
    ) -> None:
        self._log = log
        self._states = states
        self._matchmaker = matchmaker
        self._questions = questions

    async def run(self, asked: Backtest) -> AsyncGenerator[Chunk | Progress | Summary, None]:
        """See `MatchService.Backtest`.

        It starts with the state in front of the range, then each event is taken in and
        matched on its own: it is judged by the data as of itself.

        Raises:
            ContexError: SEQUENCE_TRIMMED, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        # Scores down to the lowest step are wanted, and thresholds are applied here.
        lowest = min(STEPS[0], *(need.threshold for need in asked.needs))
        needs = tuple(replace(need, threshold=lowest) for need in asked.needs)
        agent = Agent(_AGENT, needs, lowest, 1, 0, 0, asked.min_delta)
        summary = Summary([NeedSummary(need.threshold) for need in asked.needs])
        progress = Progress(asked.since, 0, await self._estimate(asked), 0)
        told = time.monotonic()
        index: Index | None = None
        source = pages(self._log, asked.project, asked.since, asked.until, max_events=_PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                if not page.entries:
                    break
                if index is None:
                    index = await self._start(asked, agent)
                events = [event_codec.decode(entry) for entry in page.entries]
                chunk = await self._judge(asked, agent, index, page.entries, events, summary)
                if chunk.deliveries and asked.events:
                    yield chunk
                progress.sequence = events[-1].sequence
                progress.read += len(events)
                progress.total = max(progress.total, progress.read)
                progress.matched = summary.matched
                if time.monotonic() - told >= _PROGRESS_S:
                    told = time.monotonic()
                    yield progress
        yield progress
        yield summary

    async def _estimate(self, asked: Backtest) -> int:
        """How many events the range has, if they came evenly."""
        bounds = await self._log.bounds(asked.project)
        if bounds.first is None:
            return 0
        start, end = max(bounds.first.ms, asked.since.ms), min(bounds.tail.ms, asked.until.ms)
        whole = bounds.tail.ms - bounds.first.ms or 1
        return int(bounds.length * max(0, min(1, (end - start) / whole)))

    async def _start(self, asked: Backtest, agent: Agent) -> Index:
        state = await self._states.at(asked.project, asked.since)
        index = await self._questions.built(asked.project, state)
        found = await self._matchmaker.embeddings.of_questions(
            asked.project, index.model.id, {need.digest: need.text for need in agent.needs}
        )
        encodings = [found[need.digest] for need in agent.needs]
        await self._matchmaker.work(partial(index.needs.set_agent, agent, encodings))
        return index

    async def _judge(
        self,
        asked: Backtest,
        agent: Agent,
        index: Index,
        entries: list[Entry],
        events: list[Event],
        summary: Summary,
    ) -> Chunk:
        services = self._matchmaker
        encodings = await services.embeddings.of_events(asked.project, index.model.id, events)
        found = await services.work(partial(_one_by_one, index, events, encodings))
        deliveries: list[Delivery] = []
        for entry, event, matches in zip(entries, events, found, strict=True):
            if event.event_type in SERVICE_TYPES or not asked.scope.admits(event.data_key):
                continue
            summary.judged += 1
            reached = tuple(
                replace(match, threshold=asked.needs[match.need_index].threshold)
                for match in matches
                if match.score >= asked.needs[match.need_index].threshold
            )
            if matches and not await services.is_worth(asked.project, agent, event):
                summary.held_back += bool(reached)
                continue
            for match in matches:
                need = summary.needs[match.need_index]
                need.matched += match.score >= need.threshold
                for step, threshold in enumerate(STEPS):
                    need.at_steps[step] += match.score >= threshold
            if reached:
                summary.matched += 1
                summary.data_keys.add(event.data_key)
                told = await services.explained(asked.project, event, reached, event.sequence)
                deliveries.append(Delivery(event.sequence, entry, told, event))
        return Chunk(deliveries, entries[-1].sequence)


def _one_by_one(
    index: Index, events: Sequence[Event], encodings: dict[bytes, Encoding]
) -> list[tuple[Match, ...]]:
    return [index.match([event], encodings)[0].get(_AGENT, ()) for event in events]

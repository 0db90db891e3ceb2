"""Which data some needs match, now or at a moment of the past, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Entry, Event, EventFilter, Match, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.match.index import Index
from contex_server.match.past import PastIndexes
from contex_server.match.pool import MatcherPool
from contex_server.match.result import (
    HEADS_BYTES,
    LISTED_BYTES,
    ContextBudget,
    MatchedDatum,
    MatchedEvents,
    MatchResult,
    OmittedDatum,
    RenderedContext,
    Room,
)
from contex_server.match.search import Found
from contex_server.matching.context import ContextItem, fit_to_budget, sizes_alone
from contex_server.matching.explanation import Explanation, explain_filter
from contex_server.matching.tokens import ESTIMATED_BYTES, TokenCounter
from contex_server.state.moments import MomentQuery, resolve_moment
from contex_server.state.reader import StateReader

_PAGE = 64
_MEASURED_BYTES = 8 * 1024 * 1024
"""Payloads that are written out to learn their size, where an answer lacks room for them all."""


@dataclass(frozen=True, slots=True)
class ExplainedMatch:
    """An event and what its score is made of."""

    entry: Entry
    event: Event
    explanation: Explanation


class MatchQueries:
    """Answers which data some needs match."""

    def __init__(
        self,
        states: StateReader,
        matchers: MatcherPool,
        past: PastIndexes,
        counter: TokenCounter,
        *,
        answer_bytes: int,
    ) -> None:
        self._log = matchers.engine.log
        self._states = states
        self._matchers = matchers
        self._past = past
        self._engine = matchers.engine
        self._counter = counter
        self._answer_bytes = answer_bytes

    async def match_registered(
        self,
        project: str,
        needs: Sequence[Need],
        *,
        at_least: LogSequence,
        budget: ContextBudget,
        scope: Scope,
        leaves_out: Callable[[Event], bool] | None = None,
    ) -> MatchResult:
        """What registered needs match now, with everything up to `at_least` taken into account.

        Args:
            leaves_out: Data by whose latest event are left out.
        """
        async with (
            self._matchers.matcher(project) as matcher,
            matcher.index_at(at_least) as (index, position),
        ):
            found = await self._engine.find(index, needs, scope.admits, registered=True)
        matched = await self._matched(project, found, scope)
        if leaves_out is not None:
            matched = await self._without(project, matched, leaves_out)
        return await self._result(project, matched, position, budget)

    async def _without(
        self, project: str, matched: MatchedEvents, leaves_out: Callable[[Event], bool]
    ) -> MatchedEvents:
        """The data that are not left out for their latest event."""
        others: list[tuple[LogSequence, tuple[Match, ...]]] = []
        for start in range(0, len(matched), _PAGE):
            part = matched[start : start + _PAGE]
            entries = await self._log.get(project, [sequence for sequence, _ in part])
            others += [
                datum
                for datum, entry in zip(part, entries, strict=True)
                if entry is None or not leaves_out(event_codec.decode(entry))
            ]
        return others

    async def match(
        self,
        project: str,
        needs: Sequence[Need],
        *,
        data_keys: frozenset[str],
        as_of: MomentQuery,
        budget: ContextBudget,
        scope: Scope,
    ) -> MatchResult:
        """See `MatchService.Match`.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, TIME_IN_FUTURE.
        """
        async with self.index_at(project, as_of) as (index, position):
            admits = EventFilter(data_keys=data_keys, scope=scope).admits_key
            found = await self._engine.find(index, needs, admits, registered=False)
        matched = await self._matched(project, found, scope)
        return await self._result(project, matched, position, budget)

    async def explain(
        self,
        project: str,
        need: Need,
        *,
        data_key: str,
        sequence: LogSequence | None,
        as_of: MomentQuery,
        scope: Scope,
    ) -> ExplainedMatch:
        """See `MatchService.Explain`.

        Args:
            data_key: The datum whose latest event is explained, unless `sequence` names one.
            sequence: The event.
            as_of: The moment whose data it is judged by; None: now.
            scope: What the caller may see; anything else is not found.

        Raises:
            ContexError: DATA_KEY_NOT_FOUND, EVENT_NOT_FOUND, SEQUENCE_TRIMMED,
                SEQUENCE_IN_FUTURE, TIME_IN_FUTURE.
        """
        engine, admits = self._engine, None if scope.is_open else scope.admits
        async with self.index_at(project, as_of) as (index, position):
            is_known = need.filter is not None or index.data.digest_of(data_key) is not None
            place = sequence or (index.latest.get(data_key) if is_known else None)
            if place is None or not (sequence or scope.admits(data_key)):
                raise ContexError(
                    Reason.DATA_KEY_NOT_FOUND,
                    f"no datum {data_key!r} in project {project!r} as of {position}",
                    metadata={"data_key": data_key},
                    field="data_key",
                )
            (entry,) = await self._log.get(project, [place])
            event = None if entry is None else event_codec.decode(entry)
            if entry is None or event is None or not scope.admits(event.data_key):
                raise _not_found(place, f"project {project!r} has no event {place}")
            if need.filter is not None:
                count = await index.worker.work(index.data.count, admits)
                return ExplainedMatch(entry, event, explain_filter(need, event, count))
            if not event.text_digest:
                kind = f"a {event.event_type!r} of the service"
                raise _not_found(place, f"event {place} is {kind}, which is not matched")
            (encoding,) = await engine.encode_needs(index, [need], registered=False)
            event_encodings = await engine.encode_events(index, [event])
            if event.text_digest not in event_encodings:
                raise _not_found(place, f"the text of event {place} is not there any more")
            explanation = await index.worker.work(
                partial(index.rule.explain, admits=admits),
                index.data,
                need,
                encoding,
                event,
                event_encodings[event.text_digest],
                await engine.description(project, event),
                position,
            )
            if index.latest.get(event.data_key) != event.sequence:
                # The rank is that of the datum's latest event, which is another one.
                explanation = replace(explanation, rank=0)
            (match,) = counted_in(scope, (explanation.match,))
            explanation = replace(explanation, match=match)
        return ExplainedMatch(entry, event, explanation)

    @asynccontextmanager
    async def index_at(
        self, project: str, as_of: MomentQuery
    ) -> AsyncIterator[tuple[Index, LogSequence]]:
        """A project's index, now or at a moment of the past, and the sequence it is as of."""
        tail = (await self._log.bounds(project)).tail
        moment = (
            tail if as_of is None else (await resolve_moment(self._log, project, as_of)).sequence
        )
        if moment >= tail:
            async with (
                self._matchers.matcher(project) as matcher,
                matcher.index_at(moment) as (index, position),
            ):
                if as_of is None or position == moment:
                    yield index, position
                    return
        state = await self._states.at(project, moment)
        async with self._past.open(project, state, moment) as past:
            yield past.index, moment

    async def _matched(self, project: str, found: Found, scope: Scope) -> MatchedEvents:
        """The latest events of the data that match; the index may go on meanwhile."""
        data = await self._engine.matched(project, found)
        return [(datum.sequence, counted_in(scope, datum.matches)) for datum in data]

    async def _result(
        self, project: str, matched: MatchedEvents, as_of: LogSequence, budget: ContextBudget
    ) -> MatchResult:
        """The data that matched; with a budget, only those that fit into it."""
        max_bytes = self._answer_bytes
        if budget.is_requested:
            max_bytes //= 2  # The other half of the response is for the context.
        room = Room(max_bytes, max_bytes + HEADS_BYTES)
        fetched = await self._engine.fetch(project, matched, as_of, room)
        text_bytes = max_bytes - LISTED_BYTES if budget.form else None
        sizes: dict[LogSequence, int] = {}
        if budget.is_requested and any(d is not None and d.payload_omitted for d in fetched):
            # Whatever fits by no means must not use up the room of what does.
            sizes, hopeless = await self._sizes(project, fetched, budget, text_bytes)
            if hopeless:
                fetched = await self._engine.fetch(project, matched, as_of, room, hopeless)
        data = [found for found in fetched if found is not None]
        left_out = len(matched) - len(fetched)
        if not budget.is_requested:
            return MatchResult(tuple(data), as_of, omitted=left_out)
        # What is too large for any response is not rendered to be counted.
        candidates = [i for i, datum in enumerate(data) if not datum.payload_omitted]
        items = [
            ContextItem(datum.event, frozenset(match.need_index for match in datum.matches))
            for datum in (data[i] for i in candidates)
        ]
        counter = self._counter
        scan = self._engine.scans.scan(project)
        fitted = await scan.work(
            fit_to_budget,
            items,
            budget.tokens,
            budget.form,
            counter,
            text_bytes,
        )
        kept = {candidates[i] for i in fitted.kept}
        sizes |= {data[candidates[i]].event.sequence: count for i, count in fitted.omitted}
        omitted = tuple(
            OmittedDatum(
                datum.event.data_key,
                datum.event.sequence,
                datum.matches[0].score,
                sizes.get(datum.event.sequence) or -(-len(datum.event.payload) // ESTIMATED_BYTES),
            )
            for i, datum in enumerate(data)
            if i not in kept
        )
        context = RenderedContext(fitted.text, budget.form, fitted.tokens, counter.name, omitted)
        return MatchResult(tuple(data[i] for i in sorted(kept)), as_of, context, left_out)

    async def _sizes(
        self,
        project: str,
        fetched: Sequence[MatchedDatum | None],
        budget: ContextBudget,
        max_bytes: int | None,
    ) -> tuple[dict[LogSequence, int], set[int]]:
        """The tokens of each datum by itself, and the indices of those that fit by no means.

        The best are measured, up to `_MEASURED_BYTES`.
        """
        room = _MEASURED_BYTES
        measured: dict[int, Event] = {}
        for index, datum in enumerate(fetched):
            if datum is not None and len(datum.event.payload) <= room:
                room -= len(datum.event.payload)
                measured[index] = datum.event
        scan = self._engine.scans.scan(project)
        events = list(measured.values())
        sizes = await scan.work(sizes_alone, events, budget.form, self._counter)
        hopeless = {
            index
            for index, (tokens, size_bytes) in zip(measured, sizes, strict=True)
            if (budget.tokens is not None and tokens > budget.tokens)
            or (max_bytes is not None and size_bytes > max_bytes)
        }
        counts = {event.sequence: size[0] for event, size in zip(events, sizes, strict=True)}
        return counts, hopeless


def counted_in(scope: Scope, matches: tuple[Match, ...]) -> tuple[Match, ...]:
    """Matches as one is told who sees a scope: not how many data the scores were measured against,
    unless it sees them all."""
    if scope.is_open:
        return matches
    return tuple(match._replace(background_passages=0) for match in matches)


def _not_found(sequence: LogSequence, problem: str) -> ContexError:
    metadata = {"sequence": str(sequence)}
    return ContexError(Reason.EVENT_NOT_FOUND, problem, metadata=metadata, field="sequence")

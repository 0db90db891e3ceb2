"""What matching in every project of this process shares."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Container,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import TypeVar, TypeVarTuple

from cachetools import LRUCache

from contex_server.kernel import event_codec
from contex_server.kernel.ahead import ahead
from contex_server.kernel.model import BEGINNING, Agent, Event, KeyState, Match, MinDelta, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.slices import sliced
from contex_server.kernel.work import looked_at
from contex_server.log.match import MatchStore
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.match.index import Index
from contex_server.match.result import MatchedDatum, MatchedEvents, Room
from contex_server.match.search import Datum, Found, complete, find
from contex_server.match.turns import Threads, Turns, Worker, each
from contex_server.matching.agent_needs import in_words
from contex_server.matching.background import Summary
from contex_server.matching.delta import is_significant_update
from contex_server.matching.describe import Description
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.encoding import Encoding, Recipe
from contex_server.matching.rules import is_absolute

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LIVE_THREADS = 2
_CACHED_DESCRIPTIONS = 256
_FETCH_EVENTS = 16
_INDEX_CHUNK = 200
"""Unpacking this many encodings holds the event loop for 3 ms."""
_CHUNKS_AHEAD = 1
"""While one is applied, and while its encodings are stored, the model has the next one's texts."""
_Encoded = tuple[list[KeyState], dict[bytes, Encoding]]


class MatchEngine:
    """The stores, the models, the formula and the threads that matchers and queries use.

    Live matching has threads of its own. What scans, in an index that it builds for itself,
    takes turns on another.
    """

    def __init__(
        self,
        log: EventLog,
        state: StateStore,
        match: MatchStore,
        embeddings: Embeddings,
    ) -> None:
        self.log = log
        self.state = state
        self.match = match
        self.embeddings = embeddings
        self.live = Threads(_LIVE_THREADS, "contex-match")
        self.scans = Turns("contex-scan")
        self._descriptions: LRUCache[tuple[bytes, LogSequence], Description] = LRUCache(
            _CACHED_DESCRIPTIONS
        )

    async def close(self) -> None:
        """Waits for the threads to finish."""
        await self.live.close()
        await self.scans.close()

    def forget_erased(self, project: str) -> None:
        """Nothing that was erased is at hand any more: an erasure is in the log."""
        self.log.forget_keys(project)
        self.embeddings.forget(project)

    async def work(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Does CPU-bound work of live matching; see `Worker.work`."""
        return await self.live.work(function, *args)

    async def encode_needs(
        self, index: Index, needs: Sequence[Need], *, registered: bool = True
    ) -> tuple[Encoding, ...]:
        """The encodings of the needs in words, in their order; those of queries are not stored."""
        worded = [need for _, need in in_words(needs)]
        texts = {need.digest: need.text for need in worded}
        by_digest = await self.embeddings.of_needs(
            index.project, index.rule.scoring_model, texts, store=registered
        )
        return tuple(by_digest[need.digest] for need in worded)

    async def find(
        self,
        index: Index,
        needs: Sequence[Need],
        admits: Callable[[str], bool],
        *,
        registered: bool,
    ) -> Found:
        """What some needs match, as far as the index tells; see `matched`."""
        encodings = await self.encode_needs(index, needs, registered=registered)
        looked_at(len(index.latest) + len(needs))
        return await index.worker.work(find, index, needs, encodings, admits)

    async def matched(self, project: str, found: Found) -> list[Datum]:
        """What some needs match, once the events are read that filters have to see."""
        return await complete(self.log, project, found)

    async def encode_events(self, index: Index, events: Iterable[Event]) -> dict[bytes, Encoding]:
        """The encodings of events, by digest."""
        return await self.embeddings.of_events(index.project, index.rule.scoring_model, events)

    async def new_index(
        self,
        project: str,
        states: Iterable[KeyState] = (),
        as_of: LogSequence = BEGINNING,
        *,
        worker: Worker | None = None,
    ) -> Index:
        """An index of some data, under what decides in the project now.

        They are judged against the background that this has as of a sequence. `worker` does all
        work on the index; None: the threads of live matching.
        """
        scoring_model = await self.embeddings.scoring_model_of(project, fresh=True)
        rule = await self.embeddings.models.rule(scoring_model)
        index = Index(project, rule, worker or self.live)
        await self.use_background(index, as_of)
        await self.apply(index, states)
        return index

    async def use_background(self, index: Index, as_of: LogSequence) -> None:
        """Judges from here on against the background as of a sequence.

        If that one is lost, the one before it counts, in the end the shipped one.
        """
        found = await self.match.background(index.project, index.rule.scoring_model, as_of)
        await index.worker.work(index.set_background, found)

    async def take_snapshot(self, index: Index) -> tuple[int, int, bytes] | None:
        """The size that a new background is due for, how many data it sums up, and it, packed."""
        size, data = index.rule.size_due(index.data), len(index.data)
        if not size:
            return None
        summary = Summary()
        await each(index.worker, summary.add, index.rule.texts(index.data))
        return size, data, await index.worker.work(lambda: summary.snapshot(data).pack())

    async def apply(self, index: Index, states: Iterable[KeyState]) -> None:
        """Applies the latest events of data keys to an index; encodes what the store lacks."""
        await self.load(index, _page(states))

    async def load(self, index: Index, pages: AsyncIterable[Iterable[KeyState]]) -> None:
        """Applies pages of them. The model always has texts: it takes most of the time."""
        found = ahead(_chunks(pages), partial(self._encoded, index), _CHUNKS_AHEAD)
        async with aclosing(found):
            async for states, encodings in found:
                await each(index.worker, partial(index.apply_one, encodings), states)

    async def _encoded(self, index: Index, states: list[KeyState]) -> _Encoded:
        """The latest events of data keys, and their encodings by digest."""
        project, scoring_model = index.project, index.rule.scoring_model
        live = {state.digest: state for state in states if not state.deleted and state.digest}
        encodings = await self.embeddings.stored(project, scoring_model, live)
        # In the order of the log: an archived block is unpacked once.
        missing = sorted(s.sequence for digest, s in live.items() if digest not in encodings)
        recipes: dict[bytes, Recipe] = {}
        for start in range(0, len(missing), _FETCH_EVENTS):
            entries = await self.log.get(project, missing[start : start + _FETCH_EVENTS])
            events = [event_codec.decode(entry) for entry in entries if entry is not None]
            recipes |= await self.embeddings.recipes(project, events)
        return states, encodings | await self.embeddings.compute(project, scoring_model, recipes)

    async def description(self, project: str, event: Event) -> Description:
        """The texts that an event is matched by; those of recent events are cached."""
        # Not by digest alone: paths and rows may differ where the text is the same.
        key = (event.text_digest, event.sequence)
        description = self._descriptions.get(key)
        if description is None:
            description = await self.embeddings.description(project, event)
            self._descriptions[key] = description
        return description

    async def with_passages(
        self, project: str, event: Event, matches: tuple[Match, ...], as_of: LogSequence
    ) -> tuple[Match, ...]:
        """Adds to each match the passage that decided it and the version of its background.

        That of a relative score is what the data were as of; an absolute one has its own already.
        Matches by filters have neither.
        """
        if all(match.exact for match in matches):
            return matches
        description = await self.description(project, event)
        completed = []
        for match in matches:
            if match.exact:
                completed.append(match)
                continue
            quoted = description.quoted(match.passage)
            version = match.background_as_of if is_absolute(match.model) else as_of
            completed.append(
                match._replace(path=quoted.path, passage_text=quoted.text, background_as_of=version)
            )
        return tuple(completed)

    async def fetch(
        self,
        project: str,
        matched: MatchedEvents,
        as_of: LogSequence,
        room: Room,
        bare: Container[int] = (),
    ) -> list[MatchedDatum | None]:
        """Reads the events that matched, as far as there is room; None for each that is gone.

        `as_of` is what the data are as of; `bare` are the indices of those whose payloads are left
        out, to leave the room to others.
        """
        data: list[MatchedDatum | None] = []
        size_bytes = 0
        for start in range(0, len(matched), _FETCH_EVENTS):
            part = matched[start : start + _FETCH_EVENTS]
            entries = await self.log.get(project, [sequence for sequence, _ in part])
            async for entry, (_, matches) in sliced(zip(entries, part, strict=True)):
                event = None if entry is None else event_codec.decode(entry)
                # What is erased may still pass a filter, by its key or type.
                if entry is None or event is None or event.erased is not None:
                    data.append(None)
                    continue
                matches = await self.with_passages(project, event, matches, as_of)
                datum = MatchedDatum(entry, matches, False, event)
                if size_bytes + datum.nbytes > room.payloads or len(data) in bare:
                    entry = event_codec.without_payload(entry)
                    datum = MatchedDatum(entry, matches, True, event)
                size_bytes += datum.nbytes
                if size_bytes > room.total:
                    return data
                data.append(datum)
        return data

    async def is_significant(self, project: str, agent: Agent, event: Event) -> bool:
        """Whether an event that matched passes the agent's `min_delta`."""
        delta = agent.min_delta
        return delta is None or delta not in await self.held_back_by(project, event, {delta})

    async def held_back_by(
        self, project: str, event: Event, deltas: Collection[MinDelta]
    ) -> frozenset[MinDelta]:
        """Those of some `min_delta`s that an event does not pass."""
        previous = event.previous_sequence
        if previous is None or not deltas:
            return frozenset()
        (entry,) = await self.log.get(project, [previous])
        before = None if entry is None else event_codec.decode(entry)
        # A different text may not have matched before, so it counts in any case.
        if before is None or before.text_digest != event.text_digest:
            return frozenset()
        return frozenset(
            delta for delta in deltas if not is_significant_update(before, event, delta)
        )


async def _chunks(pages: AsyncIterable[Iterable[KeyState]]) -> AsyncIterator[list[KeyState]]:
    async for page in pages:
        states = iter(page)
        while chunk := list(islice(states, _INDEX_CHUNK)):
            yield chunk


async def _page(states: Iterable[KeyState]) -> AsyncIterator[Iterable[KeyState]]:
    yield states

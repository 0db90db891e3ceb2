"""An index of one project's data that follows the log, for whoever asks what matches a need.

It holds the project's data, from the state, then from the log. While the embedding model or the
store is unavailable it waits, then goes on where it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import TypeVar

import orjson
import structlog

from contex_server.events.feed import Behind, Delivery, Reader
from contex_server.events.hub import Hub
from contex_server.kernel import event_codec
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import (
    BACKGROUND_CHANGED,
    BEGINNING,
    DATA_ERASED,
    EVERYTHING,
    MODEL_CHANGED,
    KeyState,
    Sequence,
)
from contex_server.kernel.right_of_way import RIGHT_OF_WAY
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index, data_states
from contex_server.match.waiters import PositionWaiters

T = TypeVar("T")
log = structlog.get_logger(__name__)

_BACKOFF_S = (0.1, 5.0)
_PATIENCE_S = 10.0
"""How long a registration waits for matching to go on towards it."""
_CHUNK_BYTES = 1024 * 1024
_PROGRESS_S = 5.0
_CHANGES = frozenset({MODEL_CHANGED, BACKGROUND_CHANGED, DATA_ERASED})
_IDLE_BYTES = 48 * 1024
"""Memory of a matcher without data: its tasks, its channel, an empty index."""


class ProjectMatcher:
    """Indexes one project's data.

    Args:
        on_model_in_use: Called with the project when the index has been built.
    """

    def __init__(
        self,
        project: str,
        engine: MatchEngine,
        hub: Hub,
        *,
        on_model_in_use: Callable[[str], None],
    ) -> None:
        self.project = project
        self._engine = engine
        self._hub = hub
        self._on_model_in_use = on_model_in_use
        self._index: Index  # There is one soon, and it is complete once the matcher has started.
        self._reached = PositionWaiters()
        self._snapshot: asyncio.Task[None] | None = None
        self._first_background = BEGINNING
        """The event of the background taken before the first answer, which waits for it."""
        self._settled = 0
        """The largest size that the store has been asked to take a background of this index for."""
        # Held while events are applied and data are searched.
        self._lock = asyncio.Lock()
        self.is_loading = True
        """Whether the index is being built: the first one, or another in its place."""
        self.data_total = 0
        """How many data it will have, about, while the log's state is read; otherwise 0."""
        self.loaded_at = 0.0
        """When the last one was built, by the monotonic clock."""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"contex-matcher-{project}")

    @property
    def failed(self) -> bool:
        """Whether it has stopped for good; a new matcher is needed then."""
        return self._reached.error is not None

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes, as it is now."""
        return _IDLE_BYTES + (0 if self.index is None else self.index.nbytes)

    @property
    def index(self) -> Index | None:
        """The index to be counted, perhaps while it is being built; None: not even begun."""
        return getattr(self, "_index", None)

    async def started(self) -> None:
        """Returns when the matcher follows the log; raises what kept it from starting."""
        await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Stops following."""
        self._task.cancel()
        tasks = [self._task]
        if self._snapshot is not None:
            self._snapshot.cancel()
            tasks.append(self._snapshot)
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._opened.done() and not self._opened.cancelled():
            self._opened.exception()

    @asynccontextmanager
    async def index_at(self, at_least: Sequence) -> AsyncIterator[tuple[Index, Sequence]]:
        """The index, unchanged while the block lasts, and its position: `at_least` or later."""
        position = max(at_least, self._first_background)
        await self._reached.wait_for(position, _PATIENCE_S, lambda: self.is_loading)
        async with self._locked():
            yield self._index, self._reached.position

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        async with self._lock:
            if self._reached.error is not None:
                raise self._reached.error
            yield

    async def _run(self) -> None:
        try:
            async with (
                self._hub.channel(self.project) as channel,
                channel.feed(EVERYTHING) as feed,
            ):
                reader = feed.attach(feed.position)
                assert reader is not None, "a feed serves its own position"
                with closing(reader):
                    with self._loads():
                        await self._build(reader)
                        await self._take_first_background()
                    self._opened.set_result(None)
                    self._take_background_if_due()
                    await self._follow(reader)
        except Exception as error:
            ended = _is_end(error)
            if not self._opened.done():
                self._opened.set_exception(error)
            elif not ended:
                log.exception("matcher_failed", project=self.project)
            failed = ContexError(Reason.INTERNAL, f"matching failed in project {self.project!r}")
            self._fail(error if isinstance(error, ContexError) and ended else failed)

    @contextmanager
    def _loads(self) -> Iterator[None]:
        """The index is being built while the block lasts."""
        self.is_loading = True
        try:
            yield
        finally:
            self.is_loading = False
            self.data_total = 0
            self.loaded_at = time.monotonic()

    async def _follow(self, reader: Reader) -> None:
        while True:
            try:
                chunk = reader.take(_CHUNK_BYTES)
            except Behind:
                log.info("matcher_behind", project=self.project)
                await self._retrying(partial(self._rebuild, reader))
                self._take_background_if_due()
                continue
            if chunk is None:
                await reader.wait()
                continue
            for span in _spans(chunk.deliveries):
                await self._retrying(partial(self._apply_span, span))
            self._reached.advance(chunk.position)
            self._take_background_if_due()

    def _fail(self, error: ContexError) -> None:
        self._reached.fail(error)

    async def _retrying(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does the work with the lock held, again and again while store or model are away."""
        backoff, told = Backoff(*_BACKOFF_S), ""
        while True:
            try:
                async with self._lock:
                    return await work()
            except ContexError as error:
                if _is_end(error):
                    raise
                if error.reason != told:  # Not with every attempt: there are some for each project.
                    told = error.reason
                    log.warning("matching_interrupted", project=self.project, error=error.message)
                await backoff.wait()

    async def _build(self, reader: Reader) -> None:
        """Indexes the project's data as of the end of the log, and moves the reader there.

        The log goes on while the state is read, so a key may come with an event that the feed
        brings as well: the newer one counts. Starts over if the feed leaves it behind, or if
        another model decides by then.
        """
        engine = self._engine
        while True:
            self._reached.position = reader.skip()
            await self._new_index()
            scoring_model = self._index.rule.scoring_model
            newest: dict[str, Sequence] = {}
            self.data_total = await engine.state.live_keys(self.project)
            await engine.load(self._index, self._states(newest))
            tail = (await engine.log.bounds(self.project)).tail
            try:
                while self._reached.position < tail:
                    chunk = reader.take(_CHUNK_BYTES)
                    if chunk is None:
                        self._reached.position = max(self._reached.position, reader.position)
                        if self._reached.position < tail:
                            await reader.wait()
                        continue
                    events = [event_codec.decode(d.entry) for d in chunk.deliveries]
                    await engine.apply(self._index, _newer(data_states(events), newest))
                    self._reached.position = chunk.position
            except Behind:
                continue
            if await engine.embeddings.scoring_model_of(self.project, fresh=True) != scoring_model:
                continue
            await engine.use_background(self._index, self._reached.position)
            self._on_model_in_use(self.project)
            return

    async def _rebuild(self, reader: Reader) -> None:
        """Starts over after the log was faster."""
        with self._loads():
            await self._build(reader)
        self._reached.advance(self._reached.position)

    async def _states(self, newest: dict[str, Sequence]) -> AsyncIterator[Iterable[KeyState]]:
        """The latest event of every key; logs how far the index is."""
        told = time.monotonic()
        async for states in self._engine.state.state(self.project):
            yield _newer(states, newest)
            if time.monotonic() - told >= _PROGRESS_S:
                told = time.monotonic()
                data, total = len(self._index.data), self.data_total
                log.info("indexing", project=self.project, data=data, of=max(data, total))

    async def _apply_span(self, span: list[Delivery]) -> None:
        """Applies events; the last one may change how is matched from there on."""
        engine = self._engine
        events = [delivery.event for delivery in span if delivery.event is not None]
        states = data_states(events)
        position, last = span[-1].sequence, events[-1]
        encodings = await engine.encode_events(self._index, events)
        with RIGHT_OF_WAY.taken():
            await engine.work(self._index.apply, states, encodings)
        if last.event_type == MODEL_CHANGED:
            await self._change_model(orjson.loads(last.payload)["model"], position)
        elif last.event_type == BACKGROUND_CHANGED:
            await engine.use_background(self._index, position)
        elif last.event_type == DATA_ERASED:
            await self._drop_erased()
        self._reached.advance(position)

    async def _change_model(self, scoring_model: str, position: Sequence) -> None:
        """Another model decides from here on: indexes everything anew, then swaps the index."""
        engine, old = self._engine, self._index
        if scoring_model == old.rule.scoring_model:
            return
        engine.embeddings.model_changed(self.project, scoring_model)
        states = [
            KeyState(key, 0, sequence, False, old.data.digest_of(key) or b"")
            for key, sequence in old.latest.items()
        ]
        with self._loads():
            await self._new_index(states, position)
        log.info(
            "matching_model_changed", project=self.project, model=self._index.rule.scoring_model
        )

    async def _new_index(
        self, states: Iterable[KeyState] = (), as_of: Sequence = BEGINNING
    ) -> None:
        self._index = await self._engine.new_index(self.project, states, as_of)
        self._settled = 0

    async def _take_first_background(self) -> None:
        """Takes the background that is due before the first answer; goes on if the store won't."""
        try:
            self._first_background = await self._store_background(self._index) or BEGINNING
        except ContexError as error:
            log.warning("background_late", project=self.project, error=error.message)

    def _take_background_if_due(self) -> None:
        """Has the background taken anew if the project has grown enough; the log goes on."""
        running = self._snapshot is not None and not self._snapshot.done()
        if not running and self._index.rule.size_due(self._index.data) > self._settled:
            name = f"contex-background-{self.project}"
            self._snapshot = asyncio.create_task(self._take_background(), name=name)

    async def _take_background(self) -> None:
        """Takes the background anew, as an event that every process comes to.

        If another process was faster, its event comes. While the store is away this waits; a
        defect is not met again before the next size.
        """
        backoff = Backoff(*_BACKOFF_S)
        while True:
            index = self._index
            size = index.rule.size_due(index.data)
            try:
                if size > self._settled:
                    await self._store_background(index)
            except ContexError as error:
                log.warning("background_late", project=self.project, error=error.message)
                await backoff.wait()
                continue
            except Exception:
                log.exception("background_failed", project=self.project)
            if index is self._index:
                self._settled = max(size, self._settled)
                return

    async def _store_background(self, index: Index) -> Sequence | None:
        """Takes the background that is due; returns its event if this process was the first."""
        async with self._lock:
            taken = await self._engine.take_snapshot(index)
            as_of = self._reached.position
        if taken is None:
            return None
        size, data, packed = taken
        scoring_model = index.rule.scoring_model
        told = {"model": scoring_model, "data": data, "as_of": str(as_of)}
        body = event_codec.encode(BACKGROUND_CHANGED, orjson.dumps(told), {})
        sequence = await self._engine.match.set_background(
            self.project, scoring_model, size, packed, BACKGROUND_CHANGED, body
        )
        if sequence is not None:
            log.info("background_taken", project=self.project, data=data, bytes=len(packed))
        return sequence

    async def _drop_erased(self) -> None:
        """Data whose latest event was erased match nothing any more."""
        index = self._index
        self._engine.forget_erased(self.project)
        async for states in self._engine.state.state(self.project):
            erased = [
                state
                for state in states
                if not state.digest and index.latest.get(state.data_key) == state.sequence
            ]
            await self._engine.work(index.apply, erased, {})


def _is_end(error: Exception) -> bool:
    """Whether the log has ended: the project was deleted, or has another log now."""
    ends = (Reason.PROJECT_NOT_FOUND, Reason.LOG_CHANGED)
    return isinstance(error, ContexError) and error.reason in ends


def _newer(states: Iterable[KeyState], newest: dict[str, Sequence]) -> Iterable[KeyState]:
    """States, except where there were newer ones before, and notes which are the newest now."""
    fresh: dict[str, KeyState] = {}
    for state in states:
        if newest.get(state.data_key, BEGINNING) <= state.sequence:
            newest[state.data_key] = state.sequence
            fresh[state.data_key] = state
    return fresh.values()


def _spans(deliveries: Iterable[Delivery]) -> list[list[Delivery]]:
    """Splits deliveries after each event that changes how is matched."""
    parts: list[list[Delivery]] = [[]]
    for delivery in deliveries:
        if delivery.event is None:
            delivery.event = event_codec.decode(delivery.entry)
        parts[-1].append(delivery)
        if delivery.event.event_type in _CHANGES:
            parts.append([])
    return [span for span in parts if span]

"""Which new event goes to which agent, and which data an agent needs now.

A project has one matcher in each process that serves its agents. It follows the project's
log, keeps the needs of the agents that listen *here* and, once somebody registered here,
the data. Events are matched in log order, so an agent's feed has no gap; while the
embedding model is out of reach matching waits, and goes on where it was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import orjson
import structlog

from contex_server.errors import ContexError, Reason, agent_not_found, embedder_unavailable
from contex_server.log.port import EventLog
from contex_server.matching.embeddings import Embeddings, Vector
from contex_server.matching.matcher import DataIndex, NeedIndex
from contex_server.matching.score import Scorer
from contex_server.model import (
    AGENT_REGISTERED,
    AGENT_UNREGISTERED,
    BEGINNING,
    DATA_DELETED,
    Agent,
    Entry,
    Event,
    EventCodec,
    KeyState,
    Match,
    Sequence,
)
from contex_server.subscriptions.agent_record import decode_agent
from contex_server.subscriptions.feed import Behind, Chunk, Delivery, Feed, Reader
from contex_server.subscriptions.hub import EVERYTHING, Channel, Hub

log = structlog.get_logger(__name__)

_BACKOFF_S = (0.1, 5.0)
_BUILD_CHUNK = 500
_PATIENCE_S = 10.0
"""How long a registration waits for the matching to come to it."""
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Datum:
    """A live datum that matches an agent."""

    data_key: str
    sequence: Sequence
    matches: tuple[Match, ...]


@dataclass(slots=True, eq=False)
class Listening:
    """An agent with open streams in this process."""

    agent: Agent
    vectors: Vector
    feed: Feed
    users: int = 0


class Matchmaker:
    """Opens the matchers of projects and closes them when nobody has used them for a while."""

    def __init__(
        self,
        event_log: EventLog,
        hub: Hub,
        codec: EventCodec,
        embeddings: Embeddings,
        scorer: Scorer,
        *,
        feed_bytes: int,
        idle_s: float,
    ) -> None:
        self.log = event_log
        self.hub = hub
        self.codec = codec
        self.embeddings = embeddings
        self.scorer = scorer
        self.feed_bytes = feed_bytes
        self._idle_s = idle_s
        self._matchers: dict[str, ProjectMatcher] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def matchers(self) -> int:
        """How many projects have a matcher here."""
        return len(self._matchers)

    @asynccontextmanager
    async def project(self, project: str) -> AsyncIterator[ProjectMatcher]:
        """The project's matcher.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        matcher = self._matchers.get(project)
        if matcher is None:
            matcher = self._matchers[project] = ProjectMatcher(project, self)
        matcher.users += 1
        try:
            if matcher.eviction is not None:
                matcher.eviction.cancel()
                matcher.eviction = None
            await matcher.started()
            yield matcher
        finally:
            matcher.users -= 1
            if not matcher.users:
                # What was learnt is kept for a while; an open matcher follows the log.
                matcher.eviction = asyncio.get_running_loop().call_later(
                    self._idle_s if matcher.has_data else 0, self._evict, matcher
                )

    async def need_vectors(self, project: str, agent: Agent) -> Vector:
        """The vectors of an agent's needs, one row a need.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        texts = {need.digest: need.text for need in agent.needs}
        vectors = await self.embeddings.of_texts(project, texts)
        return np.stack([vectors[need.digest] for need in agent.needs])

    def forget(self, matcher: ProjectMatcher) -> bool:
        """Takes a matcher out of use, so that the next user gets a new one."""
        if self._matchers.get(matcher.project) is not matcher:
            return False
        del self._matchers[matcher.project]
        return True

    def _evict(self, matcher: ProjectMatcher) -> None:
        if not matcher.users and self.forget(matcher):
            task = asyncio.create_task(matcher.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes every matcher."""
        matchers = list(self._matchers.values())
        self._matchers.clear()
        for matcher in matchers:
            if matcher.eviction is not None:
                matcher.eviction.cancel()
        await asyncio.gather(*(matcher.close() for matcher in matchers), *self._closing)


class ProjectMatcher:
    """Matches one project's events with the needs of the agents that listen here."""

    def __init__(self, project: str, services: Matchmaker) -> None:
        self.project = project
        self.users = 0
        self.eviction: asyncio.TimerHandle | None = None
        self._services = services
        self._needs = self._new_needs()
        self._listening: dict[str, Listening] = {}
        self._data: _Data | None = None
        self._build: asyncio.Task[None] | None = None
        self._during_build: list[KeyState] = []
        self._restarts = 0
        self._position: Sequence | None = None
        self._arrivals: list[tuple[Sequence, asyncio.Future[None]]] = []
        self._error: ContexError | None = None
        # Held while a chunk is matched and while an agent is loaded: an agent's needs
        # are never older than the events they are matched with.
        self._lock = asyncio.Lock()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"contex-matcher-{project}")

    @property
    def has_data(self) -> bool:
        """Whether the project's data are indexed here."""
        return self._data is not None

    async def started(self) -> None:
        """Returns when the matcher follows the log; raises what kept it from it."""
        await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Stops following."""
        tasks = [task for task in (self._task, self._build) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._opened.done() and not self._opened.cancelled():
            self._opened.exception()

    # -- agents that listen ------------------------------------------------------

    @asynccontextmanager
    async def listening(self, agent_id: str) -> AsyncIterator[Listening]:
        """An agent whose needs are matched live while the block lasts.

        Raises:
            ContexError: AGENT_NOT_FOUND, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        async with self._lock:
            if self._error is not None:
                raise self._error
            listening = self._listening.get(agent_id)
            if listening is None:
                agent, vectors = await self._load(agent_id)
                assert self._position is not None
                listening = Listening(
                    agent, vectors, Feed(self._position, self._services.feed_bytes)
                )
                self._listening[agent_id] = listening
                self._needs.set_agent(agent, vectors)
            listening.users += 1
        try:
            yield listening
        finally:
            listening.users -= 1
            if not listening.users and self._listening.get(agent_id) is listening:
                del self._listening[agent_id]
                self._needs.remove_agent(agent_id)

    async def select(self, listening: Listening, entries: list[Entry]) -> list[Delivery]:
        """What a page of the log holds for an agent, by its needs as they are now.

        Raises:
            ContexError: AGENT_NOT_FOUND, STORE_UNAVAILABLE.
        """
        events = [self._services.codec.decode(entry) for entry in entries]
        vectors = await self._vectors(events)
        if listening.feed.error is not None:
            raise listening.feed.error
        needs = self._new_needs()
        needs.set_agent(listening.agent, listening.vectors)
        found = _match(needs, events, vectors)
        return [
            Delivery(entry.sequence, entry, matches[listening.agent.agent_id], event)
            for entry, event, matches in zip(entries, events, found, strict=True)
            if matches
        ]

    async def _load(self, agent_id: str) -> tuple[Agent, Vector]:
        stored = await self._services.log.agent(self.project, agent_id)
        if stored is None:
            raise agent_not_found(self.project, agent_id)
        agent = decode_agent(stored.record)
        return agent, await self._services.need_vectors(self.project, agent)

    async def _reload(self, agent_id: str, ended: dict[str, Listening]) -> None:
        listening = self._listening.get(agent_id)
        if listening is None:
            return
        try:
            listening.agent, listening.vectors = await self._load(agent_id)
        except ContexError as error:
            if error.reason is not Reason.AGENT_NOT_FOUND:
                raise
            del self._listening[agent_id]
            self._needs.remove_agent(agent_id)
            ended[agent_id] = listening
        else:
            self._needs.set_agent(listening.agent, listening.vectors)

    def _end(self, ended: dict[str, Listening]) -> None:
        for agent_id, listening in ended.items():
            listening.feed.fail(agent_not_found(self.project, agent_id))

    # -- data --------------------------------------------------------------------

    async def matching_data(
        self, agent: Agent, vectors: Vector, at_least: Sequence
    ) -> tuple[list[Datum], Sequence]:
        """The live data that an agent needs, best first, and the sequence this is as of.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        while True:
            if self._data is None:
                if self._build is None:
                    self._during_build = []
                    self._build = asyncio.create_task(self._build_data())
                    # Whoever waits gets the exception; nobody may be left to.
                    self._build.add_done_callback(lambda t: t.cancelled() or t.exception())
                await asyncio.shield(self._build)
            await self._reached(max(at_least, self._data.as_of) if self._data else at_least)
            if self._data is not None:
                break
        assert self._position is not None
        latest = self._data.latest
        found = self._data.index.search(agent, vectors)
        return [Datum(name, latest[name], matches) for name, matches in found], self._position

    async def _build_data(self) -> None:
        services = self._services
        data, restarts = _Data(services), self._restarts
        try:
            async for chunk in services.log.state(self.project):
                for start in range(0, len(chunk), _BUILD_CHUNK):
                    await self._index(data, chunk[start : start + _BUILD_CHUNK])
            # The scan may have seen events that the matching has not come to yet.
            data.as_of = (await services.log.bounds(self.project)).tail
            for state in self._during_build:
                await self._index(data, [state])
            # No await since the last look at _during_build: nothing can slip in between.
            if restarts == self._restarts:
                self._data = data
        finally:
            self._during_build = []
            self._build = None

    async def _index(self, data: _Data, states: list[KeyState]) -> None:
        live = {s.digest: s for s in states if not s.deleted and s.digest}
        known = await self._services.embeddings.stored(self.project, live)
        absent = [state for digest, state in live.items() if digest not in known]
        if absent:
            entries = await self._services.log.get(self.project, [s.sequence for s in absent])
            events = [self._services.codec.decode(e) for e in entries if e is not None]
            known |= await self._services.embeddings.of_events(self.project, events)
        for state in states:
            data.apply(state, known)

    # -- following the log -------------------------------------------------------

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                channel: Channel = await stack.enter_async_context(
                    self._services.hub.channel(self.project)
                )
                feed = await stack.enter_async_context(channel.feed(EVERYTHING))
                reader = _attach(feed)
                stack.callback(reader.close)
                self._position = feed.position
                self._opened.set_result(None)
                while True:
                    try:
                        chunk = reader.take(_CHUNK_BYTES)
                        if chunk is None:
                            await reader.wait()
                            continue
                    except Behind:
                        reader.close()
                        reader = _attach(feed)
                        stack.callback(reader.close)
                        await self._persistently(partial(self._restart, feed.position))
                        continue
                    await self._persistently(partial(self._match_chunk, chunk))
        except Exception as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                log.exception("matcher_failed", project=self.project)
            self._fail(ContexError(Reason.INTERNAL, f"matching failed in project {self.project!r}"))
        finally:
            self._services.forget(self)

    async def _persistently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does it with the lock held, again and again while store or model are away."""
        delay = _BACKOFF_S[0]
        while True:
            try:
                async with self._lock:
                    await work()
                return
            except ContexError as error:
                log.warning("matching_interrupted", project=self.project, error=error.message)
                await asyncio.sleep(random.uniform(0, delay))
                delay = min(delay * 2, _BACKOFF_S[1])

    async def _match_chunk(self, chunk: Chunk) -> None:
        codec = self._services.codec
        events = []
        for delivery in chunk.deliveries:
            if delivery.event is None:
                delivery.event = codec.decode(delivery.entry)
            events.append(delivery.event)
        wanted = self._listening or self._data is not None or self._build is not None
        vectors = await self._vectors(events) if wanted else {}
        outgoing: dict[str, list[Delivery]] = {}
        ended: dict[str, Listening] = {}
        start = 0
        for index, event in enumerate([*events, None]):
            if event is not None and event.event_type not in (AGENT_REGISTERED, AGENT_UNREGISTERED):
                continue
            span = slice(start, index)
            start = index + 1
            found = _match(self._needs, events[span], vectors)
            for delivery, by_agent in zip(chunk.deliveries[span], found, strict=True):
                for agent_id, matches in by_agent.items():
                    outgoing.setdefault(agent_id, []).append(
                        Delivery(delivery.sequence, delivery.entry, matches, delivery.event)
                    )
            if event is not None:
                await self._reload(orjson.loads(event.payload)["agent_id"], ended)
        # From here on nothing waits and nothing fails: the chunk counts as a whole.
        for event in events:
            self._keep(event, vectors)
        for agent_id, listening in (*self._listening.items(), *ended.items()):
            listening.feed.extend(outgoing.get(agent_id, ()), chunk.position)
        self._end(ended)
        self._arrived(chunk.position)

    def _keep(self, event: Event, vectors: dict[bytes, Vector]) -> None:
        if not event.data_key:
            return
        deleted = event.event_type == DATA_DELETED
        state = KeyState(event.data_key, event.revision, event.sequence, deleted, event.text_digest)
        if self._build is not None:
            self._during_build.append(state)
        if self._data is not None:
            self._data.apply(state, vectors)

    async def _vectors(self, events: list[Event]) -> dict[bytes, Vector]:
        return await self._services.embeddings.of_events(self.project, events)

    async def _restart(self, position: Sequence) -> None:
        """The log was faster than the matching: agents read it, the data are indexed anew."""
        log.info("matcher_behind", project=self.project, position=str(position))
        self._restarts += 1
        self._data = None
        ended: dict[str, Listening] = {}
        for agent_id in tuple(self._listening):
            await self._reload(agent_id, ended)
        for listening in self._listening.values():
            listening.feed.reset(position)
        self._end(ended)
        self._arrived(position)

    async def _reached(self, position: Sequence) -> None:
        if self._error is not None:
            raise self._error
        if self._position is None or self._position < position:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._arrivals.append((position, future))
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await future
            except TimeoutError:
                raise embedder_unavailable(
                    f"matching has not come to {position} within {_PATIENCE_S:.0f} s"
                ) from None

    def _arrived(self, position: Sequence) -> None:
        self._position = position
        waiting = []
        for awaited, future in self._arrivals:
            if awaited > position:
                waiting.append((awaited, future))
            elif not future.done():
                future.set_result(None)
        self._arrivals = waiting

    def _fail(self, error: ContexError) -> None:
        self._error = error
        for listening in self._listening.values():
            listening.feed.fail(error)
        for _, future in self._arrivals:
            if not future.done():
                future.set_exception(error)

    def _new_needs(self) -> NeedIndex:
        services = self._services
        return NeedIndex(
            services.embeddings.dimension, services.scorer, services.embeddings.model_id
        )


class _Data:
    """The index of a project's live data, and where each of them lies in the log."""

    def __init__(self, services: Matchmaker) -> None:
        self.index = DataIndex(
            services.embeddings.dimension, services.scorer, services.embeddings.model_id
        )
        self.latest: dict[str, Sequence] = {}
        self.as_of = BEGINNING

    def apply(self, state: KeyState, vectors: dict[bytes, Vector]) -> None:
        vector = vectors.get(state.digest)
        if state.deleted or vector is None:
            self.index.remove(state.data_key)
            self.latest.pop(state.data_key, None)
        else:
            self.index.put(state.data_key, state.digest, vector)
            self.latest[state.data_key] = state.sequence


def _attach(feed: Feed) -> Reader:
    reader = feed.attach(feed.position)
    assert reader is not None, "a feed serves its own position"
    return reader


def _match(
    needs: NeedIndex, events: list[Event], vectors: dict[bytes, Vector]
) -> list[dict[str, tuple[Match, ...]]]:
    """The matches of each event by agent; events of the same text are matched once."""
    digests = list({e.text_digest for e in events if e.text_digest in vectors})
    if not digests or not len(needs):
        return [{} for _ in events]
    found = dict(zip(digests, needs.match(np.stack([vectors[d] for d in digests])), strict=True))
    return [found.get(event.text_digest, {}) for event in events]

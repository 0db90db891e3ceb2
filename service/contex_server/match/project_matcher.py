"""One project's matching in this process: it follows the log, with the data and the needs.

The matcher holds the project's data (from the state, then from the log) and the needs of the
agents that listen *here*. Events are matched in log order, so an agent's feed has no gap;
while the embedding model is out of reach matching waits, and goes on where it was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import orjson
import structlog

from contex_server.events.feed import Behind, Delivery, Feed, NeedsChange, Reader
from contex_server.events.hub import EVERYTHING, Channel
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason, agent_not_found, embedder_unavailable
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    AGENT_UNREGISTERED,
    BEGINNING,
    DATA_ERASED,
    MODEL_CHANGED,
    SERVICE_TYPES,
    Agent,
    Entry,
    Event,
    KeyState,
    Match,
    Need,
    Sequence,
)
from contex_server.match.index import Index
from contex_server.match.registration import decode_agent, registered_agent
from contex_server.matching.answers import Found, answer
from contex_server.matching.encoding import Encoding
from contex_server.state.fold import state_of

if TYPE_CHECKING:
    from contex_server.match.matchers import Matchmaker

T = TypeVar("T")
log = structlog.get_logger(__name__)

_BACKOFF_S = (0.1, 5.0)
_BUILD_CHUNK = 200
"""Unpacking so many encodings holds the event loop for 3 ms."""
_PATIENCE_S = 10.0
"""How long a registration waits for the matching to come to it."""
_CHUNK_BYTES = 1024 * 1024


@dataclass(slots=True, eq=False)
class Listening:
    """An agent with open streams in this process."""

    agent: Agent
    encodings: tuple[Encoding, ...]
    feed: Feed
    users: int = 0


class ProjectMatcher:
    """Matches one project's events with the needs of the agents that listen here."""

    def __init__(self, project: str, services: Matchmaker) -> None:
        self.project = project
        self.users = 0
        self.eviction: asyncio.TimerHandle | None = None
        self._services = services
        self._index: Index | None = None
        self._listening: dict[str, Listening] = {}
        self._position = BEGINNING
        self._arrivals: list[tuple[Sequence, asyncio.Future[None]]] = []
        self._error: ContexError | None = None
        # Held while events are matched, while an agent is loaded and while data are
        # searched: an agent's needs are never older than the events they are matched with.
        self._lock = asyncio.Lock()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"contex-matcher-{project}")

    async def started(self) -> None:
        """Returns when the matcher follows the log; raises what kept it from it."""
        await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Stops following."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._opened.done() and not self._opened.cancelled():
            self._opened.exception()

    @property
    def index(self) -> Index:
        """The index; there is one once the matcher has started."""
        assert self._index is not None
        return self._index

    @asynccontextmanager
    async def at(self, at_least: Sequence) -> AsyncIterator[tuple[Index, Sequence]]:
        """The index, held still, and the sequence it is as of: at least the one given.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        await self._reached(at_least)
        async with self._lock:
            if self._error is not None:
                raise self._error
            yield self.index, self._position

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
                agent, encodings, _ = await self._load(agent_id)
                feed = Feed(self._position, self._services.feed_bytes)
                listening = self._listening[agent_id] = Listening(agent, encodings, feed)
                await self._work(partial(self.index.needs.set_agent, agent, encodings))
            listening.users += 1
        try:
            yield listening
        finally:
            listening.users -= 1
            if not listening.users and self._listening.get(agent_id) is listening:
                del self._listening[agent_id]
                self._closing(agent_id)

    def _closing(self, agent_id: str) -> None:
        async def remove() -> None:
            async with self._lock:
                if agent_id not in self._listening and self._index is not None:
                    await self._work(partial(self._index.needs.remove_agent, agent_id))

        self._services.in_background(remove())

    async def select(self, listening: Listening, entries: list[Entry]) -> list[Delivery]:
        """What a page of the log holds for an agent, by needs and data as they are now.

        Raises:
            ContexError: AGENT_NOT_FOUND, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        events = [event_codec.decode(entry) for entry in entries]
        async with self._lock:
            encodings = await self._encodings(events)
            if listening.feed.error is not None:
                raise listening.feed.error
            agent, index = listening.agent, self.index
            found = await self._work(
                partial(index.match_alone, agent, listening.encodings, events, encodings)
            )
            deliveries: list[Delivery] = []
            for entry, event, matches in zip(entries, events, found, strict=True):
                if event.event_type == AGENT_REGISTERED:
                    agent_id, previous = registered_agent(event.payload)
                    if agent_id == agent.agent_id and previous is not None:
                        change = await self._change(agent, listening.encodings, previous, event)
                        deliveries.append(Delivery(event.sequence, entry, (), event, change))
                elif matches and await self._is_worth(agent, event):
                    deliveries.append(
                        Delivery(
                            event.sequence,
                            entry,
                            await self.explained(event, matches, self._position),
                            event,
                            agent=agent,
                        )
                    )
        return deliveries

    async def _load(self, agent_id: str) -> tuple[Agent, tuple[Encoding, ...], Sequence]:
        stored = await self._services.agents.agent(self.project, agent_id)
        if stored is None:
            raise agent_not_found(self.project, agent_id)
        agent = decode_agent(stored.record)
        return agent, await self._need_encodings(agent.needs), stored.cursor

    async def _need_encodings(self, needs: Iterable[Need]) -> tuple[Encoding, ...]:
        wanted = tuple(needs)
        found = await self._services.embeddings.of_needs(
            self.project, self.index.model.id, {need.digest: need.text for need in wanted}
        )
        return tuple(found[need.digest] for need in wanted)

    async def _reload(self, agent_id: str, event: Event) -> NeedsChange | None:
        """An agent that listens here was changed; from now on it is matched as it is now."""
        listening = self._listening[agent_id]
        agent, encodings, _ = await self._load(agent_id)
        change = None
        if event.event_type == AGENT_REGISTERED:
            _, previous = registered_agent(event.payload)
            if previous is not None:
                change = await self._change(agent, encodings, previous, event)
        await self._work(partial(self.index.needs.set_agent, agent, encodings))
        listening.agent, listening.encodings = agent, encodings
        return change

    async def _change(
        self,
        agent: Agent,
        encodings: tuple[Encoding, ...],
        previous: tuple[Need, ...],
        event: Event,
    ) -> NeedsChange:
        """What a change of needs brings, as of its event."""
        index, services = self.index, self._services
        before = await self._need_encodings(previous)

        def search() -> Found:
            def older(data_key: str) -> bool:
                return index.latest[data_key] <= event.sequence

            scorer, model = services.scorer, index.model.id
            everything = [
                (replace(need, max_matches=len(index.data) or 1), encoding)
                for need, encoding in zip(previous, before, strict=True)
            ]
            known = answer(index.data, scorer, model, everything, self._position, older)
            keys = {data_key for data_key, _ in known}
            now = list(zip(agent.needs, encodings, strict=True))
            return answer(
                index.data,
                scorer,
                model,
                now,
                self._position,
                lambda data_key: older(data_key) and data_key not in keys,
            )

        found = await self._work(search)
        entries = await services.log.get(self.project, [index.latest[key] for key, _ in found])
        data = []
        for (_, matches), datum in zip(found, entries, strict=True):
            if datum is not None:
                decoded = event_codec.decode(datum)
                told = await self.explained(decoded, matches, self._position)
                data.append(Delivery(decoded.sequence, datum, told, decoded, agent=agent))
        stored = await services.agents.agent(self.project, agent.agent_id)
        return NeedsChange(agent, stored.cursor if stored else BEGINNING, tuple(data))

    # -- following the log -------------------------------------------------------

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                channel: Channel = await stack.enter_async_context(
                    self._services.hub.channel(self.project)
                )
                feed = await stack.enter_async_context(channel.feed(EVERYTHING))
                reader = _attach(feed)
                stack.callback(lambda: reader.close())
                reader = await self._build(feed, reader)
                self._opened.set_result(None)
                while True:
                    try:
                        chunk = reader.take(_CHUNK_BYTES)
                    except Behind:
                        log.info("matcher_behind", project=self.project)
                        reader.close()
                        reader = _attach(feed)
                        reader = await self._persistently(partial(self._rebuild, feed, reader))
                        continue
                    if chunk is None:
                        await reader.wait()
                        continue
                    for span in _spans(chunk.deliveries, event_codec.decode):
                        await self._persistently(partial(self._match_span, span))
                    self._arrived(chunk.position)
        except Exception as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                log.exception("matcher_failed", project=self.project)
            self._fail(ContexError(Reason.INTERNAL, f"matching failed in project {self.project!r}"))
        finally:
            self._services.forget(self)

    async def _persistently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does it with the lock held, again and again while store or model are away."""
        delay = _BACKOFF_S[0]
        while True:
            try:
                async with self._lock:
                    return await work()
            except ContexError as error:
                log.warning("matching_interrupted", project=self.project, error=error.message)
                await asyncio.sleep(random.uniform(0, delay))
                delay = min(delay * 2, _BACKOFF_S[1])

    async def _build(self, feed: Feed, reader: Reader) -> Reader:
        """Indexes the project's data as of the end of the log, and stands there.

        The state is read while the log goes on, so a key may come with an event that the
        feed brings as well: what is newer counts. Where the feed was left behind meanwhile
        it starts over.
        """
        services = self._services
        while True:
            model_id = await services.embeddings.model_of(self.project)
            index = Index(await services.embeddings.models.get(model_id), services.scorer)
            seen: dict[str, Sequence] = {}
            self._position = feed.position
            self._index = index
            async for states in services.state.state(self.project):
                for start in range(0, len(states), _BUILD_CHUNK):
                    await self._take_in(index, states[start : start + _BUILD_CHUNK], seen)
            tail = (await services.log.bounds(self.project)).tail
            try:
                while self._position < tail:
                    chunk = reader.take(_CHUNK_BYTES)
                    if chunk is None:
                        self._position = max(self._position, reader.position)
                        if self._position < tail:
                            await reader.wait()
                        continue
                    events = [event_codec.decode(d.entry) for d in chunk.deliveries]
                    states = [
                        state_of(event)
                        for event in events
                        if event.data_key and event.event_type not in SERVICE_TYPES
                    ]
                    await self._take_in(index, states, seen)
                    self._position = chunk.position
            except Behind:
                reader.close()
                reader = _attach(feed)
                continue
            services.use_model(self.project, index.model.id)
            return reader

    async def _rebuild(self, feed: Feed, reader: Reader) -> Reader:
        """The log was faster, or the model is another: agents read the log again."""
        reader = await self._build(feed, reader)
        for agent_id, listening in tuple(self._listening.items()):
            try:
                agent, encodings, _ = await self._load(agent_id)
            except ContexError as error:
                if error.reason is not Reason.AGENT_NOT_FOUND:
                    raise
                del self._listening[agent_id]
                listening.feed.fail(error)
                continue
            listening.agent, listening.encodings = agent, encodings
            await self._work(partial(self.index.needs.set_agent, agent, encodings))
            listening.feed.reset(self._position)
        self._arrived(self._position)
        return reader

    async def _take_in(
        self, index: Index, states: list[KeyState], seen: dict[str, Sequence]
    ) -> None:
        fresh: dict[str, KeyState] = {}
        for state in states:
            if seen.get(state.data_key, BEGINNING) <= state.sequence:
                seen[state.data_key] = state.sequence
                fresh[state.data_key] = state
        encodings = await self._services.encodings_of_states(
            self.project, index.model.id, fresh.values()
        )
        await self._work(partial(index.apply_all, list(fresh.values()), encodings))

    async def _match_span(self, span: list[Delivery]) -> None:
        """Matches events up to one that changes who is matched, and then lets it."""
        events = [delivery.event for delivery in span if delivery.event is not None]
        encodings = await self._encodings(events)
        matched = await self._work(partial(self.index.match, events, encodings))
        position = span[-1].sequence
        outgoing: dict[str, list[Delivery]] = {}
        for delivery, event, by_agent in zip(span, events, matched, strict=True):
            for agent_id, matches in by_agent.items():
                listening = self._listening.get(agent_id)
                if listening is not None and await self._is_worth(listening.agent, event):
                    told = await self.explained(event, matches, position)
                    outgoing.setdefault(agent_id, []).append(
                        Delivery(
                            delivery.sequence, delivery.entry, told, event, agent=listening.agent
                        )
                    )
        last = events[-1]
        ended: tuple[Listening, ContexError] | None = None
        if last.event_type == MODEL_CHANGED:
            await self._change_model(orjson.loads(last.payload)["model"])
        elif last.event_type == DATA_ERASED:
            await self._forget_erased()
        elif last.event_type in (AGENT_REGISTERED, AGENT_UNREGISTERED):
            agent_id = orjson.loads(last.payload)["agent_id"]
            if agent_id in self._listening:
                try:
                    change = await self._reload(agent_id, last)
                except ContexError as error:
                    if error.reason is not Reason.AGENT_NOT_FOUND:
                        raise
                    ended = self._listening[agent_id], error
                else:
                    if change is not None:
                        outgoing.setdefault(agent_id, []).append(
                            Delivery(position, span[-1].entry, (), last, change)
                        )
        # From here on nothing waits and nothing fails: the span counts as a whole.
        for agent_id, listening in self._listening.items():
            listening.feed.extend(outgoing.get(agent_id, ()), position)
        if ended is not None:
            listening, refusal = ended
            self._closing(listening.agent.agent_id)
            del self._listening[listening.agent.agent_id]
            listening.feed.fail(refusal)
        self._arrived(position)

    async def _change_model(self, model_id: str) -> None:
        """Another model decides from here on: everything is indexed anew, then exchanged."""
        services, old = self._services, self.index
        if model_id == old.model.id:
            return
        services.embeddings.model_changed(self.project, model_id)
        usable = services.embeddings.models.usable(model_id)
        index = Index(await services.embeddings.models.get(usable), services.scorer)
        states = [
            KeyState(key, 0, sequence, False, old.data.digest_of(key) or b"")
            for key, sequence in old.latest.items()
        ]
        for start in range(0, len(states), _BUILD_CHUNK):
            await self._take_in(index, states[start : start + _BUILD_CHUNK], {})
        self._index = index
        for listening in self._listening.values():
            listening.encodings = await self._need_encodings(listening.agent.needs)
            await self._work(partial(index.needs.set_agent, listening.agent, listening.encodings))
        log.info("matching_model_changed", project=self.project, model=index.model.id)

    async def _forget_erased(self) -> None:
        """Data whose latest event was erased match nothing any more."""
        index = self.index
        self._services.embeddings.forget(self.project)
        async for states in self._services.state.state(self.project):
            gone = [
                state
                for state in states
                if not state.digest and index.latest.get(state.data_key) == state.sequence
            ]
            await self._work(partial(index.apply_all, gone, {}))

    async def _encodings(self, events: list[Event]) -> dict[bytes, Encoding]:
        return await self._services.embeddings.of_events(self.project, self.index.model.id, events)

    async def explained(
        self, event: Event, matches: tuple[Match, ...], as_of: Sequence
    ) -> tuple[Match, ...]:
        """The matches with the passage that decided each."""
        return await self._services.explained(self.project, event, matches, as_of)

    async def _is_worth(self, agent: Agent, event: Event) -> bool:
        return await self._services.is_worth(self.project, agent, event)

    async def _work(self, work: Callable[[], T]) -> T:
        """Does what takes a while beside the event loop. The lock is held meanwhile."""
        return await self._services.work(work)

    # -- who waits ---------------------------------------------------------------

    async def _reached(self, position: Sequence) -> None:
        if self._error is not None:
            raise self._error
        if self._position < position:
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
        self._position = max(self._position, position)
        waiting = []
        for awaited, future in self._arrivals:
            if awaited > self._position:
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


def _spans(
    deliveries: Iterable[Delivery], decode: Callable[[Entry], Event]
) -> list[list[Delivery]]:
    """Splits deliveries after each event that changes who is matched, or how."""
    spans: list[list[Delivery]] = [[]]
    for delivery in deliveries:
        if delivery.event is None:
            delivery.event = decode(delivery.entry)
        spans[-1].append(delivery)
        if delivery.event.event_type in SERVICE_TYPES:
            spans.append([])
    return [span for span in spans if span]


def _attach(feed: Feed) -> Reader:
    reader = feed.attach(feed.position)
    assert reader is not None, "a feed serves its own position"
    return reader

"""The matchers of projects: opened with their first user, closed when nobody has used them for
a while; and what they all share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from cachetools import LRUCache

from contex_server.events.hub import Hub
from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    Agent,
    Event,
    KeyState,
    Match,
    Sequence,
)
from contex_server.log.agents import AgentStore
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.match.project_matcher import ProjectMatcher
from contex_server.matching.delta import is_update_worth
from contex_server.matching.describe import Description
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.encoding import Encoding
from contex_server.matching.score import Scorer
from contex_server.matching.vectors import use_one_thread

T = TypeVar("T")

PASSAGE_CHARS = 400
"""How much of a passage a match tells."""
_WORKERS = 2
_DESCRIPTIONS = 256


class Matchmaker:
    """Opens the matchers of projects and closes them when nobody has used them for a while."""

    def __init__(
        self,
        event_log: EventLog,
        state: StateStore,
        agents: AgentStore,
        hub: Hub,
        embeddings: Embeddings,
        scorer: Scorer,
        *,
        feed_bytes: int,
        idle_s: float,
        use_model: Callable[[str, str], None] = lambda _project, _model: None,
    ) -> None:
        self.log = event_log
        self.state = state
        self.agents = agents
        self.hub = hub
        self.embeddings = embeddings
        self.scorer = scorer
        self.feed_bytes = feed_bytes
        self.use_model = use_model
        """Told which model decides in a project that is in use here."""
        self._idle_s = idle_s
        self._matchers: dict[str, ProjectMatcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = ThreadPoolExecutor(
            _WORKERS, thread_name_prefix="contex-match", initializer=use_one_thread
        )
        self._descriptions: LRUCache[tuple[bytes, str], Description] = LRUCache(_DESCRIPTIONS)

    @property
    def matchers(self) -> int:
        """How many projects have a matcher here."""
        return len(self._matchers)

    @asynccontextmanager
    async def project(self, project: str) -> AsyncIterator[ProjectMatcher]:
        """The project's matcher.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
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
                    self._idle_s, self._evict, matcher
                )

    def peek(self, project: str) -> ProjectMatcher | None:
        """The project's matcher if there is one; it is not opened for this."""
        return self._matchers.get(project)

    def forget(self, matcher: ProjectMatcher) -> bool:
        """Takes a matcher out of use, so that the next user gets a new one."""
        if self._matchers.get(matcher.project) is not matcher:
            return False
        del self._matchers[matcher.project]
        return True

    def _evict(self, matcher: ProjectMatcher) -> None:
        if not matcher.users and self.forget(matcher):
            self.in_background(matcher.close())

    async def close(self) -> None:
        """Closes every matcher."""
        matchers = list(self._matchers.values())
        self._matchers.clear()
        for matcher in matchers:
            if matcher.eviction is not None:
                matcher.eviction.cancel()
        await asyncio.gather(*(matcher.close() for matcher in matchers), *self._tasks)
        await asyncio.to_thread(self._workers.shutdown)

    # -- what matchers share -----------------------------------------------------

    async def work(self, work: Callable[[], T]) -> T:
        """Does what takes a while beside the event loop.

        It is waited for even where the caller is cancelled: what it works on must not be
        touched by others before it has ended.
        """
        future = asyncio.get_running_loop().run_in_executor(self._workers, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                await asyncio.wait([future])
            raise

    def in_background(self, work: Coroutine[object, object, None]) -> None:
        """Does something that nobody waits for, before the matchmaker is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def encodings_of_states(
        self, project: str, model: str, states: Iterable[KeyState]
    ) -> dict[bytes, Encoding]:
        """The encodings of live data, by digest; what the store lacks is computed.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        live = {state.digest: state for state in states if not state.deleted and state.digest}
        known = await self.embeddings.stored(project, model, live)
        absent = [state.sequence for digest, state in live.items() if digest not in known]
        if absent:
            entries = await self.log.get(project, absent)
            events = [event_codec.decode(entry) for entry in entries if entry is not None]
            known |= await self.embeddings.of_events(project, model, events)
        return known

    async def explained(
        self, project: str, event: Event, matches: tuple[Match, ...], as_of: Sequence
    ) -> tuple[Match, ...]:
        """The matches with the passage that decided each, and their background's version."""
        description = await self.description(project, event)
        told = []
        for match in matches:
            passage = description.passages[min(match.passage, len(description.passages) - 1)]
            text = description.texts[0] if match.passage == 0 else passage.text
            told.append(
                replace(
                    match,
                    path=passage.path,
                    passage_text=text[:PASSAGE_CHARS],
                    background_as_of=as_of,
                )
            )
        return tuple(told)

    async def description(self, project: str, event: Event) -> Description:
        """The texts that an event is matched by; those of recent events are remembered."""
        # Paths and rows may differ where the text does not, and the payload tells them.
        key = (event.text_digest, str(event.sequence))
        found = self._descriptions.get(key)
        if found is None:
            found = await self.embeddings.description(project, event)
            self._descriptions[key] = found
        return found

    async def is_worth(self, project: str, agent: Agent, event: Event) -> bool:
        """Whether an event that matched is to be pushed to an agent.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        delta, previous = agent.min_delta, event.previous_sequence
        if delta is None or previous is None:
            return True
        (entry,) = await self.log.get(project, [previous])
        if entry is None:
            return True
        before = event_codec.decode(entry)
        # Another text may not have matched before, so it is news in any case.
        return before.text_digest != event.text_digest or is_update_worth(before, event, delta)

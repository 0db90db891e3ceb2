"""Decides for the agents of some shards of a project what each of its events means to them.

The live pass follows the log; agents that are behind have a pass of their own (behind.py). Two
processes may both believe that a shard is theirs: the store refuses the one whose epoch is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import structlog

from contex_server.events.feed import Chunk, Delivery
from contex_server.events.hub import Hub
from contex_server.events.stream import log_source, stream
from contex_server.inbox.adoption import sent_before
from contex_server.inbox.behind import Behind
from contex_server.inbox.changes import Changes
from contex_server.inbox.hub import InboxHub
from contex_server.inbox.ledger import Draft, Fenced, Ledger, Unanswered
from contex_server.inbox.passes import Pass, SpanDecider
from contex_server.inbox.reader import InboxReader
from contex_server.inbox.roster import Roster
from contex_server.inbox.span import spans
from contex_server.inbox.steps import Steps
from contex_server.inbox.subscriber import Subscriber, decode_subscriber, encode_subscriber
from contex_server.inbox.trimming import Trimmer
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import BEGINNING, EVERYTHING, Agent, Entry
from contex_server.log.inboxes import Shard, Standing, shard_of
from contex_server.match.agent_codec import AgentDamaged, intact
from contex_server.match.engine import MatchEngine
from contex_server.match.pool import MatcherPool
from contex_server.matching.background import size_reached

T = TypeVar("T")
log = structlog.get_logger(__name__)

_BACKOFF_S = (0.05, 2.0)
_ENDS = (Reason.PROJECT_NOT_FOUND, Reason.LOG_CHANGED)
"""What ends the streams of a project's agents as well."""
_SPAN = 1_000
"""Events that are decided in one step."""
_IDLE_S = 0.2
"""How long the position of a pass is left unnoted in which nothing is decided."""


class ProjectDecider:
    """Decides for some shards of a project until it is closed or has lost them.

    Args:
        owner: Names this process.
        shards: The shards, as they were taken.
    """

    def __init__(
        self,
        project: str,
        shards: dict[int, Shard],
        *,
        owner: str,
        engine: MatchEngine,
        pool: MatcherPool,
        hub: Hub,
        inboxes: InboxHub,
        reader: InboxReader,
        settings: Settings,
        on_model_in_use: Callable[[str], None],
    ) -> None:
        self.project = project
        self.shards = shards
        self._decided = frozenset(shards)
        self._engine = engine
        self._pool = pool
        self._hub = hub
        self._inboxes = inboxes
        self._reader = reader
        self._settings = settings
        self._failures = Failures("deciding_failed")
        self._ledger = Ledger(project, shards, owner, reader, inboxes)
        self._roster = Roster()
        self._changes = Changes(self._ledger, self._roster, engine, self._failures)
        self._deciding = SpanDecider(
            self._ledger, self._roster, self._changes, engine, on_model_in_use
        )
        self._live: Pass
        self._behind: Behind
        self.has_begun = False
        """Whether it knows its agents."""
        self.ended = False
        """Whether it has stopped by itself, and may be started anew."""
        self._task = asyncio.create_task(self._run(), name=f"contex-decider-{project}")

    @property
    def registrations(self) -> list[Agent]:
        """The newest registration of each agent for which it decides, as far as it has come."""
        known = self._roster.known.values()
        return [s.agent if s.awaited is None else s.awaited.agent for s in known]

    @property
    def agents_behind(self) -> int:
        """How many agents do not stand where the live pass is."""
        return len(self._roster.behind)

    @property
    def lag_s(self) -> int:
        """Whole seconds between the last event decided and the newest that was heard of."""
        channel, position = self._hub.channels.get(self.project), self._deciding.live_position
        if channel is None or position == BEGINNING:
            return 0
        return max(0, channel.tail.ms - position.ms) // 1_000

    async def close(self) -> None:
        """Stops; what is not decided by then, another process decides."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._inboxes.decides_no_more(self.project, self._decided)

    async def _run(self) -> None:
        try:
            await self._retrying(self._load)
            self._inboxes.decides(self.project, self._decided)
            trimmer = Trimmer(self._ledger, self._roster, self._settings)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._behind.run())
                tasks.create_task(self._note_positions())
                tasks.create_task(trimmer.run(self._retrying))
        except* Fenced:
            log.info("shards_lost", project=self.project, shards=sorted(self.shards))
        except* Unanswered as group:
            log.warning("deciding_interrupted", project=self.project, error=str(_first(group)))
        except* ContexError as group:
            error = _first(group)
            log.info("deciding_ended", project=self.project, error=str(error))
            # Whatever else it is, deciding begins anew, and streams wait.
            if isinstance(error, ContexError) and error.reason in _ENDS:
                self._inboxes.fail(self.project, error)
        except* Exception as group:
            self._failures.failed(self.project, _first(group))
        finally:
            self.ended = True
            self._inboxes.decides_no_more(self.project, self._decided)

    async def _retrying(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does the work, again and again while store or model are away."""
        backoff, told = Backoff(*_BACKOFF_S), ""
        while True:
            try:
                return await work()
            except ContexError as error:
                if error.reason in _ENDS:
                    raise
                if error.reason != told:
                    told = error.reason
                    log.warning("deciding_interrupted", project=self.project, error=error.message)
                await backoff.wait()

    async def _load(self) -> None:
        """Reads what decides for the agents of the shards; agents of former versions begin."""
        project, roster = self.project, self._roster
        stored = await self._reader.store.standings(project)
        for agent_id, (record, position) in stored.items():
            if shard_of(agent_id) not in self.shards:
                continue
            if not record and position is not None:
                roster.left[agent_id] = position
            elif record:
                try:
                    roster.add(decode_subscriber(record, position))
                except AgentDamaged as error:
                    self._failures.failed(project, error)
        await self._adopt(stored.keys())
        start = min(shard.position for shard in self.shards.values())
        members = []
        for subscriber in roster.known.values():
            agent_id = subscriber.agent.agent_id
            if subscriber.position is not None:
                roster.behind[agent_id] = subscriber
                continue
            if (position := self.shards[shard_of(agent_id)].position) > start:
                subscriber.position = position
            members.append(subscriber)
        deciding = self._deciding
        self._live = await deciding.new_pass(start, members, live=True)
        steps = Steps(self._ledger, roster, self._engine, self._pool)
        self._behind = Behind(
            self._ledger,
            roster,
            self._changes,
            deciding,
            steps,
            self._engine,
            self._live,
            self._retrying,
        )
        self.has_begun = True
        roster.wake.set()

    async def _adopt(self, decided: Iterable[str]) -> None:
        """Begins to decide for agents that were registered with earlier versions: they stand at
        their cursors, and hold what they were sent."""
        agents, store, ledger = self._reader.agents, self._reader.store, self._ledger
        after, new = "", []
        while page := await agents.agents(self.project, after, 500):
            after = page[-1].agent_id
            new += [
                (agent, cursor)
                for agent, cursor in intact(self.project, page)
                if agent.agent_id not in decided and shard_of(agent.agent_id) in self.shards
            ]
        if new:
            # Not those that were registered meanwhile: deciding comes to their events.
            since = await store.standings(self.project)
            new = [(agent, cursor) for agent, cursor in new if agent.agent_id not in since]
        if not new:
            return
        bounds = await self._engine.log.bounds(self.project)
        number = await store.numbers(self.project, len(new))
        draft = Draft()
        for agent, cursor in new:
            cursor = min(cursor, bounds.tail)
            subscriber = Subscriber(
                agent, number, cursor, cursor, position=cursor, adopted=bounds.tail
            )
            number += 1
            sent = await sent_before(self._reader.journals, self.project, agent.agent_id, cursor)
            shard = shard_of(agent.agent_id)
            await ledger.read_holders(draft, sent, [shard])
            for name, holding in sent.items():
                draft.holders[shard].setdefault(name, {})[subscriber.number] = holding
                draft.changed.add((shard, name))
            self._roster.add(subscriber)
            draft.agents[agent.agent_id] = Standing(encode_subscriber(subscriber), cursor)
        await ledger.write(draft)
        log.info("agents_adopted", project=self.project, agents=len(new))

    async def _follow(self) -> None:
        """The live pass."""
        settings, drain, way = self._settings, Drain(), self._live

        async def everything(entries: list[Entry]) -> list[Delivery]:
            return [Delivery(entry.sequence, entry) for entry in entries]

        async with (
            self._hub.channel(self.project) as channel,
            channel.feed(EVERYTHING) as feed,
        ):
            source = log_source(self._engine.log, self.project, feed, everything, settings)
            if way.position < (readable := await self._behind.readable()):
                way.position = readable
                members = [*way.members.values()]
                await self._retrying(partial(self._behind.miss, members, readable))
            followed = stream(
                source, feed, way.position, heartbeat_s=60.0, settings=settings, drain=drain
            )
            async with aclosing(followed):
                async for message in followed:
                    if message.chunk is not None:
                        await self._decide(message.chunk)

    async def _decide(self, chunk: Chunk) -> None:
        for span in spans(chunk.deliveries, self._changes.splitter, _SPAN):

            async def decide(span: list[Delivery] = span) -> None:
                async with self._ledger.lock:
                    again = await self._deciding.decide(self._live, span)
                    if again is not None:
                        await self._retrying(again)

            await self._retrying(decide)
            await asyncio.sleep(0)

    async def _note_positions(self) -> None:
        """Notes the positions of spans in which nothing was decided, from time to time, and has the
        background taken anew when the project has grown enough."""
        looked, live = BEGINNING, self._live
        while True:
            await asyncio.sleep(_IDLE_S)
            if live.noted < live.position:
                await self._retrying(self._note_position)
            if looked < live.position and live.members:
                looked = live.position
                await self._retrying(self._take_background_if_due)

    async def _note_position(self) -> None:
        async with self._ledger.lock:
            await self._deciding.note(self._live)

    async def _take_background_if_due(self) -> None:
        """Opens the matcher if that is due, which takes it and tells all by an event."""
        *_, data = self._live.index.judges_by
        if size_reached(await self._engine.state.live_keys(self.project)) > size_reached(data):
            async with self._pool.matcher(self.project):
                pass


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """One of the errors of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error

"""Decides for the agents of some shards of a project what each of its events means to them.

A *pass* goes through the log in order, with the needs of the agents that stand where it is. The
live pass follows the log. Agents that are behind - their past is to be filled in, or their needs
have just changed - have a pass of their own, a page at a time, until they stand where the live pass
does and join it. Both do the same: match a span of events with the needs, judge each event for
whoever it matches or holds its datum, fill inboxes, then note in one step what agents hold now and
how far is decided.

Whatever dies in between is done again, with the same result: entries of inboxes have ids that
follow from the events, and what judgements depend on is noted last. Two processes may both believe
that a shard is theirs: the store refuses the one whose epoch is over.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TypeVar

import orjson
import structlog

from contex_server.events.feed import Chunk, Delivery
from contex_server.events.hub import Hub
from contex_server.events.stream import log_source, stream
from contex_server.inbox.adoption import sent_before
from contex_server.inbox.entry import Decision, Version, encode
from contex_server.inbox.holdings import Holders, pack_holders, unpack_holders
from contex_server.inbox.hub import InboxHub
from contex_server.inbox.judgement import Occasion, judge
from contex_server.inbox.reader import InboxReader
from contex_server.inbox.span import spans
from contex_server.inbox.steps import Steps
from contex_server.inbox.subscriber import (
    MARGIN,
    Awaited,
    Subscriber,
    decode_subscriber,
    encode_subscriber,
)
from contex_server.inbox.trimming import Trimmer
from contex_server.kernel import event_codec
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.failures import Failures
from contex_server.kernel.inbox_ids import inbox_id, last_place
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    AGENT_UNREGISTERED,
    BACKGROUND_CHANGED,
    BEGINNING,
    DATA_ERASED,
    EVERYTHING,
    MODEL_CHANGED,
    SERVICE_TYPES,
    Agent,
    Change,
    Entry,
    Event,
    Match,
    Range,
    Sequence,
)
from contex_server.kernel.right_of_way import RIGHT_OF_WAY
from contex_server.kernel.slices import Slices, sliced
from contex_server.log.inboxes import (
    InboxEntry,
    Shard,
    ShardDecisions,
    Standing,
    shard_of,
)
from contex_server.log.pages import pages
from contex_server.match.agent_codec import AgentDamaged, agent_of_event, intact, registered_agent
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index
from contex_server.match.pool import MatcherPool
from contex_server.matching.agent_needs import MatchesByAgent
from contex_server.matching.background import size_reached
from contex_server.matching.rules import is_absolute

T = TypeVar("T")
log = structlog.get_logger(__name__)

_BACKOFF_S = (0.05, 2.0)
_ENDS = (Reason.PROJECT_NOT_FOUND, Reason.LOG_CHANGED)
"""What ends the streams of a project's agents as well."""
_SPAN = 1_000
"""Events that are decided in one step by the live pass."""
_BEHIND_SPAN = 200
"""And by a pass behind it, which the live one waits for: some 20 ms."""
_BEHIND_BYTES = 1024 * 1024
_IDLE_S = 0.2
"""How long the position of a pass is left unnoted in which nothing is decided."""


_Afterwards = Callable[[], Awaitable[None]] | None
NO_POSITIONS: Mapping[int, Sequence] = {}


class Fenced(Exception):
    """Another process decides for a shard by now."""


class Unanswered(Exception):
    """Whether something was written is not known: deciding begins anew with what is stored."""


@dataclass(slots=True, eq=False)
class Pass:
    """A way through the log.

    Attributes:
        index: The needs of its members.
        position: Everything up to here is decided for its members.
        members: The agents that stand there.
        ahead: Agents that stand further on, and become members when it comes there.
        noted: The position that the store knows. Streams of members get only what is decided up to
            there: that nothing was to be written doesn't say that this process still decides.
    """

    index: Index
    position: Sequence
    live: bool
    members: dict[str, Subscriber] = field(default_factory=dict)
    ahead: list[Subscriber] = field(default_factory=list)
    noted: Sequence = BEGINNING


@dataclass(slots=True)
class Made:
    """A decision as inboxes keep it, and as it is delivered; None until somebody listens."""

    entry: InboxEntry
    delivery: Delivery | None = None


@dataclass(slots=True)
class Draft:
    """What is decided in a span, before it is written.

    Attributes:
        holders: Of the data of the span, by shard and data key; with what is new.
        changed: Those that are new.
        entries: What inboxes get.
        deliveries: The same for the agents that listen here.
        agents: What decides for agents from here on.
        counts: How many deliveries meet each need of an agent.
        made: What agents with the same needs share: the entry, and the delivery once somebody
            here listens.
    """

    holders: dict[int, dict[str, Holders]] = field(default_factory=dict)
    changed: set[tuple[int, str]] = field(default_factory=set)
    entries: defaultdict[str, list[InboxEntry]] = field(default_factory=lambda: defaultdict(list))
    deliveries: defaultdict[str, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    agents: dict[str, Standing] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    made: dict[tuple[Sequence, Decision], Made] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written."""
        return not (self.changed or self.entries or self.agents)


class ProjectDecider:
    """Decides for some shards of a project until it is closed or has lost them.

    Args:
        owner: Names this process.
        shards: The shards, as they were taken.
        on_end: Called when it has stopped by itself.
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
        self.owner = owner
        self.store = reader.store
        self.engine = engine
        self._pool = pool
        self._hub = hub
        self._inboxes = inboxes
        self._reader = reader
        self._settings = settings
        self._on_model_in_use = on_model_in_use
        self._lock = asyncio.Lock()
        """Held while a span is decided: passes share what agents hold."""
        self._live: Pass
        self._known: dict[str, Subscriber] = {}
        self._numbers: dict[tuple[int, int], str] = {}
        """Agents by shard and number."""
        self._behind: dict[str, Subscriber] = {}
        """Agents that wait for a pass behind the live one, or have one."""
        self._left: dict[str, Sequence] = {}
        """Where agents left in a pass behind the live one, which begins with the next of the id."""
        self._wake = asyncio.Event()
        self._trimmer = Trimmer(project, reader, settings, shards, self._known, self._lock)
        self._versions: dict[Version, int] = {}
        self._failures = Failures("deciding_failed")
        self.ended = False
        """Whether it has stopped by itself, and may be started anew."""
        self._task = asyncio.create_task(self._run(), name=f"contex-decider-{project}")

    @property
    def agents_behind(self) -> int:
        """How many agents do not stand where the live pass is."""
        return len(self._behind)

    @property
    def lag_s(self) -> int:
        """Whole seconds between the last event decided and the newest that was heard of."""
        channel = self._hub.channels.get(self.project)
        if channel is None or not hasattr(self, "_live"):
            return 0
        return max(0, channel.tail.ms - self._live.position.ms) // 1_000

    async def close(self) -> None:
        """Stops; what is not decided by then, another process decides."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._inboxes.decides_no_more(self.project, self._decided)

    # -- Running ----------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._retrying(self._load)
            self._inboxes.decides(self.project, self._decided)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._bring_up())
                tasks.create_task(self._note_positions())
                tasks.create_task(self._trim())
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

    async def _load(self) -> None:
        """Reads what decides for the agents of the shards; agents of former versions begin."""
        project = self.project
        stored = await self.store.standings(project)
        for agent_id, (record, position) in stored.items():
            if shard_of(agent_id) not in self.shards:
                continue
            if not record and position is not None:
                self._left[agent_id] = position
            elif record:
                try:
                    self._add(decode_subscriber(record, position))
                except AgentDamaged as error:
                    self._failures.failed(project, error)
        await self._adopt(stored.keys())
        start = min(shard.position for shard in self.shards.values())
        self._live = Pass(await self._new_index(start), start, live=True, noted=start)
        for subscriber in self._known.values():
            if subscriber.position is not None:
                self._behind[subscriber.agent.agent_id] = subscriber
            elif (position := self.shards[shard_of(subscriber.agent.agent_id)].position) > start:
                subscriber.position = position
                self._live.ahead.append(subscriber)
            else:
                self._live.members[subscriber.agent.agent_id] = subscriber
        await self._set_needs(self._live, self._live.members.values())
        self._wake.set()

    async def _adopt(self, decided: Iterable[str]) -> None:
        """Begins to decide for agents that were registered with earlier versions: they stand at
        their cursors, and hold what they were sent."""
        agents, after, new = self._reader.agents, "", []
        while page := await agents.agents(self.project, after, 500):
            after = page[-1].agent_id
            new += [
                (agent, cursor)
                for agent, cursor in intact(self.project, page)
                if agent.agent_id not in decided and shard_of(agent.agent_id) in self.shards
            ]
        if new:
            # Not those that were registered meanwhile: deciding comes to their events.
            since = await self.store.standings(self.project)
            new = [(agent, cursor) for agent, cursor in new if agent.agent_id not in since]
        if not new:
            return
        bounds = await self.engine.log.bounds(self.project)
        number = await self.store.numbers(self.project, len(new))
        draft = Draft()
        for agent, cursor in new:
            cursor = min(cursor, bounds.tail)
            subscriber = Subscriber(
                agent, number, cursor, cursor, position=cursor, adopted=bounds.tail
            )
            number += 1
            sent = await sent_before(self._reader.journals, self.project, agent.agent_id, cursor)
            shard = shard_of(agent.agent_id)
            await self.read_holders(draft, sent, [shard])
            for name, holding in sent.items():
                draft.holders[shard].setdefault(name, {})[subscriber.number] = holding
                draft.changed.add((shard, name))
            self._add(subscriber)
            draft.agents[agent.agent_id] = Standing(encode_subscriber(subscriber), cursor)
        await self.write(draft)
        log.info("agents_adopted", project=self.project, agents=len(new))

    async def _new_index(self, as_of: Sequence) -> Index:
        """An index of needs, under what decides in the project now.

        Relative scores, which projects of earlier versions have until they are moved to the
        absolute one, need the data as well: those of now.
        """
        engine = self.engine
        index = await engine.new_index(self.project, as_of=as_of)
        self._on_model_in_use(self.project)
        if not is_absolute(index.rule.scoring_model):
            await engine.load(index, engine.state.state(self.project))
        return index

    def _add(self, subscriber: Subscriber) -> None:
        agent_id = subscriber.agent.agent_id
        self._known[agent_id] = subscriber
        self._numbers[shard_of(agent_id), subscriber.number] = agent_id

    def _remove(self, agent_id: str) -> None:
        subscriber = self._known.pop(agent_id)
        self._numbers.pop((shard_of(agent_id), subscriber.number), None)
        self._behind.pop(agent_id, None)

    async def _set_needs(self, way: Pass, subscribers: Iterable[Subscriber]) -> None:
        for subscriber in subscribers:
            agent = subscriber.watched
            encodings = await self.engine.encode_needs(way.index, agent.needs)
            await self.engine.work(way.index.needs.set_agent, agent, encodings)

    async def _follow(self) -> None:
        """The live pass."""
        settings, drain = self._settings, Drain()

        async def everything(entries: list[Entry]) -> list[Delivery]:
            return [Delivery(entry.sequence, entry) for entry in entries]

        async with (
            self._hub.channel(self.project) as channel,
            channel.feed(EVERYTHING) as feed,
        ):
            log_ = self.engine.log
            source = log_source(log_, self.project, feed, everything, settings)
            way = self._live
            if way.position < (readable := await self._readable()):
                way.position = readable
                await self._retrying(partial(self._miss, way.members.values(), readable))
            followed = stream(
                source, feed, way.position, heartbeat_s=60.0, settings=settings, drain=drain
            )
            async with aclosing(followed):
                async for message in followed:
                    if message.chunk is not None:
                        await self._decide_chunk(way, message.chunk, _SPAN)

    async def _miss(self, subscribers: Iterable[Subscriber], place: Sequence) -> None:
        """Events up to a place were removed before it was decided what agents get of them: these
        are told what has become of data meanwhile."""
        async with self._lock:
            missed = [
                replace(s, awaited=Awaited(place, s.agent, missed=True), position=place)
                for s in subscribers
            ]
            draft = Draft()
            for subscriber in missed:
                standing = Standing(encode_subscriber(subscriber), place)
                draft.agents[subscriber.agent.agent_id] = standing
            await self.write(draft)
            log.warning("undecided_events_removed", project=self.project, agents=len(missed))
            for subscriber in missed:
                agent_id = subscriber.agent.agent_id
                if self._live.members.pop(agent_id, None) is not None:
                    await self.engine.work(self._live.index.needs.remove_agent, agent_id)
                self._begin_waiting(subscriber)

    async def _decide_chunk(self, way: Pass, chunk: Chunk, most: int) -> None:
        places = [s.position for s in way.ahead if s.position is not None]
        for span in spans(chunk.deliveries, places, most):
            await self._retrying(partial(self._decide_span, way, span))
            await asyncio.sleep(0)

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

    async def _note_positions(self) -> None:
        """Notes the positions of spans in which nothing was decided, from time to time, and has the
        background taken anew when the project has grown enough."""
        looked = BEGINNING
        while True:
            await asyncio.sleep(_IDLE_S)
            if self._live.noted < self._live.position:
                await self._retrying(self._note_position)
            if looked < self._live.position and self._live.members:
                looked = self._live.position
                await self._retrying(self._take_background_if_due)

    async def _trim(self) -> None:
        """Keeps the inboxes within their bounds."""
        looked = 0.0
        while True:
            looked = await self._retrying(partial(self._trimmer.next, looked))

    async def _take_background_if_due(self) -> None:
        """Opens the matcher if that is due, which takes it and tells all by an event."""
        *_, data = self._live.index.judges_by
        if size_reached(await self.engine.state.live_keys(self.project)) > size_reached(data):
            async with self._pool.matcher(self.project):
                pass

    async def _note_position(self) -> None:
        async with self._lock:
            await self._note(self._live)

    async def _note(self, way: Pass) -> None:
        """Notes where a pass stands, with the lock held."""
        if way.noted == way.position:
            return
        draft, positions = Draft(), NO_POSITIONS
        if way.live:
            positions = self.positions(way.position)
        else:
            draft.agents = {agent_id: Standing(None, way.position) for agent_id in way.members}
        await self.write(draft, positions)
        self.hand_over(way.members, draft, last_place(way.noted), last_place(way.position))
        way.noted = way.position

    def positions(self, position: Sequence) -> dict[int, Sequence]:
        """Where shards stand once everything up to a position is decided."""
        return {shard: position for shard, held in self.shards.items() if held.position < position}

    # -- Deciding -----------------------------------------------------------------------------

    async def _decide_span(self, way: Pass, span: list[Delivery]) -> None:
        """Decides a span; its last event may change who is matched, or how, from there on."""
        async with self._lock:
            await self._decide_span_alone(way, span)

    async def _decide_span_alone(self, way: Pass, span: list[Delivery]) -> None:
        """The same with the lock held."""
        await self._become_members(way)
        events = [d.event for d in span if d.event is not None]
        last, draft = events[-1], Draft()
        upto = event_codec.proven(span[-1].entry)
        if way.members:
            await self._judge(way, span, events, draft)
        after = await self._after(way, last, draft)
        if not way.live:
            for agent_id in way.members:
                draft.agents.setdefault(agent_id, Standing(None, upto))
        since = way.noted
        if not draft.is_empty:
            await self.write(draft, self.positions(upto) if way.live else NO_POSITIONS)
            way.noted = upto
        # From here on nothing fails: a span counts as a whole or not at all.
        way.position = upto
        if not way.live:
            for subscriber in way.members.values():
                subscriber.position = upto
        if way.noted > since:
            # Who begins to wait for a registration has not been told yet that it is in force.
            waiting = {
                agent_id
                for agent_id in way.members.keys() & draft.agents.keys()
                if (stands := draft.agents[agent_id].position) is not None and stands < upto
            }
            self.hand_over(waiting, draft, last_place(since), last_place(last.sequence.prev()))
            self.hand_over(way.members.keys() - waiting, draft, last_place(since), last_place(upto))
        if after is not None:
            await after()
        if last.event_type in (MODEL_CHANGED, BACKGROUND_CHANGED):
            await self._judge_anew(way, last)

    async def _become_members(self, way: Pass) -> None:
        """Those that stand where the pass is now take part."""
        now = [s for s in way.ahead if s.position is not None and s.position <= way.position]
        if now:
            await self._note(way)
            await self._set_needs(way, now)
            way.ahead = [s for s in way.ahead if s not in now]
            for subscriber in now:
                way.members[subscriber.agent.agent_id] = subscriber
                if way.live:
                    subscriber.position = None

    async def _judge(
        self, way: Pass, span: list[Delivery], events: list[Event], draft: Draft
    ) -> None:
        """What the events of a span mean to the members of a pass."""
        engine = self.engine
        shards = {shard_of(agent_id) for agent_id in way.members} if len(way.members) < 9 else None
        concerned = [e for e in events if e.event_type not in SERVICE_TYPES]
        names = dict.fromkeys(event.data_key for event in concerned if event.data_key)
        index = way.index
        moves = way.live and not is_absolute(index.rule.scoring_model)
        # For filters alone the events need no encodings.
        compared = concerned if moves or index.needs.texts.needs else []
        encodings, _ = await asyncio.gather(
            engine.encode_events(index, compared),
            self.read_holders(draft, names, self.shards if shards is None else shards),
        )
        with RIGHT_OF_WAY.taken():
            matched = await engine.work(
                index.match if moves else index.match_only, events, encodings
            )
        as_of = events[-1].sequence if way.live else self._live.position
        version = await self.version(index, chain.from_iterable(map(_all_of, matched)), as_of)
        slices = Slices()
        for delivery, event, by_agent in zip(span, events, matched, strict=True):
            if event.event_type in SERVICE_TYPES:
                by_agent.pop(self._changes(way, event), None)
                holders = []
            else:
                holders = self._holders_of(way, draft, event.data_key)
            if not by_agent and not holders:
                continue
            occasion = await self._occasion(event, [*by_agent, *holders], way)
            for agent_id in dict.fromkeys((*by_agent, *holders)):
                await slices.pause()
                subscriber, near = way.members.get(agent_id), by_agent.get(agent_id, ())
                if subscriber is None:
                    continue
                shard, number = shard_of(agent_id), subscriber.number
                held = draft.holders.get(shard, {}).get(event.data_key, {})
                before = held.get(number)
                change, matches, holding = judge(occasion, subscriber.agent, near, before)
                if holding is not None:
                    draft.holders[shard].setdefault(event.data_key, {})[number] = holding
                    draft.changed.add((shard, event.data_key))
                if change is not None:
                    decision = Decision(
                        change, event.sequence, event.revision, event.data_key, matches, version
                    )
                    await self.decided(draft, agent_id, event.sequence, 0, decision, delivery)

    def _changes(self, way: Pass, event: Event) -> str:
        """The member of a pass whose needs an event of the service replaces or ends, which is told
        so and not of the event; "" if there is none."""
        agent = None
        if event.event_type == AGENT_UNREGISTERED:
            agent_id = str(orjson.loads(event.payload)["agent_id"])
        elif event.event_type == AGENT_REGISTERED:
            try:
                agent, _ = agent_of_event(event)
            except AgentDamaged:
                return ""
            agent_id = agent.agent_id
        else:
            return ""
        before = way.members.get(agent_id)
        if before is None or event.sequence <= before.event:
            return ""
        return agent_id if agent is None or _changes_needs(before, event, agent) else ""

    def _holders_of(self, way: Pass, draft: Draft, data_key: str) -> list[str]:
        """The members of a pass that were sent a datum."""
        if not data_key:
            return []
        found = []
        for shard, data in draft.holders.items():
            for number in data.get(data_key, ()):
                agent_id = self._numbers.get((shard, number))
                if agent_id is not None and agent_id in way.members:
                    found.append(agent_id)
        return found

    async def _occasion(self, event: Event, agent_ids: Iterable[str], way: Pass) -> Occasion:
        """An event, with what `min_delta` of some agents says of it."""
        deltas = {
            subscriber.agent.min_delta
            for agent_id in agent_ids
            if (subscriber := way.members.get(agent_id)) is not None
            and subscriber.agent.min_delta is not None
        }
        return Occasion(event, await self.engine.held_back_by(self.project, event, deltas))

    async def decided(
        self,
        draft: Draft,
        agent_id: str,
        at: Sequence,
        entry: int,
        decision: Decision,
        delivery: Delivery,
    ) -> None:
        """Adds a decision to an inbox, and for the agent's streams here, if it has any."""
        place = inbox_id(at, entry)
        made = draft.made.get((place, decision))
        if made is None:
            made = Made(InboxEntry(place, encode(decision, at)))
            draft.made[place, decision] = made
        draft.entries[agent_id].append(made.entry)
        for match in decision.matches:
            draft.counts[agent_id, match.need] += 1
        if self._inboxes.is_listening(self.project, agent_id):
            if made.delivery is None:
                # As it will be read again.
                texts = self._known[agent_id].texts
                made.delivery = await self._reader.delivery(
                    self.project, texts, made.entry, delivery.entry
                )
            elif made.delivery.rendered is None:
                made.delivery.rendered = {}
            if made.delivery is not None:
                draft.deliveries[agent_id].append(made.delivery)

    async def version(self, index: Index, matches: Iterable[Match], as_of: Sequence) -> int:
        """The number of what an index judges by.

        A relative score is judged by the data as of a moment; a match by it tells the rest.
        """
        model, scorer, since, data = index.judges_by
        if not is_absolute(model):
            match = next((match for match in matches if not match.exact), None)
            if match is not None:
                scorer, since, data = match.scorer, as_of, match.background_passages
        version = Version(model, scorer, str(since), data, MARGIN)
        number = self._versions.get(version)
        if number is None:
            number = await self.store.add_version(self.project, version.pack())
            self._versions[version] = number
        return number

    async def read_holders(self, draft: Draft, names: Iterable[str], shards: Iterable[int]) -> None:
        """Reads into a draft who was sent some data."""
        names = list(names)

        async def read(shard: int) -> None:
            stored = await self.store.holders(self.project, shard, names)
            data = draft.holders.setdefault(shard, {})
            for name, packed in stored.items():
                if name not in data:
                    data[name] = unpack_holders(packed)

        await asyncio.gather(*map(read, shards))

    async def write(self, draft: Draft, positions: Mapping[int, Sequence] = NO_POSITIONS) -> None:
        """Writes a draft, and where shards stand with it.

        Raises:
            Fenced: Another process decides by now.
            Unanswered: It may have been written, and what was decided may not be decided again:
                that depends on what is noted with it.
        """
        decisions = {
            shard: ShardDecisions(self.shards[shard].epoch, positions.get(shard))
            for shard in self.shards
        }
        for shard, name in draft.changed:
            decisions[shard].holders[name] = pack_holders(draft.holders[shard][name])
        for agent_id, standing in draft.agents.items():
            decisions[shard_of(agent_id)].agents[agent_id] = standing
        for agent_id, entries in draft.entries.items():
            decisions[shard_of(agent_id)].entries[agent_id] = entries
        for (agent_id, need), count in draft.counts.items():
            decisions[shard_of(agent_id)].counts[f"{agent_id}: {need}"] = count
        touched = {
            shard: decided
            for shard, decided in decisions.items()
            if decided.position or decided.holders or decided.agents or decided.entries
        }
        reached("deciding")
        try:
            if touched and not await self.store.decide(self.project, self.owner, touched):
                raise Fenced
        except ContexError as error:
            if error.reason is Reason.STORE_UNAVAILABLE:
                raise Unanswered(error.message) from error
            raise
        reached("decided")
        self._trimmer.grown(draft.entries)
        for shard, position in positions.items():
            self.shards[shard] = self.shards[shard]._replace(position=position)

    def hand_over(
        self, agent_ids: Container[str], draft: Draft, since: Sequence, upto: Sequence
    ) -> None:
        """Hands what was decided to the agents that listen here; the places are of inboxes."""
        self._inboxes.decided(self.project, agent_ids, draft.deliveries, since, upto)

    def deciding(self) -> asyncio.Lock:
        """Held while something is decided."""
        return self._lock

    def draft(self) -> Draft:
        """Nothing decided yet."""
        return Draft()

    async def decisions(
        self, subscriber: Subscriber, entries: Iterable[InboxEntry]
    ) -> list[Decision]:
        """Entries of an agent's inbox, decoded."""
        return await self._reader.decisions(self.project, subscriber.texts, entries)

    async def all_holders(self, shard: int) -> AsyncIterator[tuple[str, Holders]]:
        """All data that agents of a shard were sent."""
        async for chunk in self.store.all_holders(self.project, shard):
            async for name, packed in sliced(chunk.items()):
                yield name, unpack_holders(packed)

    def replace(self, subscriber: Subscriber) -> None:
        """Another registration is in force for an agent that is behind."""
        agent_id = subscriber.agent.agent_id
        self._add(subscriber)
        if agent_id in self._behind:
            self._behind[agent_id] = subscriber

    # -- What changes who is matched, or how -----------------------------------------------------

    async def _after(self, way: Pass, event: Event, draft: Draft) -> _Afterwards:
        """What the last event of a span changes, noted in the draft; returns what to do then.

        Until it is written, nothing changes: it may have to be done again.
        """
        if event.event_type == AGENT_REGISTERED:
            return await self._registered(way, event, draft)
        if event.event_type == AGENT_UNREGISTERED:
            return self._unregistered(way, event, draft)
        if event.event_type == DATA_ERASED and way.members:
            await self._erased(way, event, draft)
        return None

    async def _registered(self, way: Pass, event: Event, draft: Draft) -> _Afterwards:
        try:
            agent, after = agent_of_event(event)
        except AgentDamaged as error:
            self._failures.failed(self.project, error)
            return None
        agent_id = agent.agent_id
        if shard_of(agent_id) not in self.shards:
            return None
        before = self._known.get(agent_id)
        if before is None:
            # Either pass begins with those that it has seen leave; with all others the live one,
            # which may have seen them go by the time that the one behind it comes to them.
            left = self._left.get(agent_id)
            begins = way.live if left is None else not way.live and event.sequence > left
            if begins:
                return await self._begins(way, event, agent, after, draft)
            return None
        if agent_id not in way.members or event.sequence <= before.event:
            return None
        if after is not None and after < before.begin and event.sequence > before.adopted:
            return await self._begins(way, event, agent, after, draft, before)
        changes = _changes_needs(before, event, agent)
        if not agent.registered_ms:
            agent = replace(agent, registered_ms=before.agent.registered_ms)
        if event.sequence <= before.adopted:
            agent = before.agent
        if not changes:
            same = replace(before, agent=agent, event=event.sequence)
            draft.agents[agent_id] = Standing(
                encode_subscriber(same), None if way.live else event.sequence
            )
            encodings = await self.engine.encode_needs(way.index, agent.needs)

            async def change() -> None:
                self._add(same)
                way.members[agent_id] = same
                await self.engine.work(way.index.needs.set_agent, same.watched, encodings)

            return change
        waiting = replace(
            before,
            awaited=Awaited(event.sequence, agent),
            position=event.sequence.prev(),
        )
        draft.agents[agent_id] = Standing(encode_subscriber(waiting), waiting.position)

        async def wait() -> None:
            way.members.pop(agent_id, None)
            await self.engine.work(way.index.needs.remove_agent, agent_id)
            self._begin_waiting(waiting)

        return wait

    async def _begins(
        self,
        way: Pass,
        event: Event,
        agent: Agent,
        after: Sequence | None,
        draft: Draft,
        before: Subscriber | None = None,
    ) -> _Afterwards:
        """A new agent: it begins with what matches now, or with the past that it asks for.

        So does a known one that asks for more of the past than its inbox has: `before`.
        """
        place = event.sequence
        if before is not None and not agent.registered_ms:
            agent = replace(agent, registered_ms=before.agent.registered_ms)
        if not agent.registered_ms:  # By a server of an earlier version.
            stored = await self._reader.agents.agent(self.project, agent.agent_id)
            known = intact(self.project, [] if stored is None else [stored])
            registered_ms = known[0][0].registered_ms if known else place.ms
            agent = replace(agent, registered_ms=registered_ms)
        number = await self.store.numbers(self.project, 1)
        begin = place if after is None else min(after, place)
        awaited = Awaited(place, agent) if after is None else None
        position = begin if awaited is None else place.prev()
        new = Subscriber(agent, number, place, begin, awaited, position=position)
        anew = before is not None
        draft.agents[agent.agent_id] = Standing(encode_subscriber(new), position, anew=anew)

        async def wait() -> None:
            if before is not None:
                self._remove(agent.agent_id)
                way.members.pop(agent.agent_id, None)
                await self.engine.work(way.index.needs.remove_agent, agent.agent_id)
            self._begin_waiting(new)

        return wait

    def _begin_waiting(self, subscriber: Subscriber) -> None:
        self._add(subscriber)
        self._left.pop(subscriber.agent.agent_id, None)
        self._behind[subscriber.agent.agent_id] = subscriber
        self._wake.set()

    def _unregistered(self, way: Pass, event: Event, draft: Draft) -> _Afterwards:
        agent_id = str(orjson.loads(event.payload)["agent_id"])
        gone = way.members.get(agent_id)
        if gone is None or event.sequence <= gone.event:
            return None  # An earlier agent of this id, of which its own past tells.
        draft.agents[agent_id] = Standing(b"", None if way.live else event.sequence)

        async def leave() -> None:
            way.members.pop(agent_id, None)
            if not way.live:
                self._left[agent_id] = event.sequence
            self._remove(agent_id)
            self._inboxes.gone(self.project, agent_id, gone.agent.registered_ms)
            await self.engine.work(way.index.needs.remove_agent, agent_id)

        return leave

    async def _erased(self, way: Pass, event: Event, draft: Draft) -> None:
        """Tells whoever was ever sent an erased revision; nobody can do without that."""
        fields = orjson.loads(event.payload)
        erased: dict[str, list[int]] = fields.get("data", {})
        if not erased and "data_key" in fields:
            erased = {fields["data_key"]: [1, 2**31]}
        self.engine.embeddings.forget(self.project)
        await self.read_holders(draft, erased, self.shards)
        counts: defaultdict[str, int] = defaultdict(int)
        for name, (first, last) in sorted(erased.items()):
            for shard, data in list(draft.holders.items()):
                for number, holding in sorted(data.get(name, {}).items()):
                    agent_id = self._numbers.get((shard, number))
                    if agent_id is None or agent_id not in way.members:
                        continue
                    if holding.first > last or holding.last < first:
                        continue
                    counts[agent_id] += 1
                    if holding.last <= last:
                        data[name][number] = holding._replace(held=False)
                        draft.changed.add((shard, name))
                    decision = Decision(
                        Change.ERASED, event.sequence, min(last, holding.last), name, ()
                    )
                    stub = Event(event.sequence, DATA_ERASED, name, revision=decision.revision)
                    told = Delivery(event.sequence, event_codec.entry(stub))
                    place = counts[agent_id]
                    await self.decided(draft, agent_id, event.sequence, place, decision, told)

    async def _judge_anew(self, way: Pass, event: Event) -> None:
        """Another model or background decides from here on."""

        async def again() -> None:
            if event.event_type == BACKGROUND_CHANGED:
                await self.engine.use_background(way.index, event.sequence)
                return
            model = orjson.loads(event.payload)["model"]
            self.engine.embeddings.model_changed(self.project, model)
            index = await self._new_index(event.sequence)
            way.index = index
            await self._set_needs(way, way.members.values())

        await self._retrying(again)

    # -- Agents that are behind ----------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Brings agents that are behind to where the live pass is, together."""
        steps = Steps(self, self._pool)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._behind or self._left:
                await self._retrying(partial(self._bring_up_some, steps))

    async def _bring_up_some(self, steps: Steps) -> None:
        awaiting = [s for s in self._behind.values() if s.awaited is not None]
        if awaiting:
            await steps.take(awaiting)
        some = [s for s in self._behind.values() if s.awaited is None and s.position is not None]
        positions = [*map(_position, some), *self._left.values()]
        if not positions:
            return
        start = max(min(positions), readable := await self._readable())
        missed = [subscriber for subscriber in some if _position(subscriber) < readable]
        if missed:
            await self._miss(missed, readable)
            self._left = {a: max(place, readable) for a, place in self._left.items()}
            return
        way = Pass(await self._new_index(start), start, live=False, ahead=some, noted=start)
        while not await self._retrying(partial(self._join, way)):
            span = Range(way.position, self._live.position)
            source = pages(self.engine.log, self.project, span, max_events=_BEHIND_SPAN)
            async with aclosing(source):
                async for page in source:
                    deliveries = [Delivery(entry.sequence, entry) for entry in page.entries]
                    await self._decide_chunk(way, Chunk(deliveries, span.until), _BEHIND_SPAN)
            async with self._lock:
                await self._go_on(way, span.until)

    async def _go_on(self, way: Pass, until: Sequence) -> None:
        """The pass is where it was to come, though the last events may have brought nothing."""
        way.position = max(way.position, until)
        await self._become_members(way)
        await self._note(way)

    async def _readable(self) -> Sequence:
        """Before the first event that can still be read."""
        bounds = await self.engine.log.bounds(self.project)
        if not bounds.trimmed:
            return BEGINNING
        return bounds.tail if bounds.first is None else bounds.first.prev()

    async def _join(self, way: Pass) -> bool:
        """Lets agents that have caught up take part in the live pass, if it is where they are."""
        async with self._lock:
            live = self._live
            if way.position < live.position:
                # What is left, if little, while the live pass waits: it may never stand still.
                span = Range(way.position, live.position)
                part = await self.engine.log.read_part(
                    self.project, span, _BEHIND_SPAN, _BEHIND_BYTES
                )
                if not part.ended:
                    return False
                left = [Delivery(entry.sequence, entry) for entry in part.entries]
                places = [_position(subscriber) for subscriber in way.ahead]
                for some in spans(left, places, _BEHIND_SPAN):
                    await self._decide_span_alone(way, some)
                await self._go_on(way, live.position)
            if way.ahead:
                return False
            if any(shard.position > live.position for shard in self.shards.values()):
                await asyncio.sleep(_IDLE_S)
                return False
            await self._note(live)
            members = [*way.members.values()]
            draft = Draft(agents={s.agent.agent_id: Standing(None) for s in members})
            await self._set_needs(live, members)
            await self.write(draft)
            self._left.clear()
            for subscriber in members:
                agent_id = subscriber.agent.agent_id
                subscriber.position = None
                self._behind.pop(agent_id, None)
                live.members[agent_id] = subscriber
            return True


def _all_of(by_agent: MatchesByAgent) -> Iterable[Match]:
    return chain.from_iterable(by_agent.values())


def _changes_needs(before: Subscriber, event: Event, agent: Agent) -> bool:
    """Whether an event registers other needs for an agent."""
    if event.sequence <= before.adopted:
        # What an agent of an earlier version missed is judged by the needs of now.
        try:
            return registered_agent(event.payload)[1] is not None
        except AgentDamaged:
            return False
    return agent.needs != before.agent.needs


def _position(subscriber: Subscriber) -> Sequence:
    assert subscriber.position is not None, "agents that are behind have a position of their own"
    return subscriber.position


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """One of the errors of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error

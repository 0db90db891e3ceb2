"""A pass through the log: what a span of events means to the agents that take part.

The live pass follows the log. Agents that are behind have a pass of their own, until they stand
where the live one does. Both do the same: match a span of events with the needs, judge each event
for whoever it matches or holds its datum, fill inboxes, then note in one step what agents hold now
and how far is decided.

Whatever dies in between is done again, with the same result: entries of inboxes have ids that
follow from the events, and of a revision that an agent holds already, or a later one, it is told
nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic

import orjson

from contex_server.events.feed import Delivery
from contex_server.inbox.changes import Afterwards, Changes
from contex_server.inbox.entry import Decision
from contex_server.inbox.holdings import Holding
from contex_server.inbox.judgement import Occasion, judge
from contex_server.inbox.ledger import NO_POSITIONS, Draft, Ledger, Made
from contex_server.inbox.roster import Roster
from contex_server.inbox.subscriber import Subscriber
from contex_server.kernel import event_codec
from contex_server.kernel.inbox_ids import last_place
from contex_server.kernel.model import (
    BACKGROUND_CHANGED,
    BEGINNING,
    MODEL_CHANGED,
    SERVICE_TYPES,
    Event,
    Match,
    Sequence,
)
from contex_server.kernel.right_of_way import RIGHT_OF_WAY
from contex_server.kernel.slices import Slices
from contex_server.log.inboxes import Standing, shard_of
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index
from contex_server.matching.agent_needs import MatchesByAgent
from contex_server.matching.rules import is_absolute

_INLINE_PAIRS = 64
"""Events times needs that are matched without a thread: that is woken for less than it costs."""
_STANDINGS_S = 0.5
"""How often it is noted where the members of a pass behind the live one stand."""


@dataclass(slots=True, eq=False)
class Pass:
    """A way through the log.

    Attributes:
        index: The needs of its members.
        position: Everything up to here is decided for its members.
        start: It has come by all that is in the log from here on.
        members: The agents that take part. One that stands further on is passed over until then.
        began: The places of those that stood further on when it began. Up to there others decided
            for them, and may not have handed that over.
        ahead: Those of the live pass that stand further on.
        noted: The position that the store knows. Streams of members get only what is decided up to
            there: that nothing was to be written doesn't say that this process still decides.
        standings_at: When it was noted last where the members stand, by a monotonic clock.
    """

    index: Index
    position: Sequence
    live: bool
    start: Sequence
    members: dict[str, Subscriber] = field(default_factory=dict)
    began: dict[str, Sequence] = field(default_factory=dict)
    ahead: list[Subscriber] = field(default_factory=list)
    noted: Sequence = BEGINNING
    standings_at: float = 0.0


class SpanDecider:
    """Decides spans of the log for the members of passes."""

    def __init__(
        self,
        ledger: Ledger,
        roster: Roster,
        changes: Changes,
        engine: MatchEngine,
        on_model_in_use: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._roster = roster
        self._changes = changes
        self._engine = engine
        self._on_model_in_use = on_model_in_use
        self.live_position = BEGINNING
        """Where the live pass stands."""

    async def new_pass(self, start: Sequence, members: Iterable[Subscriber], *, live: bool) -> Pass:
        """A pass that begins after an event."""
        way = Pass(await self._new_index(start), start, live, start, noted=start)
        way.members = {subscriber.agent.agent_id: subscriber for subscriber in members}
        way.began = {
            agent_id: last_place(subscriber.position)
            for agent_id, subscriber in way.members.items()
            if subscriber.position is not None and subscriber.position > start
        }
        await self.set_needs(way, way.members.values())
        if live:
            self.live_position = start
            way.ahead = [s for s in way.members.values() if s.position is not None]
        return way

    async def _new_index(self, as_of: Sequence) -> Index:
        """An index of needs, under what decides in the project now.

        Relative scores, which projects of earlier versions have until they are moved to the
        absolute one, need the data as well: those of now.
        """
        engine, project = self._engine, self._ledger.project
        index = await engine.new_index(project, as_of=as_of)
        self._on_model_in_use(project)
        if not is_absolute(index.rule.scoring_model):
            await engine.load(index, engine.state.state(project))
        return index

    async def set_needs(self, way: Pass, subscribers: Iterable[Subscriber]) -> None:
        """Lets a pass match the needs of agents."""
        for subscriber in subscribers:
            agent = subscriber.watched
            encodings = await self._engine.encode_needs(way.index, agent.needs)
            await self._engine.work(way.index.needs.set_agent, agent, encodings)

    async def note(self, way: Pass) -> None:
        """Notes where a pass stands, with the lock held."""
        ledger, position = self._ledger, way.position
        if way.noted == position:
            return
        draft = Draft()
        if not way.live:
            self._add_standings(way, draft, position)
        await ledger.write(draft, ledger.shards_moved_to(position) if way.live else NO_POSITIONS)
        since = last_place(way.noted)
        members = way.members
        ledger.hand_over(members, members, draft, since, last_place(position), way.began)
        way.noted = position

    async def decide(self, way: Pass, span: list[Delivery]) -> Afterwards:
        """Decides a span, with the lock held; its last event may change who is matched, or how,
        from there on. That is to be done afterwards, and again until it succeeds."""
        ledger = self._ledger
        events = [d.event for d in span if d.event is not None]
        last, draft = events[-1], Draft()
        upto = event_codec.proven(span[-1].entry)
        if way.members:
            await self._judge(way, span, events, draft)
        after = await self._changes.of_span(way, events, draft)
        since = way.noted
        if not way.live:
            self._add_standings(way, draft, upto)
        if not draft.is_empty:
            await ledger.write(draft, ledger.shards_moved_to(upto) if way.live else NO_POSITIONS)
            way.noted = upto
        # From here on nothing fails: a span counts as a whole or not at all.
        self._move(way, upto)
        if way.noted > since:
            # Who begins to wait for a registration has not been told yet that it is in force.
            waiting = {
                agent_id
                for agent_id in way.members.keys() & draft.agents.keys()
                if (stands := draft.agents[agent_id].position) is not None and stands < upto
            }
            rest = way.members.keys() - waiting
            place, before = last_place(since), last_place(last.sequence.prev())
            ledger.hand_over(waiting, way.members, draft, place, before, way.began)
            ledger.hand_over(rest, way.members, draft, place, last_place(upto), way.began)
        for change in after:
            await change()
        if last.event_type in (MODEL_CHANGED, BACKGROUND_CHANGED):

            async def judge_anew() -> None:
                await self._judge_anew(way, last)

            return judge_anew
        return None

    def _add_standings(self, way: Pass, draft: Draft, upto: Sequence) -> None:
        """Where the members stand; who stands further on stays there.

        Of those that get nothing it is enough to note that now and then: to decide again what lies
        between is to no effect.
        """
        due = monotonic() - way.standings_at > _STANDINGS_S or upto == way.position
        if due:
            way.standings_at = monotonic()
        for agent_id in [*way.members] if due else {*draft.touched, *draft.entries}:
            subscriber = way.members[agent_id]
            if subscriber.position is None or subscriber.position <= upto:
                draft.agents.setdefault(agent_id, Standing(None, upto))

    def _move(self, way: Pass, upto: Sequence) -> None:
        way.position = upto
        if not way.live:
            for subscriber in way.members.values():
                if subscriber.position is None or subscriber.position < upto:
                    subscriber.position = upto
            return
        self.live_position = upto
        if way.ahead:
            for subscriber in way.ahead:
                if subscriber.position is not None and subscriber.position <= upto:
                    subscriber.position = None
            way.ahead = [subscriber for subscriber in way.ahead if subscriber.position is not None]

    def go_on(self, way: Pass, until: Sequence) -> None:
        """A pass behind the live one has come to a place, though the last events may have brought
        nothing."""
        if until > way.position:
            self._move(way, until)

    async def _judge(
        self, way: Pass, span: list[Delivery], events: list[Event], draft: Draft
    ) -> None:
        """What the events of a span mean to the members of a pass."""
        engine, ledger, members = self._engine, self._ledger, way.members
        shards = {shard_of(agent_id) for agent_id in members} if len(members) < 9 else None
        concerned = [e for e in events if e.event_type not in SERVICE_TYPES]
        names = dict.fromkeys(event.data_key for event in concerned if event.data_key)
        index = way.index
        moves = way.live and not is_absolute(index.rule.scoring_model)
        # For filters alone the events need no encodings.
        compared = concerned if moves or index.needs.texts.needs else []
        encodings, _ = await asyncio.gather(
            engine.encode_events(index, compared),
            ledger.read_holders(draft, names, ledger.shards if shards is None else shards),
        )
        match = index.match if moves else index.match_only
        if index.needs.needs * len(events) <= _INLINE_PAIRS and not moves:
            matched = match(events, encodings)
        else:
            with RIGHT_OF_WAY.taken():
                matched = await engine.work(match, events, encodings)
        as_of = events[-1].sequence if way.live else self.live_position
        version = await ledger.version(index, chain.from_iterable(map(_all_of, matched)), as_of)
        slices = Slices()
        for delivery, event, by_agent in zip(span, events, matched, strict=True):
            if event.event_type in SERVICE_TYPES:
                by_agent.pop(self._changes.told_otherwise(way, event), None)
                holders = []
            else:
                holders = self._holders_of(way, draft, event.data_key)
            if not by_agent and not holders:
                continue
            occasion = await self._occasion(event, [*by_agent, *holders], way)
            judged: dict[tuple[object, Holding | None], tuple[Holding | None, Made | None]] = {}
            for agent_id in dict.fromkeys((*by_agent, *holders)):
                if slices.is_over():
                    await slices.pause()
                subscriber, near = members.get(agent_id), by_agent.get(agent_id, ())
                if subscriber is None or subscriber.is_past(event.sequence):
                    continue
                shard, number = shard_of(agent_id), subscriber.number
                held = draft.holders.get(shard, {}).get(event.data_key, {})
                before = held.get(number)
                if (alike := judged.get((subscriber.kind, before))) is None:
                    change, matches, holding = judge(occasion, subscriber.agent, near, before)
                    made = None
                    if change is not None:
                        decision = Decision(
                            change, event.sequence, event.revision, event.data_key, matches, version
                        )
                        made = Made.of(decision, event.sequence, 0, delivery.entry)
                    judged[subscriber.kind, before] = alike = holding, made
                holding, made = alike
                if holding is not None:
                    draft.holders[shard].setdefault(event.data_key, {})[number] = holding
                    draft.changed.add((shard, event.data_key))
                    draft.touched.add(agent_id)
                if made is not None:
                    await ledger.decided(draft, subscriber, made)

    def _holders_of(self, way: Pass, draft: Draft, data_key: str) -> list[str]:
        """The members of a pass that were sent a datum."""
        if not data_key:
            return []
        found = []
        for shard, data in draft.holders.items():
            for number in data.get(data_key, ()):
                agent_id = self._roster.agent_of(shard, number)
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
        held_back_by = await self._engine.held_back_by(self._ledger.project, event, deltas)
        return Occasion(event, held_back_by)

    async def _judge_anew(self, way: Pass, event: Event) -> None:
        """Another model or background decides from here on."""
        if event.event_type == BACKGROUND_CHANGED:
            await self._engine.use_background(way.index, event.sequence)
            return
        scoring_model = orjson.loads(event.payload)["model"]
        self._engine.embeddings.model_changed(self._ledger.project, scoring_model)
        way.index = await self._new_index(event.sequence)
        await self.set_needs(way, way.members.values())


def _all_of(by_agent: MatchesByAgent) -> Iterable[Match]:
    return chain.from_iterable(by_agent.values())

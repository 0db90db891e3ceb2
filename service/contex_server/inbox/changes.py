"""What events change about whom a pass decides for, and by which needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from contex_server.inbox.entry import Decision
from contex_server.inbox.ledger import Draft, Ledger, Made
from contex_server.inbox.roster import Roster
from contex_server.inbox.span import Split
from contex_server.inbox.subscriber import Awaited, Subscriber, encode_subscriber
from contex_server.kernel import event_codec
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    AGENT_UNREGISTERED,
    DATA_ERASED,
    SERVICE_TYPES,
    Agent,
    Change,
    Event,
    Sequence,
)
from contex_server.log.inboxes import Standing, shard_of
from contex_server.match.agent_codec import AgentDamaged, agent_of_event, intact, registered_agent
from contex_server.match.engine import MatchEngine

if TYPE_CHECKING:
    from contex_server.inbox.passes import Pass

Afterwards = Callable[[], Awaitable[None]] | None


@dataclass(frozen=True, slots=True)
class Changes:
    """Registrations, their ends, and erasures."""

    ledger: Ledger
    roster: Roster
    engine: MatchEngine
    failures: Failures

    def splitter(self) -> Callable[[Event], Split]:
        """Tells of events in their order where spans end, as others are decided for, or in another
        way, from there on.

        A new agent waits for its first step: who registers after it makes no difference to it, and
        many do so one after the other. What follows about itself is for another span.
        """
        new: set[str] = set()

        def split(event: Event) -> Split:
            if event.event_type not in SERVICE_TYPES:
                return Split.NONE
            if event.event_type not in (AGENT_REGISTERED, AGENT_UNREGISTERED):
                return Split.AFTER
            try:
                agent_id = str(orjson.loads(event.payload)["agent_id"])
            except (ValueError, KeyError, TypeError):
                return Split.AFTER
            if agent_id in new:
                new.clear()
                return Split.AROUND
            if event.event_type == AGENT_UNREGISTERED or agent_id in self.roster.known:
                return Split.AFTER
            new.add(agent_id)
            return Split.NONE

        return split

    def told_otherwise(self, way: Pass, event: Event) -> str:
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

    async def of_span(
        self, way: Pass, events: Iterable[Event], draft: Draft
    ) -> list[Callable[[], Awaitable[None]]]:
        """What the events of a span change, noted in the draft; returns what to do then.

        Until it is written, nothing changes: it may have to be done again.
        """
        after = [
            await self._of(way, event, draft)
            for event in events
            if event.event_type in SERVICE_TYPES
        ]
        return [change for change in after if change is not None]

    async def _of(self, way: Pass, event: Event, draft: Draft) -> Afterwards:
        if event.event_type == AGENT_REGISTERED:
            return await self._registered(way, event, draft)
        if event.event_type == AGENT_UNREGISTERED:
            return self._unregistered(way, event, draft)
        if event.event_type == DATA_ERASED:
            # What is decided after it, is decided without what was erased.
            self.engine.forget_erased(self.ledger.project)
            if way.members:
                await self._erased(way, event, draft)
        return None

    async def _registered(self, way: Pass, event: Event, draft: Draft) -> Afterwards:
        try:
            agent, after = agent_of_event(event)
        except AgentDamaged as error:
            self.failures.failed(self.ledger.project, error)
            return None
        agent_id = agent.agent_id
        if shard_of(agent_id) not in self.ledger.shards:
            return None
        before = self.roster.known.get(agent_id)
        if before is None:
            # Either pass begins with those that it has seen leave; with all others the live one,
            # which may have seen them go by the time that the one behind it comes to them. Of the
            # passes behind it, one that began after they left may have missed a registration.
            left = self.roster.left.get(agent_id)
            if left is None:
                begins = way.live
            else:
                begins = not way.live and way.start <= left < event.sequence
                if way.live:  # Whoever decides next is not to take it for one that has begun.
                    draft.agents[agent_id] = Standing(b"", left)
            return await self._begins(way, event, agent, after, draft) if begins else None
        if agent_id not in way.members or event.sequence <= before.event:
            return None
        if before.is_past(event.sequence):
            return None
        changes = _changes_needs(before, event, agent)
        owner = before.agent.identity
        if owner and agent.identity != owner and event.sequence > before.adopted:
            # What it was sent was another's: this one is told nothing of it.
            return await self._begins(way, event, agent, after, draft, before)
        if after is not None and after < before.begin and event.sequence > before.adopted:
            return await self._begins(way, event, agent, after, draft, before)
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
                same.position = before.position
                self.roster.replace(same)
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
            self.roster.let_wait(waiting)

        return wait

    async def _begins(
        self,
        way: Pass,
        event: Event,
        agent: Agent,
        after: Sequence | None,
        draft: Draft,
        before: Subscriber | None = None,
    ) -> Afterwards:
        """A new agent: it begins with what matches now, or with the past that it asks for.

        So does a known one that asks for more of the past than its inbox has, or that is another
        identity's from now on: `before`.
        """
        place, project, store = event.sequence, self.ledger.project, self.ledger.store
        if before is not None and not agent.registered_ms:
            agent = replace(agent, registered_ms=before.agent.registered_ms)
        if not agent.registered_ms:  # By a server of an earlier version.
            stored = await self.ledger.reader.agents.agent(project, agent.agent_id)
            known = intact(project, [] if stored is None else [stored])
            registered_ms = known[0][0].registered_ms if known else place.ms
            agent = replace(agent, registered_ms=registered_ms)
        number = await store.numbers(project, 1)
        begin = place if after is None else min(after, place)
        awaited = Awaited(place, agent) if after is None else None
        position = begin if awaited is None else place.prev()
        steps_in = awaited is not None
        new = Subscriber(agent, number, place, begin, awaited, position=position, steps_in=steps_in)
        anew = before is not None
        draft.agents[agent.agent_id] = Standing(encode_subscriber(new), position, anew=anew)

        async def wait() -> None:
            if before is not None:
                self.roster.remove(agent.agent_id)
                way.members.pop(agent.agent_id, None)
                await self.engine.work(way.index.needs.remove_agent, agent.agent_id)
            self.roster.let_wait(new)

        return wait

    def _unregistered(self, way: Pass, event: Event, draft: Draft) -> Afterwards:
        agent_id = str(orjson.loads(event.payload)["agent_id"])
        gone = way.members.get(agent_id)
        if gone is None or event.sequence <= gone.event or gone.is_past(event.sequence):
            return None  # An earlier agent of this id, of which its own past tells.
        draft.agents[agent_id] = Standing(b"", None if way.live else event.sequence)

        async def leave() -> None:
            way.members.pop(agent_id, None)
            if not way.live:
                self.roster.left[agent_id] = event.sequence
            self.roster.remove(agent_id)
            registered_ms = gone.agent.registered_ms
            self.ledger.inboxes.gone(self.ledger.project, agent_id, registered_ms)
            await self.engine.work(way.index.needs.remove_agent, agent_id)

        return leave

    async def _erased(self, way: Pass, event: Event, draft: Draft) -> None:
        """Tells whoever was ever sent an erased revision; nobody can do without that."""
        ledger, at = self.ledger, event.sequence
        fields = orjson.loads(event.payload)
        erased: dict[str, list[int]] = fields.get("data", {})
        if not erased and "data_key" in fields:
            erased = {fields["data_key"]: [1, 2**31]}
        await ledger.read_holders(draft, erased, ledger.shards)
        counts: defaultdict[str, int] = defaultdict(int)
        for name, (first, last) in sorted(erased.items()):
            for shard, data in list(draft.holders.items()):
                for number, holding in sorted(data.get(name, {}).items()):
                    agent_id = self.roster.agent_of(shard, number)
                    if agent_id is None or (subscriber := way.members.get(agent_id)) is None:
                        continue
                    if subscriber.is_past(at) or holding.first > last or holding.last < first:
                        continue
                    counts[agent_id] += 1
                    if holding.last <= last:
                        data[name][number] = holding._replace(held=False)
                        draft.changed.add((shard, name))
                        draft.touched.add(agent_id)
                    decision = Decision(Change.ERASED, at, min(last, holding.last), name, ())
                    stub = Event(at, DATA_ERASED, name, revision=decision.revision)
                    made = Made.of(decision, at, counts[agent_id], event_codec.entry(stub))
                    await ledger.decided(draft, subscriber, made)


def _changes_needs(before: Subscriber, event: Event, agent: Agent) -> bool:
    """Whether an event registers other needs for an agent."""
    if event.sequence <= before.adopted:
        # What an agent of an earlier version missed is judged by the needs of now.
        try:
            return registered_agent(event.payload)[1] is not None
        except AgentDamaged:
            return False
    return (agent.needs, agent.scope) != (before.agent.needs, before.agent.scope)

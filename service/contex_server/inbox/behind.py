"""Brings agents that are behind to where the live pass is.

An agent is behind when its registration is not in force yet, when its past is to be filled in, and
when it was registered with an earlier version. All of them have one pass together, until they stand
where the live one does and join it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import structlog

from contex_server.events.feed import Delivery
from contex_server.inbox.changes import Changes
from contex_server.inbox.ledger import Draft, Ledger
from contex_server.inbox.passes import Pass, SpanDecider
from contex_server.inbox.roster import Roster
from contex_server.inbox.span import spans
from contex_server.inbox.steps import Steps
from contex_server.inbox.subscriber import Awaited, Subscriber, encode_subscriber
from contex_server.kernel.model import BEGINNING, Range, Sequence
from contex_server.log.inboxes import Standing
from contex_server.log.pages import pages
from contex_server.match.engine import MatchEngine

log = structlog.get_logger(__name__)

_SPAN = 200
"""Events that are decided in one step, which the live pass waits for: some 20 ms."""
_SPAN_BYTES = 1024 * 1024
_IDLE_S = 0.2

Retrying = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Does something, again and again while store or model are away."""


class Behind:
    """The agents that are behind, and their pass.

    Args:
        live: The live pass.
    """

    def __init__(
        self,
        ledger: Ledger,
        roster: Roster,
        changes: Changes,
        deciding: SpanDecider,
        steps: Steps,
        engine: MatchEngine,
        live: Pass,
        retrying: Retrying,
    ) -> None:
        self._ledger = ledger
        self._roster = roster
        self._changes = changes
        self._deciding = deciding
        self._steps = steps
        self._log = engine.log
        self._engine = engine
        self._live = live
        self._retrying = retrying
        self._passes: list[Pass] = []
        """Those that are under way: each waits for the next."""

    async def run(self) -> None:
        """Goes on for as long as there may be agents that are behind."""
        roster = self._roster
        while True:
            await roster.wake.wait()
            roster.wake.clear()
            while roster.behind or roster.left:
                await self._retrying(self._bring_up_all)

    async def readable(self) -> Sequence:
        """Before the first event that can still be read."""
        bounds = await self._log.bounds(self._ledger.project)
        if not bounds.trimmed:
            return BEGINNING
        return bounds.tail if bounds.first is None else bounds.first.prev()

    async def miss(self, subscribers: Iterable[Subscriber], place: Sequence) -> None:
        """Events up to a place were removed before it was decided what agents get of them: these
        are told what has become of data meanwhile."""
        ledger, live = self._ledger, self._live
        async with ledger.lock:
            missed = [
                replace(s, awaited=Awaited(place, s.agent, missed=True), position=place)
                for s in subscribers
            ]
            draft = Draft()
            for subscriber in missed:
                standing = Standing(encode_subscriber(subscriber), place)
                draft.agents[subscriber.agent.agent_id] = standing
            await ledger.write(draft)
            log.warning("undecided_events_removed", project=ledger.project, agents=len(missed))
            for subscriber in missed:
                agent_id = subscriber.agent.agent_id
                if live.members.pop(agent_id, None) is not None:
                    await self._engine.work(live.index.needs.remove_agent, agent_id)
                self._roster.let_wait(subscriber)

    async def _bring_up_all(self) -> None:
        await self._bring_up([*self._roster.behind], within=None)

    async def _bring_up(self, agent_ids: list[str], within: Pass | None) -> None:
        """Brings agents to where the live pass is.

        Args:
            within: The pass that waits for this one meanwhile.
        """
        behind, roster = self._roster.behind, self._roster
        awaiting = [s for a in agent_ids if (s := behind.get(a)) and s.awaited is not None]
        if awaiting:
            await self._steps.take(awaiting)
        some = [s for a in agent_ids if (s := behind.get(a)) and s.awaited is None]
        positions = list(map(_position, some))
        if within is None:
            positions += roster.left.values()
        if not positions:
            return
        readable = await self.readable()
        roster.left = {a: max(place, readable) for a, place in roster.left.items()}
        if missed := [subscriber for subscriber in some if _position(subscriber) < readable]:
            await self.miss(missed, readable)
            return
        start = max(min(positions), readable)
        way = await self._deciding.new_pass(start, some, live=False)
        self._passes.append(way)
        try:
            await self._pass(way, within)
        finally:
            self._passes.remove(way)

    async def _pass(self, way: Pass, within: Pass | None) -> None:
        """Goes on with a pass until its members take part in the live one."""
        roster, joined = self._roster, False

        async def join() -> None:
            nonlocal joined
            joined = await self._join(way)
            if joined and within is None:
                roster.left.clear()

        await self._retrying(join)
        while not joined:
            if way.position < self._live.position:
                await self._read_on(way)
            else:
                await asyncio.sleep(_IDLE_S)
            await self._retrying(join)

    async def _let_others_pass(self, way: Pass) -> None:
        """Agents that have less to catch up with than a pass do so first, so that nobody waits for
        the past of others. Members of a pass that waits stay in it: no agent is in two."""
        taken = {agent_id for each in self._passes for agent_id in each.members}
        less = [
            agent_id
            for agent_id, subscriber in self._roster.behind.items()
            if agent_id not in taken
            and (subscriber.awaited is not None or not way.position > _position(subscriber))
        ]
        if less:
            await self._bring_up(less, within=way)

    async def _read_on(self, way: Pass) -> None:
        """Decides what lies between a pass and the live one, as far as that is now."""
        until = self._live.position
        span = Range(way.position, until)
        source = pages(self._log, self._ledger.project, span, max_events=_SPAN)
        async with aclosing(source):
            async for page in source:
                deliveries = [Delivery(entry.sequence, entry) for entry in page.entries]
                for part in spans(deliveries, self._changes.splitter, _SPAN):
                    await self._retrying(partial(self._decide, way, part))
                    await asyncio.sleep(0)
                await self._let_others_pass(way)
        self._deciding.go_on(way, until)

    async def _decide(self, way: Pass, span: list[Delivery]) -> None:
        async with self._ledger.lock:
            await self._decide_alone(way, span)

    async def _decide_alone(self, way: Pass, span: list[Delivery]) -> None:
        """The same with the lock held."""
        again = await self._deciding.decide(way, span)
        if again is not None:
            await self._retrying(again)

    async def _join(self, way: Pass) -> bool:
        """Lets agents that have caught up take part in the live pass, if it is where they are."""
        ledger, live = self._ledger, self._live
        async with ledger.lock:
            if way.position < live.position:
                # What is left, if little, while the live pass waits: it may never stand still.
                span = Range(way.position, live.position)
                part = await self._log.read_part(ledger.project, span, _SPAN, _SPAN_BYTES)
                if not part.ended:
                    return False
                left = [Delivery(entry.sequence, entry) for entry in part.entries]
                for some in spans(left, self._changes.splitter, _SPAN):
                    await self._decide_alone(way, some)
                self._deciding.go_on(way, live.position)
            members = [*way.members.values()]
            ahead = any(_position(subscriber) > live.position for subscriber in members)
            if ahead or any(shard.position > live.position for shard in ledger.shards.values()):
                return False
            await self._deciding.note(way)
            await self._deciding.note(live)
            await self._deciding.set_needs(live, members)
            await ledger.write(Draft(agents={s.agent.agent_id: Standing(None) for s in members}))
            for subscriber in members:
                agent_id = subscriber.agent.agent_id
                subscriber.position = None
                self._roster.behind.pop(agent_id, None)
                live.members[agent_id] = subscriber
            return True


def _position(subscriber: Subscriber) -> Sequence:
    assert subscriber.position is not None, "agents that are behind have a position of their own"
    return subscriber.position

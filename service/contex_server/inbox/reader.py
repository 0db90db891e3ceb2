"""Reads inboxes: what was decided, with the events, for whoever listens or asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from cachetools import LRUCache

from contex_server.events.feed import Delivery
from contex_server.events.stream import Selected, Source
from contex_server.inbox.entry import Decision, Version, decode
from contex_server.inbox.subscriber import Subscriber, decode_subscriber
from contex_server.kernel import event_codec
from contex_server.kernel.errors import agent_not_found
from contex_server.kernel.inbox_ids import event_of, inbox_id, last_place
from contex_server.kernel.model import BEGINNING, Change, Entry, Event, Range, Sequence
from contex_server.kernel.slices import sliced
from contex_server.log.agents import AgentStore, JournalStore
from contex_server.log.inboxes import InboxEntry, InboxStore
from contex_server.log.pages import check_same_log
from contex_server.log.port import EventLog
from contex_server.match.agent_codec import AgentDamaged, agent_of_event, intact
from contex_server.match.engine import MatchEngine

_FIRST_PAGE, _PAGE = 64, 512
_SHORTEST_S, _LONGEST_S = 0.002, 0.1
"""Between two looks at an inbox that is not decided up to the end of the log."""
_PROJECTS = 1_024


class Page(NamedTuple):
    """Deliveries of an agent's inbox.

    Attributes:
        position: Where a reader stands once it has them.
        upto: The place up to which the inbox is known: it has all that comes before.
        last: Whether the inbox held no more.
        is_over: Whether nothing is decided for the agent any more.
    """

    deliveries: list[Delivery]
    position: Sequence
    upto: Sequence
    last: bool
    is_over: bool


@dataclass(frozen=True, slots=True)
class InboxReader:
    """Reads inboxes."""

    log: EventLog
    store: InboxStore
    agents: AgentStore
    journals: JournalStore
    engine: MatchEngine
    _versions: LRUCache[str, dict[int, Version]] = field(
        default_factory=lambda: LRUCache(_PROJECTS)
    )

    async def subscriber(self, project: str, agent_id: str) -> Subscriber | None:
        """What decides for an agent; None if nothing does yet, or can be read."""
        record, position = await self.store.standing(project, agent_id)
        try:
            return decode_subscriber(record, position) if record else None
        except AgentDamaged:
            return None

    async def subscribers(self, project: str) -> dict[str, Subscriber]:
        """What decides for each agent."""
        found: dict[str, Subscriber] = {}
        stored = await self.store.standings(project)
        async for agent_id, (record, position) in sliced(stored.items()):
            if record:
                with suppress(AgentDamaged):
                    found[agent_id] = decode_subscriber(record, position)
        return found

    async def kept_place(self, project: str, agent_id: str, acknowledged: Sequence) -> Sequence:
        """Where an agent goes on that has acknowledged an event, or a part of what that brought."""
        kept = await self.store.place(project, agent_id)
        if kept is not None and event_of(kept) == acknowledged:
            return kept
        return inbox_id(acknowledged)

    async def is_gone(self, project: str, agent_id: str, registered_ms: int) -> bool:
        """Whether an agent is registered no more, and its decider has come to that."""
        record, _ = await self.store.standing(project, agent_id)
        if record:
            return False
        stored = await self.agents.agent(project, agent_id)
        if stored is None:
            return True
        return any(agent.registered_ms > registered_ms for agent, _ in intact(project, [stored]))

    async def _is_unregistered(self, project: str, agent_id: str) -> bool:
        return await self.agents.agent(project, agent_id) is None

    async def decisions(
        self, project: str, texts: dict[str, str], entries: Iterable[InboxEntry]
    ) -> list[Decision]:
        """Entries, decoded; `texts` are the words of needs by id."""
        versions = self._versions.get(project, {})
        found: list[Decision] = []
        async for place, body in sliced(entries):
            decision = decode(body, event_of(place), texts, versions)
            if decision.version and decision.version not in versions:
                versions = await self._load_versions(project)
                decision = decode(body, event_of(place), texts, versions)
            found.append(decision)
        return found

    async def _load_versions(self, project: str) -> dict[int, Version]:
        stored = await self.store.versions(project)
        versions = {number: Version.unpack(version) for number, version in stored.items()}
        self._versions[project] = versions
        return versions

    async def deliveries(
        self, project: str, texts: dict[str, str], entries: list[InboxEntry]
    ) -> list[Delivery]:
        """Entries as they are delivered, with their events."""
        decisions = await self.decisions(project, texts, entries)
        events = await self.log.get(project, [decision.event for decision in decisions])
        deliveries: list[Delivery] = []
        several = zip(entries, decisions, events, strict=True)
        async for (place, _), decision, event in sliced(several):
            delivery = await self.delivery(project, place, decision, event)
            if delivery is not None:
                deliveries.append(delivery)
        return deliveries

    async def delivery(
        self, project: str, place: Sequence, decision: Decision, entry: Entry | None
    ) -> Delivery | None:
        """A decision as it is delivered; without the payload if the event is there no more."""
        omitted = entry is None
        if entry is None or decision.change is Change.ERASED:
            stub = Event(
                decision.event, _type(decision), decision.data_key, revision=decision.revision
            )
            entry = event_codec.entry(stub)
        event = event_codec.decode(entry)
        if decision.change is Change.REGISTERED:
            try:
                agent, _ = agent_of_event(event)
            except AgentDamaged:
                return None
            return Delivery(place, entry, (), event, decision.change, agent)
        matches = decision.matches
        if matches and not omitted:
            as_of = matches[-1].background_as_of  # Those of filters, which have none, come first.
            matches = await self.engine.with_passages(project, event, matches, as_of)
        omitted = omitted and decision.change is not Change.ERASED
        return Delivery(place, entry, matches, event, decision.change, payload_omitted=omitted)

    async def page(
        self, project: str, agent_id: str, registered_ms: int, position: Sequence, count: int
    ) -> Page:
        """What comes after a position of an inbox, as far as one page has room.

        Raises:
            ContexError: AGENT_NOT_FOUND: it may be a later agent's of the same id.
        """
        # Asked first: what is read then has everything up to there.
        end = await self.store.inbox_end(project, agent_id)
        entries = await self.store.inbox(project, agent_id, Range(position), count)
        last = len(entries) < count
        # Asked afterwards: what was read is not a later agent's then.
        subscriber = await self.subscriber(project, agent_id)
        if subscriber is not None and subscriber.agent.registered_ms > registered_ms:
            raise agent_not_found(project, agent_id)
        upto, deliveries = position, list[Delivery]()
        if entries:
            texts = {} if subscriber is None else subscriber.texts
            deliveries = await self.deliveries(project, texts, entries)
            upto = position = entries[-1].id
            if deliveries and deliveries[-1].sequence == position:
                position = deliveries[-1].position
        if last:
            upto = max(upto, last_place(end.position))
            if (reached := inbox_id(end.position)) > position:
                position = await self.proven(project, reached)
        return Page(deliveries, position, upto, last, subscriber is None)

    async def proven(self, project: str, place: Sequence) -> Sequence:
        """A place with the proof of its event, if that is there."""
        event = event_of(place)
        (entry,) = await self.log.get(project, [event]) if event > BEGINNING else (None,)
        return place if entry is None else inbox_id(event_codec.proven(entry))

    async def _has_begun(self, project: str, agent_id: str, registered_ms: int) -> bool:
        """Whether it is decided for this agent: until then, the inbox is an earlier agent's of its
        id, or nobody's.

        Raises:
            ContexError: AGENT_NOT_FOUND: it is a later agent's by now, or there is no such agent.
        """
        subscriber = await self.subscriber(project, agent_id)
        if subscriber is None:
            if await self._is_unregistered(project, agent_id):
                raise agent_not_found(project, agent_id)
            return False
        if subscriber.agent.registered_ms > registered_ms:
            raise agent_not_found(project, agent_id)
        return subscriber.agent.registered_ms == registered_ms

    def source(self, project: str, agent_id: str, registered_ms: int) -> Source:
        """An agent's inbox as what a stream catches up with: with all that is in the log by then,
        also what is still to be decided."""

        async def pages(position: Sequence, resumed: bool) -> AsyncGenerator[Selected, None]:
            until = inbox_id((await self.log.bounds(project)).tail)
            count, wait_s = _FIRST_PAGE, _SHORTEST_S
            while not await self._has_begun(project, agent_id, registered_ms):
                yield Selected([], position, last=False)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_S)
            wait_s = _SHORTEST_S
            while True:
                page = await self.page(project, agent_id, registered_ms, position, count)
                last = page.last and page.position >= until
                yield Selected(page.deliveries, page.position, last)
                if last:
                    return
                if page.last:
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, _LONGEST_S)
                position, count = page.position, _PAGE

        async def check(position: Sequence) -> None:
            bounds = await self.log.bounds(project)
            await check_same_log(self.log, project, bounds, event_of(position), readable=False)

        return Source(pages, check, joins=False)


def _type(decision: Decision) -> str:
    match decision.change:
        case Change.DELETED:
            return "data_deleted"
        case Change.EXPIRED:
            return "data_expired"
        case Change.ERASED:
            return "data_erased"
        case _:
            return "data_published"

"""The room of consumer groups, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from contex_server.agents.registry import AgentRegistry
from contex_server.agents.room import AgentsRoom
from contex_server.agents.visibility import Gets, concealed
from contex_server.events.feed import Delivery
from contex_server.events.hub import Hub
from contex_server.groups.consumer import Claim, Consumer, ConsumerSpec
from contex_server.groups.group import Group
from contex_server.inbox.entry import read
from contex_server.inbox.reader import InboxReader
from contex_server.inbox.room import InboxRoom
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import agent_not_found
from contex_server.kernel.inbox_ids import event_of, inbox_id
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.groups import Blocker, GroupStore, Parked
from contex_server.log.inboxes import InboxEntry
from contex_server.log.port import READ_BYTES
from contex_server.tiers.storage import Storage

_PARKED = 1_000
"""Parked deliveries that are read at a time."""
_BEGUN_S = 0.5
"""Between two looks at an agent that is not decided for yet, if nothing is heard of it."""


@dataclass(slots=True, eq=False)
class _Open:
    """A group with consumers here, and how many use it."""

    group: Group
    registered_ms: int
    users: int = 0


@dataclass(slots=True, eq=False)
class GroupsRoom:
    """The consumers that agents have in this process."""

    store: GroupStore
    inboxes: InboxRoom
    registry: AgentRegistry
    hub: Hub
    settings: Settings
    _open: dict[tuple[str, str], _Open] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def heard(self, project: str, agent_ids: Iterable[str]) -> None:
        """The inboxes of some agents have got something; none are many."""
        if not self._open:
            return
        asked = [(project, agent_id) for agent_id in agent_ids]
        for name in asked or self._open:
            if name[0] == project and (opened := self._open.get(name)) is not None:
                opened.group.wake()

    async def close(self) -> None:
        """Waits for groups that are being left."""
        await asyncio.gather(*self._closing)

    @asynccontextmanager
    async def consumer(
        self,
        project: str,
        agent_id: str,
        registered_ms: int,
        spec: ConsumerSpec,
        stream_id: str,
        held: Iterable[str],
        *,
        noted: bool = True,
    ) -> AsyncIterator[tuple[Group, Consumer]]:
        """A consumer of an agent and its group here, while the block lasts.

        Args:
            noted: As of `Consumer`.

        Raises:
            ContexError: AGENT_NOT_FOUND, STORE_UNAVAILABLE, STORE_FULL.
        """
        async with self.hub.channel(project) as channel:
            name = project, agent_id
            opened = self._open.get(name)
            if opened is None or opened.registered_ms < registered_ms:
                group = self._group(project, agent_id, registered_ms)
                opened = self._open[name] = _Open(group, registered_ms)
            elif opened.registered_ms != registered_ms:
                raise agent_not_found(project, agent_id)
            opened.users += 1
            channel.depending.add(opened.group)
            try:
                tail = (await self.inboxes.reader.log.bounds(project)).tail
                async with opened.group.consumer(
                    spec, stream_id, held, tail, noted=noted
                ) as consumer:
                    yield opened.group, consumer
            finally:
                opened.users -= 1
                if not opened.users:
                    channel.depending.discard(opened.group)
                    if self._open.get(name) is opened:
                        del self._open[name]
                    # Also if this call was cancelled.
                    closing = asyncio.create_task(opened.group.close())
                    self._closing.add(closing)
                    closing.add_done_callback(self._closing.discard)

    def _group(self, project: str, agent_id: str, registered_ms: int) -> Group:
        reader = self.inboxes.reader

        async def start() -> Sequence:
            """Where the agent stands; waits until something is decided for it."""
            tail = inbox_id((await reader.log.bounds(project)).tail)
            while True:
                registered = await self.registry.get(project, agent_id)
                if registered.agent.registered_ms != registered_ms:
                    raise agent_not_found(project, agent_id)
                place = await reader.kept_place(project, agent_id, registered.acknowledged)
                if await reader.has_begun(project, agent_id, registered_ms, place, tail):
                    break
                await self.inboxes.hub.heard_of(project, agent_id, _BEGUN_S)
            subscriber = await reader.subscriber(project, agent_id)
            return place if subscriber is None else max(place, subscriber.first_place)

        async def decided() -> Sequence:
            return (await reader.store.inbox_end(project, agent_id)).position

        return Group(
            project,
            agent_id,
            self.store,
            start,
            decided,
            lambda: self.registry.waiters.heard(project, {agent_id}),
            outstanding=self.settings.limits.outstanding,
            parked=self.settings.limits.parked,
            noted=self.settings.delivery_records,
        )

    async def read(
        self, project: str, agent_id: str, claims: list[Claim], texts: dict[str, str]
    ) -> AsyncGenerator[list[tuple[Claim, Delivery]], None]:
        """What was claimed, with its events, as much at a time as has room in memory.

        Args:
            texts: The words of needs by id, as far as they are known; others are added.
        """
        reader, rest = self.inboxes.reader, claims
        while rest:
            share = await reader.log.reading.take(READ_BYTES)
            try:
                entries = [claim.claimed.entry for claim in rest]
                await _add_texts(reader, project, agent_id, entries, texts)
                deliveries, count = await reader.deliveries(project, texts, entries)
                share.resize(sum(delivery.size for delivery in deliveries))
                by_place = {delivery.sequence: delivery for delivery in deliveries}
                found = [(claim, by_place[claim.place]) for claim in rest[:count]]
                yield found
                rest = rest[count:]
            finally:
                share.give_back()

    async def parked(
        self, project: str, agent_id: str, after: Sequence, count: int, gets: Gets | None
    ) -> list[tuple[Parked, Delivery]]:
        """Deliveries of an agent that were put aside, of those that a caller gets, with their
        events, as many as have room."""
        parked = await self.some_parked(project, agent_id, after, count, gets)
        texts: dict[str, str] = {}
        entries = [each.entry for each in parked]
        reader = self.inboxes.reader
        await _add_texts(reader, project, agent_id, entries, texts)
        deliveries, used = await reader.deliveries(project, texts, entries)
        if gets is not None:
            deliveries = list(map(concealed, deliveries))
        by_place = {delivery.sequence: delivery for delivery in deliveries}
        return [(each, by_place[each.entry.id]) for each in parked[:used]]

    async def some_parked(
        self, project: str, agent_id: str, after: Sequence, count: int, gets: Gets | None
    ) -> list[Parked]:
        """The same without events, `count` of them if there are so many."""
        if gets is None:
            return await self.store.parked(project, agent_id, after, count)
        found: list[Parked] = []
        while len(found) < count:
            page = await self.store.parked(project, agent_id, after, _PARKED)
            found += [each for each in page if is_for(gets, each.entry)]
            if len(page) < _PARKED:
                break
            after = page[-1].id
        return found[:count]

    async def all_parked(self, project: str, agent_id: str, gets: Gets | None) -> list[Sequence]:
        """The ids of everything that is parked and that a caller gets."""
        found: list[Sequence] = []
        while page := await self.some_parked(
            project, agent_id, found[-1] if found else BEGINNING, _PARKED, gets
        ):
            found += [each.id for each in page]
        return found

    async def parked_among(
        self, project: str, agent_id: str, ids: list[Sequence] | None, gets: Gets | None
    ) -> list[Sequence]:
        """The ids of some that are parked, or of all, that a caller gets."""
        if ids is not None and gets is None:
            return ids
        parked = await self.all_parked(project, agent_id, gets)
        return parked if ids is None else sorted({*ids} & {*parked})

    async def blockers(
        self, project: str, agent_id: str, count: int, gets: Gets | None
    ) -> list[Blocker]:
        """The deliveries that most others wait for, first the worst, that a caller gets."""
        if gets is None:
            return await self.store.blockers(project, agent_id, count)
        found = await self.store.blockers(project, agent_id, self.settings.limits.outstanding)
        return [each for each in found if gets(None, each.data_key)][:count]


def data_key_of(entry: InboxEntry) -> str:
    """The data key that an entry of an inbox says something of."""
    return read(entry.body, event_of(entry.id)).data_key


def is_for(gets: Gets, entry: InboxEntry) -> bool:
    """Whether a caller may be sent an entry of an inbox."""
    head = read(entry.body, event_of(entry.id))
    return gets(head.change, head.data_key)


async def _add_texts(
    reader: InboxReader,
    project: str,
    agent_id: str,
    entries: list[InboxEntry],
    texts: dict[str, str],
) -> None:
    """Adds the words of the needs that entries name, where one is not known."""
    for place, body in entries:
        head = read(body, event_of(place))
        if any(need[0].hex() not in texts for need in head.needs_in_words()) or any(
            raw.hex() not in texts for raw, _ in head.filters()
        ):
            subscriber = await reader.subscriber(project, agent_id)
            if subscriber is not None:
                texts |= subscriber.texts
            return


def open_groups(
    settings: Settings,
    storage: Storage,
    hub: Hub,
    inboxes: InboxRoom,
    agents: AgentsRoom,
    stack: AsyncExitStack,
) -> GroupsRoom:
    """Builds the room; the stack closes it."""
    room = GroupsRoom(storage.store.groups, inboxes, agents.registry, hub, settings)
    inboxes.hub.listen_filled(room.heard)
    stack.push_async_callback(room.close)
    return room

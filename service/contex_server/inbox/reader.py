"""Reads inboxes: what was decided, with the events, for whoever listens or asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import compress
from operator import attrgetter
from typing import NamedTuple

from cachetools import LRUCache

from contex_server.events.feed import Delivery, Resync
from contex_server.events.stream import Selected, Source
from contex_server.inbox import wire
from contex_server.inbox.entry import Decision, Head, Version, decode, is_of_datum, read
from contex_server.inbox.subscriber import Subscriber, decode_subscriber
from contex_server.kernel import event_codec
from contex_server.kernel.byte_budget import NO_SHARE, Share, give_up
from contex_server.kernel.errors import agent_not_found
from contex_server.kernel.inbox_ids import (
    decided_upto,
    event_of,
    inbox_id,
    kept_place,
    last_place,
)
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    BEGINNING,
    DATA_ERASED,
    Change,
    Entry,
    Event,
    Range,
    Sequence,
)
from contex_server.kernel.slices import Slices, sliced
from contex_server.log.agents import AgentStore, JournalStore
from contex_server.log.inboxes import InboxEntry, InboxStore, Standing, Trimmed
from contex_server.log.pages import check_same_log
from contex_server.log.port import READ_BYTES, EventLog
from contex_server.match.agent_codec import AgentDamaged, agent_of_event, intact
from contex_server.match.engine import MatchEngine

_FIRST_PAGE, _PAGE = 64, 1_000
_BEHIND_S = 0.1
"""Between two looks at an inbox that is not decided up to where the feed begins."""
_BEGUN_S = 0.5
"""Between two looks at an agent that is not decided for yet, if nothing is heard of it."""
_PROJECTS = 1_024
_MANY = 32
_CONFLATED = 500_000
"""Entries that are searched for the latest of each data key."""
_QUOTES = 4_096
_NO_QUOTES: dict[int, bytes] = {}
_WITHOUT_CONTENT = (Change.ERASED, Change.WITHHELD)
"""Their event is another one than the datum's."""
_PLAIN = frozenset(Change) - {*_WITHOUT_CONTENT, Change.REGISTERED}


class Page(NamedTuple):
    """Deliveries of an agent's inbox.

    Attributes:
        position: Where a reader stands once it has them.
        upto: The place up to which the inbox is known: it has all that comes before.
        last: Whether the inbox held no more.
        is_over: Whether nothing is decided for the agent any more.
        number: The inbox that it is of, as `Subscriber.number` has it; 0 if nothing decides for the
            agent yet, or any more.
        trimmed: What was let go of behind the position: the deliveries are those of the base.
    """

    deliveries: list[Delivery]
    position: Sequence
    upto: Sequence
    last: bool
    is_over: bool
    number: int = 0
    trimmed: Trimmed | None = None


class Fed(NamedTuple):
    """What the feed of an agent has.

    Attributes:
        number: The inbox of which it gets what is added from now on, as `Subscriber.number` has it;
            0 if that is not known.
        upto: The place up to which it has all of that; also of an earlier inbox of the agent.
    """

    number: int = 0
    upto: Sequence = BEGINNING


class _Ahead(NamedTuple):
    """A page that is read ahead.

    Attributes:
        known: What the feed had before.
        next_count: How many entries the next one probably has room for.
        share: What it takes of memory.
    """

    page: Page
    known: Fed
    next_count: int
    share: Share


@dataclass(slots=True)
class Latest:
    """Of some entries of an inbox, the latest of each data key.

    Erasures are told one by one, and so are changes of needs and events of no datum.

    Attributes:
        count: How many there are.
        superseded: Of how many there is a later one.
    """

    count: int = 0
    superseded: int = 0
    _places: dict[str, Sequence] = field(default_factory=dict)

    def add(self, place: Sequence, head: Head) -> None:
        """Adds the next entry."""
        self.count += 1
        if is_of_datum(head):
            self.superseded += head.data_key in self._places
            self._places[head.data_key] = place

    def has(self, place: Sequence, head: Head) -> bool:
        """Whether an entry is not superseded."""
        return not is_of_datum(head) or place >= self._places.get(head.data_key, place)


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
    _quoted: LRUCache[tuple[tuple[bytes, int], int], bytes] = field(
        default_factory=lambda: LRUCache(_QUOTES)
    )

    async def subscriber(self, project: str, agent_id: str) -> Subscriber | None:
        """What decides for an agent; None if nothing does yet, or can be read."""
        return _subscriber(await self.store.standing(project, agent_id))

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
        return kept_place(acknowledged, await self.store.place(project, agent_id))

    async def is_gone(self, project: str, agent_id: str, registered_ms: int) -> bool:
        """Whether an agent is registered no more, and its decider has come to that."""
        if (await self.store.standing(project, agent_id)).record:
            return False
        stored = await self.agents.agent(project, agent_id)
        if stored is None:
            return True
        return any(agent.registered_ms > registered_ms for agent, _ in intact(project, [stored]))

    async def _is_of(
        self, project: str, agent_id: str, registered_ms: int, subscriber: Subscriber | None
    ) -> bool:
        """Whether an inbox is this agent's, perhaps one that is gone, and not still an earlier
        one's of its id."""
        if subscriber is not None:
            return subscriber.agent.registered_ms == registered_ms
        return await self.is_gone(project, agent_id, registered_ms)

    async def _is_unregistered(self, project: str, agent_id: str) -> bool:
        return await self.agents.agent(project, agent_id) is None

    async def _is_registered(self, project: str, agent_id: str, registered_ms: int) -> bool:
        stored = await self.agents.agent(project, agent_id)
        known = intact(project, [] if stored is None else [stored])
        return any(agent.registered_ms == registered_ms for agent, _ in known)

    async def decisions(
        self, project: str, texts: dict[str, str], entries: Iterable[InboxEntry]
    ) -> list[Decision]:
        """Entries, decoded; `texts` are the words of needs by id."""
        return [
            await self.decision(project, texts, read(body, event_of(place)))
            async for place, body in sliced(entries)
        ]

    async def decision(self, project: str, texts: dict[str, str], head: Head) -> Decision:
        """One that was read."""
        return decode(head, texts, await self._versions_with(project, head.version))

    async def _versions_with(self, project: str, number: int) -> dict[int, Version]:
        """What decisions were made by, also the one of this number if it is not 0."""
        versions = self._versions.get(project, {})
        if number and number not in versions:
            stored = await self.store.versions(project)
            versions = {known: Version.unpack(version) for known, version in stored.items()}
            self._versions[project] = versions
        return versions

    async def deliveries(
        self,
        project: str,
        texts: dict[str, str],
        entries: list[InboxEntry],
        latest: Latest | None = None,
    ) -> tuple[list[Delivery], int]:
        """Entries as they are delivered, with their events; of some only the `latest`.

        Returns:
            The deliveries, and of how many entries: as many as have room in memory, at least one.
        """
        wanted = entries
        heads = [read(body, event_of(place)) for place, body in entries]
        if latest is not None:
            places = [place for place, _ in entries]
            kept = list(map(latest.has, places, heads))
            wanted, heads = list(compress(entries, kept)), list(compress(heads, kept))
        await asyncio.sleep(0)
        events = await self._events(project, [head.event for head in heads])
        count = len(entries)
        if len(events) < len(heads):
            count = entries.index(wanted[len(events)])
            heads = heads[: len(events)]
        versions = await self._versions_with(project, max((h.version for h in heads), default=0))
        teller = wire.Teller(texts, versions)
        deliveries: list[Delivery] = []
        slices = Slices()
        for (place, _), head, entry in zip(wanted, heads, events, strict=False):
            quotes = None
            if entry is not None and head.change in _PLAIN:
                # Most: without a coroutine for each.
                quotes = self._known_quotes(head, entry) if head.worded else _NO_QUOTES
            if entry is not None and quotes is not None:
                told = teller.told(head, quotes)
                deliveries.append(Delivery(place, entry, change=head.change, told=told))
            else:
                delivery = await self._delivery(project, teller, place, head, entry)
                if delivery is not None:
                    deliveries.append(delivery)
            if slices.is_over():
                await slices.pause()
        return deliveries, count

    async def delivery(
        self, project: str, texts: dict[str, str], stored: InboxEntry, entry: Entry
    ) -> Delivery | None:
        """An entry as it is delivered, with its event."""
        head = read(stored.body, event_of(stored.id))
        teller = wire.Teller(texts, await self._versions_with(project, head.version))
        return await self._delivery(project, teller, stored.id, head, entry)

    async def _delivery(
        self, project: str, teller: wire.Teller, place: Sequence, head: Head, entry: Entry | None
    ) -> Delivery | None:
        """The same; without the payload if the event is there no more."""
        change = head.change
        omitted = entry is None and change not in _WITHOUT_CONTENT
        if entry is None or change in _WITHOUT_CONTENT:
            entry = _stub(head)
        elif change is Change.REGISTERED:
            try:
                agent, _ = agent_of_event(event_codec.decode(entry))
            except AgentDamaged:
                return None
            return Delivery(place, entry, change=change, instead=agent)
        quotes = _NO_QUOTES
        if head.worded and not omitted:
            quotes = self._known_quotes(head, entry) or await self._quotes(project, head, entry)
        told = teller.told(head, quotes, omitted=omitted)
        return Delivery(place, entry, change=change, told=told)

    def _known_quotes(self, head: Head, entry: Entry) -> dict[int, bytes] | None:
        """The passages that decided, by their numbers, if they were quoted before."""
        content, quotes = event_codec.content_key(entry), {}
        for passage in head.passages:
            if (quote := self._quoted.get((content, passage))) is None:
                return None
            quotes[passage] = quote
        return quotes

    async def _quotes(self, project: str, head: Head, entry: Entry) -> dict[int, bytes]:
        """The passages that decided, by their numbers."""
        event = event_codec.decode(entry)
        description = await self.engine.description(project, event)
        quotes = {passage: wire.quote(description, passage) for passage in head.passages}
        if not event.deletes:
            content = event_codec.content_key(entry)
            self._quoted.update({(content, passage): quotes[passage] for passage in quotes})
        return quotes

    async def _events(self, project: str, sequences: list[Sequence]) -> list[Entry | None]:
        """Some events, as many of them as have room; those of an agent that gets many are read
        along with what is between."""
        known: dict[bytes, Entry | None] = {}
        if len(sequences) >= _MANY:
            span = Range(min(sequences).prev(), max(sequences))
            part = await self.log.read_part(project, span, 2 * len(sequences), READ_BYTES)
            known |= {entry.id: entry for entry in part.entries}
        names = [b"%d-%d" % sequence for sequence in sequences]
        found: list[Entry | None] = []
        size_bytes, ahead = 0, _MANY
        for at, name in enumerate(names):
            if name not in known:
                # As many at a time as probably have room.
                some = [i for i in range(at, len(names)) if names[i] not in known][:ahead]
                entries = await self.log.get(project, [sequences[i] for i in some])
                known |= zip([names[i] for i in some], entries, strict=True)
                size = sum(len(entry.body) for entry in entries if entry is not None)
                ahead = max(1, min(_PAGE, READ_BYTES * len(some) // (size + 1)))
            entry = known[name]
            size_bytes += 0 if entry is None else len(entry.body)
            if size_bytes > READ_BYTES and found:
                break
            found.append(entry)
        return found

    async def page(
        self,
        project: str,
        agent_id: str,
        registered_ms: int,
        position: Sequence,
        count: int,
        latest: Latest | None = None,
    ) -> Page:
        """What comes after a position of an inbox, as far as one page has room.

        Raises:
            ContexError: AGENT_NOT_FOUND: it may be a later agent's of the same id.
        """
        # What is read has everything up to `end`, and is not a later agent's, nor was it trimmed
        # before, if `standing` says so.
        part = await self.store.inbox_part(project, agent_id, position, count)
        end, based, entries, standing = part
        whole = len(entries) < count
        last = whole and not based
        subscriber = _subscriber(standing)
        if subscriber is not None and subscriber.agent.registered_ms > registered_ms:
            raise agent_not_found(project, agent_id)
        if not await self._is_of(project, agent_id, registered_ms, subscriber):
            return Page([], position, position, last=True, is_over=False)
        first = position if subscriber is None else subscriber.first_place
        # What the base brings is that of an inbox before if this one is not trimmed so far.
        is_former = based and standing.trimmed.upto < end.trimmed.upto
        if is_former or position < first or (not based and position < standing.trimmed.upto):
            position = max(position, first)
            return await self.page(project, agent_id, registered_ms, position, count, latest)
        upto, deliveries = position, list[Delivery]()
        if entries:
            texts = {} if subscriber is None else subscriber.texts
            deliveries, used = await self.deliveries(project, texts, entries, latest)
            if used < len(entries):
                last = whole = False
            upto = position = entries[used - 1].id
            if deliveries and deliveries[-1].sequence == position:
                position = deliveries[-1].position
        if based and whole and position < end.trimmed.upto:
            upto = position = end.trimmed.upto
        if last:
            upto = max(upto, last_place(end.position))
            if (reached := inbox_id(end.position)) > position:
                position = await self.proven(project, reached)
        trimmed = end.trimmed if based else None
        is_over, number = (True, 0) if subscriber is None else (False, subscriber.number)
        return Page(deliveries, position, upto, last, is_over, number, trimmed)

    async def latest(self, project: str, agent_id: str, position: Sequence) -> Latest:
        """Of what an inbox has after a position, the latest of each data key."""
        found, span = Latest(), Range(position)
        async with aclosing(self.entries(project, agent_id, span)) as source:
            async for place, head in source:
                found.add(place, head)
                if found.count == _CONFLATED:
                    break
        return found

    async def entries(
        self, project: str, agent_id: str, span: Range
    ) -> AsyncGenerator[tuple[Sequence, Head], None]:
        """What was decided for an agent in a range of its inbox, forwards; of what was trimmed, the
        base."""
        slices = Slices()
        position = span.after
        while position < span.until:
            rest = Range(position, span.until)
            page = await self.store.inbox(project, agent_id, rest, _PAGE)
            # Asked afterwards: what was read was not trimmed before.
            trimmed = (await self.store.inbox_end(project, agent_id)).trimmed.upto
            if position < trimmed:
                page = await self.store.base(project, agent_id, position, _PAGE)
            for place, body in page:
                if place > span.until:
                    return
                yield place, read(body, event_of(place))
                if slices.is_over():
                    await slices.pause()
            if len(page) == _PAGE:
                position = page[-1].id
            elif position < trimmed:
                # A base that was trimmed further meanwhile has what comes after that as well.
                position = max(trimmed, page[-1].id) if page else trimmed
            else:
                return

    async def proven(self, project: str, place: Sequence) -> Sequence:
        """A place with the proof of its event, if that is there."""
        event = event_of(place)
        (entry,) = await self.log.get(project, [event]) if event > BEGINNING else (None,)
        return place if entry is None else inbox_id(event_codec.proven(entry))

    async def has_begun(
        self,
        project: str,
        agent_id: str,
        registered_ms: int,
        position: Sequence,
        until: Sequence,
    ) -> bool:
        """Whether it is decided for this agent: until then, the inbox is an earlier agent's of its
        id, or nobody's, or lacks the part of the past that the agent asked for since.

        Where a reader begins before the inbox, deciders first have to come to a place: it may have
        been asked for that past. Likewise where an earlier past was asked for than the inbox has:
        then what it has is to be replaced.

        Raises:
            ContexError: AGENT_NOT_FOUND: it is a later agent's by now, or there is no such agent.
        """
        standing = await self.store.standing(project, agent_id)
        subscriber, asked = _subscriber(standing), standing.asked
        if subscriber is None:
            if await self._is_unregistered(project, agent_id):
                raise agent_not_found(project, agent_id)
            return False
        if subscriber.agent.registered_ms > registered_ms:
            raise agent_not_found(project, agent_id)
        if subscriber.agent.registered_ms != registered_ms:
            return False
        begin = subscriber.begin
        # What was asked for is forgotten with the agent, though it may still be decided. If that is
        # registered now, it was before.
        if (
            event_of(position) >= begin
            and (asked is None or asked >= begin)
            and await self._is_registered(project, agent_id, registered_ms)
        ):
            return True
        return inbox_id((await self.store.inbox_end(project, agent_id)).position) >= until

    def source(
        self,
        project: str,
        agent_id: str,
        registered_ms: int,
        heard: Callable[[float], Awaitable[None]],
        fed: Callable[[], Fed],
        look: Callable[[], None],
        *,
        conflate: bool = False,
    ) -> Source:
        """An agent's inbox as what a stream catches up with: with all that is in the log by then;
        what is still to be decided of it comes by the feed.

        Args:
            heard: Waits until something is heard of the agent, or for so many seconds.
            fed: What the feed has. An inbox that began anew since is not decided up to there yet,
                and the feed has nothing of it that comes before, but may still get something of the
                former one.
            look: Lets the feed look which inbox it is.
            conflate: Of what is in it, only the latest of each data key.
        """

        async def read(position: Sequence, count: int, latest: Latest | None) -> _Ahead:
            known = fed()
            share = await self.log.reading.take(READ_BYTES)
            try:
                page = await self.page(project, agent_id, registered_ms, position, count, latest)
                size_bytes = sum([delivery.size for delivery in page.deliveries])
                share.resize(size_bytes)
            except BaseException:
                share.give_back()
                raise
            room = READ_BYTES * len(page.deliveries) // (size_bytes + 1) or _PAGE
            return _Ahead(page, known, min(room, _PAGE), share)

        async def pages(position: Sequence, resumed: bool) -> AsyncGenerator[Selected, None]:
            until = inbox_id((await self.log.bounds(project)).tail)
            while not await self.has_begun(project, agent_id, registered_ms, position, until):
                yield Selected([], position, last=False)
                await heard(_BEGUN_S)
            latest, told = None, Trimmed()
            if conflate:
                latest = await self.latest(project, agent_id, position)
                if latest.superseded:
                    yield Selected([_resync(position, latest.superseded, 0)], position, last=False)
            share = NO_SHARE
            ahead = asyncio.create_task(read(position, _FIRST_PAGE, latest))
            try:
                while True:
                    page, known, count, share = await ahead
                    trimmed = page.trimmed
                    if trimmed is not None and trimmed.upto > told.upto:
                        superseded = trimmed.summed_up - told.summed_up
                        dropped = trimmed.dropped - told.dropped
                        resync = _resync(position, superseded, dropped)
                        yield Selected([resync], position, last=False)
                        told = trimmed
                    # Of an agent that is gone, the feed only brings the end.
                    is_fed = 0 < page.number == known.number
                    position, last = page.position, page.last and is_fed and page.upto >= known.upto
                    if not page.last:
                        # While this one is sent.
                        ahead = asyncio.create_task(read(position, count, latest))
                    is_there = inbox_id(decided_upto(page.upto)) >= until
                    awaited = BEGINNING if is_there else until
                    yield Selected(page.deliveries, position, last, awaited)
                    share.give_back()
                    if last:
                        return
                    if not is_fed:
                        look()
                    if page.last:
                        await heard(_BEHIND_S)
                        ahead = asyncio.create_task(read(position, count, latest))
            finally:
                share.give_back()
                await give_up(ahead, attrgetter("share"))

        async def check(position: Sequence) -> None:
            bounds = await self.log.bounds(project)
            await check_same_log(self.log, project, bounds, event_of(position), readable=False)

        return Source(pages, check, joins=False)


def _subscriber(standing: Standing) -> Subscriber | None:
    try:
        record = standing.record
        return decode_subscriber(record, standing.position) if record else None
    except AgentDamaged:
        return None


def _resync(position: Sequence, superseded: int, dropped: int) -> Delivery:
    """Tells, at a position, that deliveries are left out from there on."""
    return Delivery(position, Entry(b"", b""), instead=Resync(superseded, dropped))


def _stub(head: Head) -> Entry:
    """What is known of an event that can't be read, or may not be."""
    match head.change:
        case Change.DELETED:
            event_type = "data_deleted"
        case Change.EXPIRED:
            event_type = "data_expired"
        case Change.ERASED:
            event_type = DATA_ERASED
        case Change.WITHHELD:
            event_type = AGENT_REGISTERED
        case _:
            event_type = "data_published"
    return event_codec.entry(Event(head.event, event_type, head.data_key, revision=head.revision))

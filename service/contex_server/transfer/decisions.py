"""What was decided for a project's agents, as exports carry it and imports check it.

**Why a copy is consistent, though deciding goes on while it is read.** One moment is exact: the
positions of shards and agents are read together with what decides for agents, in one step. Then
come the holders of data, then the inboxes, and last the end of the log, up to which events are
exported. So holders and inboxes are as of that moment or later, no holder is ahead of the inboxes,
and nothing is ahead of the log. The importing server decides anew from the positions on, and gets
the same:

- A datum whose holders are ahead was read after these decisions were committed. What the agent was
  sent already, by its revision, is judged as nothing; what brought nothing brings nothing again.
  Its entries are there, for inboxes are filled before holders are noted, and are read after them.
- A datum whose holders are not ahead is judged as it was. Entries that are there already are
  written again, which changes nothing: their ids follow from the events.
- Holders ahead of the *log* would be the end of it: the next event of the datum would pass for one
  that was sent. That is why the end of the log is read last, and the events up to there follow.
- An agent that was registered meanwhile gets another number from the importing server. Holders
  by numbers that nobody had at that moment are left out.

- What is erased meanwhile can't be judged again as it was. Then it is read anew, from the next
  moment on.

An erasure that is decided anew may tell an agent a second time of a datum that it was sent after
the erasure; it is never left out.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from contex_server.inbox.entry import Version, decode, read
from contex_server.inbox.holdings import pack_holders, unpack_holders
from contex_server.inbox.subscriber import decode_subscriber
from contex_server.kernel import event_codec
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.inbox_ids import event_of
from contex_server.kernel.model import BEGINNING, DATA_ERASED, END_OF_TIME, Range, Sequence
from contex_server.kernel.right_of_way import heavily
from contex_server.kernel.slices import sliced
from contex_server.log.agents import AgentRecord
from contex_server.log.groups import PARK_CAUSES
from contex_server.log.inboxes import (
    SHARDS,
    CarriedDecisions,
    DecidingState,
    InboxEntry,
    InboxStore,
    shard_of,
)
from contex_server.log.pages import pages
from contex_server.match.agent_codec import AgentDamaged
from contex_server.match.agent_rules import check_agent
from contex_server.tiers.storage import Storage

T = TypeVar("T")

_AGENTS = 100
"""Agents whose inboxes are read together."""
_PAGE = 1_000
_PART_BYTES = 1024 * 1024
_MAX_NUMBER = 2**32 - 1
_MAX_COUNT = 2**53
_ATTEMPTS = 5
_RETRY_MS = 30_000


@dataclass(slots=True)
class DecisionsReader:
    """Reads what was decided in a project; see the module for the order.

    Attributes:
        state: Where deciding stood when it was begun with.
    """

    storage: Storage
    project: str
    state: DecidingState

    @classmethod
    async def begin(cls, storage: Storage, project: str) -> DecisionsReader | None:
        """Reads where deciding stands; None if nothing is decided there yet."""
        state = await storage.store.inboxes.deciding_state(project)
        if state.shards.keys() != set(range(SHARDS)) or not state.records:
            return None
        return cls(storage, project, state)

    @property
    def store(self) -> InboxStore:
        """Where it is."""
        return self.storage.store.inboxes

    async def parts(self) -> AsyncGenerator[CarriedDecisions, None]:
        """What was decided, in parts; one with `anew` revokes those before.

        Raises:
            ContexError: OVERLOADED: data are erased from the project again and again.
        """
        for _ in range(_ATTEMPTS):
            since = (await self.storage.log.bounds(self.project)).tail
            self.state = await self.store.deciding_state(self.project)
            yield CarriedDecisions(anew=True)
            async for part in self._parts():
                yield part
            if not await self._erased_since(since):
                return
        raise ContexError(
            Reason.OVERLOADED,
            "data are being erased from the project: export it afterwards, or without agents",
            retry_after_ms=_RETRY_MS,
        )

    async def _erased_since(self, since: Sequence) -> bool:
        """Whether anything was erased after a sequence."""
        span = Range(since, (await self.storage.log.bounds(self.project)).tail)
        source = pages(self.storage.log, self.project, span, max_events=_PAGE)
        async with aclosing(source):
            async for page in source:
                async for entry in sliced(page.entries):
                    if event_codec.links(entry).event_type == DATA_ERASED:
                        return True
        return False

    async def _parts(self) -> AsyncGenerator[CarriedDecisions, None]:
        state = self.state
        numbers, damaged = await heavily(_numbers, state.records)
        records = {name: r for name, r in state.records.items() if name not in damaged}
        own = {name: position for name, position in state.own.items() if name in records}
        yield CarriedDecisions(shards=state.shards, own=own, numbers=state.numbers)
        for some in _split(records, len):
            yield CarriedDecisions(records=some)
        for shard in range(SHARDS):
            async for chunk in self.store.all_holders(self.project, shard):
                known = await heavily(_of_numbers, chunk, numbers[shard])
                for some in _split(known, len):
                    yield CarriedDecisions(holders={shard: some})
        ids = sorted(records)
        for start in range(0, len(ids), _AGENTS):
            async for part in self._inboxes(ids[start : start + _AGENTS]):
                yield part
        # They only grow, so these are all that entries name.
        yield CarriedDecisions(versions=await self.store.versions(self.project))

    async def _inboxes(self, ids: list[str]) -> AsyncGenerator[CarriedDecisions, None]:
        """The inboxes of some agents, and where these stand in them."""
        spans = {agent_id: Range() for agent_id in ids}
        while spans:
            pages = await self.store.inboxes(self.project, spans, _PAGE)
            for some in _split(pages, lambda page: sum(len(body) + 24 for _, body in page)):
                if entries := {name: page for name, page in some.items() if page}:
                    yield CarriedDecisions(entries=entries)
            spans = {name: Range(page[-1].id) for name, page in pages.items() if len(page) == _PAGE}
        for agent_id in ids:
            async for part in self._base(agent_id):
                yield part
            parked = await self.storage.store.groups.carried(self.project, agent_id)
            for start in range(0, len(parked), _PAGE):
                yield CarriedDecisions(parked={agent_id: parked[start : start + _PAGE]})
        if places := await self.store.places(self.project, ids):
            yield CarriedDecisions(places=places)

    async def _base(self, agent_id: str) -> AsyncGenerator[CarriedDecisions, None]:
        """What an inbox has let go of; read after it, so that all that it lacks is there."""
        end = await self.store.inbox_end(self.project, agent_id)
        while end.trimmed.upto > BEGINNING:
            base, after = list[InboxEntry](), BEGINNING
            while page := await self.store.base(self.project, agent_id, after, _PAGE):
                base += page
                after = page[-1].id
            before, end = end, await self.store.inbox_end(self.project, agent_id)
            if end.trimmed == before.trimmed:
                for start in range(0, len(base), _PAGE):
                    yield CarriedDecisions(base={agent_id: base[start : start + _PAGE]})
                yield CarriedDecisions(trimmed={agent_id: end.trimmed})
                return

    def begun_since(self, agents: Iterable[AgentRecord]) -> CarriedDecisions:
        """Of some agents, those that were registered after it was begun with: deciding comes to
        them by their registrations, which are in the log. Others of which nothing was decided are
        of an earlier version, and are left to whoever decides next."""
        new = [a.agent_id for a in agents if a.agent_id not in self.state.agents]
        return CarriedDecisions(
            records={name: b"" for name in new if not self.state.records.get(name)}
        )


def _numbers(records: dict[str, bytes]) -> tuple[list[set[int]], set[str]]:
    """The numbers of agents by shard, and the agents of which nothing can be read."""
    numbers: list[set[int]] = [set() for _ in range(SHARDS)]
    damaged: set[str] = set()
    for agent_id, record in records.items():
        if not record:
            continue
        try:
            numbers[shard_of(agent_id)].add(decode_subscriber(record, None).number)
        except AgentDamaged:
            damaged.add(agent_id)
    return numbers, damaged


def _of_numbers(chunk: dict[str, bytes], numbers: set[int]) -> dict[str, bytes]:
    """The holders of data, without those that have other numbers."""
    kept: dict[str, bytes] = {}
    for name, packed in chunk.items():
        holders = unpack_holders(packed)
        known = {number: holding for number, holding in holders.items() if number in numbers}
        if known:
            kept[name] = packed if len(known) == len(holders) else pack_holders(known)
    return kept


def _split(values: dict[str, T], size_of: Callable[[T], int]) -> Iterator[dict[str, T]]:
    """Values in parts of about a MiB."""
    part: dict[str, T] = {}
    size = 0
    for name, value in values.items():
        part[name] = value
        size += len(name) + size_of(value)
        if size >= _PART_BYTES or len(part) >= _PAGE:
            yield part
            part, size = {}, 0
    if part:
        yield part


def check_decisions(part: CarriedDecisions, limits: Limits) -> None:
    """Checks that deciders and streams can read a part.

    Raises:
        ValueError: Something in it they could not.
    """
    for shard in (*part.shards, *part.holders):
        if not 0 <= shard < SHARDS:
            raise ValueError(f"shard {shard}")
    if not 0 <= part.numbers <= _MAX_NUMBER:
        raise ValueError(f"{part.numbers} numbers of agents")
    for agent_id, record in part.records.items():
        if record:
            _check_subscriber(agent_id, record, limits)
    for number, version in part.versions.items():
        _check_version(number, version)
    for holders in part.holders.values():
        for name, packed in holders.items():
            try:
                unpack_holders(packed)
            except struct.error as error:
                raise ValueError(f"the holders of {name!r:.60}") from error
    for trimmed in part.trimmed.values():
        if not (0 <= trimmed.summed_up <= _MAX_COUNT and 0 <= trimmed.dropped <= _MAX_COUNT):
            raise ValueError(f"{trimmed} of an inbox")
    for agent_id, entries in chain(part.entries.items(), part.base.items()):
        before = BEGINNING
        for place, body in entries:
            try:
                if place <= before:
                    raise ValueError("they do not ascend")
                decode(read(body, event_of(place)), {}, {})
            except (ValueError, IndexError, struct.error) as error:
                raise ValueError(f"{place} in the inbox of {agent_id!r:.60}: {error}") from error
            before = place

    for agent_id, parked in part.parked.items():
        before = BEGINNING
        for each in parked:
            try:
                if each.id <= before or each.attempts < 0 or each.why[:1] not in PARK_CAUSES:
                    raise ValueError("it is none")
                decode(read(each.entry.body, event_of(each.entry.id)), {}, {})
            except (ValueError, IndexError, struct.error) as error:
                raise ValueError(f"parked {each.id} of {agent_id!r:.60}: {error}") from error
            before = each.id


def _check_subscriber(agent_id: str, record: bytes, limits: Limits) -> None:
    try:
        subscriber = decode_subscriber(record, None)
        check_agent(subscriber.agent, agent_id, limits)
        if subscriber.awaited is not None:
            check_agent(subscriber.awaited.agent, agent_id, limits)
    except AgentDamaged as error:
        raise ValueError(f"what decides for {agent_id!r:.60}: {error}") from error
    except ContexError as error:
        raise ValueError(f"what decides for {agent_id!r:.60}: {error.message}") from error
    if not 1 <= subscriber.number <= _MAX_NUMBER:
        raise ValueError(f"what decides for {agent_id!r:.60}: number {subscriber.number}")


def _check_version(number: int, packed: bytes) -> None:
    try:
        version = Version.unpack(packed)
        Sequence.parse(version.background)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"version {number}: {error}") from error
    if number < 1 or [*map(type, version)] != [str, str, str, int, float]:
        raise ValueError(f"version {number}")


async def check_within(store: InboxStore, staged: str, last: Sequence) -> None:
    """Checks that what was decided, if anything was, is about a log that ends with `last`: what is
    said of later events would keep agents from those that come.

    Raises:
        ValueError: Something is ahead of the log, or not all is there.
    """
    state = await store.deciding_state(staged)
    if not state.shards and not state.records:
        return
    if state.shards.keys() != set(range(SHARDS)):
        raise ValueError("where deciding stands is missing")
    for position in (*state.shards.values(), *state.own.values()):
        if position > last:
            raise ValueError(f"decided up to {position}, after the last event")
    ids = sorted(state.records)
    newest = Range(until=END_OF_TIME, backwards=True)
    for start in range(0, len(ids), _PAGE):
        some = ids[start : start + _PAGE]
        for agent_id, page in (await store.inboxes(staged, dict.fromkeys(some, newest), 1)).items():
            if page and event_of(page[0].id) > last:
                raise ValueError(f"the inbox of {agent_id!r:.60} goes on after the last event")

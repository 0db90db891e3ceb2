"""Where a decider reads who was sent what, and notes what it decides."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from dataclasses import dataclass, field

from contex_server.events.feed import Delivery
from contex_server.inbox.entry import Decision, Version, encode
from contex_server.inbox.holdings import Holders, pack_holders, unpack_holders
from contex_server.inbox.hub import InboxHub, Sender
from contex_server.inbox.reader import InboxReader
from contex_server.inbox.subscriber import MARGIN, Subscriber
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.inbox_ids import inbox_id
from contex_server.kernel.model import Entry, Match, Sequence
from contex_server.kernel.slices import sliced
from contex_server.log.agents import Sending
from contex_server.log.inboxes import InboxEntry, Shard, ShardDecisions, Standing, shard_of
from contex_server.match.index import Index
from contex_server.matching.rules import is_absolute

NO_POSITIONS: Mapping[int, Sequence] = {}
NO_PLACES: Mapping[str, Sequence] = {}


class Fenced(Exception):
    """Another process decides for a shard by now."""


class Unanswered(Exception):
    """Whether something was written is not known: deciding begins anew with what is stored."""


@dataclass(slots=True)
class Made:
    """A decision as inboxes keep it, perhaps of several agents that are judged alike.

    Attributes:
        needs: The texts of those that are met.
        source: What it is about, in the log.
        delivery: As it is delivered; None until somebody here listens.
    """

    entry: InboxEntry
    needs: tuple[str, ...]
    source: Entry
    delivery: Delivery | None = None

    @classmethod
    def of(cls, decision: Decision, at: Sequence, number: int, source: Entry) -> Made:
        """A decision that is kept as the entry of an event with this number."""
        entry = InboxEntry(inbox_id(at, number), encode(decision, at))
        return cls(entry, tuple([match.need for match in decision.matches]), source)


@dataclass(slots=True)
class Draft:
    """What is decided in a span, before it is written.

    Attributes:
        holders: Of the data of the span, by shard and data key; with what is new.
        changed: Those that are new.
        touched: The agents that hold something else than before.
        entries: What inboxes get.
        deliveries: The same for the agents that listen here.
        listeners: What decides for these.
        agents: What decides for agents from here on.
        counts: How many deliveries meet each need of an agent.
    """

    holders: dict[int, dict[str, Holders]] = field(default_factory=dict)
    changed: set[tuple[int, str]] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    entries: defaultdict[str, list[InboxEntry]] = field(default_factory=lambda: defaultdict(list))
    deliveries: defaultdict[str, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    listeners: dict[str, Subscriber] = field(default_factory=dict)
    agents: dict[str, Standing] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written."""
        return not (self.changed or self.entries or self.agents)


class Ledger:
    """What is stored of the decisions for some shards of a project.

    Args:
        shards: The shards, as they were taken.
        owner: Names this process.

    Attributes:
        lock: Held while a span is decided: passes share what agents hold.
        grown: The inboxes that were written to, for who looks after their bounds.
    """

    def __init__(
        self,
        project: str,
        shards: dict[int, Shard],
        owner: str,
        reader: InboxReader,
        inboxes: InboxHub,
    ) -> None:
        self.project = project
        self.shards = shards
        self.owner = owner
        self.reader = reader
        self.inboxes = inboxes
        self.store = reader.store
        self.lock = asyncio.Lock()
        self.grown: dict[str, None] = {}
        self._versions: dict[Version, int] = {}

    async def read_holders(self, draft: Draft, names: Iterable[str], shards: Iterable[int]) -> None:
        """Reads into a draft who was sent some data."""
        stored = await self.store.holders(self.project, shards, names)
        for shard, held in stored.items():
            data = draft.holders.setdefault(shard, {})
            for name, packed in held.items():
                if name not in data:
                    data[name] = unpack_holders(packed)

    async def all_holders(self, shard: int) -> AsyncIterator[tuple[str, Holders]]:
        """All data that agents of a shard were sent."""
        async for chunk in self.store.all_holders(self.project, shard):
            async for name, packed in sliced(chunk.items()):
                yield name, unpack_holders(packed)

    async def decided(self, draft: Draft, subscriber: Subscriber, made: Made) -> None:
        """Adds a decision to an inbox, and for the agent's streams here, if it has any."""
        agent_id = subscriber.agent.agent_id
        draft.entries[agent_id].append(made.entry)
        for need in made.needs:
            draft.counts[agent_id, need] += 1
        if self.inboxes.is_listening(self.project, agent_id):
            if made.delivery is None:
                # As it will be read again.
                made.delivery = await self.reader.delivery(
                    self.project, subscriber.texts, made.entry, made.source
                )
            elif made.delivery.rendered is None:
                made.delivery.rendered = {}
            if made.delivery is not None:
                draft.deliveries[agent_id].append(made.delivery)
                draft.listeners[agent_id] = subscriber

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

    def shards_moved_to(self, position: Sequence) -> dict[int, Sequence]:
        """Where shards stand once everything up to a position is decided: those that move."""
        return {shard: position for shard, held in self.shards.items() if held.position < position}

    async def write(self, draft: Draft, positions: Mapping[int, Sequence] = NO_POSITIONS) -> None:
        """Writes a draft, and where shards stand with it.

        Raises:
            Fenced: Another process decides by now.
            Unanswered: It may have been written, and what was decided may not be decided again:
                that depends on what is noted with it.
        """
        decisions = {
            shard: ShardDecisions(held.epoch, positions.get(shard))
            for shard, held in self.shards.items()
        }
        for shard, name in draft.changed:
            decisions[shard].holders[name] = pack_holders(draft.holders[shard][name])
        for agent_id, standing in draft.agents.items():
            decisions[shard_of(agent_id)].agents[agent_id] = standing
        for agent_id, entries in draft.entries.items():
            decisions[shard_of(agent_id)].entries[agent_id] = entries
        for (agent_id, need), count in draft.counts.items():
            decisions[shard_of(agent_id)].counts[f"{agent_id}: {need}"] = count
        senders: list[tuple[Sender, Sending]] = []
        for agent_id, subscriber in draft.listeners.items():
            if (shard := shard_of(agent_id)) not in positions:
                continue  # The store could not tell whether it is decided: its streams note.
            upto, sendings = draft.entries[agent_id][-1].id, decisions[shard].sendings
            for sender in self.inboxes.senders(self.project, subscriber):
                sending = Sending(agent_id, sender.stream_id, sender.noted, upto)
                sendings.append(sending)
                senders.append((sender, sending))
        touched = {
            shard: decided
            for shard, decided in decisions.items()
            if decided.position or decided.holders or decided.agents or decided.entries
        }
        reached("deciding")
        try:
            if touched and not await self.store.decide(self.project, self.owner, touched):
                raise Fenced
        except BaseException as error:
            for sender, _ in senders:
                sender.unsure = True
            if isinstance(error, ContexError) and error.reason is Reason.STORE_UNAVAILABLE:
                raise Unanswered(error.message) from error
            raise
        reached("decided")
        unnoted = set().union(*[decided.unnoted for decided in decisions.values()])
        for sender, sending in senders:
            if sending in unnoted:
                sender.unsure = True  # It notes by itself what it sends.
            else:
                sender.noted = max(sender.noted, sending.upto)
        self.grown.update(dict.fromkeys(draft.entries))
        for shard, position in positions.items():
            self.shards[shard] = self.shards[shard]._replace(position=position)

    def hand_over(
        self,
        agent_ids: Container[str],
        members: Mapping[str, Subscriber],
        draft: Draft,
        since: Sequence,
        upto: Sequence,
        began: Mapping[str, Sequence] = NO_PLACES,
    ) -> None:
        """Hands what was decided to the agents that listen here; the places are of inboxes.

        For some it was decided only since a later place, where they `began`; all of them are
        `members` of what decided.
        """
        sizes = {agent_id: len(entries) for agent_id, entries in draft.entries.items()}
        self.inboxes.decided(
            self.project, agent_ids, sizes, draft.deliveries, since, upto, began, members
        )

"""What deciders and inboxes need of the store: who decides, and what was decided."""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from contex_server.kernel.model import BEGINNING, Range, Sequence
from contex_server.log.agents import Sending

if TYPE_CHECKING:
    from contex_server.log.groups import Parked

SHARDS = 4
"""As many servers can decide for the agents of one project."""


@lru_cache(maxsize=65_536)
def shard_of(agent_id: str) -> int:
    """The shard of an agent: CRC-32, modulo `SHARDS`."""
    return binascii.crc32(agent_id.encode()) % SHARDS


class OutOfOrder(Exception):
    """An inbox was to get an entry that it lacks before those that it has: there is a defect.

    What was to be committed was not. The next time, the store lets go of the entry.
    """


class Shard(NamedTuple):
    """A shard that this process decides for.

    Attributes:
        epoch: What is written under an earlier one is refused.
        position: Up to here, everything is decided.
    """

    epoch: int
    position: Sequence


class InboxEntry(NamedTuple):
    """An entry of an inbox: its id, and what was decided, opaque to the log."""

    id: Sequence
    body: bytes


class Trimmed(NamedTuple):
    """What an inbox has let go of.

    Attributes:
        upto: The id up to which it is trimmed; of what came until then, the base has the latest of
            each data key.
        summed_up: Deliveries that were trimmed before the agent acknowledged them, and of whose
            datum there is a later one.
        dropped: Likewise those of no datum.
    """

    upto: Sequence = BEGINNING
    summed_up: int = 0
    dropped: int = 0


class InboxEnd(NamedTuple):
    """Where an inbox begins and ends.

    Attributes:
        last: The id of its last entry, also of one that is there no more.
        position: Up to which event it is decided.
        trimmed: What it has let go of.
    """

    last: Sequence
    position: Sequence
    trimmed: Trimmed = Trimmed()


class InboxSize(NamedTuple):
    """How large an inbox is.

    Attributes:
        size_bytes: In the store's memory, about.
        length: Number of entries.
        first: The oldest entry; None if there is none.
    """

    size_bytes: int
    length: int
    first: Sequence | None


class InboxPosition(NamedTuple):
    """How far it is decided for an agent, and where the agent stands.

    Attributes:
        record: What decides for it, opaque to the log; b"" if nothing does.
        position: Up to which event it is decided.
        is_own: Whether that is the agent's own position, behind that of its shard.
        place: Where the agent stands inside of what an event brought, if it is inside.
        trimmed: Up to where its inbox is trimmed.
    """

    record: bytes
    position: Sequence
    is_own: bool
    place: Sequence | None
    trimmed: Sequence


class Unread(NamedTuple):
    """What of an inbox comes after a place.

    Attributes:
        first: The id of the first entry; None if there is none.
        counted: How many there are, as far as they are counted.
        more: Whether there are more.
    """

    first: Sequence | None
    counted: int
    more: bool


class Backlog(NamedTuple):
    """What is still to be decided, and to be read.

    Attributes:
        now_ms: The time, unix milliseconds.
        undecided: By position, the first event of the log after it; None: there is none.
        unread: By agent.
    """

    now_ms: int
    undecided: dict[Sequence, Sequence | None]
    unread: dict[str, Unread]


class Standing(NamedTuple):
    """What decides for an agent from here on.

    Attributes:
        record: Opaque to the log; b"" if the agent is gone, None: as it is.
        position: Its own, behind that of its shard; None: that of its shard.
        trimmed: What its inbox has let go of; only read.
        anew: Its inbox begins anew; only written.
        asked: The earliest event after which it has asked for the past since it was registered;
            only read. Its inbox begins there once that is decided.
    """

    record: bytes | None
    position: Sequence | None = None
    trimmed: Trimmed = Trimmed()
    anew: bool = False
    asked: Sequence | None = None


class InboxPart(NamedTuple):
    """What an inbox has after a place.

    Attributes:
        end: Where it ended before the entries were read: they are all up to there, if not too many.
        based: Whether the entries are those of the base, for the place is in what was let go of.
        entries: The first of them.
        standing: What decided for the agent once they were read.
    """

    end: InboxEnd
    based: bool
    entries: list[InboxEntry]
    standing: Standing


@dataclass(slots=True)
class ShardDecisions:
    """What was decided in one shard.

    Attributes:
        epoch: The shard's.
        position: Where it is now; None: where it was.
        holders: By data key, what is known of who was sent it; b"": nobody.
        agents: What decides for agents from here on.
        entries: What the inboxes of agents get.
        counts: How many deliveries meet each need, by the need's name in the activity.
        sendings: What is sent right afterwards, to be noted in the agents' journals once the
            position is there.
        unnoted: Those of them that were not; whoever writes this says so. What is decided holds.
    """

    epoch: int
    position: Sequence | None = None
    holders: dict[str, bytes] = field(default_factory=dict)
    agents: dict[str, Standing] = field(default_factory=dict)
    entries: dict[str, list[InboxEntry]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    sendings: list[Sending] = field(default_factory=list)
    unnoted: set[Sending] = field(default_factory=set)


class DecidingState(NamedTuple):
    """Where deciding stands in a project, all as of one moment.

    Attributes:
        shards: The position of each shard; empty where nothing was ever decided.
        own: The positions of agents that stand behind their shards.
        numbers: How many numbers were given out.
        records: What decides for each agent; b"" of one that deciding has not come to.
        agents: The agents that are registered.
    """

    shards: dict[int, Sequence]
    own: dict[str, Sequence]
    numbers: int
    records: dict[str, bytes]
    agents: frozenset[str]


@dataclass(slots=True)
class CarriedDecisions:
    """A part of what was decided in a project, as an export carries it.

    Attributes:
        shards: Where shards stand.
        own: Where agents stand by themselves.
        numbers: How many numbers were given out; 0: as another part says.
        records: What decides for agents; b"" of one that deciding comes to by its registration.
        versions: The models and backgrounds that decisions name.
        places: Where agents stand inside of what an event brought.
        holders: By shard and data key, what is known of who was sent it.
        trimmed: What inboxes have let go of.
        base: Of that, the latest entry of each data key, in their order.
        entries: Of inboxes, in their order.
        parked: Deliveries that consumers have put aside, in their order.
        anew: What came in parts before does not count.
    """

    shards: dict[int, Sequence] = field(default_factory=dict)
    own: dict[str, Sequence] = field(default_factory=dict)
    numbers: int = 0
    records: dict[str, bytes] = field(default_factory=dict)
    versions: dict[int, bytes] = field(default_factory=dict)
    places: dict[str, Sequence] = field(default_factory=dict)
    holders: dict[int, dict[str, bytes]] = field(default_factory=dict)
    trimmed: dict[str, Trimmed] = field(default_factory=dict)
    base: dict[str, list[InboxEntry]] = field(default_factory=dict)
    entries: dict[str, list[InboxEntry]] = field(default_factory=dict)
    parked: dict[str, list[Parked]] = field(default_factory=dict)
    anew: bool = False


class InboxStore(Protocol):
    """Shards, decisions and inboxes. See `EventLog` for errors."""

    async def with_agents(self, *, everywhere: bool = False) -> list[str]:
        """The projects that have agents.

        With `everywhere`, also those that have not been looked at since a version that did not
        list them.
        """

    async def count_agents(self, project: str) -> int:
        """How many agents are registered."""

    async def take(self, project: str, owner: str, shards: Iterable[int]) -> dict[int, Shard]:
        """Lets a process decide for shards; nobody else can from here on.

        Empty if the project has no agents.
        """

    async def standings(self, project: str) -> dict[str, tuple[bytes, Sequence | None]]:
        """What decides for each agent, and its own position if it has one."""

    async def standing(self, project: str, agent_id: str) -> Standing:
        """What decides for one agent; b"" if nothing does."""

    async def holders(
        self, project: str, shards: Iterable[int], data_keys: Iterable[str]
    ) -> dict[int, dict[str, bytes]]:
        """What is known of who was sent some data, by shard and data key."""

    def all_holders(self, project: str, shard: int) -> AsyncIterator[dict[str, bytes]]:
        """The same of all data, in chunks."""

    async def decide(
        self, project: str, owner: str, decisions: Mapping[int, ShardDecisions]
    ) -> bool:
        """Notes decisions, in one step for each inbox, and then in one step what commits them.

        Returns False, perhaps with some inboxes filled, if a shard has another owner by now.

        Raises:
            OutOfOrder: Likewise with some filled; deciding is to begin anew.
        """

    async def numbers(self, project: str, count: int) -> int:
        """The first of some numbers that were not given out before."""

    async def versions(self, project: str) -> dict[int, bytes]:
        """The models and backgrounds that decisions name."""

    async def add_version(self, project: str, version: bytes) -> int:
        """The number of a version, which is added if there is none yet."""

    async def inbox_part(
        self, project: str, agent_id: str, after: Sequence, count: int
    ) -> InboxPart:
        """The first `count` entries after a place, of the inbox or its base."""

    async def inbox(self, project: str, agent_id: str, span: Range, count: int) -> list[InboxEntry]:
        """The first `count` entries of a range of an inbox, in its direction."""

    async def inboxes(
        self, project: str, spans: Mapping[str, Range], count: int
    ) -> dict[str, list[InboxEntry]]:
        """The same of several agents, in one turn."""

    async def inbox_end(self, project: str, agent_id: str) -> InboxEnd:
        """Where an inbox begins and ends."""

    async def sizes(self, project: str, agent_ids: Iterable[str]) -> dict[str, InboxSize]:
        """How large some inboxes are."""

    async def handed_out(self, project: str, agent_id: str) -> Sequence | None:
        """Up to where consumers that share an inbox have been handed it out; None if there were
        none."""

    async def base(
        self, project: str, agent_id: str, after: Sequence, count: int
    ) -> list[InboxEntry]:
        """Of what was trimmed off an inbox, the latest of each data key; the first `count`."""

    async def trim(
        self,
        project: str,
        agent_id: str,
        shard: Shard,
        base: Iterable[InboxEntry],
        trimmed: Trimmed,
    ) -> bool:
        """Trims an inbox, and replaces its base.

        Args:
            trimmed: Up to where, and how many were not acknowledged, with those of before.

        Returns False, and nothing has changed, if the shard has another owner by now.
        """

    async def positions(self, project: str, agent_ids: Iterable[str]) -> dict[str, InboxPosition]:
        """How far it is decided for some agents, in one turn."""

    async def backlog(
        self,
        project: str,
        positions: Iterable[Sequence],
        places: Mapping[str, Sequence],
        most: int,
    ) -> Backlog:
        """What comes after some positions of the log and after a place of some inboxes, of which at
        most `most` entries each are counted, in one turn."""

    async def place(self, project: str, agent_id: str) -> Sequence | None:
        """Where an agent stands inside of what an event brought, if it is inside."""

    async def places(self, project: str, agent_ids: Iterable[str]) -> dict[str, Sequence]:
        """The same of several agents, of those that are inside of what an event brought."""

    async def deciding_state(self, project: str) -> DecidingState:
        """Where deciding stands, as of one moment."""

    async def restore_decisions(self, staged: str, part: CarriedDecisions, epoch: int) -> None:
        """Adds what was decided elsewhere to a staged project; see `TransferStore`.

        Nobody decides for that. Adding the same again changes nothing. Shards get an epoch that
        no process has which decided for a project of that name before.
        """

    async def adopt_decisions(self, project: str, staged: str) -> bool:
        """Moves what was restored to a staged project to its target, which has the same log.

        Returns False, and does nothing, if there is nothing, or the target has agents of its own.
        """

    async def join(self, member: str, ttl_ms: int) -> list[str]:
        """Says that a process decides, for a while; returns all that do. With 0 it leaves."""

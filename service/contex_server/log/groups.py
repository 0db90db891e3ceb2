"""What consumers that share an agent's inbox need of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

from contex_server.kernel.model import SERVICE, Origin, Sequence
from contex_server.log.inboxes import InboxEntry

GROUP = "consumers"
"""The name of an agent's consumer group in the store."""
NOBODY = "~waiting"
"""The consumer that the store shows for deliveries that nobody has."""


class Demand(NamedTuple):
    """What a consumer may be given.

    Attributes:
        stream_id: Its stream, in the agent's journal.
        most: How many deliveries at most.
        deadline_ms: How long its claims last.
    """

    consumer: str
    stream_id: str
    most: int
    deadline_ms: int


class Claimed(NamedTuple):
    """A delivery that a consumer has been given.

    Attributes:
        ref: Names it among those that are outstanding.
        entry: The entry of the inbox.
        attempt: 1 the first time that somebody has it.
        redriven: It was parked before.
    """

    ref: str
    entry: InboxEntry
    attempt: int
    redriven: bool


class Gaps(NamedTuple):
    """Deliveries that consumers have missed, as they were removed before.

    Attributes:
        superseded: A later one of their datum stands for them.
        dropped: They were of no datum.
        removed: They were outstanding.
    """

    superseded: int = 0
    dropped: int = 0
    removed: int = 0


class Taken(NamedTuple):
    """What consumers were given.

    Attributes:
        claims: Of each consumer, in the order of the demands; None if another stream has its name.
        due_in_ms: When the next of those outstanding can be had; None: there are none.
        blocked: Nothing new was handed out, for as many are outstanding as may be.
        outstanding: How many are.
        missed: What was missed since somebody was told.
        exhausted: Those that were tried too often: to be parked, with their attempts.
        position: Up to where the inbox has been handed out.
    """

    claims: list[list[Claimed] | None]
    due_in_ms: int | None
    blocked: bool
    outstanding: int
    missed: Gaps
    exhausted: list[tuple[str, int]]
    position: Sequence


class Verb(StrEnum):
    """What becomes of a delivery."""

    ACK = "a"
    RETRY = "n"
    PARK = "p"
    EXTEND = "e"
    GIVE_BACK = "g"


class Settlement(NamedTuple):
    """What a consumer says of a delivery.

    Attributes:
        more: With RETRY and EXTEND for how many milliseconds, with PARK why.
    """

    verb: Verb
    consumer: str
    ref: str
    attempt: int
    more: str = ""


class Outcome(IntEnum):
    """What became of a settlement; nothing has changed unless it is DONE."""

    LOST = 0
    """Somebody else has the delivery, or it is another attempt."""
    DONE = 1
    GONE = 2
    """It is not outstanding."""
    FREE = 3
    """Nobody has it; this was the last attempt."""
    FULL = 4
    """As many are parked as may be."""


class Settled(NamedTuple):
    """Attributes:
    upto: The place up to which everything is settled; None if that is not known.
    outcomes: In the order of the settlements.
    """

    upto: Sequence | None
    outcomes: list[Outcome]


PARK_CAUSES = ("C", "A", "S")
"""How it begins why a delivery is parked."""


class Parked(NamedTuple):
    """A delivery that was put aside.

    Attributes:
        id: Names it, and says when.
        consumer: Who had it; "" if nobody had.
        why: "C" and the consumer's reason; "A": too many attempts; "S": a seek.
    """

    id: Sequence
    entry: InboxEntry
    attempts: int
    consumer: str
    why: str


class ConsumerState(NamedTuple):
    """A consumer.

    Attributes:
        idle_ms: Since when it has asked for nothing.
        oldest_ms: How long it has had the delivery that it got or extended the longest ago.
    """

    name: str
    outstanding: int
    idle_ms: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class GroupState:
    """What the consumers of an agent share.

    Attributes:
        position: Up to where the inbox has been handed out.
        backlog: How many deliveries come after it, counted up to a bound.
        delayed: Of those outstanding, how many nobody has that wait for no other.
        waiting: How many wait for an earlier one of their data key.
        oldest: The first place that is not settled; None if there is none.
        now_ms: The store's time.
    """

    position: Sequence
    backlog: int
    outstanding: int
    delayed: int
    waiting: int
    parked: int
    missed: Gaps
    oldest: Sequence | None
    now_ms: int
    consumers: list[ConsumerState]


class Blocker(NamedTuple):
    """A delivery that others of its data key wait for.

    Attributes:
        place: Its place in the inbox.
        consumer: Who has it; "" if nobody has.
    """

    data_key: str
    waiting: int
    place: Sequence
    consumer: str
    attempt: int


class GroupStore(Protocol):
    """Consumers that share an agent's inbox, and what is parked. See `EventLog` for errors.

    Claims have an epoch: those of one that is over are lost.
    """

    async def open(
        self,
        project: str,
        agent_id: str,
        start: Sequence,
        consumer: str,
        stream_id: str,
        held: Iterable[str],
        *,
        again: bool = False,
    ) -> int | None:
        """Lets a consumer in, and gives back what it has had and is not `held`; returns the epoch.

        A former stream of the consumer is given nothing more.

        Args:
            start: The place in the inbox after which consumers begin, if there have been none.
            held: The refs of what it still has.
            again: The stream was let in before. If another one has the consumer's name by now,
                nothing changes, and None is returned. 0 is returned, likewise, where consumers do
                not begin at `start`, as the agent has left or has moved on.
        """

    async def take(
        self,
        project: str,
        agent_id: str,
        epoch: int,
        demands: Iterable[Demand],
        *,
        most: int,
        tries: int,
        noted: bool,
    ) -> Taken | None:
        """Hands deliveries out; None if the epoch is over. It also works while the store is full.

        Args:
            most: How many may be outstanding.
            tries: After so many attempts, a delivery is not handed out again.
            noted: Whether it is noted in the agent's journal what is sent.
        """

    async def settle(
        self,
        project: str,
        agent_id: str,
        epoch: int,
        settlements: Iterable[Settlement],
        *,
        cursor: Sequence | None = None,
        leaving: Iterable[tuple[str, str]] = (),
        parked: int,
    ) -> Settled | None:
        """Notes what has become of deliveries; None if the epoch is over, and only consumers left.

        Works while the store is full unless something is parked.

        Args:
            cursor: A place up to which everything is settled: the agent's cursor moves there.
            leaving: Consumers that leave, and their streams.
            parked: How many may be parked.

        Raises:
            ContexError: STORE_FULL, and nothing has changed.
        """

    async def seek(
        self, project: str, agent_id: str, place: Sequence, origin: Origin = SERVICE
    ) -> int | None:
        """Lets consumers go on after a place, and clears what is outstanding.

        Returns how much that was; None if the agent is not registered.
        """

    async def state(self, project: str, agent_id: str, most: int) -> GroupState | None:
        """What the consumers of an agent share; None if there have been none.

        Args:
            most: How many deliveries are counted that were not handed out.
        """

    async def blockers(self, project: str, agent_id: str, count: int) -> list[Blocker]:
        """The deliveries that most others of their data keys wait for, first the worst."""

    async def parked(
        self, project: str, agent_id: str, after: Sequence, count: int
    ) -> list[Parked]:
        """Deliveries that were put aside, in that order."""

    async def count_parked(self, project: str, agent_id: str) -> int:
        """How many deliveries are parked."""

    async def carried(self, project: str, agent_id: str) -> list[Parked]:
        """What an export carries: all that is parked, or was and is on its way again."""

    async def restore(self, staged: str, parked: Mapping[str, Iterable[Parked]]) -> None:
        """Adds what was parked elsewhere to a staged project; again, without harm."""

    async def redrive(self, project: str, agent_id: str, ids: Iterable[Sequence]) -> int:
        """Sends parked deliveries on their way again; returns how many there were."""

    async def drop(self, project: str, agent_id: str, ids: Iterable[Sequence]) -> int:
        """Gives parked deliveries up; returns how many there were."""

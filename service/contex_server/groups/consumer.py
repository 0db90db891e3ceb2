"""One consumer of an agent: what it has, and what it is still to be told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.groups import NOBODY, Claimed, Demand, Gaps, Outcome, Settlement, Verb

_AT_ONCE = 256
"""Deliveries that a consumer is given in one turn."""
_DONE_BEFORE = {
    Verb.ACK: Outcome.GONE,
    Verb.PARK: Outcome.GONE,
    Verb.RETRY: Outcome.FREE,
    Verb.GIVE_BACK: Outcome.FREE,
}
"""What comes of a settlement that was done already."""
_UNANSWERED = 2_000
"""What a consumer may have said, or be told, before nothing more is read of it."""


class ConsumerSpec(NamedTuple):
    """What a consumer asks for; see `contex.v1.ConsumeStart`."""

    name: str
    max_messages: int
    max_bytes: int
    deadline_ms: int
    tries: int


@dataclass(slots=True, eq=False)
class Claim:
    """A delivery that a consumer has.

    Attributes:
        id: Names it for the client: the delivery, its attempt, and the epoch of the claims.
        until: When it runs out, by the event loop's clock.
        size: Bytes; 0 until it is known.
        message: The number of the message in which the client has it, or is about to; 0: in none.
    """

    id: str
    claimed: Claimed
    until: float
    size: int = 0
    message: int = 0

    @property
    def place(self) -> Sequence:
        """Its place in the inbox."""
        return self.claimed.entry.id


def delivery_id(ref: str, attempt: int, epoch: int) -> str:
    """How a claim is named."""
    return f"{ref}.{attempt}.{epoch}"


def parse_delivery_id(text: str) -> tuple[str, int, int]:
    """Ref, attempt and epoch of what `delivery_id` wrote.

    Raises:
        ValueError: It is nothing that it wrote.
    """
    ref, attempt, epoch = text.split(".")
    Sequence.parse(ref.removeprefix("+"))
    if not (attempt.isascii() and attempt.isdigit() and epoch.isascii() and epoch.isdigit()):
        raise ValueError(text)
    return ref, int(attempt), int(epoch)


class Lost(NamedTuple):
    """Claims that the consumer has lost, by their names."""

    delivery_ids: list[str]


class Idle(NamedTuple):
    """There is nothing to be had."""

    outstanding: int


class Blocked(NamedTuple):
    """So many deliveries are outstanding that nothing new is handed out."""


class Answer(NamedTuple):
    """What became of a message of the client, by the names of the claims.

    Attributes:
        refused: What was not parked.
        reason: Why nothing has changed; "" if it has.
    """

    number: int
    lost: list[str]
    refused: list[str]
    reason: str = ""


@dataclass(slots=True, eq=False)
class Order:
    """What a client says of some of its deliveries, until it is done.

    Attributes:
        consumer: Whose they are.
        number: By which the client names it; None: nobody waits for an answer.
        left: How many of its settlements are not answered yet.
    """

    consumer: Consumer
    number: int | None
    left: int
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    reason: str = ""


class Task(NamedTuple):
    """A settlement for the store."""

    order: Order
    settlement: Settlement
    epoch: int
    delivery_id: str


Told = list[Claim] | Lost | Idle | Blocked | Gaps | Answer


class Consumer:
    """One stream that consumes.

    Args:
        wake: Lets the group look what is to be done.
        noted: What it takes is what it is sent, and is noted as that. Otherwise who sends it does.
    """

    def __init__(
        self,
        spec: ConsumerSpec,
        stream_id: str,
        wake: Callable[[], None],
        *,
        noted: bool = True,
    ) -> None:
        self.spec = spec
        self.noted = noted
        self.stream_id = stream_id
        self.error: ContexError | None = None
        self.position = BEGINNING
        self.claims: dict[str, Claim] = {}
        """What it has, by name, in the order in which it got it."""
        self.held: dict[str, float] = {}
        """When what it may have of an earlier stream runs out, by name."""
        self.idle_told = False
        self.blocked_told = False
        self.paused = False
        self._wake_group = wake
        self._size_bytes = 0
        self._average = 1_024.0
        """Bytes of a delivery, lately."""
        self._told: deque[Told] = deque()
        self._wake = asyncio.Event()
        self._unanswered = 0
        self._finishing = False
        self._keeps_up = asyncio.Event()

    def demand(self) -> Demand:
        """What it may be given."""
        room = 0
        spec = self.spec
        if not self.paused and self.error is None:
            has = len(self.claims) + len(self.held)
            room = min(spec.max_messages - has, _AT_ONCE)
            left = spec.max_bytes - self._size_bytes
            unknown = sum(not claim.size for claim in self.claims.values())
            fits = int(left / self._average) - unknown
            room = min(room, max(fits, 0 if has else 1))
        return Demand(spec.name, self.stream_id, max(room, 0), spec.deadline_ms)

    def wants_idle(self) -> bool:
        """Whether it is to be told that there is nothing to be had."""
        return not self.idle_told and self.demand().most > 0

    def credit(self, max_messages: int, max_bytes: int) -> None:
        """Changes how much it may have."""
        kept = max_bytes or self.spec.max_bytes
        self.spec = self.spec._replace(max_messages=max_messages, max_bytes=kept)
        self.idle_told = False
        self._wake_group()

    def drain(self) -> None:
        """It is to get nothing more."""
        self.paused = True

    def given(self, claims: list[Claim]) -> None:
        """It has these from now on."""
        for claim in claims:
            self.claims[claim.id] = claim
        self.idle_told = False
        self.tell(claims)

    def sized(self, claim: Claim, size: int) -> bool:
        """Notes how large a delivery is; whether it has room for it."""
        if claim.id not in self.claims:
            return False
        self._average += (size - self._average) / 16
        if self._size_bytes and self._size_bytes + size > self.spec.max_bytes:
            return False
        claim.size = size
        self._size_bytes += size
        return True

    def drop(self, delivery_id: str) -> Claim | None:
        """It no longer has a delivery."""
        self.held.pop(delivery_id, None)
        self.idle_told = False
        claim = self.claims.pop(delivery_id, None)
        if claim is not None:
            self._size_bytes -= claim.size
        return claim

    def lose(self, delivery_ids: Iterable[str]) -> None:
        """It has lost claims."""
        lost = [name for name in delivery_ids if name in self.claims or name in self.held]
        for name in lost:
            self.drop(name)
        if lost:
            self.tell(Lost(lost))

    def run_out(self, now: float, named: Set[str]) -> None:
        """Lets go of what has run out, but for what something is being said of."""
        gone = [name for name, claim in self.claims.items() if claim.until <= now]
        gone += [name for name, until in self.held.items() if until <= now]
        self.lose([name for name in gone if name not in named])

    def next_run_out(self) -> float | None:
        """When the next claim runs out."""
        times = [claim.until for claim in self.claims.values()]
        return min(chain(times, self.held.values()), default=None)

    def ordered(self, count: int) -> None:
        """It has said what became of some deliveries."""
        self._unanswered += count

    async def keeps_up(self) -> None:
        """Waits while it has said much that is not answered, or is to be told much."""
        while self._unanswered > _UNANSWERED or len(self._told) > _UNANSWERED:
            self._keeps_up.clear()
            await self._keeps_up.wait()

    def settled(
        self, task: Task, outcome: Outcome, *, asked: float = 0.0, unsure: bool = False
    ) -> None:
        """What became of a settlement.

        Args:
            asked: When the store was asked for it.
            unsure: It may have been done before.
        """
        order, settlement, name = task.order, task.settlement, task.delivery_id
        expected = _DONE_BEFORE.get(settlement.verb) if unsure else None
        done = outcome in (Outcome.DONE, expected)
        if outcome is Outcome.FULL:
            order.refused.append(name)
        elif not done:
            self.lose([name] if order.number is None else ())
            self.drop(name)
            order.lost.append(name)
        elif settlement.verb is Verb.EXTEND:
            until = asked + int(settlement.more) / 1_000
            if (claim := self.claims.get(name)) is not None:
                claim.until = until
            elif name in self.held:
                self.held[name] = until
        else:
            self.drop(name)
        self._unanswered -= 1
        self._keeps_up.set()
        self._wake.set()
        order.left -= 1
        if not order.left:
            self.answer(order)

    def answer(self, order: Order) -> None:
        """Answers an order that is done."""
        if order.number is not None:
            self.tell(Answer(order.number, order.lost, order.refused, order.reason))

    def tell(self, told: Told) -> None:
        """Adds to what the client is to be told."""
        self._told.append(told)
        self._wake.set()

    def fail(self, error: ContexError) -> None:
        """Ends the stream, after what it is still to be told."""
        if self.error is None:
            self.error = error
        self._wake.set()

    def finish(self) -> None:
        """The client has said all that it has to say: the stream ends once that is answered."""
        self.paused = self._finishing = True
        self._wake.set()

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing to be done any more."""
        return self._finishing and not (self._unanswered or self._told)

    async def next(self, timeout_s: float) -> Told | None:
        """The next that the client is to be told; None if there is nothing for so long, or if the
        stream is finished.

        Raises:
            ContexError: The stream has ended.
        """
        while not (self._told or self.error is not None or self.is_finished):
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return None
        if self._told:
            self._keeps_up.set()
            return self._told.popleft()
        if self.error is not None:
            raise self.error
        return None


def replaced(name: str) -> ContexError:
    """Another stream consumes under a name."""
    return ContexError(
        Reason.CONSUMER_REPLACED,
        f"another stream consumes as {name!r} now: give each consumer a name of its own",
        field="start.consumer",
    )


def parking(ref: str, attempts: int) -> Settlement:
    """Puts a delivery aside that was tried too often."""
    return Settlement(Verb.PARK, NOBODY, ref, attempts, "A")

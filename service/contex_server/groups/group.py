"""The consumers that an agent has in this process, and what they share with those of others.

One task hands deliveries out and settles them, for all of them in one turn of the store. Consumers
of other processes take from the same group of the store: who is first has a delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import structlog

from contex_server.groups.consumer import (
    Blocked,
    Claim,
    Consumer,
    ConsumerSpec,
    Idle,
    Lost,
    Order,
    Task,
    delivery_id,
    parking,
    parse_delivery_id,
    replaced,
)
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import Sequence
from contex_server.log.groups import GroupStore, Outcome, Settlement, Taken, Verb

log = structlog.get_logger(__name__)

_LOOK_S = 1.0
"""How often is looked what there is, whatever was heard."""
_UNDECIDED_S = 0.1
"""The same while a consumer is to be told that it has everything, and not all is decided."""
_CURSOR_S = 0.2
"""How often the agent's cursor is moved at most."""
_BACKOFF_S = (0.05, 2.0)
_TASKS = 2_000
"""Settlements of one turn: some 10 ms of the store's time."""
_GONE = (Reason.AGENT_NOT_FOUND, Reason.PROJECT_NOT_FOUND)


class Group:
    """The consumers of one agent in this process.

    Args:
        start: Tells where the group begins.
        decided: Tells up to which event it is decided for the agent.
        acknowledged: Is told that the agent's cursor has moved.
        outstanding, parked: How many deliveries may be.
        noted: Whether it is noted what is sent.
    """

    def __init__(
        self,
        project: str,
        agent_id: str,
        store: GroupStore,
        start: Callable[[], Awaitable[Sequence]],
        decided: Callable[[], Awaitable[Sequence]],
        acknowledged: Callable[[], None],
        *,
        outstanding: int,
        parked: int,
        noted: bool,
    ) -> None:
        self.project, self.agent_id = project, agent_id
        self.consumers: dict[str, Consumer] = {}
        self._store = store
        self._start = start
        self._decided = decided
        self._acknowledged = acknowledged
        self._outstanding, self._parked = outstanding, parked
        self._noted = noted
        self._epoch = 0
        self._tasks: list[Task] = []
        self._unsure: set[int] = set()
        """Tasks that may be done already, as the store has not answered."""
        self._recheck = False
        """The store has not said what consumers were given."""
        self._leaving: list[tuple[str, str]] = []
        self._awaits: dict[Consumer, Sequence] = {}
        """Consumers that are to have all that is decided up to an event before they are idle."""
        self._exhausted: list[Settlement] = []
        self._upto: Sequence | None = None
        self._cursor: Sequence | None = None
        self._cursor_due = 0.0
        self._due: float | None = None
        self._turns = 0
        self._wake = asyncio.Event()
        self._failures = Failures("consuming_failed")
        self._task = asyncio.create_task(self._run(), name=f"contex-group-{agent_id}")

    def wake(self) -> None:
        """Lets the group look what there is to be done."""
        self._wake.set()

    @asynccontextmanager
    async def consumer(
        self, spec: ConsumerSpec, stream_id: str, held: Iterable[str], tail: Sequence
    ) -> AsyncIterator[Consumer]:
        """A consumer, while the block lasts; afterwards it has what was not given back.

        Args:
            held: The names of claims that it still has, of an earlier stream.
            tail: The end of the log.

        Raises:
            ContexError: AGENT_NOT_FOUND, STORE_UNAVAILABLE, STORE_FULL.
        """
        if (before := self.consumers.get(spec.name)) is not None:
            before.fail(replaced(spec.name))
        consumer = Consumer(spec, stream_id, self.wake)
        try:
            await self._open(consumer, held)
            self.consumers[spec.name] = consumer
            self._awaits[consumer] = tail
            self.wake()
            yield consumer
        finally:
            self._awaits.pop(consumer, None)
            if self.consumers.get(spec.name) is consumer:
                del self.consumers[spec.name]
            self._leaving.append((spec.name, stream_id))
            self.wake()

    async def close(self) -> None:
        """Does what is still to be done, then stops."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError, ContexError):
            async with asyncio.timeout(_BACKOFF_S[1]):
                self._cursor_due = 0.0
                while (self._tasks or self._leaving or self._moves(0.0)) and await self._settle():
                    pass

    def fail(self, error: ContexError) -> None:
        """Ends the streams of all consumers."""
        for consumer in [*self.consumers.values()]:
            consumer.fail(error)

    def _moves(self, now: float) -> bool:
        """Whether the agent's cursor is to be moved."""
        return self._upto not in (None, self._cursor) and now >= self._cursor_due

    def settle(
        self,
        consumer: Consumer,
        number: int | None,
        names: Iterable[str],
        verb: Verb,
        more: Callable[[int], str],
    ) -> None:
        """Says what has become of deliveries of a consumer; it is told what came of that.

        Args:
            names: Those of the claims.
            more: What else is said, by the attempt.
        """
        unique = list(dict.fromkeys(names))
        order = Order(consumer, number, len(unique))
        consumer.ordered(len(unique))
        for name in unique:
            ref, attempt, epoch = parse_delivery_id(name)
            said = Settlement(verb, consumer.spec.name, ref, attempt, more(attempt))
            self._tasks.append(Task(order, said, epoch, name))
        if not unique:
            consumer.answer(order)
        self.wake()

    def give_back(self, consumer: Consumer, claims: Iterable[Claim], *, seen: bool) -> None:
        """Gives deliveries back; those that were not seen were no attempt."""
        names = [claim.id for claim in claims if consumer.drop(claim.id) is not None]
        verb = Verb.RETRY if seen else Verb.GIVE_BACK
        self.settle(consumer, None, names, verb, lambda _: "0")

    async def _open(self, consumer: Consumer, held: Iterable[str]) -> None:
        names = list(held)
        refs = [parse_delivery_id(name)[0] for name in names]
        start = await self._start()
        self._epoch = await self._store.open(
            self.project, self.agent_id, start, consumer.spec.name, consumer.stream_id, refs
        )
        # What it claims to hold is looked at when it is settled.
        lost = [name for name in names if parse_delivery_id(name)[2] != self._epoch]
        if lost:
            consumer.tell(Lost(lost))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(*_BACKOFF_S)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_look(loop.time())):
                    await self._wake.wait()
            self._wake.clear()
            try:
                more = await self._turn()
            except ContexError as error:
                if error.reason in _GONE:
                    self._give_up(error)
                else:
                    self._failures.failed(self.project, error)
                await backoff.wait()
                self._wake.set()
            except Exception as error:
                # A defect: nobody may be left waiting.
                self._failures.failed(self.project, error)
                self._give_up(ContexError(Reason.INTERNAL, f"failed: {type(error).__name__}"))
            else:
                self._failures.worked(self.project)
                backoff = Backoff(*_BACKOFF_S)
                if more:
                    self._wake.set()

    def _next_look(self, now: float) -> float:
        """When something is to be done, whatever is heard."""
        times = [now + (_UNDECIDED_S if self._awaits else _LOOK_S)]
        times += [t for c in self.consumers.values() if (t := c.next_run_out()) is not None]
        if self._due is not None:
            times.append(self._due)
        if self._upto not in (None, self._cursor):
            times.append(self._cursor_due)
        return min(times)

    def _give_up(self, error: ContexError) -> None:
        self.fail(error)
        tasks, self._tasks, self._leaving = self._tasks, [], []
        for task in tasks:
            task.order.consumer.settled(task, Outcome.LOST)

    async def _turn(self) -> bool:
        """Settles what is to be settled and hands out what there is; whether there may be more."""
        now = asyncio.get_running_loop().time()
        for consumer in self.consumers.values():
            consumer.run_out(now)
        due = self._tasks or self._leaving or self._exhausted or self._moves(now)
        if due and not await self._settle():
            await self._begin_anew()
            return True
        asking = [consumer for consumer in self.consumers.values() if consumer.error is None]
        if not asking:
            return bool(self._tasks)
        if self._recheck:
            # They may have been given what they were never told.
            for consumer in asking:
                await self._open(consumer, [*consumer.claims])
            self._recheck = False
        # Whoever was first is last the next time.
        self._turns += 1
        first = self._turns % len(asking)
        asking = asking[first:] + asking[:first]
        asked = asyncio.get_running_loop().time()
        taken = await self._take(asking)
        if taken is None:
            await self._begin_anew()
            return True
        more = await self._hand_out(asking, taken, asked)
        return more or bool(self._tasks)

    async def _settle(self) -> bool:
        """False if the claims are of an epoch that is over."""
        stale = [task for task in self._tasks if task.epoch != self._epoch]
        self._done(stale)
        for task in stale:
            task.order.consumer.settled(task, Outcome.LOST)
        some = self._tasks[:_TASKS]
        # Parking may be refused while the rest is done.
        parks = [task for task in some if task.settlement.verb is Verb.PARK]
        others = [task for task in some if task.settlement.verb is not Verb.PARK]
        if not await self._settle_some(others):
            return False
        if parks:
            try:
                if not await self._settle_some(parks):
                    return False
            except ContexError as error:
                if error.reason is not Reason.STORE_FULL:
                    raise
                self._done(parks)
                for task in parks:
                    task.order.reason = error.reason.value
                    task.order.consumer.settled(task, Outcome.FULL)
        return await self._park_exhausted()

    async def _settle_some(self, tasks: list[Task]) -> bool:
        loop = asyncio.get_running_loop()
        cursor = self._upto if self._moves(loop.time()) or self._leaving else None
        leaving = self._leaving
        if not tasks and not leaving and cursor is None:
            return True
        try:
            settled = await self._store.settle(
                self.project,
                self.agent_id,
                self._epoch,
                [task.settlement for task in tasks],
                cursor=cursor,
                leaving=leaving,
                parked=self._parked,
            )
        except ContexError as error:
            if error.reason is not Reason.STORE_FULL:
                self._unsure |= {id(task) for task in tasks}
            raise
        if settled is None:
            return False
        self._leaving = self._leaving[len(leaving) :]
        if cursor is not None:
            self._cursor, self._cursor_due = cursor, loop.time() + _CURSOR_S
            self._acknowledged()
        self._upto = settled.upto or self._upto
        self._done(tasks)
        for task, outcome in zip(tasks, settled.outcomes, strict=True):
            unsure = id(task) in self._unsure
            self._unsure.discard(id(task))
            task.order.consumer.settled(task, outcome, unsure=unsure)
        return True

    async def _park_exhausted(self) -> bool:
        settlements, self._exhausted = self._exhausted, []
        if not settlements:
            return True
        try:
            settled = await self._store.settle(
                self.project, self.agent_id, self._epoch, settlements, parked=self._parked
            )
        except ContexError as error:
            if error.reason is not Reason.STORE_FULL:
                raise
            self._failures.failed(self.project, error)  # They are tried again a while later.
            return True
        if settled is not None and Outcome.FULL in settled.outcomes:
            log.warning(
                "parked_full",
                project=self.project,
                agent_id=self.agent_id,
                parked=self._parked,
                advice="redrive or drop what is parked",
            )
        return settled is not None

    def _done(self, tasks: list[Task]) -> None:
        """These are no longer to be done."""
        if tasks:
            done = set(map(id, tasks))
            self._tasks = [task for task in self._tasks if id(task) not in done]

    async def _begin_anew(self) -> None:
        """All claims are lost: the agent's place was moved, or it is another inbox."""
        self._upto = self._cursor = None
        self._exhausted = []
        for consumer in [*self.consumers.values()]:
            consumer.lose([*consumer.claims])
            await self._open(consumer, ())

    async def _take(self, asking: list[Consumer]) -> Taken | None:
        tries = min(consumer.spec.tries for consumer in asking)
        try:
            return await self._store.take(
                self.project,
                self.agent_id,
                self._epoch,
                [consumer.demand() for consumer in asking],
                most=self._outstanding,
                tries=tries,
                noted=self._noted,
            )
        except ContexError:
            self._recheck = True
            raise

    async def _hand_out(self, asking: list[Consumer], taken: Taken, asked: float) -> bool:
        """Gives consumers what was taken for them; whether there may be more.

        Claims last from when they were `asked` for.
        """
        more = False
        self._exhausted += [parking(ref, attempts) for ref, attempts in taken.exhausted]
        self._due = None
        if taken.due_in_ms is not None:
            self._due = asked + taken.due_in_ms / 1_000
        for consumer, claims in zip(asking, taken.claims, strict=True):
            if claims is None:
                consumer.fail(replaced(consumer.spec.name))
                continue
            consumer.position = max(consumer.position, taken.position)
            if any(taken.missed):
                consumer.tell(taken.missed)
            if claims:
                until = asked + consumer.spec.deadline_ms / 1_000
                consumer.given(
                    [
                        Claim(delivery_id(each.ref, each.attempt, self._epoch), each, until)
                        for each in claims
                    ]
                )
                consumer.blocked_told = False
                more = True
            elif taken.blocked:
                if not consumer.blocked_told:
                    consumer.blocked_told = True
                    consumer.tell(Blocked())
            elif consumer.wants_idle() and await self._has_all(consumer):
                consumer.idle_told = True
                consumer.tell(Idle(taken.outstanding))
        return more or bool(self._exhausted)

    async def _has_all(self, consumer: Consumer) -> bool:
        """Whether all is decided that was there when a consumer came."""
        awaited = self._awaits.get(consumer)
        if awaited is not None and await self._decided() < awaited:
            return False
        self._awaits.pop(consumer, None)
        return True

"""The consumers that an agent has in this process, and what they share with those of others.

One task hands deliveries out and settles them, for all of them in one turn of the store. Consumers
of other processes take from the same group of the store: who is first has a delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from math import inf

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
        self._reopen = False
        """Consumers are to be let in anew: another epoch has begun, or the store has not said what
        they were given."""
        self._opening = asyncio.Lock()
        """One is let in after the other: the last of a name is the one that the store knows."""
        self._stopping = False
        self._leaving: list[tuple[str, str]] = []
        self._awaits: dict[Consumer, Sequence] = {}
        """Consumers that are to have all that is decided up to an event before they are idle."""
        self._exhausted: list[Settlement] = []
        self._upto: Sequence | None = None
        self._unknown = False
        """What is settled may reach further than the store has said."""
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
        self,
        spec: ConsumerSpec,
        stream_id: str,
        held: Iterable[str],
        tail: Sequence,
        *,
        noted: bool = True,
    ) -> AsyncIterator[Consumer]:
        """A consumer, while the block lasts; afterwards it has what was not given back.

        Args:
            held: The names of claims that it still has, of an earlier stream.
            tail: The end of the log.
            noted: As of `Consumer`.

        Raises:
            ContexError: AGENT_NOT_FOUND, STORE_UNAVAILABLE, STORE_FULL.
        """
        consumer = Consumer(spec, stream_id, self.wake, noted=noted)
        try:
            async with self._opening:
                if (before := self.consumers.get(spec.name)) is not None:
                    before.fail(replaced(spec.name))
                await self._open(consumer, [*held])
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
        self._stopping = True
        self.wake()
        # What is being taken is given back.
        await asyncio.wait([self._task], timeout=_BACKOFF_S[1])
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError, ContexError):
            async with asyncio.timeout(_BACKOFF_S[1]):
                moves = True
                while (self._tasks or self._leaving or moves) and await self._settle():
                    self._cursor_due = 0.0
                    moves = self._moves(0.0)

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
            if verb is Verb.RETRY and number is not None and attempt >= consumer.spec.tries:
                said = said._replace(verb=Verb.PARK, more="A")
            self._tasks.append(Task(order, said, epoch, name))
        if not unique:
            consumer.answer(order)
        self.wake()

    def give_back(self, consumer: Consumer, claims: Iterable[Claim], *, seen: bool) -> None:
        """Gives deliveries back; those that were not seen were no attempt."""
        names = [claim.id for claim in claims if consumer.drop(claim.id) is not None]
        verb = Verb.RETRY if seen else Verb.GIVE_BACK
        self.settle(consumer, None, names, verb, lambda _: "0")

    def withhold(self, consumer: Consumer, claims: Iterable[Claim]) -> None:
        """Settles deliveries that a consumer may not see, unseen: it is not told of them."""
        names = [claim.id for claim in claims if consumer.drop(claim.id) is not None]
        self.settle(consumer, None, names, Verb.ACK, lambda _: "")

    def give_back_held(self, consumer: Consumer) -> None:
        """Gives back what a consumer has of an earlier stream."""
        names, consumer.held = consumer.held, {}
        self.settle(consumer, None, names, Verb.RETRY, lambda _: "0")

    async def _open(self, consumer: Consumer, held: list[str], *, again: bool = False) -> None:
        """Lets a consumer in; `again` if it was let in before, unless it is replaced by now."""
        refs = [parse_delivery_id(name)[0] for name in held]
        epoch: int | None = 0
        while epoch == 0:
            start = await self._start()
            epoch = await self._store.open(
                self.project,
                self.agent_id,
                start,
                consumer.spec.name,
                consumer.stream_id,
                refs,
                again=again,
            )
        if epoch is None:
            consumer.fail(replaced(consumer.spec.name))
            return
        if epoch != self._epoch:
            if self._epoch:
                self._begin_anew()
            self._epoch = epoch
        if not again:
            # What it claims to hold is looked at when it is settled.
            mine = [name for name in held if parse_delivery_id(name)[2] == epoch]
            consumer.held = dict.fromkeys(mine, inf)
            if lost := [name for name in held if name not in consumer.held]:
                consumer.tell(Lost(lost))
            # Now it is known when they run out, and which of them it has no more.
            until = str(consumer.spec.deadline_ms)
            self.settle(consumer, None, mine, Verb.EXTEND, lambda _: until)

    async def _open_again(self) -> None:
        """Lets all consumers in anew, with what they know that they have."""
        self._reopen = False
        try:
            for consumer in [*self.consumers.values()]:
                async with self._opening:
                    is_there = self.consumers.get(consumer.spec.name) is consumer
                    if consumer.error is not None or not is_there:
                        continue
                    queued = [t for t in self._tasks if t.epoch == self._epoch]
                    names = [t.delivery_id for t in queued if t.order.consumer is consumer]
                    held = [*consumer.claims, *consumer.held, *names]
                    await self._open(consumer, held, again=True)
        except BaseException:
            self._reopen = True
            raise

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(*_BACKOFF_S)
        while not self._stopping:
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
        self._unsure.clear()
        for task in tasks:
            task.order.consumer.settled(task, Outcome.LOST)

    async def _turn(self) -> bool:
        """Settles what is to be settled and hands out what there is; whether there may be more."""
        now = asyncio.get_running_loop().time()
        if self._reopen:
            await self._open_again()
        due = self._tasks or self._leaving or self._exhausted or self._moves(now) or self._unknown
        epoch = self._epoch
        if due and not await self._settle():
            if epoch == self._epoch:
                self._begin_anew()
            return True
        for consumer in self.consumers.values():
            # What is said of a claim by then is done if nobody else has the delivery.
            named = {t.delivery_id for t in self._tasks if t.order.consumer is consumer}
            consumer.run_out(now, named)
        asking = [consumer for consumer in self.consumers.values() if consumer.error is None]
        if not asking or self._reopen:
            return bool(self._tasks or self._reopen)
        # Whoever was first is last the next time.
        self._turns += 1
        first = self._turns % len(asking)
        asking = asking[first:] + asking[:first]
        epoch, more = self._epoch, False
        for noted in (True, False):
            some = [consumer for consumer in asking if consumer.noted is noted]
            if not some:
                continue
            asked = asyncio.get_running_loop().time()
            taken = await self._take(some, noted=noted)
            if epoch != self._epoch:
                return True  # What was taken is cleared.
            if taken is None:
                self._begin_anew()
                return True
            more = await self._hand_out(some, taken, asked) or more
        return more or bool(self._tasks)

    async def _settle(self) -> bool:
        """False if the claims are of an epoch that is over."""
        epoch = self._epoch
        stale = [task for task in self._tasks if task.epoch != epoch]
        self._done(stale)
        for task in stale:
            task.order.consumer.settled(task, Outcome.LOST)
        some = self._tasks[:_TASKS]
        # Parking may be refused while the rest is done.
        parks = [task for task in some if task.settlement.verb is Verb.PARK]
        others = [task for task in some if task.settlement.verb is not Verb.PARK]
        if not await self._settle_some(epoch, others):
            return False
        if parks:
            try:
                if not await self._settle_some(epoch, parks):
                    return False
            except ContexError as error:
                if error.reason is not Reason.STORE_FULL:
                    raise
                self._done(parks)
                for task in parks:
                    task.order.reason = error.reason.value
                    task.order.consumer.settled(task, Outcome.FULL)
        return await self._park_exhausted(epoch)

    async def _settle_some(self, epoch: int, tasks: list[Task]) -> bool:
        loop = asyncio.get_running_loop()
        cursor = self._upto if self._moves(loop.time()) or self._leaving else None
        leaving = [*self._leaving]
        if not (tasks or leaving or self._unknown) and cursor is None:
            return True
        asked = loop.time()
        try:
            settled = await self._store.settle(
                self.project,
                self.agent_id,
                epoch,
                [task.settlement for task in tasks],
                cursor=cursor,
                leaving=leaving,
                parked=self._parked,
            )
        except BaseException as error:
            if not (isinstance(error, ContexError) and error.reason is Reason.STORE_FULL):
                self._unsure |= {id(task) for task in tasks}
            raise
        self._leaving = self._leaving[len(leaving) :]
        if settled is None:
            return False
        if epoch == self._epoch:
            if cursor is not None:
                self._cursor, self._cursor_due = cursor, loop.time() + _CURSOR_S
                self._acknowledged()
            self._upto = settled.upto or self._upto
            self._unknown = False
        unsure = [id(task) in self._unsure for task in tasks]
        self._done(tasks)
        for task, outcome, is_unsure in zip(tasks, settled.outcomes, unsure, strict=True):
            task.order.consumer.settled(task, outcome, asked=asked, unsure=is_unsure)
        return True

    async def _park_exhausted(self, epoch: int) -> bool:
        settlements, self._exhausted = self._exhausted, []
        if not settlements:
            return True
        try:
            settled = await self._store.settle(
                self.project, self.agent_id, epoch, settlements, parked=self._parked
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
            self._unsure -= done
            self._tasks = [task for task in self._tasks if id(task) not in done]

    def _begin_anew(self) -> None:
        """All claims are lost: the agent's place was moved, or it is another inbox."""
        self._upto = self._cursor = None
        self._exhausted = []
        self._reopen = True
        for consumer in self.consumers.values():
            consumer.lose([*consumer.claims, *consumer.held])

    async def _take(self, asking: list[Consumer], *, noted: bool) -> Taken | None:
        tries = min(consumer.spec.tries for consumer in asking)
        try:
            return await self._store.take(
                self.project,
                self.agent_id,
                self._epoch,
                [consumer.demand() for consumer in asking],
                most=self._outstanding,
                tries=tries,
                noted=self._noted and noted,
            )
        except ContexError:
            self._reopen = True
            raise

    async def _hand_out(self, asking: list[Consumer], taken: Taken, asked: float) -> bool:
        """Gives consumers what was taken for them; whether there may be more.

        Claims last from when they were `asked` for.
        """
        more = False
        # Nobody settles what is passed over.
        self._unknown = not taken.outstanding and taken.position != self._upto
        self._exhausted += [parking(ref, attempts) for ref, attempts in taken.exhausted]
        self._due = None
        if taken.due_in_ms is not None:
            self._due = asked + taken.due_in_ms / 1_000
        without: list[Consumer] = []
        for consumer, claims in zip(asking, taken.claims, strict=True):
            if claims is None:
                consumer.fail(replaced(consumer.spec.name))
                continue
            consumer.position = max(consumer.position, taken.position)
            if any(taken.missed):
                consumer.tell(taken.missed)
            if claims:
                until = asked + consumer.spec.deadline_ms / 1_000
                made = [
                    Claim(delivery_id(each.ref, each.attempt, self._epoch), each, until)
                    for each in claims
                ]
                more = True
                is_there = self.consumers.get(consumer.spec.name) is consumer
                if not is_there or consumer.paused or consumer.error is not None:
                    # It has left, or is to get nothing more, since it was asked for.
                    names = [claim.id for claim in made]
                    self.settle(consumer, None, names, Verb.GIVE_BACK, lambda _: "")
                    continue
                consumer.given(made)
                consumer.blocked_told = False
            else:
                without.append(consumer)
        # Nobody is to miss what it was given if this fails.
        for consumer in without:
            if taken.blocked:
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

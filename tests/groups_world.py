"""Random histories of consumers that share an agent's inbox; see groups_model.py."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from contex.v1 import consumer_pb2 as pb
from contex.v1 import event_pb2
from contex.v1.agent_service_pb2 import Need
from google.protobuf.duration_pb2 import Duration

from tests.groups_model import Book, Claim, Delivery, epoch_of
from tests.integration.support import (
    DEADLINE_S,
    EDGE_END,
    AcknowledgeRequest,
    Api,
    EventFilter,
    GetAgentRequest,
    P,
    RegisterAgentRequest,
    UnregisterAgentRequest,
    event,
    order,
)

A = "a"
KEYS = ("k1", "k2", "k3", "k4", "")
NAMES = ("x", "y", "z")


def duration(value: float) -> Duration:
    return Duration(nanos=int(value * 1e9)) if value < 1 else Duration(seconds=int(value))


def delivery_of(matched: event_pb2.MatchedEvent, *, redriven: bool = False) -> Delivery:
    found = matched.event
    return Delivery(
        order(found.sequence), found.data_key, event_pb2.MatchKind.Name(matched.kind), redriven
    )


class Stream:
    """One stream of a consumer."""

    def __init__(self, world: World, api: Api, name: str, held: list[str], **fields: Any) -> None:
        self.world, self.book, self.name = world, world.book, name
        self.deadline_s: float = fields.pop("deadline_s")
        self.held = dict.fromkeys(held)
        self.error: grpc.aio.AioRpcError | None = None
        self.cursor = ""
        self.outstanding: int | None = None
        self.begun = time.monotonic()
        self.ending = False
        self._asked: dict[int, tuple[str, list[str], list[bool], float]] = {}
        self._number = 0
        self._call = api.agents.Consume()
        self._writing = asyncio.Lock()
        self._start = pb.ConsumeStart(
            project=P,
            agent_id=A,
            consumer=name,
            held_delivery_ids=held,
            ack_deadline=duration(self.deadline_s),
            heartbeat_interval_ms=100,
            **fields,
        )
        before = [
            claim.name
            for epoch in self.book.epochs.values()
            for claim in epoch.claims.values()
            if claim.consumer == name and claim.name not in held
        ]
        self.book.let_go(self.begun, before, f"{name} begins")
        world.latest[name] = self
        self.others = [each for each in world.streams if each.name == name]
        """Those of its name that began before: servers may see another order."""
        world.streams.append(self)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self._writing:
                await self._call.write(pb.ConsumeRequest(start=self._start))
            async for message in self._call:
                self._take(message)
        except grpc.aio.AioRpcError as error:
            self.error = error
        except (asyncio.InvalidStateError, asyncio.CancelledError):
            pass

    def _take(self, message: pb.ConsumeResponse) -> None:
        now = time.monotonic()
        self.cursor = message.cursor
        kind = message.WhichOneof("message")
        if kind == "deliveries":
            for each in message.deliveries.deliveries:
                claim = Claim(
                    each.delivery_id,
                    delivery_of(each.matched, redriven=each.redriven),
                    each.attempt,
                    epoch_of(each.delivery_id),
                    self.name,
                    now,
                    max(self.begun, self.world.published.get(each.matched.event.sequence, 0.0))
                    + self.deadline_s,
                )
                self.book.received(now, claim)
                rivals = any(not each.task.done() for each in self.others)
                if self.ending or rivals or self.world.latest[self.name] is not self:
                    claim.free = True
                if not self.ending:
                    self.held[claim.name] = None
            self.outstanding = None
        elif kind == "settled":
            answer = message.settled
            outcome, names, lost, until = self._asked.pop(answer.settle_id)
            refused = {*answer.refused_delivery_ids}
            if answer.refused_reason:
                refused = {*names}
            found = {*answer.lost_delivery_ids}
            self.book.answered(now, outcome, names, lost, found, refused, until)
            for name in names:
                if name in found or (outcome != "extend" and name not in refused):
                    self.held.pop(name, None)
        elif kind == "lost":
            names = [n for n in message.lost.delivery_ids if n in self._known()]
            self.book.let_go(now, names, f"{self.name} loses")
            for name in names:
                self.held.pop(name, None)
        elif kind == "idle":
            self.outstanding = message.idle.outstanding_count

    def _known(self) -> set[str]:
        return {name for epoch in self.book.epochs.values() for name in epoch.claims}

    def claim(self, name: str) -> Claim:
        return self.book.epochs[epoch_of(name)].claims[name]

    async def _say(self, **message: Any) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with self._writing:
                await self._call.write(pb.ConsumeRequest(**message))

    async def settle(self, outcome: str, names: list[str]) -> None:
        now = time.monotonic()
        self._number += 1
        pick, extend_s = self.world.randomly, 0.0
        if outcome == "extend":
            extend_s = pick.choice([0.1, 0.3])
        lost = self.book.said(now, outcome, names, now + extend_s)
        self._asked[self._number] = outcome, names, lost, now + extend_s
        named: dict[str, Any] = {"settle_id": self._number, "delivery_ids": names}
        match outcome:
            case "extend":
                await self._say(extend=pb.Extend(**named, ack_deadline=duration(extend_s)))
            case "retry":
                delay = duration(pick.choice([0.0, 0.0, 0.02, 0.1]))
                await self._say(settle=pb.Settle(**named, retry=pb.Retry(delay=delay)))
            case "park":
                await self._say(settle=pb.Settle(**named, park=pb.Park(reason="so")))
            case "skip":
                await self._say(settle=pb.Settle(**named, skip=pb.Skip()))
            case _:
                await self._say(settle=pb.Settle(**named, ack=pb.Ack()))

    async def credit(self, messages: int) -> None:
        await self._say(credit=pb.Credit(max_outstanding_messages=messages))

    async def finish(self) -> None:
        """Ends in good order."""
        await self._say(drain=pb.Drain())
        self.book.said(time.monotonic(), "give", [*self.held])
        self.ending = True
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with self._writing:
                await self._call.done_writing()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.shield(self.task)
                return
        self.book.fault(time.monotonic(), f"a stream of {self.name} did not end")

    async def vanish(self) -> None:
        self.ending = True
        self._call.cancel()
        self.task.cancel()  # A call that has just begun may not end its reader.
        await asyncio.gather(self.task, return_exceptions=True)


@dataclass
class World:
    """An agent whose inbox consumers share.

    Attributes:
        seeks, changes: Whether the agent's place, or its needs, change.
        lives: Whether the agent leaves and comes back, or begins anew.
        parks: Whether deliveries are parked and redriven.
        published: When each event was written, at the earliest.
    """

    randomly: random.Random
    book: Book
    seeks: bool = False
    changes: bool = False
    parks: bool = True
    lives: bool = False
    apis: list[Api] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    sequences: list[str] = field(default_factory=list)
    live: set[str] = field(default_factory=set)
    dropped: set[Delivery] = field(default_factory=set)
    since: int = 0
    after: tuple[int, int] = (0, 0)
    over: bool = False
    latest: dict[str, Stream] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)
    cursors: list[tuple[float, tuple[int, int]]] = field(default_factory=list)
    seeking: bool = False
    passed: set[Delivery] = field(default_factory=set)
    """Deliveries that the agent's cursor has passed while they were outstanding, or removed."""

    def api(self) -> Api:
        return self.randomly.choice(self.apis)

    async def call(self, ask: Callable[[Api], Awaitable[Any]]) -> Any:
        """A call that is repeated until a server has done it."""
        while True:
            try:
                return await ask(self.api())
            except grpc.aio.AioRpcError as error:
                unavailable = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
                cancelled = grpc.StatusCode.CANCELLED
                if error.code() not in (*unavailable, cancelled):
                    raise
                await asyncio.sleep(0.02)

    async def begin(self) -> None:
        await self.publish()
        await self.register()
        self.published.clear()  # What they bring has other places.

    async def register(self) -> None:
        filters = [EventFilter()]
        if self.changes:
            some = [EventFilter(data_keys=["k1", "k2"]), EventFilter(data_keys=["k3"])]
            filters = [self.randomly.choice([EventFilter(), *some])]
        request = RegisterAgentRequest(
            project=P, agent_id=A, needs=[Need(filter=each) for each in filters]
        )
        await self.call(lambda api: api.agents.RegisterAgent(request, timeout=DEADLINE_S))

    def _begin_anew(self, after: tuple[int, int], over: int) -> None:
        """All claims are lost up to an epoch, and more is not known of the next ones."""
        self.since = self.book.cleared_before = over + 1
        self.after = after
        self.book.acknowledged.clear()
        self.published.clear()
        self.dropped.clear()

    async def leave(self) -> None:
        """The agent leaves and comes back."""
        request = UnregisterAgentRequest(project=P, agent_id=A)
        self.seeking = True
        self.book.note(time.monotonic(), "unregister")
        while True:
            try:
                await self.call(lambda api: api.agents.UnregisterAgent(request))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
            break
        over = max(self.book.epochs, default=0)
        await asyncio.sleep(self.randomly.choice([0.0, 0.05]))
        await self.register()
        self._begin_anew((0, 0), over)
        self.seeking = False

    async def begin_anew(self) -> None:
        """The agent asks for a part of the past again."""
        after = self.randomly.choice(["0", *self.sequences])
        self.seeking = True
        self.book.note(time.monotonic(), f"register after {after}")
        needs = [Need(filter=EventFilter())]
        request = RegisterAgentRequest(project=P, agent_id=A, needs=needs, last_seen_sequence=after)
        over = max(self.book.epochs, default=0)
        await self.call(lambda api: api.agents.RegisterAgent(request, timeout=DEADLINE_S))
        self._begin_anew(order(after), over)
        self.seeking = False

    async def publish(self) -> None:
        pick, events = self.randomly, []
        for _ in range(pick.choice([1, 1, 2, 4])):
            key = pick.choice(KEYS)
            if key in self.live and pick.random() < 0.15:
                self.live.discard(key)
                events.append(event(key, b"", tombstone=True))
            elif key:
                self.live.add(key)
                events.append(event(key, b'"x"'))
            else:
                events.append(event("", b'"x"', event_type="note"))
        now = time.monotonic()
        # A repeated one may be written twice.
        for sequence in await self.call(lambda api: api.publish(*events)):
            self.published[sequence] = now
            self.sequences.append(sequence)

    # -- Operators ------------------------------------------------------------------------------

    async def seek(self) -> None:
        pick = self.randomly
        named: dict[str, Any] = {"after_sequence": pick.choice(["0", *self.sequences])}
        if pick.random() < 0.2:
            named = {"edge": EDGE_END}
        request = pb.SeekConsumerGroupRequest(project=P, agent_id=A, **named)
        now = time.monotonic()
        self.seeking = True
        response = await self.call(lambda api: api.agents.SeekConsumerGroup(request))
        self.book.note(now, f"seek to {response.position_sequence}")
        stored = await self.epoch()
        self.since = self.book.cleared_before = stored
        self.after = order(response.position_sequence)
        self.book.acknowledged.clear()
        self.seeking = False

    async def epoch(self) -> int:
        raise NotImplementedError

    async def acknowledge(self) -> None:
        if not self.sequences:
            return
        sequence = self.randomly.choice(self.sequences)
        now = time.monotonic()
        self.book.note(now, f"acknowledge {sequence}")
        self.book.acknowledged.append((now, order(sequence)))
        request = AcknowledgeRequest(project=P, agent_id=A, sequence=sequence)
        await self.call(lambda api: api.agents.Acknowledge(request))

    async def parked(self) -> list[pb.ParkedDelivery]:
        found: list[pb.ParkedDelivery] = []
        request = pb.ListParkedRequest(project=P, agent_id=A, page_size=20)
        while True:
            page = await self.call(lambda api: api.agents.ListParked(request))
            found += page.deliveries
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def unpark(self) -> None:
        pick, parked = self.randomly, await self.parked()
        some = [each for each in parked if pick.random() < 0.5]
        if not some:
            return
        ids = [each.parked_id for each in some]
        now = time.monotonic()
        if pick.random() < 0.7:
            self.book.note(now, f"redrive {ids}")
            redrive = pb.RedriveParkedRequest(project=P, agent_id=A, parked_ids=ids)
            await self.call(lambda api: api.agents.RedriveParked(redrive))
        else:
            self.book.note(now, f"drop {ids}")
            self.dropped |= {delivery_of(each.matched) for each in some}
            drop = pb.DropParkedRequest(project=P, agent_id=A, parked_ids=ids)
            await self.call(lambda api: api.agents.DropParked(drop))

    async def look(self) -> None:
        """Notes where the agent's cursor stands."""
        if self.seeking:
            return
        since = self.since
        request = GetAgentRequest(project=P, agent_id=A)
        agent = (await self.call(lambda api: api.agents.GetAgent(request))).agent
        now = time.monotonic()
        if since == self.since and not self.seeking and agent.acknowledged_sequence:
            self.cursors.append((now, order(agent.acknowledged_sequence)))
            self.check_cursor(now, order(agent.acknowledged_sequence))

    def check_cursor(self, now: float, cursor: tuple[int, int]) -> None:
        """Everything up to the agent's cursor is settled."""
        book = self.book
        for number, epoch in book.epochs.items():
            if number < self.since or number < max(book.epochs):
                continue
            for delivery, claim in epoch.last.items():
                if (
                    self.after < delivery.sequence <= cursor
                    and delivery.sequence in self.certain
                    and not delivery.redriven
                    and delivery not in epoch.ended
                    and not book.may_be_exhausted(claim)
                    and not any(delivery.sequence <= upto for _, upto in book.acknowledged)
                ):
                    self.passed.add(delivery)
                    if not book.trims:
                        book.fault(now, f"the cursor {cursor} has passed {claim}")

    @property
    def certain(self) -> set[tuple[int, int]]:
        """Events that came after the agent was registered, once."""
        return {order(sequence) for sequence in self.published} if not self.changes else set()

    # -- Consumers ------------------------------------------------------------------------------

    async def consume(self, name: str) -> None:
        """One consumer, stream after stream."""
        pick = self.randomly
        held: list[str] = []
        stream: Stream | None = None
        while not self.over:
            stream = self.stream(name, held)
            end = await self.session(stream)
            has = [*stream.held]
            held = []
            if end == "finish":
                await stream.finish()
            elif end == "replace":
                former, stream = stream, self.stream(name, [])
                await asyncio.sleep(pick.choice([0.0, 0.02]))
                await former.vanish()
                await self.session(stream)
                await stream.vanish()
            else:
                await stream.vanish()
                if pick.random() < 0.6:
                    held = [one for one in has if pick.random() < 0.7]
            await asyncio.sleep(pick.choice([0.0, 0.0, 0.05, 0.2]))

    def stream(self, name: str, held: list[str]) -> Stream:
        pick = self.randomly
        tries = pick.choice([3, 100, 100]) if self.parks else 1_000
        self.book.tries = min(self.book.tries, tries)
        return Stream(
            self,
            self.api(),
            name,
            held,
            deadline_s=pick.choice([0.15, 0.3, 0.6]),
            max_outstanding_messages=pick.choice([1, 2, 5, 20]),
            max_attempts=tries,
        )

    async def session(self, stream: Stream) -> str:
        pick = self.randomly
        for _ in range(pick.randrange(2, 25)):
            if stream.task.done() or self.over:
                break
            await asyncio.sleep(pick.choice([0.0, 0.0, 0.005, 0.02, 0.05]))
            has = [*stream.held]
            chance = pick.random()
            if chance < 0.05:
                await asyncio.sleep(0.4)  # Its claims may run out.
            elif chance < 0.1:
                await stream.credit(pick.choice([0, 1, 3, 20]))
            elif has:
                some = pick.sample(has, pick.randrange(1, len(has) + 1))
                choices = ["ack", "ack", "ack", "ack", "skip", "retry", "retry", "extend"]
                if self.parks:
                    choices.append("park")
                await stream.settle(pick.choice(choices), some)
                if pick.random() < 0.1:
                    await stream.settle(pick.choice(choices), some)  # Once more.
        ends = ["finish", "vanish", "vanish", "replace"]
        return "finish" if self.book.orderly else pick.choice(ends)

    # -- Altogether -----------------------------------------------------------------------------

    async def play(self, rounds: int, do: Callable[[], Awaitable[None]] | None = None) -> None:
        pick = self.randomly
        consumers = [asyncio.create_task(self.consume(name)) for name in NAMES]
        try:
            for _ in range(rounds):
                await self.publish()
                chance = pick.random()
                if chance < 0.06 and self.seeks:
                    await self.seek()
                elif chance < 0.1 and self.seeks:
                    await self.acknowledge()
                elif chance < 0.15 and self.lives:
                    await (self.leave() if pick.random() < 0.5 else self.begin_anew())
                elif chance < 0.3 and self.parks:
                    await self.unpark()
                elif chance < 0.4 and self.changes:
                    await self.register()
                elif chance < 0.45 and do is not None:
                    await do()
                await self.look()
                await asyncio.sleep(pick.choice([0.0, 0.01, 0.05]))
                for consumer in consumers:
                    if consumer.done():
                        await consumer
        finally:
            self.over = True
        await asyncio.gather(*consumers)

    async def finish(self) -> Stream:
        """A last consumer has everything and settles it."""
        last = Stream(
            self,
            self.api(),
            "last",
            [],
            deadline_s=5.0,
            max_attempts=1_000,
            max_outstanding_messages=1_000,
        )
        request = pb.GetConsumerGroupRequest(project=P, agent_id=A)
        async with asyncio.timeout(20):
            while True:
                if has := [*last.held]:
                    await last.settle("ack", has)
                    for name in has:
                        last.held.pop(name, None)
                group = await self.call(lambda api: api.agents.GetConsumerGroup(request))
                quiet = not (group.outstanding_count or group.backlog_count or last.held)
                if quiet and last.outstanding is not None:
                    return last
                if last.task.done():
                    raise AssertionError(f"the last stream ended: {last.error}")
                await asyncio.sleep(0.02)

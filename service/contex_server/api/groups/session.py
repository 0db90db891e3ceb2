"""One stream of Consume: what the client says and what it is told, side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from contex.v1 import consumer_pb2 as pb

from contex_server.agents.delivery_recorder import StreamRecorder
from contex_server.agents.visibility import Gets, LeavesOut, concealed
from contex_server.api.groups import checks, messages
from contex_server.api.shared.cursors import encode_consumed
from contex_server.audit.writer import AuditWriter
from contex_server.events.feed import Delivery
from contex_server.groups.consumer import Blocked, Claim, Consumer
from contex_server.groups.group import Group
from contex_server.groups.room import GroupsRoom, data_key_of, is_for
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, invalid_field, shutting_down
from contex_server.kernel.inbox_ids import event_of


class Session:
    """A consumer's stream, once it has begun."""

    def __init__(
        self,
        call: Call,
        room: GroupsRoom,
        settings: Settings,
        group: Group,
        consumer: Consumer,
        room_bytes: int,
    ) -> None:
        self._call = call
        self._room = room
        self._settings = settings
        self._group = group
        self._consumer = consumer
        self._room_bytes = room_bytes
        self._texts: dict[str, str] = {}
        self._messages = time.time_ns() // 1_000
        """The number of the last message: greater than those of earlier streams."""
        self._gets: Gets | None = None
        self._leaves_out: LeavesOut | None = None
        self._left = False
        """The client has given back what it had, and ended its side."""

    def withhold(
        self,
        gets: Gets,
        leaves_out: LeavesOut | None,
        record: StreamRecorder,
        audit: AuditWriter,
    ) -> None:
        """Sends only what the caller gets, and records that: the rest is settled unseen."""
        self._gets, self._leaves_out = gets, leaves_out
        self._record, self._audit = record, audit

    async def run(
        self, requests: AsyncIterator[pb.ConsumeRequest], heartbeat_s: float, drain: Drain
    ) -> None:
        """Serves the stream until the client ends it, and gives back what it has not settled.

        Raises:
            ContexError: SHUTTING_DOWN, CONSUMER_REPLACED, AGENT_NOT_FOUND; INVALID_FIELD.
        """
        consumer = self._consumer

        def stop() -> None:
            consumer.fail(shutting_down())

        reading = asyncio.create_task(self._read_all(requests))
        drain.add(stop)
        try:
            if drain.started:
                stop()
            while not consumer.is_finished:
                await self._tell_next(heartbeat_s)
        finally:
            drain.remove(stop)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            # The client never saw them, or had left when they were given to it.
            claims = consumer.claims.values()
            unseen = [claim for claim in claims if self._left or not claim.message]
            self._group.give_back(consumer, unseen, seen=False)

    async def _read_all(self, requests: AsyncIterator[pb.ConsumeRequest]) -> None:
        group, consumer = self._group, self._consumer
        try:
            async for request in requests:
                self._take(request)
                await consumer.keeps_up()
            # A call that is cancelled ends the requests as well, and may go on in another one.
            self._left = consumer.paused
            if self._left:
                claims = [*consumer.claims.values()]
                group.give_back(consumer, [c for c in claims if not c.message], seen=False)
                group.give_back(consumer, [c for c in claims if c.message], seen=True)
                group.give_back_held(consumer)
            consumer.finish()
        except ContexError as error:
            consumer.fail(error)

    def _take(self, request: pb.ConsumeRequest) -> None:
        """Does what a client says."""
        group, consumer, limits = self._group, self._consumer, self._settings.limits
        match request.WhichOneof("message"):
            case "settle":
                said = checks.settle(self._call.project, request.settle, limits)
            case "extend":
                said = checks.extend(request.extend, limits, consumer.spec)
            case "credit":
                consumer.credit(*checks.credit(request.credit, limits))
                return
            case "drain":
                consumer.drain()
                return
            case "start":
                raise invalid_field("start", "must be the first message only")
            case _:
                raise invalid_field("message", "is required")
        names, upto = said.delivery_ids, said.upto
        if upto is not None:
            claims = consumer.claims.values()
            names = [claim.id for claim in claims if 0 < claim.message <= upto]
        group.settle(consumer, said.number, names, said.verb, said.more)

    async def _tell_next(self, heartbeat_s: float) -> None:
        consumer, project = self._consumer, self._call.project
        told = await consumer.next(heartbeat_s)
        match told:
            case list():
                await self._send(told)
            case Blocked():
                agent_id = self._group.agent_id
                worst = await self._room.blockers(project, agent_id, 1, self._gets)
                await self._call.write(messages.blocked(worst, self._cursor()))
            case None if consumer.is_finished:
                pass
            case _:
                await self._call.write(messages.told(told, self._cursor()))

    def _cursor(self) -> str:
        """The cursor of the next message."""
        self._messages += 1
        return encode_consumed(self._call.project, self._consumer.position, self._messages)

    async def _send(self, claims: list[Claim]) -> None:
        """Sends what the consumer was given, and still has."""
        consumer, group, project = self._consumer, self._group, self._call.project
        there = [claim for claim in claims if claim.id in consumer.claims]
        if self._gets is not None:
            there = await self._without_withheld(self._gets, there)
        source = self._room.read(project, group.agent_id, there, self._texts)
        async with aclosing(source):
            async for page in source:
                fitting: list[tuple[Claim, Delivery]] = []
                others: list[Claim] = []
                for claim, delivery in page:
                    if self._gets is not None:
                        delivery = concealed(delivery)
                    if others or not consumer.sized(claim, delivery.size):
                        others.append(claim)
                    else:
                        fitting.append((claim, delivery))
                group.give_back(consumer, others, seen=False)
                for part in messages.parts(fitting, self._room_bytes):
                    # Some may have been given back while those before were sent.
                    left = [each for each in part if each[0].id in consumer.claims]
                    if left:
                        if self._gets is not None:
                            await self._record.sending([claim.place for claim, _ in left])
                        cursor = self._cursor()
                        for claim, _ in left:
                            claim.message = self._messages
                        await self._call.write(messages.deliveries(left, cursor))

    async def _without_withheld(self, gets: Gets, claims: list[Claim]) -> list[Claim]:
        """What the caller gets of some claims; settles the others."""
        shown, hidden = list[Claim](), list[Claim]()
        for claim in claims:
            (shown if is_for(gets, claim.claimed.entry) else hidden).append(claim)
        if hidden:
            if self._leaves_out is not None:
                await self._leaves_out({data_key_of(claim.claimed.entry) for claim in hidden})
            self._group.withhold(self._consumer, hidden)
            call, last = self._call, event_of(hidden[-1].place)
            self._audit.withheld(
                call.project, call.origin, call.method, self._group.agent_id, last, len(hidden)
            )
        return shown

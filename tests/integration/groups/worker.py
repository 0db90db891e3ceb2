"""A consumer by the generated stubs, for the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc
from contex.v1 import consumer_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.integration.support import DEADLINE_S, Api, P, Refusal


def seconds(value: float) -> Duration:
    return Duration(seconds=int(value), nanos=int(value % 1 * 1e9))


class Worker:
    """A stream of Consume, and what came by it."""

    def __init__(
        self, api: Api, name: str = "w", agent_id: str = "a", metadata: Any = None, **fields: Any
    ) -> None:
        self.name = name
        self.messages: list[pb.ConsumeResponse] = []
        self.deliveries: list[pb.ConsumerDelivery] = []
        """What it has been given, in order."""
        self.error: grpc.aio.AioRpcError | None = None
        self._number = 0
        self._changed = asyncio.Condition()
        self.call = api.agents.Consume(metadata=metadata)
        fields.setdefault("heartbeat_interval_ms", 60_000)
        self._start = pb.ConsumeStart(project=P, agent_id=agent_id, consumer=name, **fields)
        self._task = asyncio.create_task(self._read())

    async def __aenter__(self) -> Self:
        await self.say(start=self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vanish()

    async def say(self, **message: Any) -> None:
        await self.call.write(pb.ConsumeRequest(**message))

    async def vanish(self) -> None:
        """Goes without a word."""
        self.call.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def finish(self) -> None:
        """Ends the stream in good order."""
        await self.say(drain=pb.Drain())
        await self.call.done_writing()
        async with asyncio.timeout(DEADLINE_S):
            await self._task

    async def _read(self) -> None:
        try:
            async for message in self.call:
                async with self._changed:
                    self.messages.append(message)
                    self.deliveries += message.deliveries.deliveries
                    self._changed.notify_all()
        except grpc.aio.AioRpcError as error:
            self.error = error
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], Any]) -> Any:
        """Waits until something holds; returns it."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: holds() or self._task.done())
        found = holds()
        assert found, self.error
        return found

    async def refusal(self) -> Refusal:
        """How the stream ended."""
        error: grpc.aio.AioRpcError = await self.until(lambda: self.error)
        return Refusal.of(error)

    async def count(self, number: int) -> list[pb.ConsumerDelivery]:
        """Waits until it was given so many deliveries; returns all that it was."""
        await self.until(lambda: len(self.deliveries) >= number)
        return self.deliveries

    async def keys(self, number: int) -> list[str]:
        """The data keys of so many deliveries that it was given."""
        return [each.matched.event.data_key for each in await self.count(number)]

    async def idle(self) -> pb.Idle:
        """Waits until it is told anew that there is nothing to be had."""
        seen = len(self.messages)
        return (await self.told("idle", seen=seen)).idle

    async def told(self, kind: str, seen: int = 0) -> pb.ConsumeResponse:
        """Waits for a message of a kind after so many messages."""

        def found() -> pb.ConsumeResponse | None:
            some = (m for m in self.messages[seen:] if m.WhichOneof("message") == kind)
            return next(some, None)

        message: pb.ConsumeResponse = await self.until(found)
        return message

    async def settle(self, *ids: str, **outcome: Any) -> pb.Settled:
        """Says what became of deliveries, and waits for the answer."""
        self._number += 1
        number = self._number
        said = pb.Settle(settle_id=number, delivery_ids=ids, **outcome)
        await self.say(settle=said)
        return await self._answer(number)

    async def extend(self, *ids: str, **fields: Any) -> pb.Settled:
        self._number += 1
        await self.say(extend=pb.Extend(settle_id=self._number, delivery_ids=ids, **fields))
        return await self._answer(self._number)

    async def _answer(self, number: int) -> pb.Settled:
        def answer() -> pb.Settled | None:
            answers = (m.settled for m in self.messages if m.HasField("settled"))
            return next((each for each in answers if each.settle_id == number), None)

        settled: pb.Settled = await self.until(answer)
        return settled

    async def ack(self, *ids: str) -> list[str]:
        """Acknowledges deliveries; returns those that were lost."""
        return list((await self.settle(*ids, ack=pb.Ack())).lost_delivery_ids)

    async def retry(self, *ids: str, after_s: float = 0.0) -> list[str]:
        settled = await self.settle(*ids, retry=pb.Retry(delay=seconds(after_s)))
        return list(settled.lost_delivery_ids)

    async def park(self, *ids: str, reason: str = "") -> pb.Settled:
        return await self.settle(*ids, park=pb.Park(reason=reason))

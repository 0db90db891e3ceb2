"""Many subscribers in one client process, on raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
from contex.v1 import event_service_pb2

from benchmarks.load import SUBSCRIBE, open_stream, read

# First byte of a SubscribeResponse: which message it is.
EVENTS, CAUGHT_UP, FELL_BEHIND = 0x0A, 0x12, 0x1A

OnMessage = Callable[[int, bytes], None]


class Ended(Exception):
    """A subscription ended by itself."""


def from_end(project: str) -> bytes:
    """A request to subscribe to what is new."""
    return event_service_pb2.SubscribeRequest(
        project=project, from_end=True, heartbeat_interval_ms=60_000
    ).SerializeToString()


@asynccontextmanager
async def audience(
    channels: Sequence[grpc.aio.Channel],
    count: int,
    request: bytes,
    on_message: OnMessage,
    *,
    method: str = SUBSCRIBE,
) -> AsyncIterator[None]:
    """Subscribers, all of them joined while the block runs.

    A subscriber has joined with its first message, which is not passed on.

    Args:
        channels: They are spread over these.
        count: How many.
        request: What each subscribes to.
        on_message: Called with the subscriber's number and each message.
        method: Which subscription.
    """
    joined = 0
    everybody = asyncio.Event()

    async def subscribe(index: int) -> None:
        nonlocal joined
        call = open_stream(channels[index % len(channels)], method, request)
        try:
            await call.read()
            joined += 1
            if joined == count:
                everybody.set()
            while (raw := await read(call)) is not None:
                on_message(index, raw)
            raise Ended(f"subscriber {index}: {await call.details()}")
        finally:
            call.cancel()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(subscribe(index)) for index in range(count)]
        await everybody.wait()
        yield
        for task in tasks:
            task.cancel()

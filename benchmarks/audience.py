"""Many subscribers in one client process, on raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from contex.v1 import event_pb2, event_service_pb2

from benchmarks.http2 import Connection
from benchmarks.load import SUBSCRIBE

# First byte of a SubscribeResponse or a ListenResponse: which message it is.
EVENTS, CAUGHT_UP, FELL_BEHIND = 0x0A, 0x12, 0x1A

OnMessage = Callable[[int, bytes], None]


def from_end(project: str) -> bytes:
    """A request to subscribe to what is new."""
    return event_service_pb2.SubscribeRequest(
        project=project, edge=event_pb2.EDGE_END, heartbeat_interval_ms=60_000
    ).SerializeToString()


@asynccontextmanager
async def audience(
    connections: Sequence[Connection],
    count: int,
    request: bytes | Callable[[int], bytes],
    on_message: OnMessage,
    *,
    method: str = SUBSCRIBE,
) -> AsyncIterator[None]:
    """Subscribers, all of them joined when the block begins; the connections' end is theirs.

    A subscriber has joined with its first message, which is not passed on.

    Args:
        connections: They are spread over these.
        count: How many.
        request: What each subscribes to, the same for all or by its number.
        on_message: Called with the subscriber's number and each message.
        method: Which subscription.

    Raises:
        ConnectionEnded: The server ended a subscription.
    """
    joined = [False] * count
    left = count
    everybody = asyncio.Event()

    def receiver(index: int) -> Callable[[bytes], None]:
        def receive(raw: bytes) -> None:
            nonlocal left
            if joined[index]:
                on_message(index, raw)
                return
            joined[index] = True
            left -= 1
            if not left:
                everybody.set()

        return receive

    for index in range(count):
        asked = request if isinstance(request, bytes) else request(index)
        connections[index % len(connections)].subscribe(method, asked, receiver(index))
    async with asyncio.TaskGroup() as group:
        watching = [group.create_task(_watch(connection)) for connection in connections]
        await everybody.wait()
        yield
        for task in watching:
            task.cancel()


async def _watch(connection: Connection) -> None:
    await asyncio.shield(connection.failed)

"""What a server process holds for readers that do not read."""

from __future__ import annotations

import asyncio

import grpc
import psutil
from contex import AsyncClient, NewEvent, Receipt
from contex.v1 import event_pb2, event_service_pb2, event_service_pb2_grpc

from tests.process.servers import ServerProcess

READERS = 10
EVENTS = 1_500
SIZE = 8_000


def own_memory(pid: int) -> int:
    """Bytes, without the libraries that a forked process has shared so far and loads later."""
    info = psutil.Process(pid).memory_info()
    return int(info.rss - getattr(info, "shared", 0))


async def test_readers_ten_megabytes_behind_cost_little_and_miss_nothing(
    server: ServerProcess,
) -> None:
    # Small windows: what the readers don't take must not lie in gRPC either.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    channels = [grpc.aio.insecure_channel(server.target, options=options) for _ in range(READERS)]
    async with AsyncClient(server.target, timeout=60) as client:
        await client.publish("p", "warm", 1)
        streams = [
            event_service_pb2_grpc.EventServiceStub(channel).Subscribe(
                event_service_pb2.SubscribeRequest(project="p", edge=event_pb2.EDGE_END)
            )
            for channel in channels
        ]
        for stream in streams:
            assert (await stream.read()).WhichOneof("message") == "caught_up"
        before = own_memory(server.pid)
        receipts: list[Receipt] = []
        # Of few keys: embedding different texts would take most of the time.
        for start in range(0, EVENTS, 100):
            receipts += await client.publish_batch(
                "p",
                [NewEvent(f"k{n % 10}", "x" * SIZE) for n in range(start, start + 100)],
            )
        await asyncio.sleep(0.5)
        grown = own_memory(server.pid) - before
    # Unbounded it would be 12 MB for each. The feed holds 4 MiB for all of them together, and
    # gRPC up to 5 MB for each.
    assert grown < 60_000_000

    async def read(stream: grpc.aio.UnaryStreamCall) -> tuple[list[str], int]:  # type: ignore[type-arg]
        sequences: list[str] = []
        lagged = 0
        while len(sequences) < EVENTS:
            message = await stream.read()
            sequences += [event.sequence for event in message.events.events]
            lagged += message.WhichOneof("message") == "fell_behind"
        return sequences, lagged

    for sequences, lagged in await asyncio.gather(*map(read, streams)):
        assert sequences == [receipt.sequence for receipt in receipts]
        assert lagged
    for channel in channels:
        await channel.close()

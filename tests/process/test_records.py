"""kill -9 in the middle of deliveries: what is on record is what was received."""

from __future__ import annotations

import asyncio
from collections import Counter

from contex import AsyncClient
from contex.v1 import agent_service_pb2

from tests.integration.support import Api
from tests.process.servers import ServerProcess, eventually

_EVENTS = 400


async def recorded(server: ServerProcess) -> list[agent_service_pb2.Delivery]:
    found: list[agent_service_pb2.Delivery] = []
    token = ""
    async with Api.at(server.port) as api:
        while True:
            page = await api.agents.ListDeliveries(
                agent_service_pb2.ListDeliveriesRequest(
                    project="p", agent_id="a", page_size=1_000, page_token=token
                )
            )
            found += page.deliveries
            token = page.next_page_token
            if not token:
                return found


async def test_deliveries_on_record_are_those_received_across_kills(
    server: ServerProcess,
) -> None:
    received: Counter[str] = Counter()

    async def listen() -> None:
        async with AsyncClient(server.target) as client, client.listen("p", "a") as events:
            async for event in events:
                received[event.event.sequence] += 1

    async def publish() -> None:
        async with AsyncClient(server.target, timeout=60) as client:
            for n in range(_EVENTS):
                await client.publish("p", f"apple.{n % 9}", {"n": n}, description="apples")

    async with AsyncClient(server.target) as client:
        await client.register_agent("p", "a", ["apples"], threshold=1e-6)
    listener = asyncio.create_task(listen())
    publisher = asyncio.create_task(publish())
    for kills in range(1, 4):
        await eventually(lambda kills=kills: len(received) > kills * _EVENTS // 5)  # type: ignore[misc]
        await server.kill()
        await server.start()
    await publisher
    await eventually(lambda: len(received) == _EVENTS, timeout=60)
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)

    deliveries = await recorded(server)
    sends = Counter(delivery.sequence for delivery in deliveries)
    assert sends.keys() == received.keys()
    assert all(sends[sequence] >= count for sequence, count in received.items())
    firsts = Counter(d.sequence for d in deliveries if not d.resend)
    assert set(firsts.values()) == {1}
    assert firsts.keys() == received.keys()
    assert len({delivery.stream_id for delivery in deliveries}) > 1

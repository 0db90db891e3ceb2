"""A publisher at a pace, and an agent that listens: how long each event takes to be stored, and
to be delivered, whatever else goes on.

Open loop: events are published at a pace, whatever became of those before.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import grpc
import numpy as np
from contex.v1 import agent_service_pb2, event_service_pb2

from benchmarks.load import PUBLISH, open_stream, read, unary
from benchmarks.messages import example, request, with_request_id

_AGENT = "/contex.v1.AgentService"


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds from the call of Publish, one an event."""

    published: list[float]
    delivered: list[float]

    def of(self, what: str, percent: float) -> float:
        values = self.published if what == "publish" else self.delivered
        return float(np.percentile(values, percent))


async def measure(
    channel: grpc.aio.Channel, seconds: float, interval_s: float, project: str = "light"
) -> Times:
    """Publishes at a pace to a project with one listening agent."""
    count = int(seconds / interval_s)
    publish = unary(channel, PUBLISH)
    register = unary(channel, f"{_AGENT}/RegisterAgent")
    called: dict[str, float] = {}
    published: list[float] = []
    delivered: dict[str, float] = {}
    live = asyncio.Event()

    async def one() -> None:
        raw = with_request_id(request(project, [example()]))
        start = time.perf_counter()
        answer = await publish(raw)
        published.append((time.perf_counter() - start) * 1e3)
        (receipt,) = event_service_pb2.PublishResponse.FromString(answer).receipts
        called[receipt.sequence] = start

    async def listen() -> None:
        asked = agent_service_pb2.ListenRequest(project=project, agent_id="agent")
        call = open_stream(channel, f"{_AGENT}/Listen", asked.SerializeToString())
        while (raw := await read(call)) is not None:
            now, message = time.perf_counter(), agent_service_pb2.ListenResponse.FromString(raw)
            for matched in message.events.events:
                delivered[matched.event.sequence] = now
            if message.HasField("caught_up"):
                live.set()

    await asyncio.gather(*(one() for _ in range(64)))  # Embeds the texts.
    asked = agent_service_pb2.RegisterAgentRequest(
        project=project,
        agent_id="agent",
        needs=[agent_service_pb2.Need(text="API endpoint and timeouts")],
        threshold=1e-9,
    )
    await register(asked.SerializeToString())
    listening = asyncio.create_task(listen())
    try:
        await live.wait()
        for _ in range(20):
            await one()
        called.clear()
        published.clear()
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(max(0.0, start + number * interval_s - time.perf_counter()))
                group.create_task(one())
        async with asyncio.timeout(30):
            while called.keys() - delivered.keys():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    return Times(published, [(delivered[s] - start) * 1e3 for s, start in called.items()])


def text(times: Times) -> str:
    """Both percentiles of both, in a line."""
    return "; ".join(
        f"{what} p50 {times.of(what, 50):.1f}, p99 {times.of(what, 99):.1f} ms"
        for what in ("publish", "deliver")
    )

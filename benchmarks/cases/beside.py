"""A publisher and an agent, alone and beside heavy work in other projects of the same server:
four backtests, three exports and an import, each begun again when it ends.

Open loop: events are published at a pace, whatever became of those before.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import grpc
import numpy as np
from contex.v1 import agent_service_pb2, event_service_pb2

from benchmarks.bench import Bench
from benchmarks.cases.archive import events_of
from benchmarks.figures import Figure, Target
from benchmarks.heavy import exported, heavy_work, import_file
from benchmarks.load import PUBLISH, channels, open_stream, publish_stream, read, unary
from benchmarks.messages import example, request, with_request_id

INTERVAL_S = 0.05
TIMES = 3.0
"""How many times slower an agent and a publisher may be beside heavy work."""
_KEYS = 300
_PROJECTS = tuple(f"heavy-{number}" for number in range(4))
_JOBS = [
    *(f"backtest:{project}" for project in _PROJECTS),
    f"export-native:{_PROJECTS[0]}",
    f"export-json:{_PROJECTS[1]}",
    f"export-cloud:{_PROJECTS[2]}",
    f"import:{_PROJECTS[3]}",
]
_AGENT = "/contex.v1.AgentService"


@dataclass(frozen=True, slots=True)
class _Times:
    """Milliseconds from the call of Publish, one an event."""

    published: list[float]
    delivered: list[float]

    def of(self, what: str, percent: float) -> float:
        values = self.published if what == "publish" else self.delivered
        return float(np.percentile(values, percent))


async def run(bench: Bench) -> list[Figure]:
    """Percentiles of each run, alone and beside, measured alternately."""
    seconds, events = bench.size(20, 3), bench.size(20_000, 2_000)
    alone, beside, rates = list[_Times](), list[_Times](), list[dict[str, float]]()
    async with bench.server("beside") as server, channels(server.target) as (channel,):
        await _fill(channel, events)
        for _ in range(bench.runs):
            alone.append(await _measure(channel, seconds))
            async with heavy_work(server.target, _JOBS) as rate:
                beside.append(await _measure(channel, seconds))
            rates.append({job: each * events for job, each in rate.items()})
            bench.say(f"alone {_text(alone[-1])}; beside {_text(beside[-1])}")
            bench.say(", ".join(f"{job} {each:,.0f}/s" for job, each in rates[-1].items()))
    return [
        *(
            Figure(
                f"{name}, 20 events/s beside heavy work, p{percent}",
                "ms",
                [times.of(what, percent) for times in beside],
                [times.of(what, percent) for times in alone],
                "alone",
                Target("times", TIMES) if percent == 99 else None,
                {
                    "max_ms": [times.of(what, 100) for times in beside],
                    "alone_max_ms": [times.of(what, 100) for times in alone],
                },
            )
            for what, name in (
                ("publish", "Publish"),
                ("deliver", "publish → delivery"),
            )
            for percent in (50, 99)
        ),
        *(
            Figure(
                f"meanwhile: {job.partition(':')[0]}",
                "events/s",
                [sum(rate[j] for j in _JOBS if j.startswith(job)) for rate in rates],
            )
            for job in dict.fromkeys(job.partition(":")[0] for job in _JOBS)
        ),
    ]


async def _fill(channel: grpc.aio.Channel, events: int) -> None:
    """Publishes to one project and imports that into the others."""
    await publish_stream(channel, events_of(_PROJECTS[0], 0, events, _KEYS), 4)
    file = b"".join([piece.data async for piece in exported(channel, _PROJECTS[0])])
    for project in _PROJECTS[1:]:
        await import_file(channel, project, file)


async def _measure(channel: grpc.aio.Channel, seconds: float) -> _Times:
    """Publishes at a pace to a project with one listening agent."""
    project, count = "light", int(seconds / INTERVAL_S)
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
                await asyncio.sleep(max(0.0, start + number * INTERVAL_S - time.perf_counter()))
                group.create_task(one())
        async with asyncio.timeout(30):
            while called.keys() - delivered.keys():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    return _Times(published, [(delivered[s] - start) * 1e3 for s, start in called.items()])


def _text(times: _Times) -> str:
    return "; ".join(
        f"{what} p50 {times.of(what, 50):.1f}, p99 {times.of(what, 99):.1f} ms"
        for what in ("publish", "deliver")
    )

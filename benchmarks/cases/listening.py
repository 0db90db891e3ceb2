"""Agents that listen: from publish to delivery at a pace, and one event that all of them get.

Each agent has a need in words that every event meets. The bare server writes messages to as many
streams, of the same size where one event goes to all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median

import grpc

from benchmarks.agents import LISTEN, decided, named, new_for, register, words
from benchmarks.audience import EVENTS, audience
from benchmarks.bare import POST
from benchmarks.bare import SUBSCRIBE as BARE_SUBSCRIBE
from benchmarks.bench import Bench
from benchmarks.cases import latency
from benchmarks.figures import Figure, Target
from benchmarks.http2 import connections
from benchmarks.load import PUBLISH, channels, unary
from benchmarks.messages import EXAMPLE, request, with_request_id
from benchmarks.processes import CpuSeconds, Measured, bare_server

_NEEDS = [words("price of a share, API endpoint")]
_CONNECTIONS = 16
_WARM_UP = 3
_CEILING = "bare grpc.aio server, no store"


async def run(bench: Bench) -> list[Figure]:
    """Percentiles of milliseconds, and deliveries a second."""
    async with bench.server("listening") as server, bare_server(40) as bare:
        return [*await _paced(bench, server, bare), *await _one_for_all(bench, server, bare)]


async def _paced(bench: Bench, server: Measured, bare: Measured) -> list[Figure]:
    events = bench.size(1_000, 200)
    ours: list[latency.Latencies] = []
    plain: list[latency.Latencies] = []
    for number in range(bench.runs):
        project = f"paced-{number}"

        async def registered(channel: grpc.aio.Channel, project: str = project) -> None:
            await register(channel, project, named(latency.SUBSCRIBERS, _NEEDS))
            await decided(channel, server.target, project)

        plain.append(await latency.measure(bare, BARE_SUBSCRIBE, POST, "bare", events))
        asked = _new(project)
        ours.append(
            await latency.measure(server, LISTEN, PUBLISH, project, events, asked, registered)
        )
        bench.say(f"bare {latency.text(plain[-1])}; listening {latency.text(ours[-1])}")
    return [
        Figure(
            f"publish → delivery, 100 events/s to {latency.SUBSCRIBERS} agents, p{percent}",
            "ms",
            [latency.percentile(found.due, percent) for found in ours],
            [latency.percentile(found.due, percent) for found in plain],
            _CEILING,
            Target("times", 3),
            {
                "publish_ack_ms": [latency.percentile(o.acknowledged, percent) for o in ours],
                "server_and_store_us_per_delivery": [found.cpu_us for found in ours],
                "bare_us_per_delivery": [found.cpu_us[0] for found in plain],
            },
        )
        for percent in (50, 99)
    ]


async def _one_for_all(bench: Bench, server: Measured, bare: Measured) -> list[Figure]:
    agents, events = bench.size(1_000, 100), bench.size(20, 3)
    ours, plain, cpu = list[float](), list[float](), list[tuple[float, float, float]]()
    for number in range(bench.runs):
        project = f"all-{number}"
        async with channels(server.target) as (channel,):
            await unary(channel, PUBLISH)(request(project, [EXAMPLE]))  # Embeds the text.
            await register(channel, project, named(agents, _NEEDS))
            await decided(channel, server.target, project)
        message = request(project, [EXAMPLE])
        seconds, size, used = await _reach(
            server, LISTEN, PUBLISH, _new(project), message, agents, events
        )
        ours.append(agents / seconds)
        seconds, _, bare_used = await _reach(
            bare, BARE_SUBSCRIBE, POST, lambda _: b"", bytes(size), agents, events
        )
        plain.append(agents / seconds)
        cpu.append((used.server, used.store, bare_used.server))
        bench.say(
            f"one event reached {agents:,} agents in {agents / ours[-1] * 1e3:.0f} ms, "
            f"{size} B each; bare {seconds * 1e3:.0f} ms; "
            "us of CPU a delivery, server, store, bare: "
            + ", ".join(f"{each * 1e6:.0f}" for each in cpu[-1])
        )
    return [
        Figure(
            f"one event to {agents:,} agents that listen",
            "deliveries/s",
            ours,
            plain,
            "bare grpc.aio streams, messages of the same size",
            Target("ratio", 0.5),
            {"cpu_s_per_delivery_server_store_bare": cpu},
        )
    ]


async def _reach(
    server: Measured,
    subscribe: str,
    publish: str,
    asked: Callable[[int], bytes],
    message: bytes,
    count: int,
    events: int,
) -> tuple[float, int, CpuSeconds]:
    """Seconds until all have an event, the median of several, the bytes of a message, and the
    processor time of a delivery."""
    waiting, size = 0, 0
    complete = asyncio.Event()

    def on_message(index: int, raw: bytes) -> None:
        nonlocal waiting, size
        if subscribe == BARE_SUBSCRIBE or raw[0] == EVENTS:
            size = len(raw)
            waiting -= 1
            if not waiting:
                complete.set()

    took = []
    async with (
        channels(server.target) as (publisher,),
        connections(server.target, _CONNECTIONS) as opened,
        audience(opened, count, asked, on_message, method=subscribe),
    ):
        call, before = unary(publisher, publish), server.cpu()
        for _ in range(_WARM_UP + events):
            waiting = count
            complete.clear()
            raw = with_request_id(message) if publish == PUBLISH else message
            start = time.perf_counter()
            await call(raw)
            async with asyncio.timeout(60):
                await complete.wait()
            took.append(time.perf_counter() - start)
            await asyncio.sleep(0.05)
        used, deliveries = server.cpu() - before, count * len(took)
    each = CpuSeconds(used.server / deliveries, used.store / deliveries)
    return median(took[_WARM_UP:]), size, each


def _new(project: str) -> Callable[[int], bytes]:
    return lambda index: new_for(project, f"agent-{index}")

"""What rights cost: a server that asks callers who they are, beside one that does not.

The publisher and the subscribers have a key with grants for some data keys alone, so that each
event is compared with them. And what TLS costs a stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ssl import SSLContext, create_default_context

import numpy as np
from contex import AsyncClient, Grant
from contex.v1 import event_service_pb2

from benchmarks.audience import EVENTS, audience, from_end
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.http2 import Metadata, connections
from benchmarks.load import PUBLISH, channels, closed_loop, publish_stream, unary
from benchmarks.messages import BATCH, KEYS, example, request, with_request_id
from benchmarks.processes import ContexServer

IN_FLIGHT = 16
SUBSCRIBERS = 200
CONNECTIONS = 8
_WINDOW = 4_096
_INTERVAL_S = 0.010
_MARK = b"api_config_"
"""How data keys of the example begin: once in every event."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A server, and what a caller needs for it."""

    server: ContexServer
    metadata: Metadata = ()
    roots: bytes = b""

    @property
    def context(self) -> SSLContext | None:
        if not self.roots:
            return None
        context = create_default_context(cadata=self.roots.decode())
        context.set_alpn_protocols(["h2"])
        return context


_Measure = Callable[[Bench, _Place, str], Awaitable[float]]


async def run(bench: Bench) -> list[Figure]:
    """Rates and latencies of both, by turns."""
    async with AsyncExitStack() as stack:
        off = _Place(await stack.enter_async_context(bench.server("access_off")))
        asked = {"CONTEX_ACCESS": "true"}
        on = await _with_key(await stack.enter_async_context(bench.server("access_on", asked)))
        tls = {"CONTEX_TLS_SELF_SIGNED": "true"}
        secure = _secure(await stack.enter_async_context(bench.server("access_tls", tls)))
        comparisons: tuple[tuple[str, str, _Measure, _Place, str, Target], ...] = (
            ("unary publish", "publishes/s", _unary, on, "access off", Target("ratio", 0.93)),
            ("PublishStream", "events/s", _stream, on, "access off", Target("ratio", 0.97)),
            ("fan-out", "deliveries/s", _fan_out, on, "access off", Target("ratio", 0.97)),
            ("delivery, p99", "ms", _latency, on, "access off", Target("times", 1.1)),
            ("PublishStream, TLS", "events/s", _stream, secure, "plain", Target("ratio", 0.8)),
            ("fan-out, TLS", "deliveries/s", _fan_out, secure, "plain", Target("ratio", 0.8)),
        )
        figures = []
        for name, unit, measure, place, beside, target in comparisons:
            ours, others = list[float](), list[float]()
            for number in range(bench.runs):
                # By turns, and each first in every other run.
                pair = [(place, ours), (off, others)]
                for who, found in pair if number % 2 else reversed(pair):
                    project = f"{name.split(',')[0].replace(' ', '-')}-{len(figures)}-{number}"
                    found.append(await measure(bench, who, project))
                bench.say(f"{name}: {ours[-1]:,.3g}, {beside} {others[-1]:,.3g} {unit}")
            figures.append(Figure(name, unit, ours, others, beside, target))
    return figures


async def _with_key(server: ContexServer) -> _Place:
    admin = (server.data_dir / "admin.key").read_text().strip()
    async with AsyncClient(server.target, api_key=admin) as client:
        grants = [Grant(role, ("*",), ("api_*",)) for role in ("publisher", "consumer")]
        issued = await client.access.create_key("bench", grants=grants)
    return _Place(server, (("authorization", f"Bearer {issued.secret_key}"),))


def _secure(server: ContexServer) -> _Place:
    return _Place(server, roots=(server.data_dir / "tls.crt").read_bytes())


async def _unary(bench: Bench, place: _Place, project: str) -> float:
    count = bench.size(6_000, 400)
    async with channels(place.server.target, 4, place.roots) as opened:
        calls = [unary(channel, PUBLISH, place.metadata) for channel in opened]
        warm = [with_request_id(request(project, [example()])) for _ in range(4 * KEYS)]
        await closed_loop(calls, warm, IN_FLIGHT)
        requests = [with_request_id(request(project, [example()])) for _ in range(count)]
        return count / await closed_loop(calls, requests, IN_FLIGHT)


async def _stream(bench: Bench, place: _Place, project: str) -> float:
    batches = bench.size(1_500, 50)
    async with channels(place.server.target, 1, place.roots) as (channel,):
        made = [request(project, [example() for _ in range(BATCH)]) for _ in range(batches + 4)]
        await publish_stream(channel, made[:4], metadata=place.metadata)
        seconds = await publish_stream(channel, made[4:], metadata=place.metadata)
        return batches * BATCH / seconds


async def _fan_out(bench: Bench, place: _Place, project: str) -> float:
    events = bench.size(48_000, 3_200) // BATCH * BATCH
    counts, progressed = [0] * SUBSCRIBERS, asyncio.Event()

    def receive(index: int, raw: bytes) -> None:
        if raw[0] == EVENTS:
            counts[index] += raw.count(_MARK)
            progressed.set()

    async def all_have(count: int) -> None:
        while min(counts) < count:
            progressed.clear()
            await progressed.wait()

    published = 0

    async def pace() -> None:
        nonlocal published
        published += BATCH
        await all_have(published - _WINDOW)

    target = place.server.target
    async with (
        channels(target, 1, place.roots) as (channel,),
        connections(target, CONNECTIONS, place.metadata, place.context) as opened,
    ):
        batch = request(project, [example() for _ in range(BATCH)])
        await publish_stream(channel, [batch], metadata=place.metadata)
        async with audience(opened, SUBSCRIBERS, from_end(project), receive):
            start = time.perf_counter()
            await publish_stream(
                channel, [batch] * (events // BATCH), before_each=pace, metadata=place.metadata
            )
            await all_have(events)
            return events * SUBSCRIBERS / (time.perf_counter() - start)


async def _latency(bench: Bench, place: _Place, project: str) -> float:
    """Milliseconds from the call to the delivery, the 99th percentile."""
    events, subscribers = bench.size(600, 60), 50
    called = [0.0] * events
    delays: list[float] = []
    everything = asyncio.Event()

    def receive(_index: int, raw: bytes) -> None:
        if raw[0] != EVENTS:
            return
        now = time.perf_counter()
        message = event_service_pb2.SubscribeResponse.FromString(raw)
        for event in message.events.events:
            delays.append(now - called[int(event.payload)])
        if len(delays) == events * subscribers:
            everything.set()

    target = place.server.target
    async with (
        channels(target, 2, place.roots) as opened,
        connections(target, CONNECTIONS, place.metadata, place.context) as listening,
    ):
        calls = [unary(channel, PUBLISH, place.metadata) for channel in opened]

        def event(number: int) -> bytes:
            new = event_service_pb2.NewEvent(
                data_key="api_tick", payload=b"%d" % number, description="A tick"
            )
            return request(project, [new])

        await calls[0](event(0))
        async with audience(listening, subscribers, from_end(project), receive):

            async def publish(number: int) -> None:
                called[number] = time.perf_counter()
                await calls[number % len(calls)](event(number))

            start = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for number in range(events):
                    delay = start + number * _INTERVAL_S - time.perf_counter()
                    await asyncio.sleep(max(0.0, delay))
                    group.create_task(publish(number))
            await everything.wait()
    return float(np.percentile(delays, 99)) * 1000

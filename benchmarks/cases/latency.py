"""Latency: 100 events a second to 100 subscribers, from publish to delivery.

Open loop: event n is due at start + n * 10 ms, whatever became of those before, and its
latency counts from when it was due. So a stall shows in every event that it delays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import numpy as np
from contex.v1 import event_service_pb2
from numpy.typing import NDArray

from benchmarks.audience import EVENTS, audience, from_end
from benchmarks.bare import POST
from benchmarks.bare import SUBSCRIBE as BARE_SUBSCRIBE
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.http2 import connections
from benchmarks.load import PUBLISH, SUBSCRIBE, Unary, channels, unary
from benchmarks.messages import request, with_request_id
from benchmarks.processes import Measured, bare_server

SUBSCRIBERS = 100
CONNECTIONS = 8
INTERVAL_S = 0.010

_MARK = b'"tick":'
_DIGITS = 9
_BASE = 10 ** (_DIGITS - 1)
"""Number of the first event: all have as many digits."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds, one a delivery.

    Attributes:
        due: Since the event was due.
        called: Since the publishing call started.
        acknowledged: From the call's start to its answer, one an event.
        cpu_us: Processor time a delivery, of the server and of its store: a busy machine doesn't
            change it much.
    """

    due: NDArray[np.float64]
    called: NDArray[np.float64]
    acknowledged: NDArray[np.float64]
    cpu_us: tuple[float, float]


async def run(bench: Bench) -> list[Figure]:
    """Percentiles over all deliveries of a run."""
    events = bench.size(1_500, 300)
    ours: list[Latencies] = []
    bare_ones: list[Latencies] = []
    async with bench.server("latency") as server, bare_server(40) as bare:
        for number in range(bench.runs):
            bare_ones.append(await measure(bare, BARE_SUBSCRIBE, POST, "bare", events))
            ours.append(await measure(server, SUBSCRIBE, PUBLISH, f"latency-{number}", events))
            bench.say(f"bare {text(bare_ones[-1])}; Contex {text(ours[-1])}")
    ceiling = "bare grpc.aio server, no store"
    details = {
        "events": events,
        "subscribers": SUBSCRIBERS,
        "publish_ack_p50_ms": [percentile(r.acknowledged, 50) for r in ours],
        "publish_ack_p99_ms": [percentile(r.acknowledged, 99) for r in ours],
        "since_call_p50_ms": [percentile(r.called, 50) for r in ours],
        "since_call_p99_ms": [percentile(r.called, 99) for r in ours],
        "max_ms": [float(r.due.max()) for r in ours],
        "server_and_store_us_per_delivery": [r.cpu_us for r in ours],
        "bare_us_per_delivery": [r.cpu_us[0] for r in bare_ones],
    }
    return [
        Figure(
            f"publish → delivery, 100 events/s to 100 subscribers, p{percent}",
            "ms",
            [percentile(r.due, percent) for r in ours],
            [percentile(r.due, percent) for r in bare_ones],
            ceiling,
            Target("most", bound),
            details,
        )
        for percent, bound in ((50, 5), (99, 20))
    ]


async def measure(
    server: Measured,
    subscribe: str,
    publish: str,
    project: str,
    events: int,
    asked: Callable[[int], bytes] | None = None,
    before: Callable[[grpc.aio.Channel], Awaitable[None]] | None = None,
) -> Latencies:
    """Publishes at a pace, and times what reaches every subscriber.

    Args:
        server: Contex, or the bare server.
        subscribe: The method that subscribers call.
        publish: The method that the publisher calls.
        project: A fresh one.
        events: How many are published.
        asked: What a subscriber asks for, by its number; by default all that is new.
        before: Awaited before anybody subscribes.
    """
    due = np.zeros(events)
    called = np.zeros(events)
    acknowledged = np.zeros(events)
    delivered = np.zeros((SUBSCRIBERS, events))
    missing = SUBSCRIBERS * events
    complete = asyncio.Event()

    def on_message(index: int, raw: bytes) -> None:
        nonlocal missing
        now = time.perf_counter()
        if subscribe != BARE_SUBSCRIBE and raw[0] != EVENTS:
            return
        at = raw.find(_MARK)
        while at >= 0:
            start = at + len(_MARK)
            number = int(raw[start : start + _DIGITS]) - _BASE
            if number < events:  # Those beyond are the warm-up.
                delivered[index, number] = now
                missing -= 1
            at = raw.find(_MARK, start)
        if not missing:
            complete.set()

    async with (
        channels(server.target) as (publisher,),
        connections(server.target, CONNECTIONS) as opened,
    ):
        call = unary(publisher, publish)
        await _ticks(call, project, range(events, events + 5))  # Embeds the text.

        async def tick(number: int) -> None:
            raw = _tick(project, number)
            called[number] = time.perf_counter()
            await call(raw)
            acknowledged[number] = time.perf_counter() - called[number]

        if before is not None:
            await before(publisher)
        request_of = asked or from_end(project)
        async with audience(opened, SUBSCRIBERS, request_of, on_message, method=subscribe):
            await _ticks(call, project, range(events + 5, events + 55))
            start, before_all = time.perf_counter() + 0.1, server.cpu()
            async with asyncio.TaskGroup() as group:
                for number in range(events):
                    due[number] = start + number * INTERVAL_S
                    await until(due[number])
                    group.create_task(tick(number))
            async with asyncio.timeout(60):
                await complete.wait()
            used = server.cpu() - before_all
    return Latencies(
        ((delivered - due) * 1e3).ravel(),
        ((delivered - called) * 1e3).ravel(),
        acknowledged * 1e3,
        (used.server * 1e6 / delivered.size, used.store * 1e6 / delivered.size),
    )


async def until(moment: float) -> None:
    """Waits without the millisecond by which the event loop's timers are late."""
    await asyncio.sleep(max(0.0, moment - time.perf_counter() - 0.0015))
    while time.perf_counter() < moment:  # noqa: ASYNC110 - nothing tells when it is time
        await asyncio.sleep(0)


async def _ticks(call: Unary, project: str, numbers: range) -> None:
    for number in numbers:
        await call(_tick(project, number))


def _tick(project: str, number: int) -> bytes:
    event = event_service_pb2.NewEvent(
        data_key="ticker",
        payload=b'{"symbol":"contex","tick":%d,"unit":"EUR"}' % (_BASE + number),
        description="Price of a share",
    )
    return with_request_id(request(project, [event]))


def percentile(values: NDArray[np.float64], percent: float) -> float:
    """A percentile, as a number."""
    return float(np.percentile(values, percent))


def text(found: Latencies) -> str:
    """For people who wait."""
    return (
        f"p50 {percentile(found.due, 50):.1f} ms, p99 {percentile(found.due, 99):.1f} ms, "
        f"{found.cpu_us[0]:.0f} us of CPU a delivery"
    )

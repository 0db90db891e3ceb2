"""Five thousand subscribers: all join, what each costs the server, and one event for all."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.audience import EVENTS, audience, from_end
from benchmarks.bare import POST
from benchmarks.bare import SUBSCRIBE as BARE_SUBSCRIBE
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.http2 import connections
from benchmarks.load import PUBLISH, SUBSCRIBE, channels, unary
from benchmarks.messages import EXAMPLE, request, with_request_id
from benchmarks.processes import Measured, bare_server

CONNECTIONS = 50
_STEPS = 5
"""They join in as many groups, and the median group says what one costs: once in a while
the C library gives back to the system what was free since the start, 70 MB at a time."""
_SETTLE_S = 1.0


async def run(bench: Bench) -> list[Figure]:
    """Memory of the server's process, its store not counted; a fresh server for each run."""
    count = bench.size(5_000, 500)
    ours: list[_Crowd] = []
    plain: list[_Crowd] = []
    for number in range(bench.runs):
        async with bare_server(40) as bare:
            plain.append(await _measure(bare, BARE_SUBSCRIBE, POST, count))
        async with bench.server("subscribers") as server:
            ours.append(await _measure(server, SUBSCRIBE, PUBLISH, count))
        bench.say(
            f"run {number + 1}: {ours[-1].each_kb:.1f} kB each (bare gRPC "
            f"{plain[-1].each_kb:.1f}), joined in {ours[-1].joined_s:.1f} s, "
            f"one event reached all in {ours[-1].reached_ms:.0f} ms"
        )
    ceiling = "bare grpc.aio streams"
    return [
        Figure(
            f"server memory for each of {count:,} subscribers",
            "kB",
            [found.each_kb for found in ours],
            [found.each_kb for found in plain],
            ceiling,
            Target("most", 60),
            {
                "connections": CONNECTIONS,
                "whole_growth_kb": [found.whole_kb for found in ours],
                "whole_growth_after_an_event_kb": [found.after_kb for found in ours],
            },
        ),
        Figure(
            f"until all {count:,} have joined",
            "s",
            [found.joined_s for found in ours],
            [found.joined_s for found in plain],
            ceiling,
        ),
        Figure(
            f"one event reaches all {count:,}",
            "ms",
            [found.reached_ms for found in ours],
            [found.reached_ms for found in plain],
            ceiling,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Crowd:
    """What the subscribers of a run cost.

    Attributes:
        each_kb: The server's growth with one more subscriber: median over the groups.
        whole_kb: Its whole growth for each subscriber.
        after_kb: The same after all have received an event.
    """

    each_kb: float
    whole_kb: float
    after_kb: float
    joined_s: float
    reached_ms: float


async def _measure(server: Measured, subscribe: str, publish: str, count: int) -> _Crowd:
    project = "subscribers"
    message = with_request_id(request(project, [EXAMPLE]))
    waiting = count
    complete = asyncio.Event()

    def on_message(index: int, raw: bytes) -> None:
        nonlocal waiting
        if subscribe != SUBSCRIBE or raw[0] == EVENTS:
            waiting -= 1
            if not waiting:
                complete.set()

    async with channels(server.target) as (publisher,), AsyncExitStack() as crowd:
        call = unary(publisher, publish)
        # What is needed once, the model and the first subscription, is not a subscriber's.
        await call(with_request_id(request(project, [EXAMPLE])))
        async with (
            connections(server.target, 1) as alone,
            audience(alone, 1, from_end(project), lambda *_: None, method=subscribe),
        ):
            pass
        opened = await crowd.enter_async_context(connections(server.target, CONNECTIONS))
        await asyncio.sleep(_SETTLE_S)
        memory = [server.memory_bytes()]
        joined = 0.0
        for _ in range(_STEPS):
            start = time.perf_counter()
            await crowd.enter_async_context(
                audience(opened, count // _STEPS, from_end(project), on_message, method=subscribe)
            )
            joined += time.perf_counter() - start
            await asyncio.sleep(_SETTLE_S)
            memory.append(server.memory_bytes())
        start = time.perf_counter()
        await call(message)
        async with asyncio.timeout(30):
            await complete.wait()
        reached = time.perf_counter() - start
        await asyncio.sleep(_SETTLE_S)
        after = server.memory_bytes()
    return _Crowd(
        each_kb=median(b - a for a, b in pairwise(memory)) / (count // _STEPS) / 1e3,
        whole_kb=(memory[-1] - memory[0]) / count / 1e3,
        after_kb=(after - memory[0]) / count / 1e3,
        joined_s=joined,
        reached_ms=reached * 1e3,
    )

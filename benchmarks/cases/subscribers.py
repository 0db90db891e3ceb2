"""Five thousand subscribers: all join, what each costs the server, and one event for all."""

from __future__ import annotations

import asyncio
import time

from benchmarks.audience import EVENTS, audience, from_end
from benchmarks.bare import POST
from benchmarks.bare import SUBSCRIBE as BARE_SUBSCRIBE
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import PUBLISH, SUBSCRIBE, channels, unary
from benchmarks.messages import EXAMPLE, request, with_request_id
from benchmarks.processes import Measured, bare_server

CHANNELS = 50
_SETTLE_S = 1.0


async def run(bench: Bench) -> list[Figure]:
    """Memory of the server's process, its store not counted; a fresh server for each run."""
    count = bench.size(5_000, 500)
    memory, bare_memory, joining, reaching, bare_reaching, after = [], [], [], [], [], []
    for number in range(bench.runs):
        async with bare_server(40) as bare:
            found = await _measure(bare, BARE_SUBSCRIBE, POST, count)
        bare_memory.append(found[0])
        bare_reaching.append(found[2])
        async with bench.server("subscribers") as server:
            found = await _measure(server, SUBSCRIBE, PUBLISH, count)
        memory.append(found[0])
        joining.append(found[1])
        reaching.append(found[2])
        after.append(found[3])
        bench.say(
            f"run {number + 1}: {memory[-1]:.1f} kB each (bare gRPC {bare_memory[-1]:.1f}), "
            f"joined in {joining[-1]:.1f} s, one event reached all in {reaching[-1]:.0f} ms"
        )
    ceiling = "bare grpc.aio streams"
    return [
        Figure(
            f"server memory for each of {count:,} subscribers",
            "kB",
            memory,
            bare_memory,
            ceiling,
            Target("most", 60),
            {"channels": CHANNELS, "kb_after_an_event": after},
        ),
        Figure(f"until all {count:,} have joined", "s", joining),
        Figure(f"one event reaches all {count:,}", "ms", reaching, bare_reaching, ceiling),
    ]


async def _measure(
    server: Measured, subscribe: str, publish: str, count: int
) -> tuple[float, float, float, float]:
    """kB a subscriber, seconds to join, milliseconds of an event, kB a subscriber after it."""
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

    async with channels(server.target, CHANNELS + 1) as (publisher, *opened):
        call = unary(publisher, publish)
        # What is needed once, the model and the first subscription, is not a subscriber's.
        await call(with_request_id(request(project, [EXAMPLE])))
        async with audience(opened, 1, from_end(project), lambda *_: None, method=subscribe):
            pass
        await asyncio.sleep(_SETTLE_S)
        before = server.rss_bytes()
        start = time.perf_counter()
        async with audience(opened, count, from_end(project), on_message, method=subscribe):
            joined = time.perf_counter() - start
            await asyncio.sleep(_SETTLE_S)
            each = (server.rss_bytes() - before) / count / 1e3
            start = time.perf_counter()
            await call(message)
            async with asyncio.timeout(30):
                await complete.wait()
            reached = (time.perf_counter() - start) * 1e3
            await asyncio.sleep(_SETTLE_S)
            after = (server.rss_bytes() - before) / count / 1e3
    return each, joined, reached, after

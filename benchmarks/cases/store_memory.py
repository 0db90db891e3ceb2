"""What an event costs in the store's memory: the documentation's example, 100,000 times."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import PUBLISH, channels, closed_loop, publish_stream, unary
from benchmarks.messages import BATCH, EXAMPLE, request, with_request_id
from benchmarks.processes import ContexServer
from benchmarks.store import raw_store

TARGET = Target("most", 400)
CHANNELS = 4


async def run(bench: Bench) -> list[Figure]:
    """The growth of the store's used_memory, and which keys it went into."""
    events = bench.size(100_000, 6_400) // BATCH * BATCH
    batched, single, keys = [], [], {}
    async with bench.server("store_memory") as server:
        for number in range(bench.runs):
            size, keys["batched"] = await _measure(
                server, f"batched-{number}", events, single=False
            )
            batched.append(size)
            size, keys["single"] = await _measure(server, f"single-{number}", events, single=True)
            single.append(size)
            bench.say(f"batched {batched[-1]:.0f} B, single {single[-1]:.0f} B an event")
    return [
        Figure(
            f"the example event, {events:,} in batches of 64, without request ids",
            "B/event",
            batched,
            target=TARGET,
            details={"by_key": keys["batched"]},
        ),
        Figure(
            f"the example event, {events:,} one by one, each with a request id "
            "(kept for 10 to 20 minutes)",
            "B/event",
            single,
            target=TARGET,
            details={"by_key": keys["single"]},
        ),
    ]


async def _measure(
    server: ContexServer, project: str, events: int, *, single: bool
) -> tuple[float, dict[str, float]]:
    """Bytes an event, and those of each key."""
    with raw_store(server.store_socket) as store:
        async with channels(server.target, CHANNELS) as opened:
            publish = [unary(channel, PUBLISH) for channel in opened]
            raw = request(project, [EXAMPLE])
            await publish[0](raw)  # Embeds the text.
            before = store.used_memory()
            if single:
                # A generator: ids are made as they are needed.
                await closed_loop(publish, (with_request_id(raw) for _ in range(events)), 256)
            else:
                batch = request(project, [EXAMPLE] * BATCH)
                await publish_stream(opened[0], [batch] * (events // BATCH))
            size = (store.used_memory() - before) / events
        by_key = {kind: bytes_ / events for kind, bytes_ in store.memory_by_key(project).items()}
        store.forget(project)
    return size, by_key

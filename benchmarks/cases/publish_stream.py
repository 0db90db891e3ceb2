"""PublishStream: batches of 64 known texts, fsync; against raw function calls and unary."""

from __future__ import annotations

from statistics import median

from benchmarks.bench import Bench
from benchmarks.cases.publish_unary import CHANNELS, IN_FLIGHT, singles
from benchmarks.figures import Figure, Target
from benchmarks.load import PUBLISH, channels, closed_loop, publish_stream, unary
from benchmarks.messages import BATCH, KEYS, example, request, with_request_id
from benchmarks.store import pack_append, raw_store

WINDOW = 16
"""What the server reads ahead, so more in flight changes nothing."""


async def run(bench: Bench) -> list[Figure]:
    """Events a second over one stream."""
    batches = bench.size(1_500, 150)
    calls = bench.size(6_000, 1_000)
    sequential: list[float] = []
    pipelined: list[float] = []
    ours, single, cpu = [], [], []
    async with bench.server("publish_stream") as server, channels(server.target, CHANNELS) as open_:
        with raw_store(server.store_socket) as store:
            for number in range(bench.runs):
                for depth, results in ((1, sequential), (WINDOW, pipelined)):
                    project = f"raw-{depth}-{number}"
                    packed = [pack_append(raw) for raw in _requests(project, batches)]
                    results.append(batches * BATCH / store.pipelined(packed, depth))
                    store.forget(project)

                project = f"stream-{number}"
                await publish_stream(open_[0], _requests(project, 5), WINDOW)  # Embeds the texts.
                requests = _requests(project, batches)
                before = server.cpu()
                seconds = await publish_stream(open_[0], requests, WINDOW)
                after = server.cpu()
                ours.append(batches * BATCH / seconds)
                cpu.append((after.server - before.server) / (batches * BATCH) * 1e6)
                store.forget(project)

                project = f"unary-{number}"
                publish = [unary(channel, PUBLISH) for channel in open_]
                await closed_loop(publish, singles(project, 10 * KEYS), IN_FLIGHT)
                requests = singles(project, calls)
                single.append(calls / await closed_loop(publish, requests, IN_FLIGHT))
                store.forget(project)
                bench.say(
                    f"raw {sequential[-1]:,.0f}/s, raw pipelined {pipelined[-1]:,.0f}/s, "
                    f"stream {ours[-1]:,.0f}/s, unary {single[-1]:,.0f}/s"
                )
    name = "PublishStream, batches of 64, fsync, 16 batches in flight"
    details = {"batches": batches, "server_us_per_event": median(cpu)}
    return [
        Figure(
            name,
            "events/s",
            ours,
            sequential,
            "raw function calls of 64 events, one at a time",
            Target("ratio", 0.7),
            details,
        ),
        Figure(name, "events/s", ours, pipelined, "raw function calls, 16 in flight"),
        Figure(name, "events/s", ours, single, "unary Publish, 256 in flight", Target("ratio", 10)),
    ]


def _requests(project: str, count: int) -> list[bytes]:
    return [
        with_request_id(request(project, [example() for _ in range(BATCH)])) for _ in range(count)
    ]

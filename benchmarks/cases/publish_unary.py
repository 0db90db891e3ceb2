"""Unary Publish: one known text a call, fsync, 256 calls in flight; against a bare echo."""

from __future__ import annotations

from contex.v1 import event_pb2, event_service_pb2

from benchmarks.bare import UNARY
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import PUBLISH, channels, closed_loop, unary
from benchmarks.messages import KEYS, example, request, with_request_id
from benchmarks.processes import Measured, bare_server
from benchmarks.store import raw_store

IN_FLIGHT = 256
CHANNELS = 4
RESPONSE = event_service_pb2.PublishResponse(
    receipts=[event_service_pb2.Receipt(sequence="1764000000000-0", revision=1_000)],
    durability=event_pb2.DURABILITY_FSYNC,
)


async def run(bench: Bench) -> list[Figure]:
    """Calls a second, and what a call costs each server in processor time."""
    calls = bench.size(15_000, 2_000)
    ours, ceiling, our_cpu, ceiling_cpu, store_cpu = [], [], [], [], []
    async with (
        bench.server("publish_unary") as server,
        bare_server(RESPONSE.ByteSize()) as bare,
    ):
        for number in range(bench.runs):
            project = f"unary-{number}"
            requests = singles(project, calls)
            warm = singles(project, 10 * KEYS)
            rate, cpu, _ = await _measure(bare, UNARY, requests, warm)
            ceiling.append(rate)
            ceiling_cpu.append(cpu)
            rate, cpu, store = await _measure(server, PUBLISH, requests, warm)
            ours.append(rate)
            our_cpu.append(cpu)
            store_cpu.append(store)
            with raw_store(server.store_socket) as store_connection:
                store_connection.forget(project)
            bench.say(f"echo {ceiling[-1]:,.0f}/s, Publish {ours[-1]:,.0f}/s")
    return [
        Figure(
            "unary Publish, fsync, 256 in flight",
            "calls/s",
            ours,
            ceiling,
            "bare grpc.aio echo of the same bytes",
            Target("ratio", 0.7),
            {"calls": calls, "channels": CHANNELS, "request_bytes": len(requests[0])},
        ),
        Figure(
            "processor time of the server a call",
            "µs",
            our_cpu,
            ceiling_cpu,
            "bare grpc.aio echo",
            details={"store_us": store_cpu},
        ),
    ]


def singles(project: str, count: int) -> list[bytes]:
    """Publishes of one event each."""
    return [with_request_id(request(project, [example()])) for _ in range(count)]


async def _measure(
    server: Measured, method: str, requests: list[bytes], warm: list[bytes]
) -> tuple[float, float, float]:
    """Calls a second, and microseconds of processor time a call: of the server, of its store."""
    async with channels(server.target, CHANNELS) as opened:
        calls = [unary(channel, method) for channel in opened]
        # Embeds the texts, and settles the connections.
        await closed_loop(calls, warm, IN_FLIGHT)
        before = server.cpu()
        seconds = await closed_loop(calls, requests, IN_FLIGHT)
        after = server.cpu()
    count = len(requests)
    return (
        count / seconds,
        (after.server - before.server) / count * 1e6,
        (after.store - before.store) / count * 1e6,
    )

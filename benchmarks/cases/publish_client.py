"""One Python client with 1, 32 and 256 publishes in flight, over its stream; against calls of their
own.

A publish without a request_id goes by a call of its own; the rest is the same.
"""

from __future__ import annotations

import asyncio
import resource
import time

from contex import AsyncClient

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.processes import ContexServer

IN_FLIGHT = {1: 1.3, 32: 3.0, 256: 3.0}
"""How many are in flight, and how many times as fast as calls of their own they should be."""
_KEYS = 50


async def run(bench: Bench) -> list[Figure]:
    """Publishes a second, and what one costs client and server in processor time."""
    figures = []
    async with bench.server("publish_client") as server:
        for in_flight, bound in IN_FLIGHT.items():
            count = bench.size(min(12_000, 1_500 * in_flight), 100 + in_flight)
            ours, alone, details = [], [], {}
            for number in range(bench.runs):
                for kind, request_id, rates in (("stream", None, ours), ("unary", "", alone)):
                    project = f"{kind}-{in_flight}-{number}"
                    rate, cpu = await _measure(server, project, count, in_flight, request_id)
                    rates.append(rate)
                    details |= {f"{kind}_{name}": value for name, value in cpu.items()}
                bench.say(f"{in_flight} in flight: {ours[-1]:,.0f}/s, unary {alone[-1]:,.0f}/s")
            figures.append(
                Figure(
                    f"one client, {in_flight} in flight",
                    "publishes/s",
                    ours,
                    alone,
                    "unary Publish of the same client",
                    Target("ratio", bound),
                    {"publishes": count, **details},
                )
            )
    return figures


async def _measure(
    server: ContexServer, project: str, count: int, in_flight: int, request_id: str | None
) -> tuple[float, dict[str, float]]:
    """Publishes a second; microseconds of processor time of each process for one."""
    async with AsyncClient(server.target, timeout=60) as client:

        async def publish(total: int) -> None:
            numbers = iter(range(total))

            async def worker() -> None:
                for number in numbers:
                    await client.publish(
                        project,
                        f"service-{number % _KEYS}",
                        {"base_url": "https://api.example.com", "timeout": 30},
                        description="API endpoint and timeouts",
                        request_id=request_id,
                    )

            await asyncio.gather(*(worker() for _ in range(in_flight)))

        await publish(2 * _KEYS + in_flight)  # Embeds the text, and opens the stream.
        before, own, start = server.cpu(), _cpu(), time.perf_counter()
        await publish(count)
        seconds = time.perf_counter() - start
        spent, own = server.cpu() - before, _cpu() - own
    cpu = {"client": own, "server": spent.server, "store": spent.store}
    return count / seconds, {f"{name}_us": s / count * 1e6 for name, s in cpu.items()}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

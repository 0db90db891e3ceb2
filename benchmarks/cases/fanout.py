"""Fan-out: one project, a thousand subscribers, as many deliveries a second as they take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
from contex.v1 import event_service_pb2

from benchmarks.bare import POST, SUBSCRIBE as BARE_SUBSCRIBE
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import SUBSCRIBE, channels, publish_stream, unary
from benchmarks.messages import BATCH, request
from benchmarks.processes import Measured, bare_server
from benchmarks.subscribing import CAUGHT_UP, FELL_BEHIND, subscribe_request

SUBSCRIBERS = 1_000
CHANNELS = 16
WINDOW = 4_096
"""Events that the slowest subscriber may be behind the publisher. The servers' live window
holds some 20,000 of these; beyond it readers would go back to the log."""
_KEY = "fan_out"
_MARK = b"\x1a\x07" + _KEY.encode()
"""The data key as it is serialised: once in every event."""


@dataclass(slots=True)
class _Readers:
    """All subscribers and what they have received."""

    counts: list[int] = field(default_factory=lambda: [0] * SUBSCRIBERS)
    messages: int = 0
    bytes: int = 0
    fell_behind: int = 0
    progressed: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, index: int, events: int, raw: bytes) -> None:
        self.counts[index] += events
        self.messages += 1
        self.bytes += len(raw)
        self.progressed.set()

    async def slowest_at(self, count: int) -> None:
        """Returns when everybody has received so many events."""
        while min(self.counts) < count:
            self.progressed.clear()
            await self.progressed.wait()


async def run(bench: Bench) -> list[Figure]:
    """Deliveries a second: events times subscribers, until the last has the last event."""
    events = bench.size(24_000, 6_000) // BATCH * BATCH
    ours, ceiling, behind, sizes, cpu, bare_cpu = [], [], 0, [], [], []
    async with bench.server("fanout") as server, bare_server() as bare:
        for number in range(bench.runs):
            readers, seconds, used = await _contex(server, f"fanout-{number}", events)
            ours.append(sum(readers.counts) / seconds)
            cpu.append(used / sum(readers.counts) * 1e6)
            behind += readers.fell_behind
            per_message = sum(readers.counts) / readers.messages
            sizes.append(per_message)
            message_bytes = readers.bytes // readers.messages
            rounds = max(10, int(events / per_message))
            messages, seconds, used = await _bare(bare, rounds, message_bytes)
            ceiling.append(messages * per_message / seconds)
            bare_cpu.append(used / (messages * per_message) * 1e6)
            bench.say(
                f"{ours[-1]:,.0f}/s in messages of {per_message:,.0f} events, "
                f"{message_bytes:,} B; bare gRPC {ceiling[-1]:,.0f}/s"
            )
    return [
        Figure(
            "fan-out, 1,000 subscribers, saturated",
            "deliveries/s",
            ours,
            ceiling,
            "bare grpc.aio streams, messages of the same size",
            Target("least", 500_000),
            {
                "events": events,
                "window_events": WINDOW,
                "channels": CHANNELS,
                "events_per_message": sizes,
                "fell_behind": behind,
                "server_us_per_delivery": cpu,
                "bare_us_per_delivery": bare_cpu,
            },
        )
    ]


async def _contex(server: Measured, project: str, events: int) -> tuple[_Readers, float, float]:
    readers = _Readers()
    batch = request(project, [_event()] * BATCH)
    async with (
        channels(server.target, CHANNELS) as opened,
        channels(server.target) as (publisher,),
        asyncio.TaskGroup() as group,
    ):
        await publish_stream(publisher, [batch])  # Embeds the text.
        joined = _Countdown(SUBSCRIBERS)
        raw = subscribe_request(project)
        tasks = [
            group.create_task(
                _read(opened[i % CHANNELS], SUBSCRIBE, raw, readers, i, joined, events)
            )
            for i in range(SUBSCRIBERS)
        ]
        await joined.reached.wait()
        before = server.cpu()
        start = time.perf_counter()
        published = 0

        def paced() -> Iterator[bytes]:
            nonlocal published
            for _ in range(events // BATCH):
                published += BATCH
                yield batch

        await _publish_paced(publisher, batch, events, readers)
        await readers.slowest_at(events)
        seconds = time.perf_counter() - start
        used = server.cpu().server - before.server
        for task in tasks:
            task.cancel()
    return readers, seconds, used

"""Fan-out: one project, a thousand subscribers, as many deliveries a second as they take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from contex.v1 import event_service_pb2

from benchmarks.audience import EVENTS, FELL_BEHIND, audience, from_end
from benchmarks.bare import POST
from benchmarks.bare import SUBSCRIBE as BARE_SUBSCRIBE
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.http2 import Connection, connections
from benchmarks.load import SUBSCRIBE, channels, publish_stream, unary
from benchmarks.messages import BATCH, request
from benchmarks.processes import Measured, bare_server

SUBSCRIBERS = 1_000
CONNECTIONS = 16
WINDOW = 4_096
"""Events that the slowest subscriber may be behind the publisher. The server's live window
holds some 20,000 of these; beyond it readers would go back to the log."""
BARE_WINDOW = 2
"""Messages, for the bare server: one on its way, one waiting."""

_MARK = b"\x1a\x07fan_out"
"""The data key as it is serialised: once in every event."""
_EVENT = event_service_pb2.NewEvent(
    data_key="fan_out",
    payload=b'{"symbol":"contex","price":100.25,"volume":1200}',
    description="Price of a share",
)


@dataclass(slots=True)
class _Received:
    """What each subscriber has received."""

    counts: list[int] = field(default_factory=lambda: [0] * SUBSCRIBERS)
    messages: int = 0
    size_bytes: int = 0
    fell_behind: int = 0
    _progressed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def total(self) -> int:
        return sum(self.counts)

    def events(self, index: int, raw: bytes) -> None:
        """Takes a message of Contex."""
        if raw[0] == EVENTS:
            # Counting the keys reads every byte, and is ten times as fast as parsing.
            self._take(index, raw.count(_MARK), raw)
        elif raw[0] == FELL_BEHIND:
            self.fell_behind += 1

    def message(self, index: int, raw: bytes) -> None:
        """Takes a message of the bare server."""
        self._take(index, 1, raw)

    async def all_have(self, count: int) -> None:
        """Returns when the slowest has received so many."""
        while min(self.counts) < count:
            self._progressed.clear()
            await self._progressed.wait()

    def _take(self, index: int, count: int, raw: bytes) -> None:
        self.counts[index] += count
        self.messages += 1
        self.size_bytes += len(raw)
        self._progressed.set()


@dataclass(frozen=True, slots=True)
class _Result:
    received: _Received
    seconds: float
    server_cpu: float

    @property
    def rate(self) -> float:
        return self.received.total / self.seconds


async def run(bench: Bench) -> list[Figure]:
    """Deliveries a second: events times subscribers, until the last has the last event."""
    events = bench.size(24_000, 6_000) // BATCH * BATCH
    ours, ceiling, sizes, cpu, bare_cpu, behind = [], [], [], [], [], 0
    async with bench.server("fanout") as server, bare_server() as bare:
        for number in range(bench.runs):
            found = await _contex(server, f"fanout-{number}", events)
            received = found.received
            assert received.counts == [events] * SUBSCRIBERS
            ours.append(found.rate)
            behind += received.fell_behind
            cpu.append(found.server_cpu / received.total * 1e6)
            per_message = received.total / received.messages
            message_bytes = received.size_bytes // received.messages
            sizes.append(per_message)

            plain = await _bare(bare, max(20, round(events / per_message)), message_bytes)
            ceiling.append(plain.rate * per_message)
            bare_cpu.append(plain.server_cpu / plain.received.total / per_message * 1e6)
            bench.say(
                f"{ours[-1]:,.0f} deliveries/s, {per_message:,.0f} events or "
                f"{message_bytes:,} B a message; bare gRPC {ceiling[-1]:,.0f}/s"
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
                "connections": CONNECTIONS,
                "events_per_message": sizes,
                "fell_behind": behind,
                "server_us_per_delivery": cpu,
                "bare_us_per_delivery": bare_cpu,
            },
        )
    ]


async def _contex(server: Measured, project: str, events: int) -> _Result:
    received = _Received()
    batch = request(project, [_EVENT] * BATCH)
    published = 0

    async def pace() -> None:
        nonlocal published
        published += BATCH
        await received.all_have(published - WINDOW)

    async with (
        channels(server.target) as (publisher,),
        connections(server.target, CONNECTIONS) as opened,
    ):
        await publish_stream(publisher, [batch])  # Embeds the text.

        async def publish() -> None:
            await publish_stream(publisher, [batch] * (events // BATCH), before_each=pace)
            await received.all_have(events)

        return await _timed(
            server, opened, SUBSCRIBE, from_end(project), received, received.events, publish
        )


async def _bare(server: Measured, messages: int, size: int) -> _Result:
    received = _Received()
    async with (
        channels(server.target) as (publisher,),
        connections(server.target, CONNECTIONS) as opened,
    ):
        post = unary(publisher, POST)

        async def publish() -> None:
            for number in range(messages):
                await received.all_have(number + 1 - BARE_WINDOW)
                await post(bytes(size))
            await received.all_have(messages)

        return await _timed(
            server, opened, BARE_SUBSCRIBE, b"", received, received.message, publish
        )


async def _timed(
    server: Measured,
    opened: list[Connection],
    method: str,
    subscribe: bytes,
    received: _Received,
    on_message: Callable[[int, bytes], None],
    publish: Callable[[], Awaitable[None]],
) -> _Result:
    async with audience(opened, SUBSCRIBERS, subscribe, on_message, method=method):
        before = server.cpu()
        start = time.perf_counter()
        await publish()
        seconds = time.perf_counter() - start
        used = server.cpu().server - before.server
    return _Result(received, seconds, used)

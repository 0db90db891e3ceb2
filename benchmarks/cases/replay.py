"""Replay of a long log, against XRANGE over a raw socket."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc
from contex.v1 import event_pb2, event_service_pb2
from contex_server.log.redis.key_names import key

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import REPLAY, channels, open_stream, publish_stream, read
from benchmarks.messages import BATCH, request
from benchmarks.store import raw_store

KEYS = 64
PROJECT = "replay"


async def run(bench: Bench) -> list[Figure]:
    """Events a second in the client's hands."""
    events = bench.size(200_000, 20_000) // BATCH * BATCH
    raw_rates, received, parsed, cpu = [], [], [], []
    async with bench.server("replay") as server, channels(server.target) as (channel,):
        batch = request(PROJECT, [service_event(k) for k in range(KEYS)])
        seconds = await publish_stream(channel, [batch] * (events // BATCH))
        bench.say(f"{events:,} events appended in {seconds:.1f} s")
        with raw_store(server.store_socket) as store:
            rows = store.command("XREVRANGE", key(PROJECT, "events"), "+", "-", "COUNT", 1_000)
            size = sum(len(row[1][1]) for row in rows) / len(rows)
            for _ in range(bench.runs):
                count, seconds = store.scan(PROJECT)
                assert count == events, count
                raw_rates.append(count / seconds)
                before = server.cpu()
                seconds, complete = await _receive(channel)
                after = server.cpu()
                received.append(events / seconds)
                cpu.append((after.server - before.server) / events * 1e6)
                count, seconds, expected = await _parse(channel)
                parsed.append(count / seconds)
                assert (count, complete) == (events, expected), (count, complete, expected)
                bench.say(
                    f"XRANGE {raw_rates[-1]:,.0f}/s, received {received[-1]:,.0f}/s, "
                    f"parsed {parsed[-1]:,.0f}/s"
                )
    ceiling = "raw XRANGE, pages of 1,000, hiredis"
    details = {"events": events, "bytes_per_event": size, "server_us_per_event": cpu}
    return [
        Figure(
            "Replay, events received",
            "events/s",
            received,
            raw_rates,
            ceiling,
            Target("ratio", 0.6),
            details,
        ),
        Figure("Replay, events received and parsed", "events/s", parsed, raw_rates, ceiling),
    ]


def service_event(index: int) -> event_service_pb2.NewEvent:
    """An event of about 300 bytes as it lies in the log."""
    return event_service_pb2.NewEvent(
        data_key=f"service_{index}",
        payload=(
            b'{"service":"checkout","region":"eu-central-1","replicas":%d,"image":'
            b'"registry.example.com/shop/checkout","status":"healthy","owner":"payments","tier":1}'
        )
        % (index + 1),
        description="Deployment of a service: image, region, replicas and health",
    )


_REQUEST = event_service_pb2.ReplayRequest(project=PROJECT).SerializeToString()


_Ends = tuple[int, str]
"""How many messages came, and the sequence of the last event: whether a replay was whole."""


async def _receive(channel: grpc.aio.Channel) -> tuple[float, _Ends]:
    """Takes every message as bytes; returns the seconds."""
    start = time.perf_counter()
    call = open_stream(channel, REPLAY, _REQUEST)
    count, last = 0, b""
    while (raw := await read(call)) is not None:
        count, last = count + 1, raw
    seconds = time.perf_counter() - start
    return seconds, (count, _events(last)[-1].sequence)


async def _parse(channel: grpc.aio.Channel) -> tuple[int, float, _Ends]:
    """Parses every message; returns the events and the seconds."""
    start = time.perf_counter()
    call = open_stream(channel, REPLAY, _REQUEST)
    count, messages, last = 0, 0, b""
    while (raw := await read(call)) is not None:
        count += len(_events(raw))
        messages, last = messages + 1, raw
    seconds = time.perf_counter() - start
    return count, seconds, (messages, _events(last)[-1].sequence)


def _events(raw: bytes) -> Sequence[event_pb2.Event]:
    return event_service_pb2.ReplayResponse.FromString(raw).events.events

"""Replay of a long log, against XRANGE over a raw socket."""

from __future__ import annotations

import time

import grpc
from contex.v1 import event_service_pb2
from contex_server.log.redis import key

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
        batch = request(PROJECT, [_event(k) for k in range(KEYS)])
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
                messages, seconds = await _replay(channel)
                after = server.cpu()
                count = sum(_count(raw) for raw in messages)
                assert count == events, count
                received.append(count / seconds)
                cpu.append((after.server - before.server) / count * 1e6)
                start = time.perf_counter()
                count = await _replay_parsed(channel)
                parsed.append(count / (time.perf_counter() - start))
                assert count == events, count
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


def _event(index: int) -> event_service_pb2.NewEvent:
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


async def _replay(channel: grpc.aio.Channel) -> tuple[list[bytes], float]:
    start = time.perf_counter()
    call = open_stream(channel, REPLAY, _REQUEST)
    messages: list[bytes] = []
    while (raw := await read(call)) is not None:
        messages.append(raw)
    return messages, time.perf_counter() - start


async def _replay_parsed(channel: grpc.aio.Channel) -> int:
    call = open_stream(channel, REPLAY, _REQUEST)
    count = 0
    while (raw := await read(call)) is not None:
        count += _count(raw)
    return count


def _count(raw: bytes) -> int:
    return len(event_service_pb2.ReplayResponse.FromString(raw).events.events)

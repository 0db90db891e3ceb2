"""Consumers: deliveries that are handed out and acknowledged, beside the store's own groups."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import hiredis
from contex.v1 import consumer_pb2, event_service_pb2

from benchmarks.agents import keys, register
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import channels, publish_stream, read, unary
from benchmarks.messages import BATCH
from benchmarks.processes import ContexServer
from benchmarks.store import raw_store

CONSUME = "/contex.v1.AgentService/Consume"
_SEEK = "/contex.v1.AgentService/SeekConsumerGroup"
_PROJECT, _AGENT = "consuming", "worker"
_COUNTS = (1, 8)
_CREDIT = 512
"""Deliveries that a consumer has at a time."""


async def run(bench: Bench) -> list[Figure]:
    """Deliveries a second, handed out and acknowledged, by all consumers together."""
    events = bench.size(40_000, 1_280) // BATCH * BATCH
    ours: dict[int, list[float]] = {count: [] for count in _COUNTS}
    raw: list[float] = []
    cost: dict[int, list[dict[str, float]]] = {count: [] for count in _COUNTS}
    async with bench.server("consuming") as server, channels(server.target, max(_COUNTS)) as all_:
        channel = all_[0]
        await register(channel, _PROJECT, [(_AGENT, [keys("job/*")])])
        await publish_stream(channel, [_batch(n) for n in range(0, events, BATCH)])
        await _seek(channel)
        for _ in range(bench.runs):
            raw.append(events / await asyncio.to_thread(_raw, server, events))
            for count in _COUNTS:
                await _seek(channel)
                before = server.cpu()
                seconds = await _consume(all_[:count], events)
                used = server.cpu() - before
                ours[count].append(events / seconds)
                cost[count].append(
                    {
                        "server_us": used.server / events * 1e6,
                        "store_us": used.store / events * 1e6,
                    }
                )
            bench.say(
                "; ".join(
                    f"{count} consumer(s) {ours[count][-1]:,.0f}/s "
                    f"(server {cost[count][-1]['server_us']:.0f} us, "
                    f"store {cost[count][-1]['store_us']:.0f} us each)"
                    for count in _COUNTS
                )
                + f"; XREADGROUP and XACK {raw[-1]:,.0f}/s"
            )
    return [
        Figure(
            f"{count} consumer{'s' * (count > 1)}: handed out and acknowledged",
            "deliveries/s",
            ours[count],
            raw,
            "XREADGROUP and XACK of as many entries, one connection",
            Target("least", 10_000),
            {"cpu": cost[count]},
        )
        for count in _COUNTS
    ]


def _batch(first: int) -> bytes:
    """Facts of as many data that can't be described: nothing is embedded."""
    events = [
        event_service_pb2.NewEvent(
            data_key=f"job/{n}", payload=b"\0" * 120, content_type="application/octet-stream"
        )
        for n in range(first, first + BATCH)
    ]
    return event_service_pb2.PublishRequest(
        project=_PROJECT, events=events, request_id=f"batch-{first}"
    ).SerializeToString()


async def _seek(channel: grpc.aio.Channel) -> None:
    request = consumer_pb2.SeekConsumerGroupRequest(
        project=_PROJECT, agent_id=_AGENT, after_sequence="0"
    )
    await unary(channel, _SEEK)(request.SerializeToString())


async def _consume(over: list[grpc.aio.Channel], events: int) -> float:
    """The seconds until everything is handed out and acknowledged."""
    left = events
    done = asyncio.Event()
    start = time.perf_counter()

    async def work(number: int, channel: grpc.aio.Channel) -> None:
        nonlocal left
        call: Any = channel.stream_stream(CONSUME)()
        begins = consumer_pb2.ConsumeStart(
            project=_PROJECT,
            agent_id=_AGENT,
            consumer=f"consumer-{number}",
            max_outstanding_messages=_CREDIT,
        )
        await call.write(consumer_pb2.ConsumeRequest(start=begins).SerializeToString())
        acks = 0
        while (message := await read(call)) is not None:
            response = consumer_pb2.ConsumeResponse.FromString(message)
            ids = [each.delivery_id for each in response.deliveries.deliveries]
            if ids:
                acks += 1
                settle = consumer_pb2.Settle(
                    settle_id=len(ids), delivery_ids=ids, ack=consumer_pb2.Ack()
                )
                await call.write(consumer_pb2.ConsumeRequest(settle=settle).SerializeToString())
            elif response.HasField("settled"):
                assert not response.settled.lost_delivery_ids
                left -= response.settled.settle_id
                if left == 0:
                    done.set()

    workers = [asyncio.create_task(work(*each)) for each in enumerate(over)]
    await done.wait()
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    return seconds


def _raw(server: ContexServer, events: int) -> float:
    """The same by the store's own commands."""
    with raw_store(server.store_socket) as store:
        name = "bench:raw-group"
        adds = [
            hiredis.pack_command(("XADD", name, f"{n + 1}-0", "d", b"\0" * 40))
            for n in range(events)
        ]
        store.pipelined(adds, 256)
        store.command("XGROUP", "CREATE", name, "consumers", "0")
        start = time.perf_counter()
        taken = 0
        while taken < events:
            reply = store.command(
                *("XREADGROUP", "GROUP", "consumers", "c", "COUNT", 64, "STREAMS", name, ">")
            )
            ids = [row[0] for row in reply[0][1]]
            store.command("XACK", name, "consumers", *ids)
            taken += len(ids)
        seconds = time.perf_counter() - start
        store.command("DEL", name)
    return seconds

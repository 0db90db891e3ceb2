"""Two checkouts side by side in one run: what did a change cost?

    python -m benchmarks.compare ../contex-before

The other checkout needs its `.venv`. Both servers run at the same time, on stores of their own,
and take turns: each figure is measured on one, then on the other, as often as asked, so that
whatever else the machine does hits both. A ratio is the median of those of the rounds; so are
those of the processor time that servers and stores used for the same work.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from contex.v1 import event_service_pb2, state_service_pb2
from rich.console import Console
from rich.table import Table

from benchmarks.audience import EVENTS, audience, from_end
from benchmarks.http2 import connections
from benchmarks.load import (
    PUBLISH,
    REPLAY,
    channels,
    closed_loop,
    open_stream,
    publish_stream,
    read,
    unary,
)
from benchmarks.messages import BATCH, example, request, with_request_id
from benchmarks.processes import ROOT, CpuSeconds, contex_server

_GET_STATE = "/contex.v1.StateService/GetState"
_CALLS, _IN_FLIGHT = 3_000, 64
_BATCHES = 600
_SUBSCRIBERS, _FANNED_OUT = 100, 300
_ONE_BY_ONE = 400
_STATE_KEYS, _STATE_CALLS = 200, 150

Measure = Callable[[grpc.aio.Channel, str, str], Awaitable[float]]


async def _publish(channel: grpc.aio.Channel, _target: str, project: str) -> float:
    requests = [with_request_id(request(project, [example()])) for _ in range(_CALLS)]
    return _CALLS / await closed_loop([unary(channel, PUBLISH)], requests, _IN_FLIGHT)


async def _stream(channel: grpc.aio.Channel, _target: str, project: str) -> float:
    batches = [
        with_request_id(request(project, [example() for _ in range(BATCH)]))
        for _ in range(_BATCHES)
    ]
    return BATCH * _BATCHES / await publish_stream(channel, batches)


async def _replay(channel: grpc.aio.Channel, _target: str, project: str) -> float:
    """Events a second of what `_stream` has published; it runs before."""
    start = time.perf_counter()
    asked = event_service_pb2.ReplayRequest(project=project).SerializeToString()
    call = open_stream(channel, REPLAY, asked)
    last = b""
    while (raw := await read(call)) is not None:
        last = raw
    seconds = time.perf_counter() - start
    events = event_service_pb2.ReplayResponse.FromString(last).events.events
    assert events, "the replay is not complete"
    return BATCH * _BATCHES / seconds


async def _fan_out(channel: grpc.aio.Channel, target: str, project: str) -> float:
    """Deliveries a second to all subscribers together."""
    left = _SUBSCRIBERS * _FANNED_OUT
    done = asyncio.Event()

    def receive(_index: int, raw: bytes) -> None:
        nonlocal left
        if raw[0] == EVENTS:
            left -= len(event_service_pb2.SubscribeResponse.FromString(raw).events.events)
            if left <= 0:
                done.set()

    async with (
        connections(target, 4) as opened,
        audience(opened, _SUBSCRIBERS, from_end(project), receive),
    ):
        start = time.perf_counter()
        requests = [request(project, [example()]) for _ in range(_FANNED_OUT)]
        await closed_loop([unary(channel, PUBLISH)], requests, 8)
        async with asyncio.timeout(120):
            await done.wait()
        return _SUBSCRIBERS * _FANNED_OUT / (time.perf_counter() - start)


async def _one_by_one(channel: grpc.aio.Channel, target: str, project: str) -> float:
    """Events a second that are published and reach a subscriber one after the other: latency."""
    delivered = asyncio.Event()

    def receive(_index: int, raw: bytes) -> None:
        if raw[0] == EVENTS:
            delivered.set()

    publish = unary(channel, PUBLISH)
    async with connections(target, 1) as opened, audience(opened, 1, from_end(project), receive):
        start = time.perf_counter()
        for _ in range(_ONE_BY_ONE):
            delivered.clear()
            await publish(request(project, [example()]))
            await delivered.wait()
        return _ONE_BY_ONE / (time.perf_counter() - start)


async def _get_state(channel: grpc.aio.Channel, _target: str, project: str) -> float:
    asked = state_service_pb2.GetStateRequest(
        project=project, page_size=_STATE_KEYS
    ).SerializeToString()
    return _STATE_CALLS / await closed_loop([unary(channel, _GET_STATE)], [asked] * _STATE_CALLS, 4)


_FIGURES: dict[str, tuple[Measure, str]] = {
    "Publish, calls/s": (_publish, "unary"),
    "PublishStream, events/s": (_stream, "stream"),
    "Replay, events/s": (_replay, "stream"),
    "Fan-out to 100, deliveries/s": (_fan_out, "fan"),
    "Delivery one by one, events/s": (_one_by_one, "one"),
    "GetState, calls/s": (_get_state, "unary"),
}


async def _compare(
    before: Path, names: list[str], rounds: int, data_dir: Path, console: Console
) -> None:
    sides = {"before": before, "now": ROOT}
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    spent: dict[str, dict[str, list[CpuSeconds]]] = {name: {} for name in names}
    async with AsyncExitStack() as stack:
        opened = {}
        for side, checkout in sides.items():
            server = await stack.enter_async_context(contex_server(data_dir, checkout=checkout))
            (channel,) = await stack.enter_async_context(channels(server.target))
            opened[side] = (channel, server)
        # A first round warms up both: it is not counted.
        for turn in range(rounds + 1):
            order = list(opened) if turn % 2 else list(reversed(opened))
            for name in names:
                measure, project = _FIGURES[name]
                for side in order:
                    channel, server = opened[side]
                    start = server.cpu()
                    figure = await measure(channel, server.target, f"{project}-{turn}")
                    if turn:
                        measured[name].setdefault(side, []).append(figure)
                        spent[name].setdefault(side, []).append(server.cpu() - start)
            console.print(f"round {turn} of {rounds}", highlight=False)
    table = Table("figure", "before", "now", "ratio", "server CPU", "store CPU", "ratios by round")
    for name, found in measured.items():
        each = _ratios(found["before"], found["now"])
        old, new = spent[name]["before"], spent[name]["now"]
        table.add_row(
            name,
            f"{statistics.median(found['before']):,.0f}",
            f"{statistics.median(found['now']):,.0f}",
            f"{statistics.median(each):.2f}",
            f"{statistics.median(_ratios([s.server for s in old], [s.server for s in new])):.2f}",
            f"{statistics.median(_ratios([s.store for s in old], [s.store for s in new])):.2f}",
            " ".join(f"{ratio:.2f}" for ratio in each),
        )
    console.print(table)


def _ratios(before: list[float], now: list[float]) -> list[float]:
    return [b / max(a, 1e-9) for a, b in zip(before, now, strict=True)]


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("before", type=Path, help="the other checkout, with its .venv")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="figures with this in"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", type=Path, default=Path("/var/tmp"))
    arguments = parser.parse_args()
    asyncio.run(
        _compare(
            arguments.before.resolve(),
            [
                name
                for name in _FIGURES
                if not arguments.only or any(w in name for w in arguments.only)
            ],
            arguments.rounds,
            arguments.data_dir,
            Console(),
        )
    )


if __name__ == "__main__":
    main()

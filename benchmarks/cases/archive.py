"""A log longer than memory: what the store holds, reads out of the archive, files, and what
archiving costs those who publish meanwhile."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import grpc
import numpy as np
from contex.v1 import (
    event_pb2,
    event_service_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import REPLAY, channels, open_stream, publish_stream, read, unary
from benchmarks.messages import example, request
from benchmarks.store import raw_store

KEYS = 1_000
BATCH = 500
PROJECT = "long"
_PROJECTS = "/contex.v1.ProjectService"
_TRANSFERS = "/contex.v1.TransferService"
_PUBLISH = "/contex.v1.EventService/Publish"
_CHUNK = 1 << 20


async def run(bench: Bench) -> list[Figure]:
    """Events a second, milliseconds, bytes."""
    return [*await _long(bench), *await _live(bench)]


async def _long(bench: Bench) -> list[Figure]:
    events, kept = bench.size(5_000_000, 60_000), bench.size(200_000, 10_000)
    settings = {"CONTEX_STORE_EVENTS": str(kept), "CONTEX_STORE_BYTES": "0"}
    if bench.quick:
        settings["CONTEX_SEGMENT_EVENTS"] = "5000"
    memory: list[int] = []
    async with bench.server("archive", settings) as server, channels(server.target) as (channel,):
        with raw_store(server.store_socket) as store:
            seconds = 0.0
            for part in range(10):
                batches = _events(part * events // 10, events // 10)
                seconds += await publish_stream(channel, batches, 4)
                memory.append(store.used_memory())
                bench.say(
                    f"{(part + 1) * events // 10:,} events, {memory[-1] / 1e6:,.0f} MB in the store"
                )
        stats = await _settled(channel, kept)
        archived = stats.archived_sequence
        old, new, ceilings = [], [], []
        for _ in range(bench.runs):
            old.append(await _replay(channel, bench.size(1_000_000, 20_000), None))
            new.append(await _replay(channel, kept, archived))
            ceilings.append(new[-1])
            bench.say(f"replay: archive {old[-1]:,.0f}/s, store {new[-1]:,.0f}/s")
        states = [await _states(channel, stats, bench.size(200, 20)) for _ in range(bench.runs)]
        with tempfile.TemporaryFile(dir=bench.data_dir) as file:
            exported, size = await _export(channel, file)
            bench.say(f"exported at {events / exported:,.0f}/s, {size / events:.0f} bytes an event")
            imported = await _import(channel, file)
            bench.say(f"imported at {events / imported:,.0f}/s")
    per_event = stats.archive_bytes / stats.archive_event_count
    return [
        Figure(
            f"PublishStream, batches of {BATCH}, while it is archived",
            "events/s",
            [events / seconds],
        ),
        Figure(
            f"store memory after {events:,} events, {kept:,} kept, against after a fifth of them",
            "times",
            [memory[-1] / memory[1]],
            target=Target("most", 1.2),
            details={"bytes": memory},
        ),
        Figure(
            "Replay out of the archive",
            "events/s",
            old,
            ceilings,
            "out of the store",
            Target("ratio", 0.5),
        ),
        *(
            Figure(
                f"state of {KEYS:,} keys at a random moment, p{percent}",
                "ms",
                [float(np.percentile(times, percent)) for times in states],
                target=Target("most", 100) if percent == 99 else None,
            )
            for percent in (50, 99)
        ),
        Figure("archive, an event, index and snapshots included", "bytes", [per_event]),
        Figure("export, native", "events/s", [events / exported], target=Target("least", 100_000)),
        Figure("exact import", "events/s", [events / imported], target=Target("least", 100_000)),
    ]


def _events(first: int, count: int) -> Iterator[bytes]:
    return events_of(PROJECT, first, count, KEYS)


def events_of(project: str, first: int, count: int, keys: int) -> Iterator[bytes]:
    """Requests to publish the state of services, in batches."""
    for start in range(first, first + count, BATCH):
        yield request(
            project,
            [
                event_service_pb2.NewEvent(
                    data_key=f"service.{n % keys}",
                    payload=(
                        b'{"replicas":%d,"timeout":%d,"region":"eu-west-%d","version":"1.%d",'
                        b'"cpu":0.%d,"memory":%d,"status":"running","requests":%d,"errors":%d}'
                    )
                    % (
                        n % 7,
                        n,
                        n % keys % 3,
                        n // keys,
                        random.randrange(10**9),
                        random.randrange(10**9),
                        random.randrange(10**9),
                        random.randrange(1000),
                    ),
                    description="Deployment of a service, as its cluster reports it",
                )
                for n in range(start, start + BATCH)
            ],
        )


async def _settled(channel: grpc.aio.Channel, kept: int) -> project_service_pb2.GetStatsResponse:
    get_stats = unary(channel, f"{_PROJECTS}/GetStats")
    asked = project_service_pb2.GetStatsRequest(project=PROJECT).SerializeToString()
    while True:
        stats = project_service_pb2.GetStatsResponse.FromString(await get_stats(asked))
        if stats.store_event_count < kept + 50_000 and stats.segment_count:
            return stats
        await asyncio.sleep(0.5)


async def _replay(channel: grpc.aio.Channel, count: int, after: str | None) -> float:
    """Events a second, of the first so many after a place."""
    asked = event_service_pb2.ReplayRequest(project=PROJECT)
    if after is not None:
        asked.since.sequence = after
    call = open_stream(channel, REPLAY, asked.SerializeToString())
    size, seen = 0, 0
    start = time.perf_counter()
    while seen < count and (raw := await read(call)) is not None:
        if not size:
            first = event_service_pb2.ReplayResponse.FromString(raw)
            size = len(raw) // len(first.events.events)
        seen += len(raw) // size
    seconds = time.perf_counter() - start
    call.cancel()
    return seen / seconds


async def _states(
    channel: grpc.aio.Channel, stats: project_service_pb2.GetStatsResponse, count: int
) -> list[float]:
    """Milliseconds."""
    get_state = unary(channel, "/contex.v1.StateService/GetState")
    first = int(stats.first_sequence.partition("-")[0])
    last = int(stats.last_sequence.partition("-")[0])
    found = []
    for _ in range(count):
        at = random.randint(first + (last - first) // 100, last)
        asked = state_service_pb2.GetStateRequest(
            project=PROJECT, as_of=event_pb2.Position(unix_ms=at), page_size=KEYS
        ).SerializeToString()
        start = time.perf_counter()
        await get_state(asked)
        found.append((time.perf_counter() - start) * 1e3)
    return found


async def _export(channel: grpc.aio.Channel, file: Any) -> tuple[float, int]:
    asked = transfer_service_pb2.ExportProjectRequest(project=PROJECT).SerializeToString()
    call = open_stream(channel, f"{_TRANSFERS}/ExportProject", asked)
    start = time.perf_counter()
    while (raw := await read(call)) is not None:
        file.write(transfer_service_pb2.ExportProjectResponse.FromString(raw).data)
    return time.perf_counter() - start, file.tell()


async def _import(channel: grpc.aio.Channel, file: Any) -> float:
    file.seek(0)
    method: Any = channel.stream_stream(f"{_TRANSFERS}/ImportProject")

    async def requests() -> AsyncIterator[bytes]:
        start = transfer_service_pb2.ImportStart(project="copy")
        yield transfer_service_pb2.ImportProjectRequest(start=start).SerializeToString()
        while data := file.read(_CHUNK):
            yield transfer_service_pb2.ImportProjectRequest(data=data).SerializeToString()
        finish = transfer_service_pb2.ImportFinish()
        yield transfer_service_pb2.ImportProjectRequest(finish=finish).SerializeToString()

    start = time.perf_counter()
    last = b""
    async for raw in method(requests()):
        last = cast(bytes, raw)
    report = transfer_service_pb2.ImportProjectResponse.FromString(last).report
    assert report.imported_count == report.read_count
    return time.perf_counter() - start


async def _live(bench: Bench) -> list[Figure]:
    """Publishes at a pace, with and without segments being made of the same project."""
    events, publishes = bench.size(200_000, 10_000), bench.size(1_500, 100)
    small = {"CONTEX_SEGMENT_EVENTS": "5000"} if bench.quick else {}
    found: dict[bool, list[float]] = {True: [], False: []}
    async with (
        bench.server("live", {"CONTEX_STORE_BYTES": "0", **small}) as server,
        channels(server.target) as (channel,),
    ):
        set_retention = unary(channel, f"{_PROJECTS}/SetRetention")

        async def keep(count: int) -> None:
            asked = project_service_pb2.SetRetentionRequest(project=PROJECT)
            asked.retention.store_events = count
            await set_retention(asked.SerializeToString())

        for _ in range(bench.runs):
            await keep(0)
            await publish_stream(channel, _events(0, events), 4)
            await asyncio.sleep(2.0)  # The last snapshot.
            found[False].append(await _p99(channel, publishes))
            await keep(1_000)
            await asyncio.sleep(1.0)
            found[True].append(await _p99(channel, publishes))
            bench.say(f"p99 {found[False][-1]:.1f} ms, while archiving {found[True][-1]:.1f} ms")
    return [
        Figure(
            "p99 of Publish at 250 a second, while its project is archived",
            "ms",
            found[True],
            details={"without": found[False]},
        ),
        Figure(
            "the same against without",
            "times",
            [a / b for a, b in zip(found[True], found[False], strict=True)],
            target=Target("most", 1.5),
        ),
    ]


async def _p99(channel: grpc.aio.Channel, count: int) -> float:
    publish = unary(channel, _PUBLISH)
    asked = event_service_pb2.PublishRequest(
        project=PROJECT, events=[example()]
    ).SerializeToString()
    times: list[float] = []

    async def one() -> None:
        start = time.perf_counter()
        await publish(asked)
        times.append((time.perf_counter() - start) * 1e3)

    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(0.004)
    await asyncio.gather(*tasks)
    return float(np.percentile(times, 99))

"""The past: state at random moments of logs of three lengths, a long history, activity; and
what snapshots and records of deliveries cost those who publish."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from statistics import median

import grpc
import numpy as np
from contex.v1 import (
    agent_service_pb2,
    event_pb2,
    event_service_pb2,
    project_service_pb2,
    state_service_pb2,
)

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.load import channels, open_stream, publish_stream, read, unary
from benchmarks.messages import BATCH, example, request
from benchmarks.messages import KEYS as KEYS_EACH
from benchmarks.processes import ContexServer
from benchmarks.store import raw_store

KEYS = 1_000
AGENTS = 4
_OFF = {
    "CONTEX_SNAPSHOT_EVENTS": "1000000000",
    "CONTEX_SNAPSHOT_BYTES": "1000000000000",
    "CONTEX_DELIVERY_RECORDS": "false",
}
_STATE = "/contex.v1.StateService"
_PROJECT = "/contex.v1.ProjectService"
_AGENT = "/contex.v1.AgentService"


async def run(bench: Bench) -> list[Figure]:
    """Milliseconds from the call to its answer, events a second, and bytes."""
    return [*await _reading(bench), *await _recording(bench)]


# -- reading -------------------------------------------------------------------------


async def _reading(bench: Bench) -> list[Figure]:
    sizes = (
        bench.size(10_000, 2_000),
        bench.size(100_000, 5_000),
        bench.size(1_000_000, 20_000),
    )
    reads = bench.size(150, 20)
    states: dict[int, list[list[float]]] = {size: [] for size in sizes}
    history: list[list[float]] = []
    bare_history: list[list[float]] = []
    activity: list[list[float]] = []
    async with bench.server("time") as server, channels(server.target) as (channel,):
        spans = {}
        for size in sizes:
            seconds = await publish_stream(channel, _events(f"time-{size}", size), 4)
            bench.say(f"{size:,} events published, {size / seconds:,.0f}/s")
        for size in sizes:
            spans[size] = await _span(channel, f"time-{size}")
        get_state = unary(channel, f"{_STATE}/GetState")
        get_history = unary(channel, f"{_STATE}/GetHistory")
        get_activity = unary(channel, f"{_PROJECT}/GetActivity")
        largest = f"time-{sizes[-1]}"
        for _ in range(bench.runs):
            found: dict[int, list[float]] = {size: [] for size in sizes}
            for _ in range(reads):
                # In turns, so that the machine's moods hit all alike.
                for size in sizes:
                    asked = _state(f"time-{size}", _moment(*spans[size]))
                    found[size].append(await _ms(lambda asked=asked: get_state(asked)))
            for size in sizes:
                states[size].append(found[size])
            names = [f"service.{random.randrange(KEYS)}" for _ in range(reads // 3)]
            history.append(
                [await _ms(lambda n=n: get_history(_history(largest, n))) for n in names]
            )
            bare_history.append(
                [
                    await _ms(lambda n=n: get_history(_history(largest, n, patches=False)))
                    for n in names
                ]
            )
            activity.append(
                [await _ms(lambda: get_activity(_activity(largest))) for _ in range(reads // 3)]
            )
            bench.say(
                "state p50 "
                + ", ".join(f"{median(states[size][-1]):.1f}" for size in sizes)
                + f" ms; history {median(history[-1]):.1f} ms, "
                f"activity {median(activity[-1]):.1f} ms"
            )
        with raw_store(server.store_socket) as store:
            kinds = store.memory_by_key(largest)
        snapshots = (kinds["snapshots"] + kinds["snapshot-data"]) / sizes[-1]
    return [
        *(
            Figure(
                f"state of {KEYS:,} keys at a random moment of {size:,} events, p{percent}",
                "ms",
                _percentiles(states[size], percent),
            )
            for size in sizes
            for percent in (50, 99)
        ),
        *(
            Figure(
                f"the same, {sizes[-1]:,} events against {sizes[0]:,}, p{percent}",
                "times",
                [
                    a / b
                    for a, b in zip(
                        _percentiles(states[sizes[-1]], percent),
                        _percentiles(states[sizes[0]], percent),
                        strict=True,
                    )
                ],
                target=Target("most", 2.0),
            )
            for percent in (50, 99)
        ),
        Figure(
            f"history of a key with {sizes[-1] // KEYS:,} revisions among {sizes[-1]:,} events, "
            "with patches, p50",
            "ms",
            _percentiles(history, 50),
            target=Target("most", 30),
            details={"p99": _percentiles(history, 99)},
        ),
        Figure("the same without patches, p50", "ms", _percentiles(bare_history, 50)),
        Figure(
            f"activity of {KEYS:,} keys over {sizes[-1]:,} events, p50",
            "ms",
            _percentiles(activity, 50),
            target=Target("most", 50),
            details={"p99": _percentiles(activity, 99)},
        ),
        Figure(f"store, an event: snapshots of {KEYS:,} keys", "bytes", [snapshots]),
    ]


def _events(project: str, count: int) -> Iterator[bytes]:
    """Batches of updates of `KEYS` keys, in turns."""
    batch = 500
    for start in range(0, count, batch):
        events = [
            event_service_pb2.NewEvent(
                data_key=f"service.{n % KEYS}",
                payload=b'{"replicas":%d,"timeout":%d,"region":"eu-west-%d","version":"1.%d"}'
                % (n % 7, n, n % 3, n // KEYS),
                description="Deployment of a service",
            )
            for n in range(start, start + batch)
        ]
        yield request(project, events)


async def _span(channel: grpc.aio.Channel, project: str) -> tuple[int, int]:
    """First and last millisecond in which all keys are there; waits for the snapshots."""
    get_stats = unary(channel, f"{_PROJECT}/GetStats")
    asked = project_service_pb2.GetStatsRequest(project=project).SerializeToString()
    taken = -1
    while True:
        stats = project_service_pb2.GetStatsResponse.FromString(await get_stats(asked))
        if stats.snapshot_count == taken:
            break
        taken = stats.snapshot_count
        await asyncio.sleep(1.5)
    listing = unary(channel, "/contex.v1.EventService/ListEvents")
    first = event_service_pb2.ListEventsRequest(project=project, page_size=KEYS)
    page = event_service_pb2.ListEventsResponse.FromString(await listing(first.SerializeToString()))
    return _unix_ms(page.events[-1].sequence), _unix_ms(stats.last_sequence)


def _unix_ms(sequence: str) -> int:
    return int(sequence.partition("-")[0])


def _moment(first: int, last: int) -> event_pb2.Position:
    return event_pb2.Position(unix_ms=random.randint(first, last))


def _state(project: str, as_of: event_pb2.Position) -> bytes:
    return state_service_pb2.GetStateRequest(
        project=project, as_of=as_of, page_size=KEYS
    ).SerializeToString()


def _history(project: str, data_key: str, *, patches: bool = True) -> bytes:
    return state_service_pb2.GetHistoryRequest(
        project=project, data_key=data_key, page_size=1_000, omit_patches=not patches
    ).SerializeToString()


def _activity(project: str) -> bytes:
    return project_service_pb2.GetActivityRequest(
        project=project,
        dimension=project_service_pb2.ACTIVITY_DIMENSION_DATA_KEY,
        bucket_seconds=60,
    ).SerializeToString()


async def _ms(call: Callable[[], Awaitable[bytes]]) -> float:
    start = time.perf_counter()
    await call()
    return (time.perf_counter() - start) * 1e3


def _percentiles(runs: list[list[float]], percent: float) -> list[float]:
    return [float(np.percentile(times, percent)) for times in runs]


# -- recording -----------------------------------------------------------------------


async def _recording(bench: Bench) -> list[Figure]:
    sizes = {0: bench.size(1_500, 20), AGENTS: bench.size(300, 10)}
    rates: dict[tuple[bool, int], list[float]] = {}
    deliveries: dict[bool, list[float]] = {}
    stored: dict[str, float] = {}
    async with (
        bench.server("recording") as on,
        bench.server("not_recording", _OFF) as off,
        channels(on.target) as (on_channel,),
        channels(off.target) as (off_channel,),
    ):
        for number in range(bench.runs):
            for agents in (0, AGENTS):
                for recorded, server, channel in (
                    (False, off, off_channel),
                    (True, on, on_channel),
                ):
                    project = f"p{number}-{agents}"
                    published, delivered = await _publish(channel, project, sizes[agents], agents)
                    rates.setdefault((recorded, agents), []).append(published)
                    if agents:
                        deliveries.setdefault(recorded, []).append(delivered * agents)
                    if recorded and not agents:
                        await asyncio.sleep(2.0)  # The last snapshot.
                        stored = _bytes(server, project, sizes[agents] * BATCH)
            bench.say(
                "; ".join(
                    f"{agents} agents: on {rates[True, agents][-1]:,.0f}/s, "
                    f"off {rates[False, agents][-1]:,.0f}/s"
                    for agents in (0, AGENTS)
                )
            )
    return [
        *(
            Figure(
                f"PublishStream, batches of {BATCH}, {_audience(agents)}, "
                "with snapshots and records of deliveries",
                "events/s",
                rates[True, agents],
                rates[False, agents],
                "without",
                Target("ratio", 0.9),
            )
            for agents in (0, AGENTS)
        ),
        Figure(
            f"their deliveries to {AGENTS} agents",
            "events/s",
            deliveries[True],
            deliveries[False],
            "without",
        ),
        *(Figure(name, "bytes", [value]) for name, value in stored.items()),
    ]


def _audience(agents: int) -> str:
    return f"each event to {agents} agents" if agents else "no agents"


def _bytes(server: ContexServer, project: str, events: int) -> dict[str, float]:
    with raw_store(server.store_socket) as store:
        kinds = store.memory_by_key(project)
        store.forget(project)
    snapshots = kinds["snapshots"] + kinds["snapshot-data"]
    return {
        "store, an event: the log": kinds["events"] / events,
        f"store, an event: snapshots of {KEYS_EACH} keys": snapshots / events,
        "store, an event: audit": kinds["audit"] / events,
        "store, an event: counts": (kinds["activity"] + kinds["stats"]) / events,
    }


async def _publish(
    channel: grpc.aio.Channel, project: str, batches: int, agents: int
) -> tuple[float, float]:
    """Events a second until the last is acknowledged, and until it has reached every agent."""
    requests = [request(project, [example() for _ in range(BATCH)]) for _ in range(batches)]
    await publish_stream(channel, requests[:3])  # Embeds the texts.
    async with _listeners(channel, project, agents) as received:
        start = time.perf_counter()
        await publish_stream(channel, requests)
        published = time.perf_counter()
        while agents and min(received) < batches * BATCH:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        events = batches * BATCH
        return events / (published - start), events / (time.perf_counter() - start)


@asynccontextmanager
async def _listeners(
    channel: grpc.aio.Channel, project: str, agents: int
) -> AsyncIterator[list[int]]:
    """Agents that everything published matches; yields how many events each has received."""
    received = [0] * agents
    register = unary(channel, f"{_AGENT}/RegisterAgent")
    tasks = []

    async def listen(number: int, live: asyncio.Event) -> None:
        asked = agent_service_pb2.ListenRequest(project=project, agent_id=f"agent-{number}")
        call = open_stream(channel, f"{_AGENT}/Listen", asked.SerializeToString())
        while (raw := await read(call)) is not None:
            message = agent_service_pb2.ListenResponse.FromString(raw)
            received[number] += len(message.events.events)
            if message.HasField("caught_up"):
                live.set()

    try:
        for number in range(agents):
            asked = agent_service_pb2.RegisterAgentRequest(
                project=project,
                agent_id=f"agent-{number}",
                needs=[agent_service_pb2.Need(text="API endpoint and timeouts")],
                threshold=1e-9,
            )
            await register(asked.SerializeToString())
            live = asyncio.Event()
            tasks.append(asyncio.create_task(listen(number, live)))
            await live.wait()
        yield received
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

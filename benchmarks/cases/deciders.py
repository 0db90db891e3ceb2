"""Deciders, through real servers: do they keep up, what do they cost those who publish, and how
soon does another server go on?

Needs and events are those of the team sets kept here; further needs are put together of two. The
events' texts are known, as those of data are that are published again and again, so that what is
measured is deciding and not the model.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import count, islice
from math import inf
from pathlib import Path
from urllib.parse import unquote, urlsplit

import grpc
import numpy as np
from contex.v1 import event_service_pb2
from contex_server.log.inboxes import SHARDS, shard_of
from contex_server.log.redis.key_names import key

from benchmarks.agents import Marks, Need, decided, keys, marks, named, register
from benchmarks.bench import Bench
from benchmarks.cases.latency import until
from benchmarks.figures import Figure, Target
from benchmarks.load import PUBLISH, channels, publish_stream, unary
from benchmarks.matching.sets import OWN, DataSet, Kind, load
from benchmarks.messages import BATCH, example, request, with_request_id
from benchmarks.processes import Measured, shared_store
from benchmarks.store import raw_store

_DATA = 500
_NOBODY = "nobody"
"""A project without agents."""
_THRESHOLD = 0.98
"""Needs of the same fifteen teams are alike: at 0.8, each event still met some 24 of 10,000, and
what was measured was filling inboxes."""
_PACES = (1_000, 5_000)
_DEADLINE_S = 120.0
_SHARED_S = 3.0
"""By then, two servers have heard of each other and shared the shards."""


async def run(bench: Bench) -> list[Figure]:
    """Events a second, milliseconds and seconds."""
    return [
        *await _deciding(bench, bench.size(2_000, 40), 5, bench.size(10_000, 200)),
        *([] if bench.quick else await _deciding(bench, 4_000, 25, 10_000)),
        *await _beside(bench),
        await _takeover(bench),
    ]


# -- keeping up ----------------------------------------------------------------------


async def _deciding(bench: Bench, agents: int, each: int, texts: int) -> list[Figure]:
    """A project with many needs, of which few meet an event."""
    project, needs = "deciding", agents * each
    saturated = list[float]()
    alone = list[float]()
    lags: dict[int, list[list[float]]] = {pace: [] for pace in _PACES}
    async with bench.server(f"deciders-{needs}") as server, channels(server.target) as (channel,):
        took = await _prepare(channel, project, agents, each, texts)
        start = time.perf_counter()
        await decided(channel, server.target, project)
        settled = time.perf_counter() - start
        data = _batches()
        bench.say(
            f"{agents:,} agents with {each} needs each, registered in {took:.0f} s, decided "
            f"{settled:.0f} s later"
        )
        async with marks(channel, server.target, project) as marked:
            numbers = count(1)
            await _publish(channel, project, marked, numbers, inf, 64)
            for _ in range(bench.runs):
                batches = bench.size(1_000 if needs <= 10_000 else 300, 20)
                most = [request(_NOBODY, data[n % len(data)]) for n in range(batches)]
                alone.append(batches * BATCH / await publish_stream(channel, most))
                seconds, _ = await _publish(channel, project, marked, numbers, inf, batches)
                saturated.append(batches * BATCH / seconds)
                for pace in _PACES:
                    batches = max(8, pace * bench.size(10, 1) // BATCH)
                    _, late = await _publish(channel, project, marked, numbers, pace, batches)
                    lags[pace].append(late)
                bench.say(
                    f"{saturated[-1]:,.0f} events/s decided, lag "
                    + ", ".join(
                        f"{np.percentile(late[-1], 50):.0f} ms, p99 "
                        f"{np.percentile(late[-1], 99):.0f} ms at {pace:,}/s"
                        for pace, late in lags.items()
                    )
                )
        with raw_store(server.store_socket) as store:
            deliveries = store.entries(project, "inbox:")
            events = store.entries(project, "events")
    of = f"{needs:,} needs"
    reported = needs > 10_000
    return [
        Figure(
            f"published as fast as it goes, and decided, {of}",
            "events/s",
            saturated,
            alone,
            "published alone, to a project without agents",
            None if reported else Target("least", 5_000),
            {
                "deliveries": deliveries,
                "events": events,
                "registered_s": took,
                "decided_s": settled,
            },
        ),
        *(
            Figure(
                f"from when an event is due to when it is decided, {pace:,} events/s, {of}, "
                f"p{percent}",
                "ms",
                [float(np.percentile(late, percent)) for late in found],
            )
            for pace, found in lags.items()
            for percent in (50, 99)
        ),
    ]


async def _prepare(
    channel: grpc.aio.Channel, project: str, agents: int, each: int, texts: int
) -> float:
    """Publishes all data once, and registers agents; returns the seconds that these took."""
    for name in (project, _NOBODY):
        await publish_stream(channel, [request(name, batch) for batch in _batches()])
    needs = [Need(text=text, threshold=_THRESHOLD) for text in islice(_needs(), texts)]
    random.Random(5).shuffle(needs)
    registered = (
        (f"agent-{n}", [needs[(n * each + i) % texts] for i in range(each)]) for n in range(agents)
    )
    return await register(channel, project, registered)


def _needs() -> Iterator[str]:
    own = list(dict.fromkeys(n.text for s in _sets() for n in s.needs))
    yield from own
    for step in count(1):
        for at, text in enumerate(own):
            yield f"{text}, {own[(at + step) % len(own)]}"


def _sets() -> list[DataSet]:
    return [load(folder, Kind.TEAM, own=True) for folder in sorted(OWN.iterdir())]


def _batches() -> list[list[event_service_pb2.NewEvent]]:
    """All data, in batches that have room for a mark."""
    data = _documents()
    return [data[start : start + BATCH - 1] for start in range(0, len(data), BATCH - 1)]


def _documents() -> list[event_service_pb2.NewEvent]:
    documents = [document for each in _sets() for document in each.documents]
    most = min(_DATA, len(documents))
    return [
        event_service_pb2.NewEvent(
            data_key=document.data_key,
            payload=document.payload,
            description=document.description,
            content_type=document.content_type,
        )
        for document in documents[:: len(documents) // most][:most]
    ]


async def _publish(
    channel: grpc.aio.Channel,
    project: str,
    marked: Marks,
    numbers: Iterator[int],
    pace: float,
    batches: int,
) -> tuple[float, list[float]]:
    """Publishes batches, each with a mark at its end, at a pace in events a second.

    Returns:
        The seconds until all is decided, and of each batch the milliseconds until it was, from when
        it was due.
    """
    data, names = _batches(), list(islice(numbers, batches))
    requests = (
        request(project, [*data[n % len(data)], Marks.event(name)]) for n, name in enumerate(names)
    )
    due = list[float]()
    start = time.perf_counter()

    async def next_batch() -> None:
        due.append(start + len(due) * BATCH / pace)
        await until(due[-1])

    await publish_stream(channel, requests, before_each=next_batch)
    async with asyncio.timeout(_DEADLINE_S):
        seen = [await marked.seen(name) for name in names]
    late = [(at - since) * 1e3 for at, since in zip(seen, due, strict=True)]
    return seen[-1] - start, late


# -- beside those who publish ------------------------------------------------------------


async def _beside(bench: Bench) -> list[Figure]:
    """Publishing to a project with agents that nothing matches, and to one without."""
    agents, batches = bench.size(1_000, 20), bench.size(600, 20)
    with_needs = {
        "exact-needs": [keys("nothing/*")],
        "words": [Need(text="the weather at sea", threshold=1.0)],
    }
    rates: dict[str, list[float]] = {kind: [] for kind in with_needs}
    without: dict[str, list[float]] = {kind: [] for kind in with_needs}
    async with bench.server("beside-agents") as server, channels(server.target) as (channel,):

        async def publish(project: str) -> float:
            raw = [request(project, [example() for _ in range(BATCH)]) for _ in range(batches)]
            return batches * BATCH / await publish_stream(channel, raw)

        for kind, needs in with_needs.items():
            await publish_stream(channel, [request(kind, [example() for _ in range(BATCH)])])
            await register(channel, kind, named(agents, needs))
            await decided(channel, server.target, kind)
        await publish(_NOBODY)
        for _ in range(bench.runs):
            for kind in with_needs:
                without[kind].append(await publish(_NOBODY))
                rates[kind].append(await publish(kind))
                await asyncio.sleep(1.0)  # What is left to decide is not the next one's.
            bench.say(
                "; ".join(
                    f"{kind} {rates[kind][-1]:,.0f}/s, no agents {without[kind][-1]:,.0f}/s"
                    for kind in with_needs
                )
            )
    return [
        Figure(
            f"PublishStream, batches of {BATCH}, beside {agents:,} agents ({kind}), none met",
            "events/s",
            rates[kind],
            without[kind],
            "without agents",
            Target("ratio", 0.95),
        )
        for kind in with_needs
    ]


# -- another server goes on ----------------------------------------------------------------


async def _takeover(bench: Bench) -> Figure:
    """Kills a server that decides, once for each run; another one has begun before."""
    project = "takeover"
    agents, texts = bench.size(2_000, 20), bench.size(1_000, 20)
    took = list[float]()
    async with shared_store(bench.data_dir) as url:
        settings = {"CONTEX_REDIS_URL": url}
        async with AsyncExitStack() as servers:
            first = await servers.enter_async_context(bench.server("takeover-0", settings))
            async with channels(first.target) as (channel,):
                await _prepare(channel, project, agents, 5, texts)
                await decided(channel, first.target, project)
            for number in range(bench.runs):
                second = await servers.enter_async_context(
                    bench.server(f"takeover-{number + 1}", settings)
                )
                pids = await _deciding_processes(url, project, {first.pid, second.pid})
                if first.pid not in pids:  # Small projects are decided by one.
                    first, second = second, first
                took.append(await _killed(first, second, project))
                bench.say(f"delivered again {took[-1]:.2f} s after kill -9")
                first = second
    return Figure(
        f"kill -9 of one of two servers that decide for {agents * 5:,} needs, until all is "
        "delivered again",
        "s",
        took,
        target=Target("most", 3),
    )


async def _killed(first: Measured, second: Measured, project: str) -> float:
    """Kills the first server; returns the seconds until the second delivers in all shards."""
    numbers = count(1)
    of_shard = {shard_of(name): name for name in (f"marks-{n}" for n in range(64))}
    assert len(of_shard) == SHARDS
    async with (
        channels(second.target) as (channel,),
        marks(channel, second.target, project, list(of_shard.values())) as marked,
    ):
        publish = unary(channel, PUBLISH)

        async def mark() -> int:
            number = next(numbers)
            await publish(with_request_id(request(project, [Marks.event(number)])))
            return number

        async with asyncio.timeout(_DEADLINE_S):
            await marked.seen(await mark())
        first.kill()
        start = time.perf_counter()
        number = await mark()
        async with asyncio.timeout(_DEADLINE_S):
            return await marked.seen(number) - start


async def _deciding_processes(url: str, project: str, among: set[int]) -> set[int]:
    """The processes that decide, once they are some of these and know of each other."""
    path = Path(unquote(urlsplit(url).path))
    loop = asyncio.get_running_loop()
    await asyncio.sleep(_SHARED_S)
    with raw_store(path) as store:
        deadline = loop.time() + _DEADLINE_S
        while True:
            shards = [f"s{shard}" for shard in range(SHARDS)]
            held = store.command("HMGET", key(project, "deciding"), *shards)
            owners = {int(each.split()[2].partition(b"-")[0]) for each in held}
            if owners <= among:
                return owners
            assert loop.time() < deadline, (owners, among)
            await asyncio.sleep(0.1)

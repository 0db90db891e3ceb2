"""Inboxes: catching up on many deliveries, and what a delivery takes in the store."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import grpc
from contex.v1 import agent_service_pb2, event_service_pb2

from benchmarks.agents import ACKNOWLEDGE, LISTEN, Need, all_for, keys, register, words
from benchmarks.audience import CAUGHT_UP, EVENTS
from benchmarks.bench import Bench
from benchmarks.cases.replay import KEYS, service_event
from benchmarks.figures import Figure, Target
from benchmarks.load import REPLAY, channels, open_stream, publish_stream, read, unary
from benchmarks.messages import BATCH, request
from benchmarks.processes import ContexServer
from benchmarks.store import raw_store

_IN_AN_EVENT = b'"service":"checkout"'
_SETTLE_S = 2.0
"""Snapshots and records of streams are written in the background."""
_WORDS = "abcdefg"
_OF_PROJECT = {"backgrounds", "decisions", "descriptions", "matching", "vectors"}
"""What matching keeps for a project that has agents, whatever they are sent."""
_KINDS: dict[str, Need] = {
    "exact-need": keys("service*"),
    "words": words("deployment of services"),
}


async def run(bench: Bench) -> list[Figure]:
    """Deliveries a second in the client's hands, and bytes."""
    async with bench.server("inboxes") as server, channels(server.target) as (channel,):
        return [*await _catching_up(bench, channel), *await _stored(bench, server, channel)]


# -- catching up ---------------------------------------------------------------------


async def _catching_up(bench: Bench, channel: grpc.aio.Channel) -> list[Figure]:
    events = bench.size(100_000, 6_400) // BATCH * BATCH
    project = "catching-up"
    batch = request(project, [service_event(each) for each in range(KEYS)])
    await publish_stream(channel, [batch])  # Embeds the texts.
    await register(channel, project, [(kind, [need]) for kind, need in _KINDS.items()])
    start = time.perf_counter()
    await publish_stream(channel, [batch] * (events // BATCH - 1))
    published = time.perf_counter() - start
    for kind in _KINDS:
        await _receive(channel, LISTEN, all_for(project, kind), events)  # Until it is decided.
    bench.say(
        f"{events:,} events published in {published:.1f} s, decided and received by "
        f"{len(_KINDS)} agents in {time.perf_counter() - start:.1f} s"
    )
    replay = event_service_pb2.ReplayRequest(project=project).SerializeToString()
    ours: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    ceiling: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for _ in range(bench.runs):
        for kind in _KINDS:
            asked = all_for(project, kind)
            ceiling[kind].append(events / await _receive(channel, REPLAY, replay, events))
            ours[kind].append(events / await _receive(channel, LISTEN, asked, events))
        bench.say(
            "; ".join(
                f"{kind} {ours[kind][-1]:,.0f}/s, Replay {ceiling[kind][-1]:,.0f}/s"
                for kind in _KINDS
            )
        )
    return [
        Figure(
            f"an agent ({kind}) catches up on {events:,} deliveries",
            "deliveries/s",
            ours[kind],
            ceiling[kind],
            "Replay of the same events",
            Target("ratio", 0.6),
        )
        for kind in _KINDS
    ]


async def _receive(channel: grpc.aio.Channel, method: str, asked: bytes, events: int) -> float:
    """The seconds until all events are there."""
    start = time.perf_counter()
    call = open_stream(channel, method, asked)
    received = 0
    while (raw := await read(call)) is not None and raw[0] != CAUGHT_UP:
        received += raw.count(_IN_AN_EVENT)
    seconds = time.perf_counter() - start
    call.cancel()
    assert received == events, (received, events)
    return seconds


# -- stored --------------------------------------------------------------------------


async def _stored(bench: Bench, server: ContexServer, channel: grpc.aio.Channel) -> list[Figure]:
    """What a project with an agent takes more than the same without, but for what matching keeps:
    the inbox, what is known of who holds what, journal, streams, cursor, activity, registration."""
    events = bench.size(10_000, 640) // BATCH * BATCH
    figures = []
    for of, data in (("each of another datum", events), ("revisions of 64 data", KEYS)):
        for kind, need in _KINDS.items():
            found: list[dict[str, float]] = []
            for number in range(bench.runs):
                with_agent = await _take(server, channel, f"with-{number}", events, data, need)
                without = await _take(server, channel, f"without-{number}", events, data, None)
                found.append(
                    {
                        name: (size - without.get(name, 0)) / events
                        for name, size in with_agent.items()
                        if name not in _OF_PROJECT
                    }
                )
            figures.append(
                Figure(
                    f"store for a delivery, acknowledged, {kind}, {of}",
                    "B",
                    [sum(sizes.values()) for sizes in found],
                    target=Target("most", 120),
                    details={
                        "by_key": {
                            name: median(sizes.get(name, 0) for sizes in found) for name in found[0]
                        }
                    },
                )
            )
            bench.say(
                f"{kind}, {of}: "
                + ", ".join(f"{n} {b:.1f} B" for n, b in found[-1].items() if abs(b) >= 0.05)
            )
    return figures


async def _take(
    server: ContexServer,
    channel: grpc.aio.Channel,
    project: str,
    events: int,
    data: int,
    need: Need | None,
) -> dict[str, int]:
    """Publishes to an agent, if there is one, that acknowledges all; returns bytes by key."""
    if need is not None:
        await register(channel, project, [("agent", [need])])
    for start in range(0, events, BATCH):
        batch = [_event(number % data) for number in range(start, start + BATCH)]
        await publish_stream(channel, [request(project, batch)])
    if need is not None:
        await _acknowledge_all(channel, project, events)
    await asyncio.sleep(_SETTLE_S)
    with raw_store(server.store_socket) as store:
        sizes = store.memory_by_key(project)
        store.forget(project)
    return sizes


def _event(number: int) -> event_service_pb2.NewEvent:
    """An event under one of 4^7 keys, which differ in what stands between their words: so they are
    described by one text, and one is embedded."""
    event = service_event(number)
    separators = ("_-./"[number >> 2 * place & 3] for place in range(len(_WORDS)))
    event.data_key = "service" + "".join(map("".join, zip(separators, _WORDS, strict=True)))
    return event


async def _acknowledge_all(channel: grpc.aio.Channel, project: str, events: int) -> None:
    call = open_stream(channel, LISTEN, all_for(project, "agent"))
    acknowledge = unary(channel, ACKNOWLEDGE)
    received = 0
    while received < events and (raw := await read(call)) is not None:
        if raw[0] == EVENTS:
            received += raw.count(_IN_AN_EVENT)
            cursor = agent_service_pb2.ListenResponse.FromString(raw).cursor
            asked = agent_service_pb2.AcknowledgeRequest(
                project=project, agent_id="agent", cursor=cursor
            )
            await acknowledge(asked.SerializeToString())
    call.cancel()
    assert received == events, (received, events)

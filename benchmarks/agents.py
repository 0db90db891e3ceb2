"""Agents: their registrations, what they ask for, and marks by which is seen how far is decided."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import grpc
from contex.v1 import agent_service_pb2, event_pb2, event_service_pb2

from benchmarks.audience import EVENTS, audience
from benchmarks.http2 import connections
from benchmarks.load import PUBLISH, closed_loop, unary
from benchmarks.messages import request

_AGENT = "/contex.v1.AgentService"
LISTEN = f"{_AGENT}/Listen"
ACKNOWLEDGE = f"{_AGENT}/Acknowledge"
_REGISTER = f"{_AGENT}/RegisterAgent"
_REGISTERING = 8
"""Registrations at a time."""

_MARK_KEY = "mark"
_MARK = re.compile(rb'"mark":(\d+)')

Need = agent_service_pb2.Need


def words(text: str) -> Need:
    """A need in words that everything meets that has a text."""
    return Need(text=text, threshold=1e-9)


def keys(glob: str) -> Need:
    """An exact need: all data under some keys."""
    return Need(filter=event_pb2.EventFilter(data_keys=[glob]))


async def register(
    channel: grpc.aio.Channel, project: str, agents: Iterable[tuple[str, Sequence[Need]]]
) -> float:
    """Registers agents with their needs; returns the seconds.

    Their data are not asked for: each answer has one at most.
    """
    requests = (
        agent_service_pb2.RegisterAgentRequest(
            project=project, agent_id=agent_id, needs=needs, max_matches=1
        ).SerializeToString()
        for agent_id, needs in agents
    )
    return await closed_loop([unary(channel, _REGISTER)], requests, _REGISTERING)


def named(count: int, needs: Sequence[Need]) -> list[tuple[str, Sequence[Need]]]:
    """So many agents with the same needs."""
    return [(f"agent-{number}", needs) for number in range(count)]


def new_for(project: str, agent_id: str) -> bytes:
    """A request to listen to what is new."""
    return agent_service_pb2.ListenRequest(
        project=project, agent_id=agent_id, edge=event_pb2.EDGE_END, heartbeat_interval_ms=60_000
    ).SerializeToString()


def all_for(project: str, agent_id: str) -> bytes:
    """A request to listen to an inbox from its beginning."""
    return agent_service_pb2.ListenRequest(
        project=project, agent_id=agent_id, after_sequence="0"
    ).SerializeToString()


class Marks:
    """Events for agents that need nothing else: when such an agent has one, everything before it is
    decided for the agents of its shard."""

    def __init__(self, agents: int) -> None:
        self._times: list[dict[int, float]] = [{} for _ in range(agents)]
        self._came = asyncio.Event()

    @staticmethod
    def event(number: int) -> event_service_pb2.NewEvent:
        """An event that all of these agents are sent."""
        return event_service_pb2.NewEvent(data_key=_MARK_KEY, payload=b'{"mark":%d}' % number)

    async def seen(self, number: int) -> float:
        """When the last of the agents had this mark; waits for it."""
        while not all(number in times for times in self._times):
            self._came.clear()
            await self._came.wait()
        return max(times[number] for times in self._times)

    def receive(self, index: int, raw: bytes) -> None:
        """Takes a message."""
        if raw[0] == EVENTS:
            now = time.perf_counter()
            for found in _MARK.finditer(raw):
                self._times[index].setdefault(int(found[1]), now)
            self._came.set()


async def decided(channel: grpc.aio.Channel, target: str, project: str) -> None:
    """Returns when all that was registered and published before is decided."""
    async with marks(channel, target, project, ["decided"]) as marked:
        await unary(channel, PUBLISH)(request(project, [Marks.event(1)]))
        await marked.seen(1)


@asynccontextmanager
async def marks(
    channel: grpc.aio.Channel, target: str, project: str, agent_ids: Sequence[str] = ("marks",)
) -> AsyncIterator[Marks]:
    """Registers agents for marks, which listen while the block lasts."""
    found = Marks(len(agent_ids))
    await register(channel, project, [(agent_id, [keys(_MARK_KEY)]) for agent_id in agent_ids])
    async with (
        connections(target, 1) as opened,
        audience(
            opened,
            len(agent_ids),
            lambda index: new_for(project, agent_ids[index]),
            found.receive,
            method=LISTEN,
        ),
    ):
        yield found

"""Replay at a pace: order and pauses, and that a pause is left like any other wait.

Nothing is asserted to be quick, but that what is a pause of an hour by itself comes to an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from contex import AsyncClient
from contex.v1 import event_pb2
from contex.v1.project_service_pb2 import DeleteProjectRequest, EraseDataRequest
from contex_server.events.pace import Pace, PacedReplay
from contex_server.kernel.drain import Drain
from contex_server.kernel.model import EVERYTHING, Entry, Range
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    Api,
    P,
    ReplayRequest,
    Stream,
    Words,
    event,
    eventually,
    ms,
    refusal,
)

BACKWARDS = event_pb2.ORDER_BACKWARDS
HOUR_MS = 3_600_000
SLOW = 1e-6
"""At this speed any pause is as long as it may be."""


@pytest.fixture
async def beating(start_server: StartServer, valkey: EmbeddedValkey) -> Server:
    """A server whose streams give a sign of life ten times a second."""
    return await start_server(valkey.url, embedder=Words(), heartbeat_interval_ms=100)


@pytest.fixture
async def beating_api(beating: Server) -> AsyncIterator[Api]:
    async with Api.of(beating) as api:
        yield api


def now() -> float:
    return asyncio.get_running_loop().time()


async def spread(api: Api, *keys: str, seconds: float = 0.03) -> list[str]:
    """Publishes events some time apart."""
    sequences: list[str] = []
    for key in keys:
        sequences += await api.publish(event(key))
        await asyncio.sleep(seconds)
    return sequences


async def arrivals(stream: Stream) -> list[float]:
    """When each event of a stream arrived."""
    times: list[float] = []
    while await stream.read() is not None:
        times += [now()] * (len(stream.events) - len(times))
    return times


@pytest.mark.parametrize("direction", [event_pb2.ORDER_FORWARDS, BACKWARDS])
async def test_no_event_comes_before_it_is_due(api: Api, direction: int) -> None:
    sequences = await spread(api, "a", "b", "c", "d", "e")
    if direction == BACKWARDS:
        sequences.reverse()
    began, speed = now(), 0.2
    stream = api.replay(order=direction, speed=speed)
    arrived = await arrivals(stream)
    assert stream.sequences == sequences
    for sequence, time in zip(sequences, arrived, strict=True):
        assert time - began >= abs(ms(sequence) - ms(sequences[0])) / 1_000 / speed


async def test_what_is_due_together_is_sent_together(api: Api) -> None:
    for _ in range(20):
        await api.publish(*(event(f"k{n}") for n in range(200)))
    as_it_goes = await api.replay().to_end()
    paced = await api.replay(speed=1_000_000.0).to_end()
    assert paced.sequences == as_it_goes.sequences
    assert set(paced.kinds) == {"events"}
    assert all(message.ByteSize() < 1_200_000 for message in paced.messages)


async def test_no_pause_is_longer_than_it_may_be(api: Api) -> None:
    sequences = await spread(api, "a", "b", "c", seconds=0.005)
    began = now()
    stream = api.replay(speed=SLOW, max_pause_ms=150)
    arrived = await arrivals(stream)
    assert stream.sequences == sequences
    assert arrived[1] - began >= 0.150
    assert arrived[2] - began >= 0.300


async def test_a_long_pause_ends(api: Api) -> None:
    """What is read again after it is what was left."""
    sequences = await spread(api, "a", "b", "c", seconds=0.005)
    for direction, expected in ((0, sequences), (BACKWARDS, sequences[::-1])):
        began = now()
        stream = api.replay(speed=SLOW, max_pause_ms=1_200, order=direction)
        arrived = await arrivals(stream)
        assert stream.sequences == expected
        assert arrived[2] - began >= 2.4


async def test_the_pace_is_that_of_the_events_that_pass(api: Api) -> None:
    sequences = await spread(api, "a", *["other"] * 20, "a", "other", seconds=0.005)
    began = now()
    # Each pause would be of a second, if those in between made one.
    stream = api.replay(data_keys=["a"], speed=SLOW, max_pause_ms=1_000)
    arrived = await arrivals(stream)
    assert stream.sequences == [sequences[0], sequences[-2]]
    assert 1.0 <= arrived[1] - began < 10.0


async def test_a_pause_gives_signs_of_life(beating_api: Api) -> None:
    sequences = await spread(beating_api, "a", "other", "a", "b", seconds=0.005)
    wanted: dict[str, Any] = {"data_keys": ["a", "b"], "speed": SLOW, "max_pause_ms": 1_500}
    stream = await beating_api.replay(**wanted).to_end()
    assert stream.sequences == [sequences[0], sequences[2], sequences[3]]
    kinds = stream.kinds
    second, third = (i for i, kind in enumerate(kinds) if kind == "events" and i)
    # First that nothing passed up to the next event, then that nothing happens.
    assert kinds[0] == "events"
    assert kinds[1:second][:1] == ["checkpoint"]
    assert set(kinds[2:second]) == set(kinds[second + 1 : third]) == {"heartbeat"}
    assert not any(message.checkpoint.last for message in stream.messages)
    for message in stream.messages[1:second]:
        rest = await beating_api.replay(cursor=message.cursor).to_end()
        assert rest.sequences == sequences[2:]
    for message in stream.messages[second:third]:
        rest = await beating_api.replay(cursor=message.cursor).to_end()
        assert rest.sequences == sequences[3:]


@pytest.mark.parametrize("direction", [event_pb2.ORDER_FORWARDS, BACKWARDS])
async def test_a_call_that_resumes_begins_at_once_and_keeps_the_pace(
    api: Api, direction: int
) -> None:
    sequences = await spread(api, "a", "b", "c", "d", seconds=0.005)
    if direction == BACKWARDS:
        sequences.reverse()
    wanted: dict[str, Any] = {"speed": SLOW, "max_pause_ms": HOUR_MS, "order": direction}
    received, cursor = [], ""
    for sequence in sequences:
        stream = await api.replay(cursor=cursor, **wanted).count(1)
        if sequence != sequences[-1]:
            await stream.quiet(0.1)
        received += stream.sequences
        cursor = stream.cursor
        await stream.cancel()
    assert received == sequences
    assert (await api.replay(cursor=cursor, **wanted).to_end()).messages == []

    began = now()
    first = await api.replay(speed=0.05, order=direction).count(2)
    await first.cancel()
    rest = api.replay(speed=0.05, order=direction, cursor=first.cursor)
    assert first.sequences + (await rest.to_end()).sequences == sequences
    gaps = (abs(ms(sequences[a]) - ms(sequences[a + 1])) for a in (0, 2))
    assert now() - began >= sum(gaps) / 1_000 / 0.05


async def test_a_long_pause_holds_nothing_of_the_log(server: Server, api: Api) -> None:
    await spread(api, *(f"k{n}" for n in range(5)), seconds=0.005)
    stream = await api.replay(speed=SLOW, max_pause_ms=HOUR_MS).count(1)
    await eventually(lambda: server.rooms.storage.log.reading.held == 0)
    await stream.cancel()


async def test_a_project_that_is_deleted_in_a_pause_ends_the_replay(api: Api) -> None:
    await spread(api, "a", "b", seconds=0.005)
    stream = await api.replay(speed=SLOW, max_pause_ms=1_500).count(1)
    deletion = DeleteProjectRequest(project=P, request_id="1", reason="over")
    await api.projects.DeleteProject(deletion, timeout=DEADLINE_S)
    assert (await stream.refusal()).reason == "SEQUENCE_TRIMMED"
    assert stream.keys == ["a"]


async def test_what_is_erased_in_a_pause_arrives_erased(api: Api) -> None:
    await spread(api, "a", seconds=0.005)
    await api.publish(event("b", b'"Anna"', metadata={"subject": "anna"}))
    stream = await api.replay(speed=SLOW, max_pause_ms=1_500).count(1)
    erasure = EraseDataRequest(project=P, subject="anna", request_id="1", reason="asked for")
    await api.projects.EraseData(erasure, timeout=DEADLINE_S)
    await stream.to_end()
    assert [e.payload for e in stream.events if e.data_key == "b"] == [b""]


async def test_a_pause_ends_with_the_server_and_goes_on_at_another(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    here, there = [await start_server(valkey.url, embedder=Words()) for _ in range(2)]
    async with Api.of(here) as one, Api.of(there) as two:
        sequences = await spread(two, "a", "b", "c", seconds=0.005)
        stream = await one.replay(speed=SLOW, max_pause_ms=HOUR_MS).count(1)
        stopping = asyncio.create_task(here.stop())
        refused = await stream.refusal()
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
        await stopping
        rest = await two.replay(cursor=stream.cursor, speed=1.0).to_end()
        assert stream.sequences + rest.sequences == sequences


async def test_a_pause_ends_at_the_deadline(server: Server, api: Api) -> None:
    await spread(api, "a", "b", seconds=0.005)
    request = ReplayRequest(project=P, speed=SLOW, max_pause_ms=HOUR_MS)
    stream = Stream(api.events.Replay(request, timeout=0.7))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.to_end()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stream.keys == ["a"]


async def test_what_the_reader_holds_back_is_not_made_up_for(server: Server, api: Api) -> None:
    await spread(api, "a", "b", "c")

    async def passing(entries: list[Entry]) -> list[Entry]:
        return entries

    replay = PacedReplay(
        server.rooms.storage.log,
        P,
        Range(),
        passing,
        Pace(SLOW, 0.4),
        event_filter=EVERYTHING,
        settings=server.settings,
        drain=Drain(),
    )
    steps = replay.steps()
    await anext(steps)
    await asyncio.sleep(1.3)
    for _ in range(2):
        began = now()
        assert (await anext(steps)).entries
        assert now() - began >= 0.3
    await steps.aclose()


async def test_refusals_name_field_and_limit(api: Api) -> None:
    await api.publish(event("a"))

    async def told(**fields: Any) -> tuple[list[str], str]:
        refused = await refusal(api.replay(**fields).to_end())
        assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        return refused.fields, refused.message

    speed = "speed: must be more than 0, at most 1,000,000, not "
    assert await told(speed=0.0) == (["speed"], f"{speed}0.0")
    assert await told(speed=float("nan")) == (["speed"], f"{speed}nan")
    assert await told(speed=1_000_001.0) == (["speed"], f"{speed}1000001.0")
    pause = "max_pause_ms: must be 0 to 3600000, not 3600001"
    assert await told(speed=1.0, max_pause_ms=3_600_001) == (["max_pause_ms"], pause)
    fields, message = await told(max_pause_ms=5)
    assert fields == ["max_pause_ms"]
    assert "needs a speed" in message
    assert (await told(speed=-1.0, max_pause_ms=2**32 - 1))[0] == ["speed", "max_pause_ms"]


async def test_the_client_keeps_the_pace_over_connections(server: Server, api: Api) -> None:
    sequences = await spread(api, "a", "b", "c", seconds=0.005)
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        began = now()
        async with client.replay(P, speed=SLOW, max_pause=0.2) as replay:
            assert [event.sequence async for event in replay] == sequences
        assert now() - began >= 0.4
        with pytest.raises(ValueError, match="max_pause: must be at least a millisecond"):
            client.replay(P, speed=1, max_pause=0)

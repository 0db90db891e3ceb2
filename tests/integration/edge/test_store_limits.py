"""The store's limits: a log that was trimmed, a store that is full, a store that is away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from contex.v1 import event_pb2
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.server import Server
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.integration.support import (
    DEADLINE_S,
    EDGE_BEGINNING,
    EDGE_END,
    AcknowledgeRequest,
    Api,
    GetEventRequest,
    P,
    PublishRequest,
    Refusal,
    UnregisterAgentRequest,
    Words,
    after,
    at_ms,
    event,
    in_stream,
    ms,
    own,
    refusal,
)

BACKWARDS = event_pb2.ORDER_BACKWARDS


# -- a trimmed log -------------------------------------------------------------------


async def trimmed(api: Api, store: Any) -> list[str]:
    """The sequences of ten events, of which the first five are no longer there."""
    every = [(await api.publish(event(f"datum.{i}")))[0] for i in range(10)]
    await store.xtrim(key(P, "events"), minid=every[5], approximate=False)
    return every


def check_trimmed(refused: Refusal, earliest: str) -> None:
    assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_TRIMMED")
    assert refused.metadata == {"earliest_sequence": earliest}
    assert refused.fields == []
    assert refused.retry_after_ms is None


async def test_who_comes_from_before_a_trimmed_log_learns_that_it_missed_something(
    word_api: Api, store: Any
) -> None:
    api = word_api
    await api.register("agent", "datum")
    cursors: list[str] = []
    for i in range(10):
        await api.publish(event(f"datum.{i}"))
        cursors.append((await api.replay().to_end()).cursor)
    every = [e.sequence for e in await api.log()][-10:]
    early, earliest = every[2], every[5]
    await store.xtrim(key(P, "events"), minid=earliest, approximate=False)
    for call in (
        api.subscribe(after_sequence=early).refusal(),
        api.subscribe(cursor=cursors[2]).refusal(),
        api.replay(since=after(early)).refusal(),
        api.replay(since=after(early), order=BACKWARDS).refusal(),
        refusal(api.page(since=after(early))),
        refusal(api.register("other", "datum", last_seen_sequence=early)),
    ):
        check_trimmed(await call, earliest)
    # What is still there is read without a gap.
    assert (await api.subscribe(after_sequence=every[6]).live()).sequences == every[7:]
    assert (await api.subscribe(cursor=cursors[6]).live()).sequences == every[7:]
    # What an agent gets was decided when it was there.
    for listening in (
        api.listen("agent", after_sequence=early),
        api.listen("agent", cursor=cursors[2]),
    ):
        assert (await listening.live()).sequences == every[3:]
    assert (await api.listen("agent").live()).sequences == every


async def test_a_replay_is_not_resumed_in_front_of_a_trimmed_log(api: Api, store: Any) -> None:
    for i in range(3):
        await api.publish(event(f"k{i}"))
    cursor = (await api.replay().to_end()).cursor
    token = (await api.page(page_size=1)).next_page_token
    every = await api.publish(*(event(f"k{i}") for i in range(5)))
    await store.xtrim(key(P, "events"), minid=every[2], approximate=False)
    check_trimmed(await api.replay(cursor=cursor).refusal(), every[2])
    check_trimmed(await refusal(api.page(page_token=token)), every[2])


async def test_from_the_beginning_is_from_the_first_event_that_is_left(
    api: Api, store: Any
) -> None:
    left = (await trimmed(api, store))[5:]
    for start in ({}, {"edge": EDGE_BEGINNING}, {"after_sequence": "0"}):
        assert (await api.subscribe(**start).live()).sequences == left
    assert (await api.replay().to_end()).sequences == left
    assert (await api.replay(order=BACKWARDS).to_end()).sequences == left[::-1]
    assert (await api.replay(since=after("0")).to_end()).sequences == left
    assert [e.sequence for e in (await api.page()).events] == left
    assert (await api.subscribe(edge=EDGE_END).live()).sequences == []


async def test_a_start_at_a_time_before_what_was_removed_is_refused(api: Api, store: Any) -> None:
    left = (await trimmed(api, store))[5:]
    early, late = at_ms(ms(left[0]) - 60_000), at_ms(ms(left[0]) + 1)
    check_trimmed(await refusal(api.page(since=early)), left[0])
    check_trimmed(await api.replay(since=early).refusal(), left[0])
    check_trimmed(await api.subscribe(from_time=early.time).refusal(), left[0])
    after_it = [sequence for sequence in left if ms(sequence) > ms(left[0])]
    assert (await api.subscribe(from_time=late.time).live()).sequences[: len(after_it)] == after_it
    ahead = at_ms(ms(left[-1]) + 60_000)
    assert (await api.subscribe(from_time=ahead.time).live()).sequences == []


async def test_a_trimmed_event_is_not_found_and_its_key_counts_on(api: Api, store: Any) -> None:
    every = await trimmed(api, store)
    refused = await refusal(api.events.GetEvent(GetEventRequest(project=P, sequence=every[0])))
    assert (refused.code, refused.reason) == ("NOT_FOUND", "EVENT_NOT_FOUND")
    (again,) = await api.publish(event("datum.0"))
    got = await api.events.GetEvent(GetEventRequest(project=P, sequence=again))
    assert (got.event.revision, got.event.previous_sequence) == (2, every[0])


async def test_a_log_that_was_trimmed_to_nothing_goes_on(api: Api, store: Any) -> None:
    every = await trimmed(api, store)
    await store.xtrim(key(P, "events"), maxlen=0, approximate=False)
    check_trimmed(await api.subscribe(after_sequence=every[3]).refusal(), every[9])
    assert (await api.replay().to_end()).events == []
    stream = await api.subscribe(after_sequence=every[9]).live()
    (new,) = await api.publish(event())
    assert (await stream.count(1)).sequences == [new]


async def test_an_agent_learns_of_data_whose_event_is_gone_only_what_is_left(
    word_api: Api, store: Any
) -> None:
    every = await trimmed(word_api, store)
    answer = await word_api.register("agent", "datum")
    assert {d.event.sequence for d in answer.data} == set(every[5:])


async def test_what_lies_beyond_the_log_is_refused_with_its_end(word_api: Api, store: Any) -> None:
    api = word_api
    await api.register("agent", "datum")
    tail = (await trimmed(api, store))[-1]
    beyond = f"{ms(tail) + 60_000}-0"
    other = Api(api.channel)
    await other.publish(event(), project="other")
    acknowledge = AcknowledgeRequest(project=P, agent_id="agent", sequence=beyond)
    for call in (
        api.subscribe(after_sequence=beyond).refusal(),
        api.replay(since=after(beyond)).refusal(),
        refusal(api.page(since=after(beyond))),
        api.listen("agent", after_sequence=beyond).refusal(),
        refusal(api.register("agent", "datum", last_seen_sequence=beyond)),
        refusal(api.agents.Acknowledge(acknowledge)),
    ):
        refused = await call
        assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_IN_FUTURE")
        assert refused.metadata == {"tail_sequence": tail}
        assert refused.retry_after_ms is None


# -- a full store --------------------------------------------------------------------


async def fill_up(store: Any) -> None:
    await store.config_set("maxmemory", "1")


async def make_room(store: Any) -> None:
    await store.config_set("maxmemory", "0")


def check_full(refused: Refusal) -> None:
    assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
    assert refused.retry_after_ms is not None
    assert refused.retry_after_ms > 0
    assert refused.fields == []


@pytest.mark.own_store
async def test_a_full_store_takes_no_writes_until_it_is_given_room(
    word_api: Api, store: Any
) -> None:
    api = word_api
    (first,) = await api.publish(event("datum.known"))
    await api.register("agent", "datum")
    before = await api.log()
    await fill_up(store)
    for call in (
        api.publish(event("datum.known")),
        api.publish(event("datum.new"), request_id="r"),
        api.register("other", "something else"),
        api.register("agent", "another need"),
        api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="agent")),
    ):
        check_full(await refusal(call))
    request = in_stream(project=P, events=[own()], request_id="s")
    answers = [a async for a in api.events.PublishStream(iter([request] * 2), timeout=DEADLINE_S)]
    for answer in answers:
        assert answer.refused.reason == "STORE_FULL"
        assert answer.refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert answer.refused.retry_delay_ms > 0
        assert answer.request_id == "s"
    assert len(answers) == 2
    assert await api.log() == before

    await make_room(store)
    # What was refused was not remembered as done.
    retry = PublishRequest(project=P, events=[event("datum.new")], request_id="r")
    assert not (await api.events.Publish(retry)).duplicate
    await api.register("other", "something else")
    assert next(e.sequence for e in await api.log()) == first
    assert [e.data_key for e in await api.log() if e.data_key] == ["datum.known", "datum.new"]


@pytest.mark.own_store
async def test_a_full_store_is_read_as_ever(word_api: Api, store: Any) -> None:
    api = word_api
    await api.register("agent", "datum")
    every = [(await api.publish(event(f"datum.{'x' * i}")))[0] for i in range(1, 5)]
    live, listening = await api.subscribe(edge=EDGE_END).live(), await api.listen("agent").live()
    await fill_up(store)
    assert (await api.replay(event_types=["data_published"]).to_end()).sequences == every
    assert [e.sequence for e in (await api.page(data_keys=["*"])).events] == every
    got = await api.events.GetEvent(GetEventRequest(project=P, sequence=every[0]))
    assert got.event.data_key == "datum.x"
    assert (await api.subscribe(data_keys=["*"]).live()).sequences == every
    again = await api.listen("agent").live()
    assert [m.event.sequence for m in again.matched] == every
    await make_room(store)
    (new,) = await api.publish(event("datum.new"))
    assert (await live.count(1)).sequences == [new]
    assert (await listening.until(lambda s: len(s.matched) > 4)).matched[-1].event.sequence == new
    assert (await again.until(lambda s: len(s.matched) > 4)).matched[-1].event.sequence == new


@pytest.mark.own_store
async def test_deciding_waits_while_the_store_is_full(
    word_api: Api, words: Words, store: Any
) -> None:
    api = word_api
    await api.register("agent", "datum")
    words.down = True
    (sequence,) = await api.publish(event("datum.late"))
    await fill_up(store)
    words.down = False
    listening = api.listen("agent", heartbeat_interval_ms=100)
    await listening.quiet(0.5)
    await make_room(store)
    assert (await listening.live()).sequences == [sequence]


# -- health and reflection -----------------------------------------------------------

NAMES = (
    "",
    *(
        f"contex.v1.{name}Service"
        for name in (
            "Event",
            "Agent",
            "Match",
            "State",
            "Audit",
            "Project",
            "Transfer",
            "Server",
            "Access",
        )
    ),
)
Serving = health_pb2.HealthCheckResponse


class Health:
    """What grpc.health.v1 says."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(channel)

    async def check(self, name: str = "") -> Any:
        request = health_pb2.HealthCheckRequest(service=name)
        return (await self._stub.Check(request, timeout=DEADLINE_S)).status

    def watch(self, name: str = "") -> Any:
        return self._stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_S)

    async def becomes(self, status: Any, name: str = "") -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.check(name) != status:
                await asyncio.sleep(0.02)


async def test_health_knows_the_services_and_no_others(channel: grpc.aio.Channel) -> None:
    health = Health(channel)
    for name in NAMES:
        assert await health.check(name) == Serving.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health.check("contex.v1.NoService")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


REFLECTIONS = tuple(f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha"))


def reflect(channel: grpc.aio.Channel, service: str, requests: list[Any]) -> Any:
    """Asks a version of reflection; both have the same messages."""
    method = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return method(iter(requests), timeout=DEADLINE_S)


@pytest.mark.parametrize("service", REFLECTIONS)
async def test_reflection_describes_whatever_has_a_name(
    channel: grpc.aio.Channel, service: str
) -> None:
    files = {
        "contex.v1.EventService": "event_service",
        "contex.v1.EventService.Publish": "event_service",
        "contex.v1.Event": "event",
        "contex.v1.Event.sequence": "event",
        "contex.v1.Durability": "event",
        "contex.v1.DURABILITY_FSYNC": "event",
        "contex.v1.Durability.DURABILITY_FSYNC": "event",
        "contex.v1.NoService": "",
        "contex.v1.EventService.NoMethod": "",
        "contex.v1.Durability.NO_VALUE": "",
        "nothing": "",
        "": "",
    }
    requests = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in files
    ]
    requests += [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        for reflection in REFLECTIONS
        for name in (reflection, f"{reflection}.ServerReflectionInfo")
    ]
    answers = [a async for a in reflect(channel, service, requests)]
    expected = [file and f"contex/v1/{file}.proto" for file in files.values()]
    expected += ["grpc_reflection/v1/reflection.proto"] * 2
    expected += ["grpc_reflection/v1alpha/reflection.proto"] * 2
    for answer, file in zip(answers, expected, strict=True):
        if not file:
            assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
            continue
        first = answer.file_descriptor_response.file_descriptor_proto[0]
        assert descriptor_pb2.FileDescriptorProto.FromString(first).name == file


@pytest.mark.parametrize("service", REFLECTIONS)
async def test_reflection_lists_the_services_and_their_files(
    channel: grpc.aio.Channel, service: str
) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        *(
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            for name in NAMES[1:]
        ),
    ]
    answers = [a async for a in reflect(channel, service, requests)]
    listed = {service.name for service in answers[0].list_services_response.service}
    assert listed == {
        *NAMES[1:],
        "grpc.health.v1.Health",
        *REFLECTIONS,
    }
    for answer in answers[1:]:
        assert answer.file_descriptor_response.file_descriptor_proto


@pytest.mark.own_store
async def test_health_follows_a_store_that_goes_and_comes_back(
    server: Server, api: Api, valkey: EmbeddedValkey
) -> None:
    health = Health(api.channel)
    watches = [health.watch(name) for name in NAMES]
    for watch in watches:
        assert (await watch.read()).status == Serving.SERVING
    await api.publish(event("before"))
    await valkey.stop()
    for name, watch in zip(NAMES, watches, strict=True):
        assert (await watch.read()).status == Serving.NOT_SERVING
        assert await health.check(name) == Serving.NOT_SERVING
    for call in (api.publish(event()), api.page(), api.register("agent", "a need")):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert refused.retry_after_ms is not None
        assert refused.retry_after_ms > 0
    await valkey.start()
    for name, watch in zip(NAMES, watches, strict=True):
        assert (await watch.read()).status == Serving.SERVING
        assert await health.check(name) == Serving.SERVING
    await api.publish(event("after"))
    assert [e.data_key for e in await api.log()] == ["before", "after"]
    for watch in watches:
        watch.cancel()


@contextmanager
def frozen(valkey: EmbeddedValkey) -> Iterator[None]:
    """The store answers nothing, and closes nothing."""
    pid = valkey.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.own_store
async def test_health_follows_a_store_that_hangs(
    server: Server, api: Api, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contex_server.log.redis.connections.TIMEOUT_S", 1.0)
    health = Health(api.channel)
    await api.publish(event("before"))
    with frozen(valkey):
        writing = asyncio.create_task(refusal(api.publish(event("during"), request_id="r")))
        await health.becomes(Serving.NOT_SERVING)
        assert (await writing).reason == "STORE_UNAVAILABLE"
    await health.becomes(Serving.SERVING)
    # Whether it was appended was unknown; the retry makes it once.
    await api.publish(event("during"), request_id="r")
    assert [e.data_key for e in await api.log()] == ["before", "during"]

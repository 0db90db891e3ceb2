"""What the store counts, against an independent scan of the log."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from contex.v1 import (
    event_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
)
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    Api,
    P,
    UnregisterAgentRequest,
    Words,
    after,
    event,
    ms,
    own,
    refusal,
)

KEY = project_service_pb2.ACTIVITY_DIMENSION_DATA_KEY
TYPE = project_service_pb2.ACTIVITY_DIMENSION_EVENT_TYPE
PUBLISHER = project_service_pb2.ACTIVITY_DIMENSION_PUBLISHER
NEED = project_service_pb2.ACTIVITY_DIMENSION_NEED


def projects(api: Api) -> Any:
    return project_service_pb2_grpc.ProjectServiceStub(api.channel)


async def stats(api: Api, project: str = P) -> Any:
    request = project_service_pb2.GetStatsRequest(project=project)
    return await projects(api).GetStats(request, timeout=DEADLINE_S)


async def activity(api: Api, dimension: int = 0, project: str = P, **fields: Any) -> Any:
    request = project_service_pb2.GetActivityRequest(
        project=project,
        dimension=project_service_pb2.ActivityDimension.ValueType(dimension),
        **fields,
    )
    return await projects(api).GetActivity(request, timeout=DEADLINE_S)


def totals(answer: Any) -> dict[str, int]:
    return {series.name: series.total for series in answer.series}


async def busy(api: Api) -> None:
    """Everything that is counted, and some that is not."""
    chance = random.Random(7)
    await api.register("a", "apples")
    for n in range(60):
        keys = [f"k{chance.randrange(5)}" for _ in range(chance.choice([1, 1, 3]))]
        events = [
            event(key, b"", tombstone=True) if chance.random() < 0.2 else event(key) for key in keys
        ]
        if n % 9 == 0:
            events.append(own("note"))
        publisher = chance.choice(["", "ops", "build"])
        await api.publish(*events, publisher=publisher, request_id=f"r{n}")
        if n % 5 == 0:
            await api.publish(*events, publisher=publisher, request_id=f"r{n}")
        if n % 7 == 0:
            bad = event(keys[0], expected_revision=10_000)
            assert (await refusal(api.publish(bad))).reason == "REVISION_CONFLICT"
    await api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a"))


async def check(api: Api) -> None:
    log = await api.log()
    minutes = Counter(ms(e.sequence) // 60_000 for e in log)
    for dimension, of in (
        (KEY, lambda e: e.data_key),
        (TYPE, lambda e: e.event_type),
        (PUBLISHER, lambda e: e.publisher),
    ):
        answer = await activity(api, dimension, bucket_seconds=60, top=100)
        expected = Counter(of(e) for e in log)
        if dimension == KEY:
            del expected[""]
        assert totals(answer) == dict(expected)
        assert answer.name_count == len(expected)
        assert [s.total for s in answer.series] == sorted(expected.values(), reverse=True)
        assert answer.total.total == expected.total()
        assert all(sum(s.counts) == s.total for s in answer.series)
        start = answer.start_time.seconds // 60
        assert len(answer.total.counts) == (answer.end_time.seconds - start * 60) // 60
        if dimension != KEY:
            counted = {start + i: n for i, n in enumerate(answer.total.counts) if n}
            assert counted == dict(minutes)
    everything = await activity(api)
    assert everything.total.total == len(log)
    assert sum(everything.peak_hours) == len(log)
    assert len(everything.peak_hours) == 24
    assert everything.counted_since == "0-0"

    found = await stats(api)
    latest = {e.data_key: e for e in log if e.data_key}
    deleted = sum(e.event_type == "data_deleted" for e in latest.values())
    assert found.event_count == len(log)
    assert (found.first_sequence, found.last_sequence) == (log[0].sequence, log[-1].sequence)
    assert found.deleted_key_count == deleted
    assert found.data_key_count == len(latest) - deleted
    sizes = []
    for e in log:
        body = event_pb2.Event()
        body.CopyFrom(e)
        body.ClearField("sequence")
        sizes.append(len(body.SerializeToString()))
    assert found.event_bytes == sum(sizes)


async def test_counts_are_those_of_a_scan(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await busy(api)
        await check(api)
    await server.stop()
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await check(api)
        await api.publish(event("late"))
        await check(api)


async def test_names_and_top(api: Api) -> None:
    for name, times in (("a/x", 5), ("a/y", 3), ("b", 4), ("c", 1)):
        for _ in range(times):
            await api.publish(event(name))
    assert totals(await activity(api, KEY, top=2)) == {"a/x": 5, "b": 4}
    some = await activity(api, KEY, names=["a/*", "c"])
    assert totals(some) == {"a/x": 5, "a/y": 3, "c": 1}
    assert some.total.total == 9
    assert (await activity(api, KEY, top=2)).name_count == 4
    assert not (await activity(api)).series


async def test_deliveries_are_counted_by_need_once(word_api: Api) -> None:
    api = word_api
    await api.register("a", "apples", "pears: ripe")
    stream = await api.listen("a").live()
    every = await api.publish(
        event("x", description="apples"),
        event("y", description="apples and pears"),
        event("z", description="plums"),
    )
    await stream.count(2)
    await stream.cancel()
    again = await api.listen("a", after_sequence="0").count(2)
    assert totals(await activity(api, NEED)) == {"a: apples": 2, "a: pears: ripe": 1}
    assert (await activity(api, NEED, names=["a: pears*"])).total.total == 1
    assert len(every) == 3
    await again.cancel()


async def test_ranges_are_whole_buckets(api: Api) -> None:
    (first,) = await api.publish(event("a"))
    (last,) = await api.publish(event("b"))
    answer = await activity(api, KEY, since=after(first), until=after(last), bucket_seconds=300)
    assert answer.start_time.seconds % 300 == 0
    assert (answer.end_time.seconds - answer.start_time.seconds) % 300 == 0
    assert answer.start_time.seconds <= ms(first) // 1000
    assert answer.end_time.seconds > ms(last) // 1000
    assert answer.total.total == 2
    hour = ms(first) // 3_600_000 * 3_600_000
    before = await activity(
        api,
        KEY,
        since=event_pb2.Position(unix_ms=hour - 7_200_000),
        until=event_pb2.Position(unix_ms=hour - 1),
        bucket_seconds=3600,
    )
    assert before.total.counts == [0, 0]
    day = await activity(api, KEY, bucket_seconds=86_400, utc_offset_minutes=330)
    assert (day.start_time.seconds + 330 * 60) % 86_400 == 0
    assert day.total.total == 2


async def test_stats_tell_open_streams_and_the_rate(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    one = await start_server(valkey.url, embedder=Words())
    two = await start_server(valkey.url, embedder=Words())
    async with Api.of(one) as api, Api.of(two) as other:
        await api.register("a", "apples")
        streams = [
            await api.subscribe().live(),
            await other.subscribe().live(),
            await other.listen("a").live(),
        ]
        for _ in range(30):
            await api.publish(event())

        async def until(subscribers: int, listeners: int) -> Any:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    found = await stats(api)
                    if (found.subscriber_count, found.listener_count) == (subscribers, listeners):
                        return found
                    await asyncio.sleep(0.05)

        found = await until(2, 1)
        assert found.agent_count == 1
        assert 0 < found.events_per_second <= 31 / 60
        for stream in streams[1:]:
            await stream.cancel()
        await until(1, 0)
        await streams[0].cancel()
        await until(0, 0)


async def test_stats_tell_the_snapshots(start_server: StartServer, valkey: EmbeddedValkey) -> None:
    server = await start_server(valkey.url, embedder=Words(), snapshot_events=10)
    async with Api.of(server) as api:
        for n in range(25):
            await api.publish(event(f"k{n % 3}"))
        async with asyncio.timeout(DEADLINE_S):
            while not (found := await stats(api)).snapshot_count:
                await asyncio.sleep(0.05)
        assert found.snapshot_bytes > 0
        assert found.snapshot_sequence
        assert found.archived_sequence == ""


async def test_a_log_that_is_older_than_its_counts_says_so(api: Api, store: Any) -> None:

    await api.publish(event("old"))
    await store.delete(key(P, "stats"))
    (first,) = await api.publish(event("new"))
    assert (await stats(api)).counted_since == first
    assert (await activity(api)).counted_since == first


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"dimension": 77}, "dimension"),
        ({"bucket_seconds": 59}, "bucket_seconds"),
        ({"bucket_seconds": 3_660}, "bucket_seconds"),
        ({"bucket_seconds": 60, "since": event_pb2.Position(sequence="0")}, None),
        ({"names": ["a"]}, "names"),
        ({"dimension": KEY, "names": [""]}, "names[0]"),
        ({"dimension": KEY, "names": ["x"] * 33}, "names"),
        ({"top": 101}, "top"),
        ({"utc_offset_minutes": 1_441}, "utc_offset_minutes"),
        ({"since": event_pb2.Position()}, "since"),
    ],
)
async def test_what_can_not_be_answered(
    api: Api, fields: dict[str, Any], field: str | None
) -> None:
    await api.publish(event())
    refused = await refusal(activity(api, **fields))
    if field is None:
        assert refused.reason == "RECORDS_EXPIRED"
        assert refused.metadata.keys() == {"earliest_time"}
    else:
        assert (refused.reason, refused.fields) == ("INVALID_FIELD", [field])


async def test_too_many_buckets_are_refused_with_what_would_do(api: Api) -> None:
    (sequence,) = await api.publish(event())
    week = event_pb2.Position(unix_ms=ms(sequence) - 7 * 86_400_000)
    refused = await refusal(activity(api, since=week, bucket_seconds=60))
    assert refused.fields == ["bucket_seconds"]
    least = int(refused.message.split("at least ")[1].split(" ")[0])
    fits = -(-least // 60) * 60
    assert len((await activity(api, since=week, bucket_seconds=fits)).total.counts) <= 2_000

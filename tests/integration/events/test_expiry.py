"""Facts that are valid up to a time, and the event that says that it has come."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from contex.v1 import agent_service_pb2, event_pb2, match_service_pb2, state_service_pb2
from contex.v1 import event_service_pb2 as pb
from contex_server.log.buckets import bucket_of
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.integration.support import DEADLINE_S, Api, P, Words, asked, event, refusal

SECOND = Duration(seconds=1)
YEARS_10 = 10 * 365 * 24 * 3600


def ms_of(event: event_pb2.Event) -> int:
    return int(event.sequence.partition("-")[0])


def after_s(seconds: float) -> Timestamp:
    message = Timestamp()
    message.FromMilliseconds(int((time.time() + seconds) * 1000))
    return message


async def expired(api: Api, count: int, project: str = P) -> list[event_pb2.Event]:
    """The whole log, once so many facts have expired."""
    async with asyncio.timeout(DEADLINE_S):
        async for found in _logs(api, project):
            if sum(e.event_type == "data_expired" for e in found) >= count:
                return found
    raise AssertionError


async def _logs(api: Api, project: str) -> Any:
    while True:
        yield await api.log(project)
        await asyncio.sleep(0.05)


async def state(api: Api, as_of: str = "", **fields: Any) -> dict[str, Any]:
    request = state_service_pb2.GetStateRequest(project=P, **fields)
    if as_of:
        request.as_of.sequence = as_of
    answer = await api.states.GetState(request, timeout=DEADLINE_S)
    return {datum.data_key: datum for datum in answer.data}


async def test_a_fact_expires_once_and_in_order(api: Api, store: Any) -> None:
    minute = Duration(seconds=60)
    await api.publish(
        event("lasts", b'"door is open"'),
        event("short", b'"door is open"', valid_for=SECOND, description="A door"),
        event("at_once", b"1", valid_for=SECOND),
        event("at_once", b"2"),
        event("renewed", b"1", valid_for=minute),
        event("prolonged", b"1", valid_for=minute),
        event("deleted", b"1", valid_for=minute),
        event("again", b"1", valid_for=Duration(seconds=1, nanos=500_000_000)),
    )
    await api.publish(event("renewed", b"2"))
    await api.publish(event("prolonged", b"2", valid_until=after_s(120)))
    await api.publish(event("deleted", b"", tombstone=True))
    events = await expired(api, 2)
    by_key: dict[str, list[event_pb2.Event]] = {}
    for each in events:
        by_key.setdefault(each.data_key, []).append(each)
    first, end = by_key["short"]
    assert first.valid_until.ToMilliseconds() == ms_of(first) + 1_000
    assert (end.event_type, end.payload, end.revision) == ("data_expired", b"", 2)
    assert (end.previous_sequence, end.text_digest) == (first.sequence, first.text_digest)
    assert not end.HasField("valid_until")
    assert 0 <= ms_of(end) - first.valid_until.ToMilliseconds() < 1_500
    assert [e.event_type for e in by_key["again"]] == ["data_published", "data_expired"]
    kept = ("lasts", "at_once", "renewed", "prolonged", "deleted")
    assert [len(by_key[k]) for k in kept] == [1, 2, 2, 2, 2]
    # What was replaced or deleted has no time any more.
    prolonged = by_key["prolonged"][1]
    assert await store.zrange(key(P, "expiring"), 0, -1, withscores=True) == [
        (f"{prolonged.sequence} prolonged".encode(), prolonged.valid_until.ToMilliseconds())
    ]
    assert not by_key["renewed"][1].HasField("valid_until")

    now = await state(api)
    assert sorted(now) == ["at_once", "lasts", "prolonged", "renewed"]
    assert now["prolonged"].event.HasField("valid_until")
    assert (await state(api, include_deleted=True))["short"].deleted
    # The past is as the log says, also between its time and the event.
    before = await state(api, as_of=events[events.index(end) - 1].sequence)
    assert before["short"].event.payload == b'"door is open"'

    history = await api.states.GetHistory(
        state_service_pb2.GetHistoryRequest(project=P, data_key="short"), timeout=DEADLINE_S
    )
    assert [r.event.event_type for r in history.revisions] == ["data_expired", "data_published"]
    blame = api.states.GetBlame(
        state_service_pb2.GetBlameRequest(project=P, data_key="short"), timeout=DEADLINE_S
    )
    assert (await refusal(blame)).reason == "DATA_KEY_NOT_FOUND"

    # What has expired counts as deleted, and its description is gone with it.
    refused = await refusal(api.publish(event("short", expected_state=pb.KEY_STATE_PRESENT)))
    assert refused.metadata["actual_state"] == "deleted"
    await api.publish(event("short", b"2", expected_state=pb.KEY_STATE_DELETED))
    latest = (await state(api))["short"]
    assert (latest.revision, latest.event.description) == (3, "")
    # A time that is void, as a server leaves it that knows nothing of them, is forgotten.
    void = f"{by_key['renewed'][0].sequence} renewed"
    await store.zadd(key(P, "expiring"), {void: 5})
    await store.zadd(f"ctx:{{{bucket_of(P)}}}:expiring", {P: 5})
    while await store.zscore(key(P, "expiring"), void) is not None:
        await asyncio.sleep(0.02)
    assert len([e for e in await api.log() if e.event_type == "data_expired"]) == 2


async def test_a_repeated_request_is_answered_though_the_time_has_passed(api: Api) -> None:
    end = after_s(1)
    first = await api.publish(event(valid_until=end), request_id="one")
    log = await expired(api, 1)
    assert await api.publish(event(valid_until=end), request_id="one") == first
    assert len(await api.log()) == len(log) == 2
    refused = await refusal(api.publish(event("other"), event(valid_until=end), request_id="two"))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refused.message.startswith("events[1].valid_until: must be after now, 20")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"valid_for": Duration(nanos=999_999_999)}, "valid_for: must be from 1 to 315360000 s"),
        ({"valid_for": Duration(seconds=-5)}, "valid_for: must be from 1 to"),
        ({"valid_for": Duration(seconds=5, nanos=-1)}, "valid_for: must be from 1 to"),
        ({"valid_for": Duration(seconds=YEARS_10, nanos=1)}, "valid_for: must be from 1 to"),
        ({"valid_until": Timestamp(seconds=-1)}, "valid_until: must be after now"),
        ({"valid_until": after_s(-1)}, "valid_until: must be after now"),
        (
            {"valid_until": after_s(YEARS_10 + 86_400)},
            "valid_until: must be at most 315360000 seconds",
        ),
        ({"valid_until": Timestamp(seconds=2**62)}, "valid_until: must be at most"),
        ({"valid_until": Timestamp(seconds=2**31, nanos=-1)}, "valid_until: has nanos that are"),
        ({"valid_for": SECOND, "tombstone": True, "payload": b""}, "valid_for: must be unset"),
        ({"valid_for": SECOND, "key": "", "event_type": "own"}, "valid_for: needs a data_key"),
    ],
)
async def test_what_is_refused(api: Api, fields: dict[str, Any], problem: str) -> None:
    refused = await refusal(api.publish(event(**fields)))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert f"events[0].{problem}" in refused.message


async def test_an_agent_is_told(word_api: Api) -> None:
    await word_api.register("agent", "open doors")
    stream = await word_api.listen("agent").live()
    await word_api.publish(event("open_doors", b'"the north door"', valid_for=SECOND))
    await stream.count(2)
    assert [e.event_type for e in stream.events] == ["data_published", "data_expired"]
    assert stream.events[1].data_key == "open_doors"
    await stream.cancel()
    request = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="agent")
    context = await word_api.agents.GetAgentContext(request, timeout=DEADLINE_S)
    assert not context.known
    assert not context.pending
    answer = await word_api.matches.Match(
        match_service_pb2.MatchRequest(project=P, questions=asked("open doors")), timeout=DEADLINE_S
    )
    assert not answer.data


@pytest.mark.own_store
async def test_what_was_due_while_no_server_ran(
    valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    """Two servers start over what came due meanwhile."""
    server = await start_server(valkey.url, embedder=Words())
    end = after_s(3_600)
    async with Api.of(server) as api:
        await api.publish(event("k", valid_until=end), project="other")
        for start in range(0, 2_400, 800):
            some = (event(f"k{n}", b"1", valid_until=end) for n in range(start, start + 800))
            await api.publish(*some)
        await server.stop()
    async with Redis.from_url(valkey.url) as store:
        for place in await store.keys("*:expiring"):
            await store.zunionstore(place, {place: 0})  # all of them in 1970
    servers = await asyncio.gather(*(start_server(valkey.url, embedder=Words()) for _ in "ab"))
    async with Api.of(servers[1]) as api:
        events = await expired(api, 2_400)
        await expired(api, 1, "other")
        ended = [e.data_key for e in events if e.event_type == "data_expired"]
        assert sorted(ended) == sorted(f"k{n}" for n in range(2_400))
        assert len(events) == 4_800
        assert await state(api) == {}

"""How far agents are, and waiting until they have passed an event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from contex.v1 import agent_service_pb2 as pb
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.agents import RedisAgents
from contex_server.log.redis.inboxes import RedisInboxes
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    GetAgentRequest,
    ListAgentsRequest,
    P,
    UnregisterAgentRequest,
    Words,
    event,
    eventually,
    refusal,
)


async def progress(api: Api, agent_id: str = "a") -> pb.AgentProgress:
    request = GetAgentRequest(project=P, agent_id=agent_id)
    return (await api.agents.GetAgent(request, timeout=DEADLINE_S)).agent.progress


def wait(api: Api, sequence: str, agent_id: str = "a", **fields: Any) -> Awaitable[Any]:
    fields = {"timeout_ms": 20_000, **fields}
    request = pb.WaitForAgentRequest(project=P, agent_id=agent_id, sequence=sequence, **fields)
    answer: Awaitable[Any] = api.agents.WaitForAgent(request, timeout=DEADLINE_S)
    return answer


async def acknowledge(api: Api, sequence: str = "", cursor: str = "", agent_id: str = "a") -> None:
    named = {"cursor": cursor} if cursor else {"sequence": sequence}
    request = AcknowledgeRequest(project=P, agent_id=agent_id, **named)
    await api.agents.Acknowledge(request, timeout=DEADLINE_S)


async def test_progress_counts_what_is_not_acknowledged(word_api: Api) -> None:
    api = word_api
    await api.publish(event("apple"))
    await api.register("a", "apple")
    sequences = await api.publish(*(event("apple") for _ in range(3)), event("pear"))
    await wait(api, sequences[-1], until=pb.WAIT_UNTIL_DECIDED)
    await eventually(lambda: _is_live(api, "a"))
    first = await progress(api)
    assert first.deciding_state == pb.DECIDING_STATE_LIVE
    assert (first.decided_sequence, first.deciding_lag_ms) == (sequences[-1], 0)
    # What the registration brought, and three updates.
    assert (first.unacknowledged_count, first.has_more_unacknowledged) == (4, False)
    assert first.lag_ms > 0
    await asyncio.sleep(0.05)
    assert (await progress(api)).lag_ms >= first.lag_ms + 50

    await acknowledge(api, sequences[1])
    second = await progress(api)
    assert (second.unacknowledged_count, second.acknowledged_sequence) == (1, sequences[1])
    assert 0 < second.lag_ms < (await progress(api)).lag_ms + first.lag_ms
    await acknowledge(api, sequences[2])
    third = await progress(api)
    assert (third.unacknowledged_count, third.lag_ms) == (0, 0)

    await api.publish(*(event("apple") for _ in range(120)))
    await eventually(lambda: _counts(api, 120))
    await api.register("b", "apple", last_seen_sequence="0")
    await eventually(lambda: _counts(api, 124, "b"))
    listed = await api.agents.ListAgents(ListAgentsRequest(project=P), timeout=DEADLINE_S)
    told = [
        (a.progress.unacknowledged_count, a.progress.has_more_unacknowledged) for a in listed.agents
    ]
    assert told == [(100, True), (100, True)]
    assert all(a.HasField("last_contact_time") for a in listed.agents)


async def _counts(api: Api, count: int, agent_id: str = "a") -> bool:
    return (await progress(api, agent_id)).unacknowledged_count == count


async def test_what_keeps_an_agent_behind_is_told(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = word_api
    (sequence,) = await api.publish(event("apple"))
    await api.register("first", "apple")
    await wait(api, sequence, "first")
    going = asyncio.Event()
    decide = RedisInboxes.decide

    async def held(self: Any, *args: Any) -> bool:
        await going.wait()
        return await decide(self, *args)

    monkeypatch.setattr(RedisInboxes, "decide", held)
    await api.register("new", "apple")
    (sequence,) = await api.publish(event("apple"))
    found = await progress(api, "new")
    assert found.deciding_state == pb.DECIDING_STATE_NOT_BEGUN
    assert (found.decided_sequence, found.unacknowledged_count) == ("", 0)
    assert found.deciding_lag_ms > 0
    # Nothing is decided for it, so it has passed nothing.
    assert not (await wait(api, sequence, "new", timeout_ms=0)).passed
    waiting = asyncio.ensure_future(wait(api, sequence, "new"))
    going.set()
    assert not waiting.done()
    await eventually(lambda: _counts(api, 2, "new"))
    await acknowledge(api, sequence, agent_id="new")
    assert (await waiting).passed
    await eventually(lambda: _is_live(api, "new"))


async def _is_live(api: Api, agent_id: str) -> bool:
    return (await progress(api, agent_id)).deciding_state == pb.DECIDING_STATE_LIVE


async def test_waiting_ends_when_the_agent_has_nothing_left(
    word_api: Api, word_server: Server
) -> None:
    api = word_api
    await api.publish(event("apple"))
    await api.register("a", "apple")
    (wanted,) = await api.publish(event("apple"))
    (other,) = await api.publish(event("pear"))
    assert (await wait(api, other, until=pb.WAIT_UNTIL_DECIDED)).passed
    late = await wait(api, wanted, timeout_ms=100)
    assert (late.passed, late.progress.unacknowledged_count) == (False, 2)
    waiting = [asyncio.ensure_future(wait(api, wanted)) for _ in range(20)]
    waiting.append(asyncio.ensure_future(wait(api, other)))
    await asyncio.sleep(0.1)
    assert not any(each.done() for each in waiting)
    await acknowledge(api, wanted)
    answers = await asyncio.gather(*waiting)
    # Of what comes later the agent gets nothing.
    assert all(answer.passed for answer in answers)
    assert answers[0].progress.acknowledged_sequence == wanted
    # By a cursor, beyond what brought it nothing; then older events are passed whatever is there.
    stream = await api.listen("a").live()
    await acknowledge(api, cursor=stream.cursor)
    assert (await wait(api, other, timeout_ms=0)).passed
    await eventually(lambda: not word_server.rooms.agents.waiters._projects)

    beyond = f"{int(other.partition('-')[0]) + 3_600_000}-0"
    assert (await refusal(wait(api, beyond))).reason == "SEQUENCE_IN_FUTURE"
    assert (await refusal(wait(api, other, "nobody"))).reason == "AGENT_NOT_FOUND"
    assert (await refusal(wait(api, other, "nobody", timeout_ms=0))).reason == "AGENT_NOT_FOUND"
    wrong = await refusal(wait(api, "x", until=9, timeout_ms=60_001))
    assert wrong.fields == ["sequence", "until", "timeout_ms"]


async def test_who_waits_is_told_that_the_agent_is_gone(word_api: Api) -> None:
    await word_api.publish(event("apple"))
    await word_api.register("a", "apple")
    (sequence,) = await word_api.publish(event("apple"))
    waiting = asyncio.ensure_future(wait(word_api, sequence))
    await asyncio.sleep(0.1)
    await word_api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a"))
    assert (await refusal(waiting)).reason == "AGENT_NOT_FOUND"


async def test_another_process_acknowledges_and_waiting_outlives_no_shutdown(
    start_server: StartServer, valkey: EmbeddedValkey, word_api: Api
) -> None:
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await word_api.publish(event("apple"))
        await word_api.register("a", "apple")
        (sequence,) = await word_api.publish(event("apple"))
        waiting = asyncio.ensure_future(wait(api, sequence))
        await asyncio.sleep(0.1)
        await acknowledge(word_api, sequence)
        assert (await waiting).passed
        (sequence,) = await word_api.publish(event("apple"))
        waiting = asyncio.ensure_future(wait(api, sequence))
        await asyncio.sleep(0.1)
        await server.stop()
        assert (await refusal(waiting)).reason == "SHUTTING_DOWN"


async def test_many_who_wait_share_what_is_read(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    some_agents = RedisAgents.some_agents

    async def counted(self: Any, project: str, agent_ids: Any) -> Any:
        nonlocal reads
        reads += 1
        return await some_agents(self, project, agent_ids)

    monkeypatch.setattr(RedisAgents, "some_agents", counted)
    await word_api.register("a", "apple")
    (sequence,) = await word_api.publish(event("apple"))
    waiting = [wait(word_api, sequence, timeout_ms=1_500) for _ in range(200)]
    answers = await asyncio.gather(*waiting)
    assert not any(answer.passed for answer in answers)
    assert reads < 100  # Fifty a second at most, as long as others come.

"""Agents that expire when nobody is in contact with them, and what counts as contact."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random
from typing import Any

import grpc
from contex.v1 import agent_service_pb2, event_pb2
from contex.v1.project_service_pb2 import DeleteProjectRequest
from contex.v1.transfer_service_pb2 import EXPORT_PART_AGENTS
from contex_server.agents import expiry
from contex_server.log.agents import AgentStore
from contex_server.log.buckets import bucket_of
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.server import Server
from google.protobuf.duration_pb2 import Duration

from tests.conftest import StartServer
from tests.integration.audit.test_audit import name, records
from tests.integration.logs import exported, imported
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    GetAgentRequest,
    ListAgentsRequest,
    P,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    Words,
    event,
    eventually,
    ms,
    refusal,
)

SECOND = Duration(seconds=1)
LONGER = Duration(seconds=3)
HOUR = Duration(seconds=3600)


async def get(api: Api, agent_id: str) -> agent_service_pb2.Agent:
    request = GetAgentRequest(project=P, agent_id=agent_id)
    answer = await api.agents.GetAgent(request, timeout=DEADLINE_S)
    return answer.agent


async def unregistered(api: Api) -> list[event_pb2.Event]:
    return [each for each in await api.log() if each.event_type == "agent_unregistered"]


async def acknowledge(api: Api, agent_id: str, sequence: str) -> None:
    request = AcknowledgeRequest(project=P, agent_id=agent_id, sequence=sequence)
    await api.agents.Acknowledge(request, timeout=DEADLINE_S)


async def update(api: Api, agent_id: str, **fields: Any) -> agent_service_pb2.Agent:
    request = UpdateAgentRequest(project=P, agent_id=agent_id, **fields)
    return (await api.agents.UpdateAgent(request, timeout=DEADLINE_S)).agent


def looks_for_long(server: Server) -> None:
    """As if a process had looked for half a minute who has expired."""
    server.rooms.agents.expiry._since -= 30


async def make_stale(store: Any, agent_id: str, ms: int = 7_200_000) -> None:
    """Moves the last contact of an agent into the past, and lets it be looked at."""
    then = int(time.time() * 1000) - ms
    await store.hset(key(P, "contacts"), agent_id, then)
    await store.zadd(key(P, "leases"), {agent_id: then})
    await store.zadd(f"ctx:{{{bucket_of(P)}}}:leases", {P: then})


async def test_an_agent_expires_once_and_contacts_keep_it(word_api: Api, store: Any) -> None:
    api = word_api
    (sequence,) = await api.publish(event("apple"))
    await api.register("lasts", "apple")
    for agent_id in ("acknowledges", "registers", "listens"):
        await api.register(agent_id, "apple", ttl=LONGER)
    stream = await api.listen("listens").live()
    registered = await api.register("silent", "apple", ttl=SECOND)

    async def keep() -> None:
        while True:
            await acknowledge(api, "acknowledges", sequence)
            again = await api.register("registers", "apple", ttl=LONGER)
            assert again.outcome == agent_service_pb2.REGISTRATION_OUTCOME_UNCHANGED
            await asyncio.sleep(0.2)

    keeping = asyncio.create_task(keep())
    await eventually(lambda: unregistered(api))
    await asyncio.sleep(LONGER.seconds)
    keeping.cancel()
    (gone,) = await unregistered(api)
    assert json.loads(gone.payload) == {"agent_id": "silent", "reason": "expired"}
    assert ms(gone.sequence) - registered.agent.last_contact_time.ToMilliseconds() >= 1_000
    request = GetAgentRequest(project=P, agent_id="silent")
    assert (await refusal(api.agents.GetAgent(request))).reason == "AGENT_NOT_FOUND"
    (row,) = [r for r in await records(api) if name(r) == "UNREGISTERED"]
    assert (row.agent_id, row.sequence) == ("silent", gone.sequence)

    listed = await api.agents.ListAgents(ListAgentsRequest(project=P), timeout=DEADLINE_S)
    for agent in listed.agents:
        assert agent.HasField("ttl") is (agent.agent_id != "lasts")
        if agent.agent_id != "lasts":
            assert 0 <= time.time() - agent.last_contact_time.ToMilliseconds() / 1000 < 2
    # The end of a stream is a contact as well; then nobody is left.
    await stream.cancel()
    ended_ms = time.time() * 1000
    await eventually(lambda: _are_gone(api, 4))
    events = {json.loads(e.payload)["agent_id"]: e for e in await unregistered(api)}
    assert ms(events["listens"].sequence) > ended_ms + 2_500
    assert not await store.zcard(key(P, "leases"))
    assert not await store.zcard(f"ctx:{{{bucket_of(P)}}}:leases")
    assert await store.hkeys(key(P, "contacts")) == [b"lasts"]


async def _are_gone(api: Api, count: int) -> bool:
    return len(await unregistered(api)) == count


async def test_the_streams_of_an_agent_that_expired_end_and_its_id_is_free(
    word_server: Server, word_api: Api, store: Any
) -> None:
    api = word_api
    await api.register("a", "apple", ttl=HOUR)
    await make_stale(store, "a")
    looks_for_long(word_server)
    await eventually(lambda: unregistered(api))
    await api.register("a", "apple", ttl=HOUR)
    stream = await api.listen("a").live()
    request = UnregisterAgentRequest(project=P, agent_id="a")
    await api.agents.UnregisterAgent(request, timeout=DEADLINE_S)
    assert (await stream.refusal()).reason == "AGENT_NOT_FOUND"
    first, second = await unregistered(api)
    assert json.loads(first.payload)["reason"] == "expired"
    assert json.loads(second.payload) == {"agent_id": "a"}


async def test_the_time_can_be_changed_and_taken_away(word_api: Api, store: Any) -> None:
    api = word_api
    await api.register("a", "apple", ttl=Duration(seconds=90, nanos=500_000_000))
    assert (await get(api, "a")).ttl == Duration(seconds=90, nanos=500_000_000)
    assert (await update(api, "a", threshold=0.3)).ttl.seconds == 90
    assert not (await update(api, "a", ttl=Duration())).HasField("ttl")
    assert not await store.zcard(key(P, "leases"))
    # Shortened, it holds once everybody who keeps streams knows.
    assert (await update(api, "a", ttl=SECOND)).ttl == SECOND
    due = await store.zscore(key(P, "leases"), "a")
    assert due - time.time() * 1000 > 4_000
    # A registration with other needs begins anew; with the same it keeps what it does not name.
    assert (await api.register("a", "apple")).agent.ttl == SECOND
    assert not (await api.register("a", "pear")).agent.HasField("ttl")
    for wrong in (Duration(seconds=-1), Duration(nanos=5), Duration(seconds=315_360_001)):
        for call in (
            api.register("a", "apple", ttl=wrong),
            update(api, "a", ttl=wrong),
        ):
            refused = await refusal(call)
            assert (refused.reason, refused.fields) == ("INVALID_FIELD", ["ttl"])


async def test_who_comes_back_after_an_outage_finds_its_agent(
    word_api: Api,
    word_server: Server,
    store: Any,
    valkey: EmbeddedValkey,
    start_server: StartServer,
) -> None:
    await word_api.register("a", "apple", ttl=HOUR)
    server = await start_server(valkey.url, embedder=Words())
    # As if both processes had only just begun to look.
    for each in (word_server, server):
        each.rooms.agents.expiry.interrupted()
    await make_stale(store, "a")
    await asyncio.sleep(1.5)
    assert (await get(word_api, "a")).ttl == HOUR
    # A contact puts it off, also where it was to be looked at.
    await acknowledge(word_api, "a", "0-1")
    await eventually(lambda: _is_put_off(store))
    await make_stale(store, "a")
    for each in (word_server, server):
        looks_for_long(each)
    await eventually(lambda: unregistered(word_api))
    assert len(await unregistered(word_api)) == 1
    counts = [each.rooms.agents.expiry.expired for each in (word_server, server)]
    assert sorted(counts) == [0, 1]


async def _is_put_off(store: Any) -> bool:
    return bool(await store.zscore(key(P, "leases"), "a") > time.time() * 1000 + 3_000_000)


async def test_a_store_function_decides_by_the_last_contact(
    word_server: Server, word_api: Api, store: Any
) -> None:
    """Whatever order contact and expiry come in, for as long as it takes."""
    agents: AgentStore = word_server.rooms.storage.store.agents
    await word_api.register("a", "apple", ttl=HOUR)
    await make_stale(store, "a")
    await agents.contact(P, ["a"])
    bodies = {"a": expiry.unregistered_body("a", "expired")}
    assert await agents.expire_agents(P, bodies, "agent_unregistered", 10**9) == []
    assert (await agents.contact(P, ["a", "b"])).gone == {"b"}
    await make_stale(store, "a")
    assert await agents.expire_agents(P, bodies, "agent_unregistered", 1_000) == []
    assert await agents.expire_agents(P, bodies, "agent_unregistered", 30_000) == ["a"]
    assert await agents.expire_agents(P, bodies, "agent_unregistered", 30_000) == []
    assert (await agents.contact(P, ["a"])).gone == {"a"}


async def test_no_agent_expires_within_its_time(word_api: Api) -> None:
    """However close to the end of its time an agent is in contact."""
    random = Random(7)

    async def live(agent_id: str) -> None:
        before_ms = time.time() * 1000
        await word_api.register(agent_id, "apple", ttl=SECOND)
        while True:
            contacts[agent_id] = before_ms
            await asyncio.sleep(random.uniform(0.9, 1.15))
            before_ms = time.time() * 1000
            try:
                await acknowledge(word_api, agent_id, sequence)
            except grpc.aio.AioRpcError:
                return

    contacts: dict[str, float] = {}
    (sequence,) = await word_api.publish(event("apple"))
    await asyncio.gather(*(live(f"a{n}") for n in range(40)))
    ends = {json.loads(e.payload)["agent_id"]: ms(e.sequence) for e in await unregistered(word_api)}
    assert ends.keys() == contacts.keys()
    assert min(ends[agent_id] - last for agent_id, last in contacts.items()) >= 999


async def test_an_imported_agent_begins_anew(word_api: Api, store: Any) -> None:
    api = word_api
    await api.publish(event("apple"))
    await api.register("a", "apple", ttl=HOUR)
    await api.register("lasts", "apple")
    await make_stale(store, "a", 3_000_000)
    before_ms = time.time() * 1000
    await imported(api, await exported(api, include=[EXPORT_PART_AGENTS]))
    assert await store.zscore(key("copy", "leases"), "a") >= before_ms + 3_600_000
    assert await store.zcard(f"ctx:{{{bucket_of('copy')}}}:leases") == 1
    listed = await api.agents.ListAgents(ListAgentsRequest(project="copy"), timeout=DEADLINE_S)
    (a, lasts) = listed.agents
    assert (a.ttl, lasts.HasField("ttl")) == (HOUR, False)
    assert not a.HasField("last_contact_time")
    # What is deleted with its project expires no more.
    request = DeleteProjectRequest(project="copy", request_id="r", reason="over")
    await api.projects.DeleteProject(request, timeout=DEADLINE_S)
    assert not await store.zcard(f"ctx:{{{bucket_of('copy')}}}:leases")

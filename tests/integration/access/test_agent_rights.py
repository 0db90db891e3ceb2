"""An agent gets what its identity may read, at the match and at the delivery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from contex.v1 import agent_service_pb2 as pb
from contex.v1 import audit_service_pb2
from contex_server.agents.rights import AgentRights
from contex_server.log.access import Changed

from tests.integration.access.support import Caller, Deployment, grant
from tests.integration.groups.worker import Worker
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    GetAgentRequest,
    P,
    Refusal,
    Stream,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    event,
    eventually,
    refusal,
)

PUBLIC, SECRET = "public/apple", "secret/apple"


def apples(key: str, n: int = 0) -> Any:
    return event(key, b'"apples %d"' % n, description="apples")


def unheard() -> Callable[[int], Awaitable[Changed]]:
    """A store of which a server hears nothing new."""

    async def changed(version: int) -> Changed:
        return Changed(version, {})

    return changed


async def knew(caller: Caller, agent_id: str, **fields: Any) -> Any:
    request = pb.GetAgentContextRequest(project=P, agent_id=agent_id, **fields)
    return await caller.agents.GetAgentContext(request, timeout=DEADLINE_S)


async def goes_on(caller: Caller, cursor: str, until: str) -> Stream:
    """Listens from a cursor until something is told, as clients do: again while rights change."""
    while True:
        stream = caller.listen("picker", cursor=cursor)
        try:
            return await stream.until(lambda stream: until in stream.told)
        except grpc.aio.AioRpcError as error:
            refused = Refusal.of(error)
        assert refused.reason == "ACCESS_CHANGED"
        cursor = stream.cursor or cursor


async def test_what_an_agent_may_not_read_is_not_matched(deployment: Deployment) -> None:
    await deployment.admin.publish(apples(PUBLIC), apples(SECRET))
    reader = await deployment.caller("reader", grant("consumer", "public/*"))
    registered = await reader.register("picker", "apples")
    assert [datum.event.data_key for datum in registered.data] == [PUBLIC]
    assert registered.agent.identity == "reader"
    assert list(registered.agent.readable_data_keys) == ["public/*"]
    stream = await reader.listen("picker").live()
    await deployment.admin.publish(apples(SECRET, 1), apples(PUBLIC, 1))
    await stream.count(2)
    assert stream.keys == [PUBLIC, PUBLIC]
    # Also to somebody who sees all: it was never matched.
    overseen = await deployment.admin.listen("picker", cursor=registered.cursor).live()
    assert SECRET not in overseen.keys


async def test_a_right_that_is_taken_away_and_given_back(deployment: Deployment) -> None:
    await deployment.admin.publish(apples(PUBLIC), apples(SECRET))
    reader = await deployment.caller("reader", grant("consumer", "public/*", "secret/*"))
    await reader.register("picker", "apples")
    stream = await reader.listen("picker").live()
    assert sorted(stream.keys) == [PUBLIC, SECRET]

    await deployment.bind("reader", grant("consumer", "public/*"))
    assert (await stream.refusal()).reason == "ACCESS_CHANGED"
    (hidden,) = await deployment.admin.publish(apples(SECRET, 1))
    resumed = await goes_on(reader, stream.cursor, "WITHHELD")
    assert [(m.event.data_key, m.event.payload) for m in resumed.matched] == [(SECRET, b"")]
    assert hidden not in resumed.sequences
    then = await knew(reader, "picker")
    assert [datum.data_key for datum in then.known] == [PUBLIC]
    # The second may have been decided before the decider heard of it; nobody was sent it.
    assert [d.data_key for d in then.withheld] == [SECRET]
    assert then.withheld[0].revision in (1, 2)
    since = then.withheld[0].since_sequence
    assert since == resumed.sequences[-1]

    await deployment.bind("reader", grant("consumer", "public/*", "secret/*"))
    assert (await resumed.refusal()).reason == "ACCESS_CHANGED"
    again = reader.listen("picker", cursor=resumed.cursor)
    await again.until(lambda stream: "MATCHED" in stream.told)
    assert [m.event.payload for m in again.matched] == [b'"apples 1"']
    assert not (await knew(reader, "picker")).withheld


async def test_rights_change_while_nobody_listens(deployment: Deployment) -> None:
    reader = await deployment.caller("reader", grant("consumer"))
    await deployment.admin.publish(apples(PUBLIC), apples(SECRET))
    cursor = (await reader.register("picker", "apples")).cursor
    await deployment.bind("reader", grant("consumer", "public/*"))
    seen = reader.listen("picker", cursor=cursor)
    await seen.until(lambda stream: "WITHHELD" in stream.told or PUBLIC in stream.keys)
    request = GetAgentRequest(project=P, agent_id="picker")
    while True:
        agent = (await deployment.admin.agents.GetAgent(request, timeout=DEADLINE_S)).agent
        if list(agent.readable_data_keys) == ["public/*"]:
            break
    assert b"apples" not in b"".join(
        m.event.payload for m in seen.matched if m.event.data_key == SECRET
    )


async def test_a_cursor_that_came_with_what_may_not_be_seen_any_more_goes_on(
    deployment: Deployment,
) -> None:
    reader = await deployment.caller("reader", grant("consumer", "public/*", "secret/*"))
    await reader.register("picker", "apples")
    listened, subscribed = await reader.listen("picker").live(), await reader.subscribe().live()
    await deployment.admin.publish(apples(SECRET))
    for stream in (listened, subscribed):
        await stream.until(lambda stream: SECRET in stream.keys)
        assert stream.kinds[-1] == "events"
    await deployment.bind("reader", grant("consumer", "public/*"))
    for stream in (listened, subscribed):
        assert (await stream.refusal()).reason == "ACCESS_CHANGED"
    assert (await goes_on(reader, listened.cursor, "WITHHELD")).keys == [SECRET]
    await deployment.admin.publish(apples(PUBLIC))
    resumed = reader.subscribe(cursor=subscribed.cursor)
    assert (await resumed.until(lambda stream: stream.events)).keys == [PUBLIC]


@pytest.mark.parametrize("consumes", [False, True])
async def test_a_right_that_is_given_back_before_the_log_says_that_it_was_lost(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, consumes: bool
) -> None:
    both = grant("consumer", "public/*", "secret/*")
    reader = await deployment.caller("reader", both)
    cursor = (await reader.register("picker", "apples")).cursor
    # The process that decides has much to write.
    monkeypatch.setattr(AgentRights, "_current", lambda *_: None)
    await deployment.bind("reader", grant("consumer", "public/*"))
    await deployment.admin.publish(apples(SECRET), apples(PUBLIC))
    if consumes:
        async with Worker(reader, agent_id="picker") as worker:
            assert (await worker.refusal()).reason == "ACCESS_CHANGED"
        assert SECRET not in [each.matched.event.data_key for each in worker.deliveries]
        await deployment.bind("reader", both)
        async with Worker(reader, agent_id="picker") as worker:
            await worker.until(lambda: len(worker.deliveries) == 2)
        keys = [each.matched.event.data_key for each in worker.deliveries]
    else:
        waiting = reader.listen("picker", cursor=cursor)
        refused = await waiting.refusal()
        assert refused.reason == "ACCESS_CHANGED"
        assert refused.retry_after_ms
        assert SECRET not in waiting.keys
        await deployment.bind("reader", both)
        keys = (await reader.listen("picker", cursor=waiting.cursor or cursor).count(2)).keys
    assert sorted(keys) == [PUBLIC, SECRET]


async def test_a_server_that_has_not_heard_of_a_right_leaves_out_nothing_that_it_brings(
    deployment: Deployment, second: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one that decides has heard of it.
    await second.server.rooms.inbox.deciders.close()
    await deployment.admin.publish(apples(SECRET))
    issued = await deployment.key("reader", grant("consumer", "public/*"))
    await second.server.rooms.access.directory.refresh()
    reader = second.with_key(issued.secret_key)
    await reader.register("picker", "apples")
    stream = await reader.listen("picker").live()
    with monkeypatch.context() as deaf:
        deaf.setattr(second.server.rooms.access.directory._store, "changed", unheard())
        await deployment.bind("reader", grant("consumer", "public/*", "secret/*"))
        assert (await stream.refusal()).reason == "ACCESS_CHANGED"
        assert SECRET not in stream.keys
        refused = await reader.listen("picker", cursor=stream.cursor).refusal()
        assert refused.reason == "ACCESS_CHANGED"
    resumed = await goes_on(reader, stream.cursor, "MATCHED")
    assert resumed.keys == [SECRET]


async def test_agents_of_before_are_given_to_an_identity(deployment: Deployment) -> None:
    await deployment.admin.publish(apples(PUBLIC), apples(SECRET))
    await deployment.admin.register("old", "apples")
    await deployment.bind("owner", grant("consumer", "public/*"))
    request = pb.AssignAgentsRequest(project=P, agent_ids="o*", identity="owner", reassign=True)
    response = await deployment.admin.agents.AssignAgents(request, timeout=DEADLINE_S)
    assert response.assigned_count == 1
    # It begins with what its new identity may read; of what it was sent before, it is told nothing.
    owner = await deployment.caller("owner", grant("consumer", "public/*"))
    told = owner.listen("old")
    await told.until(lambda stream: PUBLIC in stream.keys)
    assert SECRET not in told.keys
    assert not (await knew(owner, "old")).withheld
    agent = (
        await deployment.admin.agents.GetAgent(
            GetAgentRequest(project=P, agent_id="old"), timeout=DEADLINE_S
        )
    ).agent
    assert (agent.identity, list(agent.readable_data_keys)) == ("owner", ["public/*"])


async def test_the_audit_names_who_was_proved_and_who_was_claimed(deployment: Deployment) -> None:
    publisher = await deployment.caller("billing", grant("publisher"))
    await publisher.publish(event("a"), publisher="the night shift")
    request = audit_service_pb2.ListRecordsRequest(project=P)
    records = (await deployment.admin.audits.ListRecords(request, timeout=DEADLINE_S)).records
    (record,) = [r for r in records if r.data_key == "a"]
    assert (record.actor, record.actor_verified) == ("billing", True)
    assert record.claimed_actor == "the night shift"
    request = audit_service_pb2.ListRecordsRequest()
    records = (await deployment.admin.audits.ListRecords(request, timeout=DEADLINE_S)).records
    assert any("of 'billing'" in r.detail and r.actor == "admin" for r in records)
    refused = await refusal(publisher.audits.ListRecords(request, timeout=DEADLINE_S))
    assert refused.reason == "PERMISSION_DENIED"


async def test_an_agent_is_changed_by_its_own_identity_alone(deployment: Deployment) -> None:
    await deployment.admin.publish(apples(PUBLIC))
    owner = await deployment.caller("owner", grant("consumer", "public/*"))
    peer = await deployment.caller("peer", grant("consumer", "public/*"))
    await owner.register("picker", "apples")
    request = GetAgentRequest(project=P, agent_id="picker")
    assert (await peer.agents.GetAgent(request, timeout=DEADLINE_S)).agent.identity == "owner"
    named: dict[str, Any] = {"project": P, "agent_id": "picker"}
    agents = peer.agents
    for call in (
        peer.register("picker", "poison"),
        agents.UpdateAgent(UpdateAgentRequest(**named), timeout=DEADLINE_S),
        agents.UnregisterAgent(UnregisterAgentRequest(**named), timeout=DEADLINE_S),
        agents.Acknowledge(AcknowledgeRequest(**named, sequence="0"), timeout=DEADLINE_S),
    ):
        assert (await refusal(call)).reason == "PERMISSION_DENIED"
    # Once its identity may read nothing, it is nobody else's to see.
    await deployment.bind("owner")

    async def is_hidden() -> bool:
        try:
            await agents.GetAgent(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            return Refusal.of(error).reason == "AGENT_NOT_FOUND"
        return False

    await eventually(is_hidden)


async def test_an_answer_has_nothing_that_the_agent_published_itself(
    deployment: Deployment,
) -> None:
    writer = await deployment.caller("writer", grant("publisher"), grant("consumer"))
    await writer.publish(apples(PUBLIC), publisher="picker")
    await writer.publish(apples(SECRET), publisher="somebody")
    registered = await writer.register("picker", "apples", exclude_own=True)
    assert [datum.event.data_key for datum in registered.data] == [SECRET]

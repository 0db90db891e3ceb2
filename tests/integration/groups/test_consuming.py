"""Consumers that share an agent's inbox."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from contex.v1 import consumer_pb2 as pb
from contex.v1.agent_service_pb2 import Need
from contex_server.log.embedded import EmbeddedValkey
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.integration.groups.worker import Worker, seconds
from tests.integration.support import (
    EDGE_END,
    AcknowledgeRequest,
    Api,
    EventFilter,
    GetAgentRequest,
    P,
    Refusal,
    RegisterAgentRequest,
    UnregisterAgentRequest,
    event,
)


async def queue(api: Api, *keys: str, agent_id: str = "a") -> list[str]:
    """An agent that gets everything, and some facts; returns their sequences."""
    needs = [Need(filter=EventFilter())]
    request = RegisterAgentRequest(project=P, agent_id=agent_id, needs=needs)
    await api.agents.RegisterAgent(request)
    return await facts(api, *keys)


async def facts(api: Api, *keys: str) -> list[str]:
    return await api.publish(*[event(key, b'"x"') for key in keys]) if keys else []


def names(deliveries: list[pb.ConsumerDelivery]) -> list[str]:
    return [each.delivery_id for each in deliveries]


async def group(api: Api) -> pb.GetConsumerGroupResponse:
    request = pb.GetConsumerGroupRequest(project=P, agent_id="a")
    found: pb.GetConsumerGroupResponse = await api.agents.GetConsumerGroup(request)
    return found


async def acknowledged(api: Api) -> str:
    agent = (await api.agents.GetAgent(GetAgentRequest(project=P, agent_id="a"))).agent
    return str(agent.acknowledged_sequence)


async def until_acknowledged(api: Api, sequence: str) -> None:
    async with asyncio.timeout(10):
        while await acknowledged(api) != sequence:
            await asyncio.sleep(0.02)


async def test_each_delivery_goes_to_one_consumer(api: Api) -> None:
    keys = [f"k{i}" for i in range(30)]
    sequences = await queue(api, *keys)
    async with Worker(api, "x", max_outstanding_messages=10) as x:
        await x.count(10)
        async with Worker(api, "y") as y:
            await y.count(20)
            await x.ack(*names(x.deliveries))
            await y.ack(*names(y.deliveries))
            assert sorted(await x.keys(10) + await y.keys(20)) == sorted(keys)
            await facts(api, "more")
            await asyncio.wait(
                [asyncio.create_task(w.count(n)) for w, n in ((x, 11), (y, 21))],
                return_when=asyncio.FIRST_COMPLETED,
            )
    assert len(x.deliveries) + len(y.deliveries) == 31
    first = x.deliveries[0]
    assert first.attempt == 1
    assert first.matched.event.sequence == sequences[0]
    assert first.matched.matches[0].score == 1.0


async def test_the_agents_cursor_follows_what_is_settled(api: Api) -> None:
    sequences = await queue(api, "k", "l", "m")
    async with Worker(api) as worker:
        first, second, third = names(await worker.count(3))
        assert await worker.ack(second) == []
        assert await worker.ack(first) == []
        await until_acknowledged(api, sequences[1])
        assert (await group(api)).outstanding_count == 1
        await worker.settle(third, skip=pb.Skip())
        await until_acknowledged(api, sequences[2])
    # Listen begins where consumers are.
    stream = await api.listen("a").live()
    assert stream.matched == []


async def test_deliveries_of_one_key_come_one_after_the_other(api: Api) -> None:
    await queue(api, "k", "k", "k", "l")
    async with Worker(api) as worker:
        assert await worker.keys(2) == ["k", "l"]
        await worker.ack(worker.deliveries[0].delivery_id)
        assert await worker.keys(3) == ["k", "l", "k"]
        await worker.park(worker.deliveries[2].delivery_id, reason="no such customer")
        await worker.count(4)
        assert [d.matched.event.revision for d in worker.deliveries] == [1, 1, 2, 3]
        state = await group(api)
        assert (state.parked_count, state.outstanding_count) == (1, 2)


async def test_what_is_not_settled_in_time_goes_to_another(api: Api) -> None:
    await queue(api, "k")
    async with Worker(api, "slow", ack_deadline=seconds(1)) as slow:
        (had,) = await slow.count(1)
        await slow.say(credit=pb.Credit(max_outstanding_messages=0))
        async with Worker(api, "other") as other:
            (has,) = await other.count(1)
            assert has.attempt == 2
            lost = (await slow.told("lost")).lost
            assert list(lost.delivery_ids) == [had.delivery_id]
            assert await slow.ack(had.delivery_id) == [had.delivery_id]
            assert await other.ack(has.delivery_id) == []


async def test_an_extended_claim_lasts(api: Api) -> None:
    await queue(api, "k")
    async with Worker(api, "slow", ack_deadline=seconds(1)) as slow:
        (has,) = await slow.count(1)
        assert not (await slow.extend(has.delivery_id, ack_deadline=seconds(60))).lost_delivery_ids
        async with Worker(api, "other") as other:
            await other.idle()
            await asyncio.sleep(1.2)
            assert other.deliveries == []
            assert await slow.ack(has.delivery_id) == []


async def test_a_retry_comes_again_later(api: Api) -> None:
    await queue(api, "k", "k", "l")
    async with Worker(api) as worker:
        await worker.count(2)
        assert await worker.retry(worker.deliveries[0].delivery_id, after_s=0.3) == []
        again = (await worker.count(3))[2]
        assert (again.matched.event.data_key, again.attempt) == ("k", 2)
        assert again.matched.event.revision == 1


async def test_too_many_attempts_end_in_parking(api: Api) -> None:
    (sequence, _) = await queue(api, "k", "k")
    async with Worker(api, max_attempts=2) as worker:
        for attempt in (1, 2):
            delivery = (await worker.count(attempt))[-1]
            assert delivery.attempt == attempt
            await worker.retry(delivery.delivery_id)
        assert (await worker.count(3))[2].matched.event.revision == 2
    response = await api.agents.ListParked(pb.ListParkedRequest(project=P, agent_id="a"))
    (parked,) = response.deliveries
    assert parked.matched.event.sequence == sequence
    assert (parked.attempts, parked.cause) == (2, pb.PARK_CAUSE_TOO_MANY_ATTEMPTS)


async def test_parked_deliveries_are_listed_redriven_and_dropped(api: Api) -> None:
    await queue(api, *"klmn")
    async with Worker(api, "w") as worker:
        await worker.count(4)
        for name in names(worker.deliveries):
            await worker.park(name, reason=f"not {name}")
        request = pb.ListParkedRequest(project=P, agent_id="a", page_size=3)
        page = await api.agents.ListParked(request)
        request.page_token = page.next_page_token
        last = await api.agents.ListParked(request)
        assert last.next_page_token == ""
        parked = [*page.deliveries, *last.deliveries]
        assert [each.matched.event.data_key for each in parked] == list("klmn")
        assert parked[0].reason == f"not {worker.deliveries[0].delivery_id}"
        assert (parked[0].consumer, parked[0].cause) == ("w", pb.PARK_CAUSE_CONSUMER)
        assert parked[0].matched.matches
        ids = [each.parked_id for each in parked]
        drop = pb.DropParkedRequest(project=P, agent_id="a", parked_ids=ids[:1])
        assert (await api.agents.DropParked(drop)).dropped_count == 1
        redrive = pb.RedriveParkedRequest(project=P, agent_id="a", parked_ids=ids[:2])
        assert (await api.agents.RedriveParked(redrive)).redriven_count == 1
        again = (await worker.count(5))[4]
        assert (again.matched.event.data_key, again.attempt, again.redriven) == ("l", 1, True)
        assert await worker.ack(again.delivery_id) == []
        rest = pb.RedriveParkedRequest(project=P, agent_id="a")
        assert (await api.agents.RedriveParked(rest)).redriven_count == 2
        await worker.count(7)
        await worker.park(worker.deliveries[6].delivery_id)
        every = pb.DropParkedRequest(project=P, agent_id="a", all=True)
        assert (await api.agents.DropParked(every)).dropped_count == 1


async def test_a_consumer_that_leaves_gives_back_what_it_has(api: Api) -> None:
    await queue(api, "k", "l")
    async with Worker(api, "x") as x:
        await x.count(2)
        await x.ack(x.deliveries[0].delivery_id)
        await x.finish()
        assert x.error is None
    async with Worker(api, "y") as y:
        (again,) = await y.count(1)
        assert (again.matched.event.data_key, again.attempt) == ("l", 2)


async def test_one_that_comes_back_goes_on_with_what_it_holds(api: Api) -> None:
    await queue(api, "k", "l", "m")
    async with Worker(api, "x") as x:
        first, second, third = names(await x.count(3))
    async with Worker(api, "x", held_delivery_ids=[first]) as x:
        await x.count(2)
        assert {each.attempt for each in x.deliveries} == {2}
        assert await x.ack(first) == []
        assert await x.ack(second, third) == [second, third]


async def test_a_stream_of_the_same_name_replaces_the_former(api: Api) -> None:
    await queue(api, "k")
    async with Worker(api, "x") as former:
        await former.count(1)
        async with Worker(api, "x") as x:
            (again,) = await x.count(1)
            assert again.attempt == 2
            assert (await former.refusal()).reason == "CONSUMER_REPLACED"
            assert await x.ack(again.delivery_id) == []


async def test_credit_bounds_messages_and_bytes(api: Api) -> None:
    await queue(api)
    await api.publish(*[event(f"k{i}", b'"' + b"x" * 10_000 + b'"') for i in range(10)])
    async with Worker(api, max_outstanding_messages=3) as worker:
        await worker.count(3)
        await worker.say(
            credit=pb.Credit(max_outstanding_messages=10, max_outstanding_bytes=55_000)
        )
        await worker.count(5)
        await asyncio.sleep(0.2)
        assert len(worker.deliveries) == 5
        await worker.ack(*names(worker.deliveries))
        await worker.count(10)
        assert {each.attempt for each in worker.deliveries} == {1}
        await worker.say(drain=pb.Drain())
        await worker.ack(*names(worker.deliveries[5:]))
        await facts(api, "z")
        await asyncio.sleep(0.2)
        assert len(worker.deliveries) == 10


async def test_one_large_delivery_comes_alone(api: Api) -> None:
    await queue(api)
    await api.publish(*[event(f"k{i}", b'"' + b"x" * 50_000 + b'"') for i in range(3)])
    async with Worker(api, max_outstanding_bytes=1_000) as worker:
        for number in (1, 2, 3):
            await worker.count(number)
            await asyncio.sleep(0.05)
            assert len(worker.deliveries) == number
            await worker.ack(worker.deliveries[-1].delivery_id)


async def test_up_to_a_cursor(api: Api) -> None:
    sequences = await queue(api, *"klmn")
    async with Worker(api, max_outstanding_messages=3) as worker:
        await worker.count(3)
        cursor = worker.messages[-1].cursor
        settled = await worker.settle(up_to_cursor=cursor, ack=pb.Ack())
        assert not settled.lost_delivery_ids
        await worker.count(4)
        assert (await group(api)).outstanding_count == 1
        await until_acknowledged(api, sequences[2])


async def test_acknowledging_settles_what_consumers_have(api: Api) -> None:
    sequences = await queue(api, *"klm")
    async with Worker(api) as worker:
        first, second, third = names(await worker.count(3))
        request = AcknowledgeRequest(project=P, agent_id="a", sequence=sequences[1])
        await api.agents.Acknowledge(request)
        assert await worker.ack(first, second, third) == [first, second]


async def test_a_seek_begins_again_and_fences(api: Api) -> None:
    sequences = await queue(api, *"klm")
    async with Worker(api) as worker:
        before = names(await worker.count(3))
        await worker.ack(before[0])
        seek = pb.SeekConsumerGroupRequest(project=P, agent_id="a", after_sequence="0")
        response = await api.agents.SeekConsumerGroup(seek)
        assert response.cleared_count == 2
        lost = (await worker.told("lost")).lost
        assert sorted(lost.delivery_ids) == sorted(before[1:])
        assert await worker.keys(6) == [*"klm", *"klm"]
        assert {each.attempt for each in worker.deliveries} == {1}
        assert await worker.ack(before[1]) == [before[1]]
        seek = pb.SeekConsumerGroupRequest(project=P, agent_id="a", edge=EDGE_END)
        response = await api.agents.SeekConsumerGroup(seek)
        assert response.position_sequence == sequences[2]
        await facts(api, "n")
        assert (await worker.keys(7))[6] == "n"


async def test_whoever_looks_at_the_store_sees_the_truth(api: Api, store: Redis) -> None:
    await queue(api, *"klmn")
    async with Worker(api, "x", max_outstanding_messages=2) as x:
        await x.count(2)
        (name,) = [n async for n in store.scan_iter("*:inbox:a")]
        (info,) = await store.xinfo_groups(name)
        assert (info["name"], info["pending"]) == (b"consumers", 2)
        pending = await store.xpending_range(name, "consumers", "-", "+", 10)
        assert {each["consumer"] for each in pending} == {b"x"}
        state = await group(api)
        assert (state.outstanding_count, state.backlog_count) == (2, 2)
        (consumer,) = state.consumers
        assert (consumer.name, consumer.outstanding_count) == ("x", 2)
        assert state.lag_ms > 0


async def test_a_key_that_blocks_is_named(api: Api) -> None:
    sequences = await queue(api, *"kkkl")
    async with Worker(api, "x") as x:
        await x.count(2)
        (blocked,) = (await group(api)).blocked_keys
        assert (blocked.data_key, blocked.waiting_count) == ("k", 2)
        assert (blocked.sequence, blocked.consumer, blocked.attempt) == (sequences[0], "x", 1)


async def test_an_agent_that_leaves_ends_its_consumers(api: Api) -> None:
    await queue(api, "k")
    async with Worker(api) as worker:
        await worker.count(1)
        request = UnregisterAgentRequest(project=P, agent_id="a")
        await api.agents.UnregisterAgent(request)
        assert (await worker.refusal()).reason == "AGENT_NOT_FOUND"


async def test_consumers_go_on_after_a_restart(
    valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    server = await start_server(valkey.url)
    async with Api.of(server) as api:
        await queue(api, *"kkl")
        async with Worker(api, "x") as x:
            held = names(await x.count(2))
            await server.stop()
            assert (await x.refusal()).reason == "SHUTTING_DOWN"
    server = await start_server(valkey.url)
    async with Api.of(server) as api, Worker(api, "x", held_delivery_ids=held) as x:
        assert await x.ack(*held) == []
        (last,) = await x.count(1)
        assert last.matched.event.revision == 2


async def test_bad_input_is_refused(api: Api) -> None:
    await queue(api, "k")
    start: dict[str, Any] = {"project": P, "agent_id": "a", "consumer": "w"}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"start": {**start, "consumer": "~w"}}, "start.consumer"),
        ({"start": {**start, "consumer": ""}}, "start.consumer"),
        ({"start": {**start, "project": "-"}}, "start.project"),
        ({"start": {**start, "max_outstanding_messages": 1_001}}, "start.max_outstanding_messages"),
        ({"start": {**start, "max_outstanding_bytes": 1 << 40}}, "start.max_outstanding_bytes"),
        ({"start": {**start, "max_attempts": 1_001}}, "start.max_attempts"),
        ({"start": {**start, "ack_deadline": seconds(0.5)}}, "start.ack_deadline"),
        ({"start": {**start, "held_delivery_ids": ["x"]}}, "start.held_delivery_ids[0]"),
        ({"drain": {}}, "start"),
    ]
    for message, field in refused:
        call = api.agents.Consume()
        await call.write(pb.ConsumeRequest(**message))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert Refusal.of(raised.value).fields == [field]
    later: list[tuple[dict[str, Any], str]] = [
        ({"start": start}, "start"),
        ({"settle": {"delivery_ids": ["1-0.1"], "ack": {}}}, "settle.delivery_ids[0]"),
        ({"settle": {"delivery_ids": []}}, "settle.outcome"),
        ({"settle": {"retry": {"delay": seconds(700_000)}}}, "settle.retry.delay"),
        ({"settle": {"park": {"reason": "x" * 1_001}}}, "settle.park.reason"),
        ({"settle": {"up_to_cursor": "x", "ack": {}}}, "settle.up_to_cursor"),
        ({"extend": {"ack_deadline": seconds(4_000)}}, "extend.ack_deadline"),
        ({"credit": {"max_outstanding_messages": 1_001}}, "credit.max_outstanding_messages"),
        ({}, "message"),
    ]
    for message, field in later:
        async with Worker(api) as worker:
            await worker.say(**message)
            assert (await worker.refusal()).fields == [field], message


async def test_what_is_taken_while_something_is_being_settled_arrives(api: Api) -> None:
    await queue(api, *[f"k{n}" for n in range(300)])
    async with Worker(api, max_outstanding_messages=40, ack_deadline=seconds(600)) as worker:
        seen = 0
        while seen < 300:
            await worker.count(seen + 1)
            some = names(worker.deliveries[seen:])
            seen += len(some)
            for start in range(0, len(some), 7):
                ids = some[start : start + 7]
                await worker.say(settle=pb.Settle(delivery_ids=ids, ack=pb.Ack()))
    assert {each.attempt for each in worker.deliveries} == {1}


async def test_what_is_given_to_one_that_leaves_is_given_back(api: Api) -> None:
    await queue(api, *["k"] * 30)
    for number in range(15):
        async with Worker(api, f"w{number}") as worker:
            (has,) = await worker.count(1)
            await worker.ack(has.delivery_id)  # which lets it have the next
            await worker.finish()
            assert worker.error is None
        async with asyncio.timeout(10):  # far less than its claims would last
            while any(each.outstanding_count for each in (await group(api)).consumers):
                await asyncio.sleep(0.02)


async def test_what_one_came_back_with_counts_towards_its_credit(api: Api) -> None:
    await queue(api, *"klmn")
    async with Worker(api, "x", max_outstanding_messages=2) as x:
        held = names(await x.count(2))
    async with Worker(api, "x", held_delivery_ids=held, max_outstanding_messages=2) as x:
        await x.ack(held[0])
        await x.count(1)
        await asyncio.sleep(0.3)
        assert len(x.deliveries) == 1


async def test_what_one_came_back_with_runs_out_and_that_is_told(api: Api) -> None:
    await queue(api, "k", "l")
    async with Worker(api, "x") as x:
        held = names(await x.count(2))
    async with Worker(api, "x", held_delivery_ids=held, ack_deadline=seconds(1)) as x:
        await x.say(credit=pb.Credit(max_outstanding_messages=0))
        lost = (await x.told("lost")).lost
        assert sorted(lost.delivery_ids) == sorted(held)
        async with Worker(api, "other") as other:
            assert {each.attempt for each in await other.count(2)} == {2}
            async with Worker(api, "x", held_delivery_ids=held) as again:
                # It is told at once that it has nothing of that any more.
                lost = (await again.told("lost")).lost
                assert set(lost.delivery_ids) <= set(held)
                assert await other.ack(*names(other.deliveries)) == []


async def test_what_was_not_begun_is_given_back_without_an_attempt(api: Api) -> None:
    await queue(api, "k", "l")
    async with Worker(api, "x") as x:
        first, second = names(await x.count(2))
        await x.say(credit=pb.Credit(max_outstanding_messages=0))
        assert not (await x.settle(second, give_back=pb.GiveBack())).lost_delivery_ids
        async with Worker(api, "y") as y:
            (again,) = await y.count(1)
            assert (again.matched.event.data_key, again.attempt) == ("l", 1)
            assert await x.ack(second) == [second]
            assert await x.ack(first) == []


async def test_after_its_last_attempt_one_is_parked_at_once(api: Api) -> None:
    await queue(api, "k", "k")
    async with Worker(api, max_attempts=1) as worker:
        (first,) = await worker.count(1)
        assert await worker.retry(first.delivery_id, after_s=600) == []
        assert (await worker.count(2))[1].matched.event.revision == 2
    response = await api.agents.ListParked(pb.ListParkedRequest(project=P, agent_id="a"))
    (parked,) = response.deliveries
    assert (parked.cause, parked.consumer) == (pb.PARK_CAUSE_TOO_MANY_ATTEMPTS, "w")


async def test_what_waits_for_the_first_consumer_is_told(api: Api) -> None:
    sequences = await queue(api, "k", "l", "m")
    async with asyncio.timeout(10):
        while (await group(api)).backlog_count != 3:
            await asyncio.sleep(0.02)
    assert (await group(api)).lag_ms > 0
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", sequence=sequences[1]))
    assert (await group(api)).backlog_count == 1

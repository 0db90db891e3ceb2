"""What an agent knew at a moment: its needs, its data, what had not reached it, and why."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from contex.v1 import agent_service_pb2, event_pb2
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    P,
    RegisterAgentRequest,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    Words,
    asked,
    event,
    refusal,
    texts,
)

MIN_DELTA = agent_service_pb2.HELD_BACK_REASON_MIN_DELTA
EXCLUDED = agent_service_pb2.HELD_BACK_REASON_EXCLUDED
BELOW_THRESHOLD = agent_service_pb2.HELD_BACK_REASON_BELOW_THRESHOLD


async def knew(api: Api, agent_id: str = "a", at: int | str | None = None, **fields: Any) -> Any:
    """What the agent knew at a time in unix ms, at a sequence, or now."""
    if isinstance(at, int):
        fields["as_of"] = event_pb2.Position(unix_ms=at)
    elif at is not None:
        fields["as_of"] = event_pb2.Position(sequence=at)
    request = agent_service_pb2.GetAgentContextRequest(project=P, agent_id=agent_id, **fields)
    return await api.agents.GetAgentContext(request, timeout=DEADLINE_S)


async def moment() -> int:
    """A millisecond in which nothing happens: what came before is before it."""
    await asyncio.sleep(0.015)
    now = time.time_ns() // 1_000_000
    await asyncio.sleep(0.015)
    return now


def known(context: Any) -> dict[str, int]:
    return {datum.data_key: datum.revision for datum in context.known}


def pending(context: Any) -> dict[str, int]:
    return {datum.event.data_key: datum.event.revision for datum in context.pending}


def held_back(context: Any) -> dict[str, int]:
    return {held.data.event.data_key: held.reason for held in context.held_back}


async def test_an_agent_that_was_offline_missed_the_update(word_api: Api) -> None:
    api = word_api
    await api.publish(event("price", b'{"eur": 1}', description="apples"))
    await api.register("a", "apples")
    stream = await api.listen("a").live()
    (second,) = await api.publish(event("price", b'{"eur": 2}', description="apples"))
    await stream.count(1)
    request = AcknowledgeRequest(project=P, agent_id="a", sequence=second)
    await api.agents.Acknowledge(request, timeout=DEADLINE_S)
    online = await moment()
    await stream.cancel()
    offline = await moment()
    (third,) = await api.publish(event("price", b'{"eur": 3}', description="apples"))
    missed = await moment()
    stream = await api.listen("a").count(1)
    back = await moment()

    context = await knew(api, at=online)
    assert known(context) == {"price": 2}
    (datum,) = context.known
    assert (datum.sequence, datum.latest_sequence, datum.acknowledged) == (second, second, True)
    assert datum.event.payload == b'{"eur": 2}'
    assert [(need.need_index, need.need) for need in datum.needs] == [(0, "apples")]
    assert datum.needs[0].score > 0
    assert pending(context) == held_back(context) == {}
    assert context.agent.acknowledged_sequence == second
    assert context.as_of.sequence == second
    assert context.as_of.time.ToMilliseconds() == online
    assert not context.streams[0].HasField("closed_time")

    assert context.known == (await knew(api, at=offline)).known
    closed = (await knew(api, at=offline)).streams[0]
    assert online <= closed.closed_time.ToMilliseconds() <= offline

    context = await knew(api, at=missed)
    assert known(context) == {"price": 2}
    (datum,) = context.known
    assert (datum.latest_sequence, datum.latest_revision) == (third, 3)
    assert pending(context) == {"price": 3}
    assert context.pending[0].matches[0].need == "apples"
    assert context.last_sent_sequence == second

    context = await knew(api, at=back)
    assert known(context) == {"price": 3}
    assert not context.known[0].acknowledged
    assert pending(context) == {}
    assert len(context.streams) == 2
    # The same question now, and as of the last event, has the same answer.
    assert known(await knew(api)) == {"price": 3}
    await stream.cancel()


async def test_needs_are_those_of_the_time(word_api: Api) -> None:
    api = word_api
    before = await moment()
    await api.register("a", "apples")
    first = await moment()
    update = UpdateAgentRequest(project=P, agent_id="a", needs=asked("pears", "plums"))
    await api.agents.UpdateAgent(update, timeout=DEADLINE_S)
    second = await moment()
    await api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a"))
    gone = await moment()
    await api.register("a", "cherries")
    third = await moment()
    for at, needs in ((first, ["apples"]), (second, ["pears", "plums"]), (third, ["cherries"])):
        assert texts((await knew(api, at=at)).agent) == needs
    for at in (before, gone):
        refused = await refusal(knew(api, at=at))
        assert (refused.code, refused.reason) == ("NOT_FOUND", "AGENT_NOT_FOUND")


async def test_what_was_held_back_and_why(word_api: Api) -> None:
    api = word_api
    for n in range(4):
        await api.publish(event(f"old{n}", description="apples"))
    request = RegisterAgentRequest(
        project=P,
        agent_id="a",
        needs=[agent_service_pb2.Need(text="apples", exclude_data_keys=["secret*"], max_matches=2)],
        min_delta=agent_service_pb2.MinDelta(json_pointers=["/eur"]),
    )
    answer = await api.agents.RegisterAgent(request, timeout=DEADLINE_S)
    assert len(answer.data) == 2
    stream = await api.listen("a").live()
    await api.publish(event("price", b'{"eur": 1, "at": 1}', description="apples"))
    await api.publish(event("price", b'{"eur": 1, "at": 2}', description="apples"))
    await api.publish(event("secret", description="apples"))
    await api.publish(event("other", description="bananas"))
    await api.publish(event("last", description="apples"))
    await stream.count(6)
    context = await knew(api, near_misses=5)
    assert known(context).keys() == {*(f"old{n}" for n in range(4)), "price", "last"}
    assert known(context)["price"] == 1
    assert pending(context) == {}
    assert held_back(context) == {"price": MIN_DELTA, "secret": EXCLUDED}
    await stream.cancel()


async def test_near_misses_are_told_with_their_score(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words(), match_threshold=1.0)
    async with Api.of(server) as api:
        await api.register("a", "red apples")
        await api.publish(event("k", description="some apples in a basket and more"))
        (miss,) = (await api.agents.GetAgentContext(_near(50), timeout=DEADLINE_S)).held_back
        assert miss.reason == BELOW_THRESHOLD
        assert 0.9 < miss.data.matches[0].score < 1.0
        assert miss.data.matches[0].parts.threshold == 1.0
        assert not (await knew(api)).held_back


def _near(count: int) -> agent_service_pb2.GetAgentContextRequest:
    return agent_service_pb2.GetAgentContextRequest(project=P, agent_id="a", near_misses=count)


async def test_an_update_that_was_worth_it_is_pending_though_a_later_one_was_not(
    word_api: Api,
) -> None:
    api = word_api
    request = RegisterAgentRequest(
        project=P,
        agent_id="a",
        needs=asked("apples"),
        min_delta=agent_service_pb2.MinDelta(json_pointers=["/eur"]),
    )
    await api.publish(event("price", b'{"eur": 1, "at": 1}', description="apples"))
    await api.agents.RegisterAgent(request, timeout=DEADLINE_S)
    await api.publish(event("price", b'{"eur": 1, "at": 2}', description="apples"))
    assert held_back(await knew(api)) == {"price": MIN_DELTA}
    await api.publish(event("price", b'{"eur": 2, "at": 3}', description="apples"))
    await api.publish(event("price", b'{"eur": 2, "at": 4}', description="apples"))
    assert pending(await knew(api)) == {"price": 4}


async def test_deleted_data(word_api: Api) -> None:
    api = word_api
    await api.register("a", "apples")
    stream = await api.listen("a").live()
    await api.publish(event("k", description="apples"))
    await stream.count(1)
    await stream.cancel()
    (deletion,) = await api.publish(event("k", b"", tombstone=True))
    (datum,) = (await knew(api)).known
    assert (datum.revision, datum.deleted, datum.latest_sequence) == (1, True, deletion)
    stream = await api.listen("a").count(1)
    assert known(await knew(api)) == {}
    await stream.cancel()


async def test_knowledge_beyond_checkpoints_of_the_journal(
    short_journals: None, word_api: Api, store: Any
) -> None:
    """Each moment is folded from the nearest checkpoint; there are several of them here."""
    api = word_api
    await api.register("a", "apples")
    stream = await api.listen("a").live()
    expected: list[tuple[int, dict[str, int]]] = []
    state: dict[str, int] = {}
    for n in range(150):
        name = f"k{n * 7 % 13}"
        await api.publish(event(name, description="apples"), durability=1)
        await stream.count(n + 1)
        state[name] = state.get(name, 0) + 1
        if n % 15 == 8:
            expected.append((await moment(), dict(state)))
    notes = await store.xrange(key(P, "journal:a"))
    assert sum(b"k" in fields for _, fields in notes) >= 4
    for at, knowledge in expected:
        context = await knew(api, at=at, omit_payloads=True)
        assert known(context) == knowledge
        assert not any(datum.HasField("event") for datum in context.known)
        assert all(datum.needs[0].need == "apples" for datum in context.known)
    await stream.cancel()


async def test_a_moment_before_the_records_is_refused(word_api: Api, store: Any) -> None:
    api = word_api
    await api.register("a", "apples")
    early = await moment()
    # As for an agent that was registered before journals were kept.
    await store.delete(key(P, "journal:a"), key(P, "sent:a"), key(P, "journals"))
    assert texts((await knew(api)).agent) == ["apples"]
    stream = await api.listen("a").live()
    refused = await refusal(knew(api, at=early))
    assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "RECORDS_EXPIRED")
    assert refused.metadata.keys() == {"earliest_time"}
    assert texts((await knew(api)).agent) == ["apples"]
    await stream.cancel()


async def test_moments_that_are_none(word_server: Server) -> None:
    async with Api.of(word_server) as api:
        await api.register("a", "apples")
        future = time.time_ns() // 1_000_000 + 3_600_000
        assert (await refusal(knew(api, at=future))).reason == "TIME_IN_FUTURE"
        assert (await refusal(knew(api, at=f"{future}-0"))).reason == "SEQUENCE_IN_FUTURE"
        assert (await refusal(knew(api, at="soon"))).fields == ["as_of.sequence"]
        assert (await refusal(knew(api, at=-1))).fields == ["as_of.unix_ms"]
        assert (await refusal(knew(api, as_of=event_pb2.Position()))).fields == ["as_of"]
        assert (await refusal(knew(api, near_misses=101))).fields == ["near_misses"]
        assert (await refusal(knew(api, "nobody"))).reason == "AGENT_NOT_FOUND"


async def test_what_a_change_of_needs_brought_is_acknowledged_with_that(word_api: Api) -> None:
    api = word_api
    (old, last) = await api.publish(event("a", b'"beta"'), event("b", b'"alpha"'))
    await api.register("a", "alpha")
    stream = await (await api.listen("a", after_sequence="0").live()).count(1)
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", cursor=stream.cursor))
    await stream.cancel()
    await api.register("a", "alpha", "beta")
    stream = await (await api.listen("a").live()).count(1)
    assert stream.sequences == [old] < [last]
    known = (await knew(api)).known
    assert {datum.data_key: datum.acknowledged for datum in known} == {"a": False, "b": True}
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", cursor=stream.cursor))
    assert all(datum.acknowledged for datum in (await knew(api)).known)
    await stream.cancel()

"""Registrations: what they answer, what they keep, how they change."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from contex_server.kernel.config import Limits
from contex_server.log.embedded import EmbeddedValkey
from contex_server.matching.score import shipped_weights
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    AcknowledgeRequest,
    Api,
    GetAgentRequest,
    ListAgentsRequest,
    P,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    Words,
    asked,
    event,
    order,
    own,
    refusal,
    texts,
)

NOT_FOUND = ("NOT_FOUND", "AGENT_NOT_FOUND")


def keys(response: Any) -> list[str]:
    return [datum.event.data_key for datum in response.data]


async def get(api: Api, agent_id: str = "a") -> Any:
    """The registration alone, without the progress, which goes on."""
    agent = (await api.agents.GetAgent(GetAgentRequest(project=P, agent_id=agent_id))).agent
    agent.ClearField("progress")
    return agent


async def update(api: Api, agent_id: str = "a", **fields: object) -> Any:
    return await api.agents.UpdateAgent(UpdateAgentRequest(project=P, agent_id=agent_id, **fields))


async def acknowledge(api: Api, agent_id: str = "a", **position: str) -> str:
    request = AcknowledgeRequest(project=P, agent_id=agent_id, **position)
    return str((await api.agents.Acknowledge(request)).acknowledged_sequence)


def recomputed(match: Any) -> float:
    """The score out of its parts, by the formula of the guide."""
    weights, parts = shipped_weights(), match.parts
    assert parts.scorer == weights.version
    standing = (parts.cosine - parts.background_mean) / parts.background_deviation
    assert parts.standing == pytest.approx(standing)
    log_odds = (
        weights.bias
        + weights.standing * standing
        + weights.contrast * (parts.cosine - parts.usual_cosine)
        + weights.surplus * (parts.coverage - parts.expected_coverage)
    )
    return 1 / (1 + math.exp(-log_odds))


async def test_the_default_model_finds_what_is_meant(api: Api) -> None:
    await api.publish(
        event(
            "api_config",
            b'{"base_url": "https://api.example.com", "timeout": 30}',
            description="API endpoint and timeouts",
        ),
        event("zipfile", description="Read and write ZIP archives"),
        event("holidays", b'["2026-12-24"]', description="Days on which the office is closed"),
    )
    answer = await api.register("checkout", "API configuration and endpoints", "zip files")
    assert sorted(keys(answer)) == ["api_config", "zipfile"]
    for datum in answer.data:
        (match,) = datum.matches
        assert match.need == answer.agent.needs[match.need_index].text
        assert answer.agent.threshold <= match.score <= 1
        assert recomputed(match) == pytest.approx(match.score, abs=1e-9)
        assert match.parts.background_passages == 0
        assert match.parts.background_sequence == "0"
        assert match.parts.threshold == answer.agent.threshold
        assert match.parts.model.startswith("all-MiniLM")


async def test_the_answer_holds_the_data_whole_and_best_first(word_api: Api) -> None:
    published = await word_api.publish(
        event("alpha", b"1", metadata={"m": "x"}),
        event("beta"),
        event("alpha.beta"),
        event("gamma"),
        event("alpha", b"2", metadata={"m": "y"}),
    )
    answer = await word_api.register(
        "a", "alpha", "alpha beta gamma", "nothing like it", threshold=0.02
    )
    found: dict[int, list[str]] = {}
    for datum in answer.data:
        for match in datum.matches:
            found.setdefault(match.need_index, []).append(datum.event.data_key)
    assert sorted(found[0]) == ["alpha", "alpha.beta"]
    assert sorted(found[1]) == ["alpha", "alpha.beta", "beta", "gamma"]
    best = [max(m.score for m in datum.matches) for datum in answer.data]
    assert best == sorted(best, reverse=True)
    for datum in answer.data:
        scores = [m.score for m in datum.matches]
        assert scores == sorted(scores, reverse=True)
        assert not datum.payload_omitted
    log = {e.sequence: e for e in await word_api.log()}
    assert [d.event for d in answer.data] == [log[d.event.sequence] for d in answer.data]
    assert answer.data[0].event.sequence == published[4]
    assert order(answer.sequence) > order(published[-1])


async def test_only_live_data_are_returned_each_as_it_is_now(word_api: Api) -> None:
    await word_api.publish(event("alpha.one"), event("alpha.two"), event("alpha.three"))
    await word_api.publish(event("alpha.one", b"", tombstone=True))
    await word_api.publish(event("alpha.two", b'{"other": "words"}', description="of what it is"))
    await word_api.publish(event("alpha.one", b'"back"'))
    await word_api.publish(event("alpha.three", b"", tombstone=True))
    answer = await word_api.register("a", "alpha one", "words")
    found = {d.event.data_key: d.event.revision for d in answer.data}
    assert found == {"alpha.one": 3, "alpha.two": 2}


async def test_data_published_after_the_index_was_built_are_in_the_next_answer(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words)
    async with Api.of(server) as api:
        await api.publish(event("alpha.one"))
        assert keys(await api.register("a", "alpha")) == ["alpha.one"]
        await api.publish(event("alpha.two"))
        await api.publish(event("alpha.one", b"", tombstone=True))
        assert keys(await api.register("b", "alpha")) == ["alpha.two"]
        await api.publish(event("other", b'"alpha"'))
        await api.publish(event("other", b'"beta"'))
        await api.publish(event("alpha.two", b"", tombstone=True))
        assert keys(await api.register("c", "alpha")) == []


async def test_at_most_so_many_for_each_need(word_api: Api) -> None:
    await word_api.publish(*(event(f"alpha.{i}") for i in range(20)))
    await word_api.publish(*(event(f"beta.{i}") for i in range(20)))
    answer = await word_api.register("a", "alpha", "beta", max_matches=3)
    assert sorted(keys(answer)) == [f"alpha.{i}" for i in (0, 1, 10)] + [
        f"beta.{i}" for i in (0, 1, 10)
    ]
    assert len(keys(await word_api.register("b", "alpha"))) == 10
    assert answer.agent.max_matches == 3


async def test_only_what_reaches_the_threshold(word_api: Api) -> None:
    await word_api.publish(event("alpha"), event("alpha.beta"), event("alpha.beta.gamma"))
    every = await word_api.register("a", "alpha", threshold=1e-6)
    scores = {d.event.data_key: d.matches[0].score for d in every.data}
    assert list(scores) == ["alpha", "alpha.beta", "alpha.beta.gamma"]
    for threshold in (*scores.values(), 0.01, 0.5, 1.0):
        answer = await word_api.register("b", "alpha", threshold=threshold)
        assert keys(answer) == [key for key, score in scores.items() if score >= threshold]


async def test_an_answer_that_grows_too_large_leaves_payloads_out(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, limits=Limits(answer_bytes=50_000))
    async with Api.of(server) as api:
        for i in range(8):
            await api.publish(event(f"alpha.{'abcdefgh'[i]}", b'["%s"]' % (b"1" * 10_000)))
        answer = await api.register("a", "alpha")
        assert len(answer.data) == 8
        omitted = [d.payload_omitted for d in answer.data]
        assert omitted == sorted(omitted)
        assert omitted.count(True) >= 3
        for datum in answer.data:
            assert bool(datum.event.payload) is not datum.payload_omitted


async def test_a_registration_is_kept_as_it_was_made(word_api: Api) -> None:
    answer = await word_api.register("a", "one need", "another", threshold=0.25, max_matches=7)
    agent = await get(word_api)
    assert agent == answer.agent
    assert texts(agent) == ["one need", "another"]
    assert (agent.threshold, agent.max_matches) == (0.25, 7)
    assert agent.registered_time == agent.updated_time
    assert agent.acknowledged_sequence == answer.sequence


async def test_what_is_left_open_has_the_documented_default(word_server: Server) -> None:
    async with Api.of(word_server) as api:
        agent = (await api.register("a", "need")).agent
    assert agent.threshold == word_server.settings.match_threshold
    assert agent.max_matches == 10


async def test_registering_again_replaces_the_registration_and_keeps_the_cursor(
    word_api: Api,
) -> None:
    first = await word_api.register("a", "one", threshold=0.5)
    (published,) = await word_api.publish(event("one"))
    await asyncio.sleep(0.005)
    again = await word_api.register("a", "two")
    assert texts(again.agent) == ["two"]
    assert again.agent.threshold != 0.5
    assert again.agent.registered_time == first.agent.registered_time
    assert again.agent.updated_time.ToNanoseconds() > first.agent.updated_time.ToNanoseconds()
    assert again.agent.acknowledged_sequence == first.sequence
    assert order(again.sequence) > order(published)


async def test_last_seen_sets_the_cursor(word_api: Api) -> None:
    sequences = [(await word_api.publish(event("one")))[0] for _ in range(3)]
    for seen, rest in (("0", sequences), (sequences[1], sequences[2:])):
        answer = await word_api.register("a", "one", last_seen_sequence=seen)
        assert order(answer.agent.acknowledged_sequence) == order(seen)
        by_cursor = await word_api.listen("a", cursor=answer.cursor).live()
        by_default = await word_api.listen("a").live()
        assert by_cursor.sequences == by_default.sequences == rest
        await by_cursor.cancel()
        await by_default.cancel()


async def test_an_agent_misses_nothing_between_its_registration_and_its_stream(
    word_server: Server,
) -> None:
    async with Api.of(word_server) as writer, Api.of(word_server) as api:
        writing = True

        async def write() -> list[str]:
            sequences: list[str] = []
            while writing:
                sequences += await writer.publish(event(f"alpha.{len(sequences)}"))
            return sequences

        written = asyncio.create_task(write())
        for round_ in range(10):
            answer = await api.register(f"a{round_}", "alpha", max_matches=100)
            stream = await api.listen(f"a{round_}", cursor=answer.cursor).live()
            await stream.count(5)
            # First all that there was when it was registered, then everything that followed.
            assert all(order(d.event.sequence) <= order(answer.sequence) for d in answer.data)
            log = [e.sequence for e in await api.log() if e.data_key]
            assert stream.sequences == log[: len(stream.sequences)]
            await stream.cancel()
        writing = False
        await written


async def test_an_update_changes_what_it_names(word_api: Api) -> None:
    await word_api.publish(event("one"), event("two"))
    first = await word_api.register("a", "one", threshold=0.3, max_matches=5)
    changed = await update(word_api, needs=asked("two"))
    assert keys(changed) == ["two"]
    assert (changed.agent.threshold, changed.agent.max_matches) == (0.3, 5)
    changed = await update(word_api, threshold=0.9)
    assert texts(changed.agent) == ["two"]
    assert changed.agent.threshold == 0.9
    changed = await update(word_api, max_matches=1)
    assert (changed.agent.threshold, changed.agent.max_matches) == (0.9, 1)
    assert changed.agent.registered_time == first.agent.registered_time
    assert changed.agent.acknowledged_sequence == first.agent.acknowledged_sequence
    assert changed.agent == await get(word_api)


async def test_an_unknown_agent_is_not_found(word_api: Api) -> None:
    await word_api.register("a", "need", project="other")
    calls = [
        get(word_api),
        update(word_api, needs=asked("x")),
        acknowledge(word_api, sequence="0"),
        word_api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a")),
        word_api.listen("a").to_end(),
    ]
    for call in calls:
        refused = await refusal(call)
        assert (refused.code, refused.reason) == NOT_FOUND
        assert refused.metadata == {"agent_id": "a"}


async def test_agents_are_listed_page_by_page(word_api: Api) -> None:
    names = [f"agent-{i:03}" for i in range(25)]
    for name in reversed(names):
        await word_api.register(name, "need")
    found: list[str] = []
    token = ""
    sizes = []
    while True:
        page = await word_api.agents.ListAgents(
            ListAgentsRequest(project=P, page_size=10, page_token=token)
        )
        found += [agent.agent_id for agent in page.agents]
        sizes.append(len(page.agents))
        token = page.next_page_token
        if not token:
            break
    assert (found, sizes) == (names, [10, 10, 5])
    whole = await word_api.agents.ListAgents(ListAgentsRequest(project=P))
    assert [a.agent_id for a in whole.agents] == names
    whole.agents[3].ClearField("progress")
    assert whole.agents[3] == await get(word_api, names[3])


async def test_registrations_are_told_in_the_log(word_api: Api) -> None:
    answer = await word_api.register("a", "one need")
    await update(word_api, needs=asked("another"))
    removed = await word_api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a"))
    log = await word_api.log()
    assert [e.event_type for e in log] == [
        "agent_registered",
        "agent_registered",
        "agent_unregistered",
    ]
    assert [json.loads(e.payload)["agent_id"] for e in log] == ["a"] * 3
    assert json.loads(log[1].payload)["needs"] == ["another"]
    assert log[0].sequence == answer.sequence
    assert log[2].sequence == removed.sequence
    assert not any(e.text_digest or e.data_key for e in log)


async def test_an_agent_that_was_removed_can_come_back_as_a_new_one(word_api: Api) -> None:
    await word_api.register("a", "one")
    await word_api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a"))
    await word_api.publish(event("one"))
    assert (await refusal(get(word_api))).reason == "AGENT_NOT_FOUND"
    again = await word_api.register("a", "one")
    assert again.agent.acknowledged_sequence == again.sequence


async def test_a_cursor_moves_forward_only(word_api: Api) -> None:
    start = (await word_api.register("a", "one")).sequence
    s = [(await word_api.publish(event("one")))[0] for _ in range(4)]
    stream = await word_api.listen("a").live()
    assert stream.sequences == s
    assert await acknowledge(word_api, sequence=s[1]) == s[1]
    assert await acknowledge(word_api, sequence=start) == s[1]
    assert await acknowledge(word_api, sequence="0") == s[1]
    assert await acknowledge(word_api, cursor=stream.cursor) == s[3]
    assert await acknowledge(word_api, sequence=s[2]) == s[3]
    assert (await get(word_api)).acknowledged_sequence == s[3]
    refused = await refusal(acknowledge(word_api, sequence=f"{order(s[3])[0] + 1}-0"))
    assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_IN_FUTURE")


async def test_registrations_and_cursors_survive_a_restart(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    first = await start_server(valkey.url, embedder=words)
    async with Api.of(first) as api:
        await api.register("a", "alpha", "beta", threshold=0.4, max_matches=3)
        s = [(await api.publish(event(f"alpha.{i}")))[0] for i in range(4)]
        await acknowledge(api, sequence=s[1])
        before = await get(api)
    await first.stop()
    second = await start_server(valkey.url, embedder=Words())
    async with Api.of(second) as api:
        assert await get(api) == before
        stream = await api.listen("a").live()
        assert stream.sequences == s[2:]
        fresh = await api.publish(event("beta.new"))
        assert (await stream.count(3)).sequences == s[2:] + fresh
        answer = await update(api, max_matches=9)
        assert len(answer.data) == 5


async def test_changes_at_the_same_time_all_count_or_are_refused(word_server: Server) -> None:
    async with Api.of(word_server) as one, Api.of(word_server) as two:
        await one.register("a", "need")

        async def change(api: Api, n: int) -> bool:
            try:
                await update(api, max_matches=n)
            except Exception as error:
                refused = await refusal(_raise(error))
                assert (refused.code, refused.reason) == ("ABORTED", "AGENT_CONFLICT")
                return False
            return True

        done = await asyncio.gather(*(change((one, two)[n % 2], n + 11) for n in range(20)))
        assert any(done)
        told = [
            json.loads(e.payload)["max_matches"]
            for e in await one.log()
            if e.event_type == "agent_registered"
        ][1:]
        assert sorted(told) == [n + 11 for n in range(20) if done[n]]
        assert (await get(one)).max_matches == told[-1]


async def _raise(error: BaseException) -> None:
    raise error


async def test_a_need_may_be_said_twice_and_by_several(word_api: Api) -> None:
    await word_api.publish(event("alpha"))
    answer = await word_api.register("a", "alpha", "beta", "alpha")
    (datum,) = answer.data
    assert sorted(m.need_index for m in datum.matches) == [0, 2]
    await word_api.register("b", "alpha")
    stream_a, stream_b = word_api.listen("a"), word_api.listen("b")
    await stream_a.live()
    await stream_b.live()
    await update(word_api, "b", needs=asked("gamma"))
    await stream_b.until(lambda s: "needs_changed" in s.kinds)
    await word_api.publish(event("alpha.again"))
    assert (await stream_a.count(2)).keys == ["alpha", "alpha.again"]
    await stream_b.quiet(0.2, "events")
    assert [*zip(stream_b.keys, stream_b.told, strict=True)] == [
        ("alpha", "MATCHED"),
        ("alpha", "LEFT"),
    ]


async def test_an_event_about_no_datum_is_no_datum(word_api: Api) -> None:
    await word_api.publish(own("sale"), event("sale.of.day"))
    assert keys(await word_api.register("a", "sale")) == ["sale.of.day"]

"""MatchService: questions, explanations, backtests, feedback; a change of the model."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from contex.v1 import event_pb2, project_service_pb2
from contex.v1.agent_service_pb2 import MinDelta, Need, RegisterAgentRequest
from contex.v1.match_service_pb2 import (
    AgentNeed,
    BacktestRequest,
    ExplainRequest,
    ExportFeedbackRequest,
    GetMatchingStatusRequest,
    MatchRequest,
    RecordFeedbackRequest,
)
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server

from tests.canaries import CANARY
from tests.conftest import StartServer
from tests.integration.support import (
    Api,
    P,
    UpdateAgentRequest,
    Words,
    after,
    event,
    eventually,
    order,
    texts,
)

MARKDOWN = b"# Runbook\n\n" + b"".join(
    b"## %s\n\n%s\n\n" % (title, (text + b" ") * 12)
    for title, text in (
        (b"Refunds", b"A refund is started in the back office and paid through Stripe."),
        (b"Outages", b"Promote the replica when the primary database does not answer."),
        (b"Releases", b"Every release is announced a day before, with its changelog."),
    )
)


async def match(api: Api, *questions: str, **fields: Any) -> Any:
    request = MatchRequest(project=P, questions=[Need(text=q) for q in questions], **fields)
    return await api.matches.Match(request)


async def explain(api: Api, **fields: Any) -> Any:
    return await api.matches.Explain(ExplainRequest(project=P, **fields))


async def backtest(api: Api, *needs: Need, **fields: Any) -> tuple[list[Any], Any]:
    """The events that it would have received, and the summary."""
    call = api.matches.Backtest(BacktestRequest(project=P, needs=needs, **fields))
    answers = [answer async for answer in call]
    assert answers[-2].HasField("progress")
    events = [e for a in answers if a.HasField("events") for e in a.events.events]
    return events, answers[-1].summary


def keys(answer: Any) -> list[str]:
    return [datum.event.data_key for datum in answer.data]


def why(matched: Any) -> list[tuple[int, float]]:
    return [(m.need_index, round(m.score, 6)) for m in matched.matches]


async def test_a_question_is_answered_with_the_passage(api: Api) -> None:
    await api.publish(
        event("runbook", MARKDOWN, content_type="text/markdown"),
        event("weather", b'{"city": "Oslo"}', description="Weather in Oslo"),
        event("blob", b"\xff\x00\xfe", content_type="application/octet-stream"),
    )
    answer = await match(api, "the primary database does not answer", "refund through Stripe")
    (datum,) = answer.data
    assert {m.need_index: m.path for m in datum.matches} == {
        0: "Runbook > Outages",
        1: "Runbook > Refunds",
    }
    assert all("replica" in m.passage for m in datum.matches if m.need_index == 0)
    assert [e.opaque for e in await api.log()] == [False, False, True]
    assert (await match(api, "the weather in Oslo", data_keys=["run*"])).data == []


async def test_words_are_found_where_no_spaces_divide_them(api: Api) -> None:
    await api.publish(
        event("a", description="北京市的天气预报每小时更新"),
        event("b", description="東京本店の商品価格表"),
        event("c", description="서울지점의 재고 목록"),
        event("d", description="ตารางเวลารถไฟของกรุงเทพ"),
    )
    for question, key in (("天气预报", "a"), ("価格", "b"), ("재고", "c"), ("เวลา", "d")):
        answer = await match(api, question)
        assert keys(answer) == [key]
        told = await explain(api, text=question, data_key=key)
        assert all(term.hit > 0 for term in told.terms)


async def test_a_question_about_the_past(word_api: Api) -> None:
    api = word_api
    s = [(await api.publish(event("k", b'"alpha"')))[0]]
    s += await api.publish(event("k", b'"beta"'))
    s += await api.publish(event("k", b"", tombstone=True), event("other", b'"alpha"'))
    now = await match(api, "alpha")
    assert (keys(now), now.sequence) == (["other"], s[3])
    for at, expected in zip(s, (["k"], [], [], ["other"]), strict=True):
        then = await match(api, "alpha", as_of=after(at))
        assert (keys(then), then.sequence) == (expected, at)
        if expected:
            assert then.data[0].event.sequence == at
    assert keys(await match(api, "alpha", as_of=event_pb2.Position(sequence="0"))) == []


async def test_questions_have_thresholds_and_bounds_of_their_own(word_api: Api) -> None:
    api = word_api
    await api.publish(*(event(f"alpha.{c}") for c in "abcdef"))
    request = MatchRequest(
        project=P,
        questions=[
            Need(text="alpha", max_matches=2),
            Need(text="alpha", exclude_data_keys=["*.a", "*.b", "*.c"]),
            Need(text="alphabet", threshold=1.0),
        ],
    )
    answer = await api.matches.Match(request)
    found: dict[int, list[str]] = {}
    for datum in answer.data:
        for m in datum.matches:
            found.setdefault(m.need_index, []).append(datum.event.data_key)
    assert found.keys() == {0, 1}
    assert len(found[0]) == 2
    assert set(found[1]) == {"alpha.d", "alpha.e", "alpha.f"}


async def test_an_explanation_adds_up_and_agrees(api: Api) -> None:
    published = await api.publish(
        event("stripe", b'{"provider": "Stripe"}', description="How we take card payments"),
        event("zipfile", description="Read and write ZIP archives"),
    )
    need = "which payment provider do we use"
    answer = await api.register("a", need)
    told = await explain(api, text=need, data_key="stripe")
    (datum,) = answer.data
    assert told.matched
    assert told.need_match.score == pytest.approx(datum.matches[0].score, abs=1e-12)
    assert told.need_match.parts.background_mean == datum.matches[0].parts.background_mean
    odds = sum(part.log_odds for part in told.contributions)
    assert told.need_match.score == pytest.approx(1 / (1 + math.exp(-odds)))
    assert [p.name for p in told.contributions] == ["bias", "standing", "contrast", "surplus"]
    assert (told.rank, told.data_count) == (1, 2)
    hits = {term.stem: term.hit for term in told.terms}
    assert hits["payment"] > 0
    assert hits["use"] == 0
    assert sum(term.hit for term in told.terms) == pytest.approx(told.need_match.parts.coverage)
    assert sum(term.weight for term in told.terms) == pytest.approx(1)
    by_event = await explain(
        api, agent_need=AgentNeed(agent_id="a", need_index=0), sequence=published[1]
    )
    assert not by_event.matched
    assert by_event.event.data_key == "zipfile"
    assert "does not match" in by_event.verdict
    assert by_event.need_match.score < by_event.need_match.parts.threshold


async def test_a_backtest_finds_what_was_delivered(word_api: Api) -> None:
    api = word_api
    await api.publish(*(event(f"{word}.old") for word in ("alpha", "beta", "gamma")))
    registered = await api.register("a", "alpha beta", "gamma", threshold=0.3)
    stream = await api.listen("a").live()
    for n in range(30):
        word = ("alpha", "beta", "gamma", "delta")[n % 4]
        text = f'"{word} {"beta" if n % 3 else "words"}"'
        await api.publish(event(f"k{n % 7}", text.encode(), tombstone=False))
        if n % 10 == 9:
            await api.publish(event(f"k{n % 7}", b"", tombstone=True))
    (end,) = await api.publish(event("end", b'"gamma alpha beta"'))
    await stream.until(lambda s: end in s.sequences)
    needs = [Need(text="alpha beta"), Need(text="gamma")]
    events, summary = await backtest(api, *needs, threshold=0.3, since=after(registered.sequence))
    # A backtest has no notion of what an agent holds: it finds what meets the needs.
    found = {e.event.sequence: why(e) for e in events}
    start = order(registered.sequence)
    delivered = {
        m.event.sequence: why(m)
        for m, told in zip(stream.matched, stream.told, strict=True)
        if told in ("MATCHED", "UPDATED") and order(m.event.sequence) > start
    }
    assert delivered.items() <= found.items()
    assert {e.event.event_type for e in events if e.event.sequence not in delivered} <= {
        "data_deleted"
    }
    assert summary.events_matched == len(events)
    assert summary.events_judged == 34
    for index, need in enumerate(summary.needs):
        mine = [m for e in events for m in e.matches if m.need_index == index]
        assert need.events_matched == len(mine)
        steps = list(need.events_at_threshold)
        assert len(steps) == 19
        assert steps == sorted(steps, reverse=True)
        assert steps[5] == need.events_matched  # 0.30
        assert need.threshold == pytest.approx(0.3)
    none, brief = await backtest(api, *needs, summary_only=True, since=after(end))
    assert (none, brief.events_judged) == ([], 0)


async def test_updates_that_change_nothing_are_held_back(word_api: Api) -> None:
    api = word_api
    request = RegisterAgentRequest(
        project=P,
        agent_id="a",
        needs=[Need(text="alpha")],
        min_delta=MinDelta(json_pointers=["/price"]),
    )
    registered = await api.agents.RegisterAgent(request)
    assert list(registered.agent.min_delta.json_pointers) == ["/price"]
    stream = await api.listen("a").live()
    s = []
    for price, stock in ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3)):
        body = json.dumps({"alpha": "x", "price": price, "stock": stock}).encode()
        s += await api.publish(event("k", body))
    s += await api.publish(event("k", b"", tombstone=True))
    await stream.until(lambda st: s[-1] in st.sequences)
    wanted = [s[0], s[2], s[4], s[5]]
    assert stream.sequences == wanted
    again = await api.listen("a", after_sequence=registered.sequence).live()
    assert again.sequences == wanted
    events, summary = await backtest(
        api,
        Need(text="alpha"),
        since=after(registered.sequence),
        min_delta=MinDelta(json_pointers=["/price"]),
    )
    assert [e.event.sequence for e in events] == wanted
    assert summary.updates_held_back == 2
    await api.agents.UpdateAgent(UpdateAgentRequest(project=P, agent_id="a", min_delta=MinDelta()))
    s += await api.publish(event("k", b'{"alpha": "x", "price": 3}'))
    s += await api.publish(event("k", b'{"alpha": "x", "price": 3}'))
    await stream.until(lambda st: s[-1] in st.sequences)
    assert stream.sequences == [*wanted, *s[-2:]]


async def test_what_is_written_out_says_what_the_agent_is_to_drop(word_api: Api) -> None:
    api = word_api
    await api.register("a", "alpha")
    stream = await api.listen("a", context_format=event_pb2.CONTEXT_FORMAT_JSON).live()
    await api.publish(event("k1", b'"alpha"'), event("k2", b'"alpha"'), event("k3", b'"alpha"'))
    await api.publish(event("k1", b'"omega"'), event("k2", b"", tombstone=True))
    await stream.count(5)
    erase = project_service_pb2.EraseDataRequest(
        project=P, data_key="k3", request_id="r", reason="a test"
    )
    await api.projects.EraseData(erase)
    await stream.count(6)
    assert [json.loads(m.context) for m in stream.matched] == [
        *({"data_key": f"k{n}", "data": "alpha"} for n in (1, 2, 3)),
        {"data_key": "k1", "left": True},
        {"data_key": "k2", "deleted": True},
        {"data_key": "k3", "erased": True},
    ]
    assert stream.matched[3].event.payload == b'"omega"'
    await stream.cancel()


async def test_changed_needs_bring_what_newly_matches_first(word_api: Api) -> None:
    api = word_api
    await api.publish(event("alpha.one"), event("beta.one"), event("beta.two"))
    registered = await api.register("a", "alpha")
    stream = await api.listen("a", context_format=event_pb2.CONTEXT_FORMAT_JSON).live()
    await api.agents.UpdateAgent(
        UpdateAgentRequest(project=P, agent_id="a", needs=[Need(text="alpha"), Need(text="beta")])
    )
    (late,) = await api.publish(event("beta.three"))
    await stream.until(lambda s: late in s.sequences)
    kinds = [kind for kind in stream.kinds if kind in ("needs_changed", "events")]
    assert kinds == ["events", "needs_changed", "events", "events"]
    (change,) = [m.needs_changed for m in stream.messages if m.HasField("needs_changed")]
    assert texts(change.agent) == ["alpha", "beta"]
    assert stream.keys == ["alpha.one", "beta.one", "beta.two", "beta.three"]
    assert stream.told == ["MATCHED"] * 4
    assert [m.matches[0].need_index for m in stream.matched] == [0, 1, 1, 1]
    assert json.loads(stream.matched[1].context)["data_key"] == "beta.one"
    assert json.loads(stream.matched[3].context) == {"data_key": "beta.three", "data": int(CANARY)}
    # Who was away reads the same in its inbox.
    away = await api.listen("a", cursor=registered.cursor).live()
    (change,) = [m.needs_changed for m in away.messages if m.HasField("needs_changed")]
    assert texts(change.agent) == ["alpha", "beta"]
    assert away.sequences == stream.sequences
    assert away.told == stream.told


async def test_the_answer_keeps_to_its_budget_and_names_the_rest(word_api: Api) -> None:
    api = word_api
    for n, size in enumerate((40, 4_000, 80, 60)):
        await api.publish(event(f"alpha.{'abcd'[n]}", b'["%s"]' % (b"1" * size)))
    request = RegisterAgentRequest(
        project=P,
        agent_id="a",
        needs=[Need(text="alpha")],
        max_context_tokens=200,
        context_format=event_pb2.CONTEXT_FORMAT_JSON,
    )
    answer = await api.agents.RegisterAgent(request)
    context = answer.context
    assert sorted(keys(answer)) == ["alpha.a", "alpha.c", "alpha.d"]
    assert [datum["data_key"] for datum in json.loads(context.text)] == keys(answer)
    (omitted,) = context.omitted
    assert omitted.data_key == "alpha.b"
    assert omitted.tokens > 1_300
    assert omitted.score > 0
    assert context.token_counter == "estimate"
    assert context.tokens == -(-len(context.text) // 3) <= 200


async def test_what_fits_by_no_means_takes_no_room_from_what_does(word_api: Api) -> None:
    api = word_api
    control = b"\x01" * (1024 * 1024 - 100)
    for name, payload in (("best", control), ("large", b"x" * 700_000), ("tiny", b"x")):
        words = "alpha" if name == "best" else "alpha beta"
        await api.publish(event(name, payload, description=words, content_type="text/plain"))
    form = event_pb2.CONTEXT_FORMAT_YAML
    answer = await match(api, "alpha", max_context_tokens=2_000_000, context_format=form)
    assert sorted(keys(answer)) == ["large", "tiny"]
    assert not any(datum.payload_omitted for datum in answer.data)
    (omitted,) = answer.context.omitted
    assert omitted.data_key == "best"
    assert omitted.tokens > len(control)  # as it would be written: \\x01


async def test_feedback_is_kept_once_and_exported(word_api: Api) -> None:
    api = word_api
    s = await api.publish(event("alpha.one"), event("alpha.two"))
    await api.register("a", "beta", "alpha")
    for sequence, useful in ((s[0], True), (s[1], False)):
        request = RecordFeedbackRequest(
            project=P,
            agent_id="a",
            sequence=sequence,
            need_index=1,
            useful=useful,
            comment="a remark",
            request_id=f"r-{sequence}",
        )
        first = await api.matches.RecordFeedback(request)
        assert (await api.matches.RecordFeedback(request)).sequence == first.sequence
    call = api.matches.ExportFeedback(ExportFeedbackRequest(project=P))
    judged = [judgement async for judgement in call]
    assert [(j.need, j.useful, j.event.sequence) for j in judged] == [
        ("alpha", True, s[0]),
        ("alpha", False, s[1]),
    ]
    assert all(j.need_match.score > 0.5 and j.need_match.need_index == 1 for j in judged)
    assert [e.event_type for e in await api.log()].count("match_feedback") == 2


class OtherWords(Words):
    """Another model: the same similarities, at other places."""

    model_id = "words@2"

    @classmethod
    def place(cls, word: str) -> int:
        return (super().place(word) + 7) % cls.dimension


async def status(api: Api) -> Any:
    return await api.matches.GetMatchingStatus(GetMatchingStatusRequest(project=P))


async def test_another_model_takes_over_without_a_gap(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    first = await start_server(valkey.url, embedder=Words())
    async with Api.of(first) as api:
        await api.publish(*(event(f"alpha.{n}") for n in "abcdefgh"), event("beta"))
        await api.register("a", "alpha")
        assert (await status(api)).model == "words@1#2"
    await first.stop()

    new = OtherWords()
    new.down = True
    server: Server = await start_server(valkey.url, embedder=new, previous=(Words(),))
    async with Api.of(server) as api:
        stream = await api.listen("a").live()
        (before,) = await api.publish(event("alpha.before"))
        await stream.until(lambda s: before in s.sequences)
        told = await status(api)
        assert (told.model, told.configured_model) == ("words@1#2", "words@2#2")
        assert told.texts_total >= 10 > told.texts_embedded == 0
        assert stream.matched[-1].matches[0].parts.model == "words@1#2"

        new.down = False
        await eventually_changed(api)
        (later,) = await api.publish(event("alpha.later"))
        await stream.until(lambda s: later in s.sequences)
        assert stream.matched[-1].matches[0].parts.model == "words@2#2"
        assert stream.keys[-2:] == ["alpha.before", "alpha.later"]
        assert len(stream.keys) == 10
        told = await status(api)
        assert told.texts_total == 0
        log = await api.log()
        (change,) = [e for e in log if e.event_type == "matching_model_changed"]
        assert json.loads(change.payload) == {"model": "words@2#2", "previous": "words@1#2"}
        assert len(keys(await api.register("b", "alpha", max_matches=20))) == 10
    # Nothing was embedded twice, and nothing is after a restart.
    await server.stop()
    again = OtherWords()
    server = await start_server(valkey.url, embedder=again)
    async with Api.of(server) as api:
        assert len(keys(await api.register("b", "alpha", max_matches=20))) == 10
        assert not [text for text in again.embedded if "alpha" in text]


async def test_a_project_that_another_server_took_back_is_moved_again(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    """What this server has cached of the new model, the other one has dropped from the store."""
    server = await start_server(valkey.url, embedder=OtherWords(), previous=(Words(),))
    async with Api.of(server) as api:
        await api.publish(*(event(f"alpha.{n}") for n in "abcdefgh"))
        await api.register("a", "alpha")
        assert (await status(api)).model == "words@2#2"
        former = await start_server(valkey.url, embedder=Words())
        async with Api.of(former) as other:
            await match(other, "alpha")
            # While both are there, each may move it to its own.
            await eventually(lambda: models_moved_to(other))
        await former.stop()
        await match(api, "alpha")
        await eventually_changed(api)
        assert len(keys(await match(api, "alpha"))) == 8
        moved = await models_moved_to(api)
        assert moved == ["words@1#2", "words@2#2"] * (len(moved) // 2)


async def models_moved_to(api: Api) -> list[str]:
    log = await api.log()
    changes = [e for e in log if e.event_type == "matching_model_changed"]
    return [json.loads(change.payload)["model"] for change in changes]


async def eventually_changed(api: Api, model: str = "words@2#2") -> None:
    for _ in range(200):
        if (await status(api)).model == model:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the model was not changed")


async def test_an_index_that_nobody_uses_is_dropped(word_server: Server, word_api: Api) -> None:
    await word_api.publish(event("alpha"))
    await match(word_api, "alpha")
    await eventually(lambda: len(word_server.rooms.match.pool) == 0)
    assert keys(await match(word_api, "alpha")) == ["alpha"]

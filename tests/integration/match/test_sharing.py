"""What projects share in matching: threads, in turns, and memory, within a bound."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest
from contex.v1.agent_service_pb2 import Need
from contex.v1.event_pb2 import Position
from contex.v1.match_service_pb2 import BacktestRequest, GetMatchingStatusRequest, MatchRequest
from contex_server.log.embedded import EmbeddedValkey
from contex_server.match import past
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import Api, P, Words, event, eventually, refusal


async def match(api: Api, project: str) -> Any:
    return await api.matches.Match(MatchRequest(project=project, questions=[Need(text="red fox")]))


def backtest(api: Api, project: str) -> Any:
    request = BacktestRequest(project=project, needs=[Need(text="red fox")])
    return api.matches.Backtest(request)


async def test_backtests_do_not_hold_up_another_projects_deliveries(
    word_server: Server, word_api: Api
) -> None:
    await word_api.publish(event(description="a red fox"), project="scanned")
    await word_api.register("a", "red fox", project="live")
    stream = await word_api.listen("a", "live").live()
    engine, go = word_server.rooms.match.pool.engine, threading.Event()
    holding = asyncio.create_task(engine.scans.scan("scanned").work(go.wait))
    calls = [backtest(word_api, "scanned") for _ in range(4)]
    try:
        await eventually(lambda: engine.scans.waiting == 4)
        await word_api.publish(event(description="a red fox"), project="live")
        await stream.count(1)
        calls[0].cancel()
        await eventually(lambda: engine.scans.waiting == 3)
    finally:
        go.set()
    await holding
    for call in calls[1:]:
        assert [answer async for answer in call][-1].summary.events_matched == 1


async def test_matchers_take_what_the_setting_allows(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words(), index_bytes=1)
    pool = server.rooms.match.pool
    async with Api.of(server) as api:
        for project in ("used", "b", "c", "d"):
            await api.publish(event(description="a red fox"), project=project)
        async with pool.matcher("used"):
            for project in ("b", "c", "d", "d"):
                assert len((await match(api, project)).data) == 1
            # What is in use stays, and what was used last.
            open_now = [p for p in ("used", "b", "c", "d") if pool.open_matcher(p)]
            assert open_now == ["used", "d"]
            totals = server.counts.totals()
            assert totals.counters["contex_matchers_evicted"] == 2
            assert totals.gauges["contex_matchers"] == 2
            assert totals.gauges["contex_matcher_bytes"] == pool.nbytes > 0
            assert len((await match(api, "b")).data) == 1


async def test_indexes_of_the_past_share_bytes(
    word_server: Server, word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "_WAIT_S", 0.2)
    budget = word_server.rooms.match.past.small
    first = await word_api.publish(event(description="a red fox"), event("k2", description="a fox"))
    question = MatchRequest(
        project=P, questions=[Need(text="red fox")], as_of=Position(sequence=first[0])
    )
    share = await budget.take(budget.total)
    for call in (backtest(word_api, P).read(), word_api.matches.Match(question)):
        refused = await refusal(call)
        assert (refused.reason, refused.retry_after_ms) == ("OVERLOADED", 5_000)
    monkeypatch.setattr(past, "_WAIT_S", 60)
    waiting = asyncio.create_task(backtest(word_api, P).read())
    await eventually(lambda: budget.waiting)
    share.give_back()
    await waiting
    assert len((await word_api.matches.Match(question)).data) == 1
    await eventually(lambda: not budget.held)


async def test_a_matcher_of_little_data_takes_little(word_server: Server, word_api: Api) -> None:
    pool, projects = word_server.rooms.match.pool, ("a", "b")
    async with pool.matcher("a") as one, pool.matcher("b") as other:
        for project in projects:
            await word_api.publish(event(description="a red fox"), project=project)
            await match(word_api, project)
        assert one.index is not None
        assert other.index is not None
        assert one.index.rule is other.index.rule
        assert one.nbytes < 256 * 1024
    assert pool.nbytes == one.nbytes + other.nbytes


async def test_status_tells_of_an_index_that_is_being_built(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    words.down = True
    server = await start_server(valkey.url, embedder=words)
    async with Api.of(server) as api:
        for start in range(0, 500, 100):
            keys = [event(f"k{n}", description="a red fox") for n in range(start, start + 100)]
            await api.publish(*keys)
        words.down, words.delay_s = False, 0.3
        answer = asyncio.create_task(api.register("a", "red fox"))
        seen, totals = set[int](), set[int]()

        async def grows() -> bool:
            request = GetMatchingStatusRequest(project="shop")
            status = await api.matches.GetMatchingStatus(request, timeout=1)
            seen.add(status.data_indexed)
            totals.add(status.data_total)
            return status.data_indexed == 500 and not status.data_total

        await eventually(grows)
        assert len((await answer).data) > 0
        assert len(seen) > 2
        assert totals == {0, 500}


async def publish_without_encodings(api: Api, words: Words, count: int) -> None:
    """Publishes red foxes while the model is down."""
    words.down = True
    for start in range(0, count, 100):
        await api.publish(
            *(event(f"k{n}", description="a red fox") for n in range(start, start + 100))
        )
    words.down = False


async def test_an_index_that_is_being_built_is_not_idle(
    word_server: Server, word_api: Api, words: Words
) -> None:
    await publish_without_encodings(word_api, words, 1_000)
    words.delay_s = 0.1  # Longer in all than what is idle stays.
    request = MatchRequest(project=P, questions=[Need(text="red fox")])
    with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
        await word_api.matches.Match(request, timeout=0.15)
    pool = word_server.rooms.match.pool
    matcher = pool.open_matcher(P)
    assert matcher is not None
    assert matcher.is_loading
    await matcher.started()
    assert matcher.index is not None
    assert len(matcher.index.data) == 1_000
    await eventually(lambda: not len(pool))


async def test_an_index_is_built_on_from_what_an_attempt_has_embedded(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    def foxes() -> set[str]:
        return {text for text in words.embedded if "red fox" in text}

    server = await start_server(valkey.url, embedder=words)
    async with Api.of(server) as api:
        await publish_without_encodings(api, words, 1_000)
        words.embedded.clear()
        words.delay_s = 0.1
        answer = asyncio.create_task(match(api, P))
        await eventually(lambda: len(foxes()) >= 800)
        answer.cancel()
    await server.stop()
    embedded = foxes()
    words.embedded.clear()
    server = await start_server(valkey.url, embedder=words)
    async with Api.of(server) as api:
        await match(api, P)
        status = await api.matches.GetMatchingStatus(GetMatchingStatusRequest(project=P))
        assert status.data_indexed == 1_000
    again = embedded & foxes()
    assert len(again) < len(embedded) - 200  # What was under way when the server stopped.

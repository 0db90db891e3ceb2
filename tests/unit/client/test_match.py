"""Questions about matching, asked by both clients of a fake service over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from contex import (
    AsyncClient,
    BacktestProgress,
    BacktestSummary,
    Client,
    ContexError,
    ContextFormat,
    DataKeyNotFound,
    MatchedEvent,
    MinDelta,
    Need,
    Unavailable,
    events,
)
from contex.v1 import event_pb2

from tests.unit.client import fakes
from tests.unit.client.fakes import FakeEvents, FakeMatching, serving
from tests.unit.client.recording import RecordingChannel


@pytest.fixture
async def matching() -> FakeMatching:
    return FakeMatching()


@pytest.fixture
async def port(matching: FakeMatching) -> AsyncIterator[int]:
    async with serving(FakeEvents(), matching=matching) as port:
        yield port


@pytest.fixture
async def client(port: int) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{port}", timeout=5.0) as client:
        yield client


async def test_match(client: AsyncClient, matching: FakeMatching) -> None:
    answer = await client.match(
        "p",
        ["payments?", Need("timeouts?", threshold=0.6)],
        data_keys=["api_*"],
        as_of=datetime(2025, 1, 1, tzinfo=UTC),
        max_context_tokens=100,
        context_format=ContextFormat.MARKDOWN,
    )
    assert [*answer.by_need()] == ["payments?", "timeouts?"]
    assert answer.by_need()["timeouts?"][0][0].event.sequence == "2-0"
    assert answer.sequence == "9-0"
    assert answer.context is not None
    assert (answer.context.format, answer.context.text) == (ContextFormat.MARKDOWN, "written out")
    request: Any = matching.requests[0]
    assert [need.text for need in request.questions] == ["payments?", "timeouts?"]
    assert request.questions[1].threshold == 0.6
    assert request.as_of.time.seconds == 1735689600
    assert (request.max_context_tokens, list(request.data_keys)) == (100, ["api_*"])
    assert (await client.match("p", ["x"])).context is None


async def test_explain(client: AsyncClient, matching: FakeMatching) -> None:
    explanation = await client.explain("p", need="payments", data_key="k", threshold=0.5)
    assert (explanation.log_odds, explanation.need_match.standing) == (1.0, 1.5)
    assert explanation.terms[0].stem == "payment"
    assert explanation.passages[0].path == "/a"
    await client.explain("p", agent_id="a", need_index=2, sequence="1-0", as_of="5-0")
    request: Any = matching.requests[1]
    assert (request.agent_need.agent_id, request.agent_need.need_index) == ("a", 2)
    assert request.agent_need.need == ""
    assert (request.sequence, request.as_of.sequence) == ("1-0", "5-0")
    await client.explain("p", agent_id="a", need_index=2, need="timeouts?", data_key="k")
    request = matching.requests[2]
    assert (request.agent_need.need_index, request.agent_need.need) == (2, "timeouts?")
    with pytest.raises(DataKeyNotFound) as caught:
        await client.explain("p", need="x", data_key="missing")
    assert caught.value.data_key == "missing"


async def test_a_backtest_streams_and_sums_up(client: AsyncClient, matching: FakeMatching) -> None:
    async with client.backtest("p", ["need"], since="1-0", min_delta=MinDelta(True)) as items:
        found = [item async for item in items]
    assert [type(item) for item in found] == [
        BacktestProgress,
        MatchedEvent,
        MatchedEvent,
        BacktestSummary,
    ]
    assert found[-1].needs[0].events_at_threshold[9:11] == (2, 0)
    request: Any = matching.requests[0]
    assert (request.since.sequence, request.min_delta.payload_changed) == ("1-0", True)
    assert [item async for item in items] == []


async def test_reads_are_tried_again_and_streams_only_before_they_begin(
    client: AsyncClient, matching: FakeMatching
) -> None:
    matching.unavailable = 2
    assert (await client.matching_status("p")).is_embedding_anew
    assert len(matching.requests) == 3
    matching.unavailable = 2
    assert len([item async for item in client.backtest("p", ["need"])]) == 4
    matching.break_after = 2
    items = client.backtest("p", ["need"])
    found = []
    with pytest.raises(Unavailable):
        async for item in items:
            found.append(item)
    assert len(found) == 3
    assert [item async for item in items] == []
    assert len(matching.requests) == 7


async def test_feedback(client: AsyncClient, matching: FakeMatching) -> None:
    matching.unavailable = 1
    assert await client.record_feedback("p", "a", "1-0", useful=False, comment="no") == "10-0"
    first, second = matching.requests
    assert first == second
    exported = [feedback async for feedback in client.export_feedback("p", until="20-0")]
    assert [(f.sequence, f.useful) for f in exported] == [
        ("11-0", True),
        ("12-0", False),
        ("13-0", True),
    ]
    assert exported[0].time == datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)
    assert exported[0].event.sequence == "1-0"


async def test_an_answer_stream_ends_early(client: AsyncClient) -> None:
    async with client.export_feedback("p") as exported:
        assert (await anext(exported)).sequence == "11-0"
    assert [item async for item in exported] == []
    left_open = client.export_feedback("p")
    await anext(left_open)
    await client.close()
    assert [item async for item in left_open] == []


async def test_a_cancelled_answer_stream_does_not_seem_complete(client: AsyncClient) -> None:
    class Slow(FakeMatching):
        async def ExportFeedback(self, request, context):
            await asyncio.sleep(60)
            yield

    async with (
        serving(FakeEvents(), matching=Slow()) as port,
        AsyncClient(f"127.0.0.1:{port}") as slow,
    ):
        exported = slow.export_feedback("p")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(exported), 0.1)
        with pytest.raises(ContexError, match="cancelled"):
            await anext(exported)
        reading = asyncio.create_task(anext(slow.export_feedback("p"), "ended"))
        await asyncio.sleep(0.1)
        await slow.close()
        assert await reading == "ended"


async def test_the_blocking_client(port: int, matching: FakeMatching) -> None:
    def use() -> None:
        with Client(f"127.0.0.1:{port}", timeout=5.0) as client:
            assert client.match("p", ["a"]).data[0].matches[0].need == "a"
            assert client.explain("p", need="a", data_key="k").rank == 2
            assert client.record_feedback("p", "a", "1-0", useful=True, request_id="r") == "10-0"
            assert client.matching_status("p").texts_total == 4
            with client.backtest("p", ["a"], summary_only=True) as items:
                assert len(list(items)) == 4
                assert list(items) == []
            exported = client.export_feedback("p")
            assert next(exported).sequence == "11-0"
            client.close()
            assert list(exported) == []

    await asyncio.to_thread(use)
    request: Any = matching.requests[2]
    assert (request.request_id, request.useful) == ("r", True)


async def test_a_break_is_raised_by_the_blocking_client(port: int, matching: FakeMatching) -> None:
    def use() -> None:
        with Client(f"127.0.0.1:{port}", timeout=5.0) as client, pytest.raises(Unavailable):
            list(client.backtest("p", ["a"]))

    matching.break_after = 1
    await asyncio.to_thread(use)


@pytest.mark.parametrize(
    "given",
    [
        {"data_key": "k"},
        {"need": "n"},
        {"need": "n", "data_key": "k", "sequence": "1-0"},
    ],
)
def test_an_explanation_is_of_one_need_and_one_datum(
    recorder: Client, given: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        recorder.explain("p", **given)  # type: ignore[arg-type]


def test_feedback_is_about_the_best_match_unless_told(
    recorder: Client, recorded: RecordingChannel
) -> None:
    message = event_pb2.MatchedEvent(event=fakes.event(6))
    message.matches.add(need_index=3, need="three", score=0.9)
    message.matches.add(need_index=0, need="none", score=0.4)
    matched = events.matched_event(message)

    def asked(event: Any, **given: Any) -> tuple[str, int, str]:
        recorder.record_feedback("p", "a", event, **given, useful=True)
        request = recorded.request
        assert len(request.request_id) == 32
        return request.sequence, request.need_index, request.need

    assert asked(matched) == ("6-0", 3, "three")
    assert asked(matched, need_index=0) == ("6-0", 0, "none")
    assert asked(matched, need="none") == ("6-0", 0, "none")
    assert asked(matched, need_index=1) == ("6-0", 1, "")
    assert asked(matched, need_index=3, need="none") == ("6-0", 3, "none")
    assert asked(matched.event) == ("6-0", 0, "")
    assert asked("4-0", need_index=2, need="two") == ("4-0", 2, "two")

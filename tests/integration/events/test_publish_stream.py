"""PublishStream: one answer for each batch, in order; refusals; flow control; its end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from contex.v1 import event_pb2
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    Api,
    NewEvent,
    P,
    PublishStreamRequest,
    Refusal,
    Words,
    event,
    eventually,
    in_stream,
    own,
    refusal,
)

DURABILITIES = [
    event_pb2.DURABILITY_MEMORY,
    event_pb2.DURABILITY_FSYNC,
    event_pb2.DURABILITY_REPLICATED,
]


def batch(*events: NewEvent, request_id: str = "", **fields: Any) -> PublishStreamRequest:
    return in_stream(project=P, events=events, request_id=request_id, **fields)


async def send(api: Api, requests: Iterable[PublishStreamRequest]) -> list[Any]:
    """All requests, one after the other, and all the answers."""
    call = api.events.PublishStream(iter(requests), timeout=DEADLINE_S)
    return [answer async for answer in call]


async def test_each_batch_is_answered_in_order(api: Api) -> None:
    requests = [
        batch(*(event(f"k{i}", b"%d" % n) for n in range(1 + i % 7)), request_id=f"r{i}")
        for i in range(60)
    ]
    answers = await send(api, requests)
    assert [a.request_id for a in answers] == [r.publish.request_id for r in requests]
    assert [len(a.published.receipts) for a in answers] == [len(r.publish.events) for r in requests]
    receipts = [r.sequence for a in answers for r in a.published.receipts]
    assert [e.sequence for e in await api.log()] == receipts


async def test_a_refused_batch_does_not_stop_the_stream(api: Api) -> None:
    await api.publish(event("known"))
    requests = [
        batch(event("a"), request_id="0"),
        batch(event("b"), event("known", expected_revision=7), request_id="1"),
        batch(event("bad key "), request_id="2"),
        batch(event("c", b"{"), request_id="3"),
        batch(request_id="4"),
        batch(event("d", b'"' + b"x" * 2_000_000 + b'"'), request_id="5"),
        batch(event("e", event_type="data_deleted"), request_id="6"),
        batch(event("f"), request_id="7"),
    ]
    answers = await send(api, requests)
    assert [a.request_id for a in answers] == [str(i) for i in range(8)]
    assert [a.refused.reason for a in answers if a.WhichOneof("outcome") == "refused"] == [
        "REVISION_CONFLICT",
        "INVALID_FIELD",
        "PAYLOAD_MALFORMED",
        "INVALID_FIELD",
        "PAYLOAD_TOO_LARGE",
        "EVENT_TYPE_RESERVED",
    ]
    conflict = answers[1].refused
    assert conflict.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert dict(conflict.metadata) == {
        "data_key": "known",
        "expected_revision": "7",
        "actual_revision": "1",
        "actual_state": "present",
    }
    assert conflict.message
    assert conflict.retry_delay_ms == 0
    assert [e.data_key for e in await api.log()] == ["known", "a", "f"]


async def test_a_request_is_known_on_another_stream_and_to_publish(server: Server) -> None:
    async with Api.of(server) as one, Api.of(server) as two:
        requests = [batch(event(f"k{i}"), request_id=f"r{i}") for i in range(20)]
        first, second = await asyncio.gather(send(one, requests), send(two, requests))
        for a, b in zip(first, second, strict=True):
            assert sorted([a.published.duplicate, b.published.duplicate]) == [False, True]
            assert a.published.receipts == b.published.receipts
        assert await one.publish(event("other"), request_id="r3") == [
            first[3].published.receipts[0].sequence
        ]
        assert len(await one.log()) == 20


async def test_known_and_unknown_texts_keep_their_order(
    start_server: StartServer, valkey: Any, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, replication_timeout_ms=10)
    randomly = random.Random(1)
    async with Api.of(server) as api:
        await api.publish(event("known"))
        words.delay_s = 0.02
        # A known text needs no model, so its batch is ready before those in front of it.
        requests = [
            batch(
                event(
                    "known" if randomly.random() < 0.5 else f"new{'x' * i}",
                    b'{"n": %d}' % i,
                    metadata={"n": str(i)},
                ),
                request_id=str(i),
                durability=randomly.choice(DURABILITIES),
            )
            for i in range(80)
        ]
        answers = await send(api, requests)
        assert [a.request_id for a in answers] == [str(i) for i in range(80)]
        log = (await api.log())[1:]
        assert [int(e.metadata["n"]) for e in log] == list(range(80))
        assert [e.sequence for e in log] == [a.published.receipts[0].sequence for a in answers]


async def test_two_streams_at_once_each_keep_their_order(server: Server) -> None:
    async def write(name: str) -> list[str]:
        async with Api.of(server) as api:
            answers = await send(
                api, (batch(event(name), own(), durability=i % 3) for i in range(60))
            )
        return [a.published.receipts[0].sequence for a in answers]

    one, two = await asyncio.gather(write("one"), write("two"))
    async with Api.of(server) as api:
        log = await api.log()
        assert [e.sequence for e in log if e.data_key == "one"] == one
        assert [e.sequence for e in log if e.data_key == "two"] == two


async def test_who_does_not_read_the_answers_is_not_read_either(server: Server) -> None:
    # Without the probing of bandwidth the window of a stream stays at 64 KiB.
    async with Api.of(server, ("grpc.http2.bdp_probe", 0)) as api, Api.of(server) as other:
        await other.publish(event("first"))
        call = api.events.PublishStream()

        async def write() -> None:
            for i in range(160):
                await call.write(batch(*(own(f"t{i}") for _ in range(300)), request_id=str(i)))
            await call.done_writing()

        writing = asyncio.create_task(write())
        appended, before = 0, -1
        while not appended or appended != before:
            await asyncio.sleep(0.7)
            appended, before = len(await other.log()) // 300, appended
        # 16 batches in work, and answers of 7 kB each up to the window.
        assert 16 <= appended < 100
        await other.publish(event("other"))
        answers = [await call.read() for _ in range(160)]
        assert [a.request_id for a in answers] == [str(i) for i in range(160)]
        assert await call.read() is grpc.aio.EOF
        await writing


async def test_what_was_sent_is_answered_before_a_malformed_message_ends_the_stream(
    server: Server, api: Api
) -> None:
    call = api.channel.stream_stream("/contex.v1.EventService/PublishStream")(timeout=DEADLINE_S)
    for i in range(3):
        await call.write(batch(event(f"k{i}"), request_id=str(i)).SerializeToString())
    await call.write(b"\xff\xff\xff")
    answered = []
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        while (raw := await call.read()) is not grpc.aio.EOF:
            answered.append(raw)
        raise AssertionError("it ended without an error")
    refused = Refusal.of(ended.value)
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert len(answered) == 3
    assert len(await api.log()) == 3


async def test_a_stream_without_batches_ends(api: Api) -> None:
    assert await send(api, []) == []


async def test_a_message_beyond_the_transport_limit_ends_only_its_stream(api: Api) -> None:
    call = api.events.PublishStream(
        iter([batch(event("a"), request_id="0"), batch(event("b", b"x" * 17_000_000))]),
        timeout=DEADLINE_S,
    )
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for _ in call:
            pass
    assert ended.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNKNOWN,
    )
    await api.publish(event("c"))
    assert "b" not in {e.data_key for e in await api.log()}


async def test_batches_that_nobody_waits_for_are_appended_whole_or_not_at_all(
    server: Server, api: Api
) -> None:
    await api.publish(*(event(f"first.{n}") for n in range(5)))
    for round_ in range(10):
        call = api.events.PublishStream()
        for i in range(20):
            await call.write(batch(*(event(f"{round_}.{i}.{n}") for n in range(5))))
        await asyncio.sleep(0.01 * (round_ % 3))
        call.cancel()
    await eventually(lambda: server.calls.active == 0)
    found: dict[str, int] = {}
    for e in await api.log():
        name = e.data_key.rpartition(".")[0]
        found[name] = found.get(name, 0) + 1
    assert set(found.values()) <= {5}


async def test_a_stream_refuses_too_large_a_batch_and_goes_on(api: Api) -> None:
    huge = batch(*(event(f"k{i}", b'"' + b"x" * 900_000 + b'"') for i in range(10)))
    answers = await send(api, [huge, batch(event("small"), request_id="after")])
    assert answers[0].refused.reason == "PAYLOAD_TOO_LARGE"
    assert dict(answers[0].refused.metadata)["limit_bytes"] == str(8 * 1024 * 1024)
    assert answers[1].published.receipts


async def test_an_unknown_method_is_unimplemented(api: Api) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.channel.unary_unary("/contex.v1.EventService/Nothing")(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await refusal(api.publish())


async def test_every_field_that_is_outside_its_limits_is_told(api: Api) -> None:
    bad = event("a\tb", content_type="none", expected_revision=2**60)
    events = [bad, event("fine"), NewEvent(event_type="a\tb")]
    refused = await refusal(api.publish(*events))
    assert refused.fields == [
        "events[0].data_key",
        "events[0].content_type",
        "events[0].expected_revision",
        "events[2].event_type",
    ]
    (answer,) = await send(api, [batch(*events)])
    assert [v.field for v in answer.refused.field_violations] == refused.fields
    assert all("must" in v.description for v in answer.refused.field_violations)
    assert not answer.refused.HasField("retry_delay_ms")
    assert not await api.exists(P)

"""Stopping a server: streams end with a cursor, calls are answered, then nothing is left."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from contex.v1 import agent_service_pb2
from contex.v1.transfer_service_pb2 import ImportStart
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import StartServer
from tests.integration.logs import exported, imported, requests
from tests.integration.support import (
    Api,
    P,
    PublishRequest,
    Refusal,
    Stream,
    Words,
    event,
    eventually,
    in_stream,
    refusal,
)


def ends_well(stream: Stream, refused: Refusal) -> None:
    assert (refused.code, refused.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
    assert refused.retry_after_ms
    assert stream.kinds[-1] == "checkpoint"
    assert stream.messages[-1].checkpoint.last
    assert [
        m.checkpoint.last for m in stream.messages if m.WhichOneof("message") == "checkpoint"
    ].count(True) == 1


async def test_streams_end_with_a_final_cursor_and_resume_elsewhere(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    here = await start_server(valkey.url, embedder=words)
    there = await start_server(valkey.url, embedder=words)
    async with Api.of(here) as one, Api.of(there) as two:
        await one.register("a", "alpha")
        streams: list[tuple[Stream, Any]] = [
            (one.subscribe(), two.subscribe),
            (one.subscribe(data_keys=["alpha.1"]), two.subscribe),
            (one.subscribe(data_keys=["never"]), two.subscribe),
            (one.listen("a"), lambda **fields: two.listen("a", **fields)),
        ]
        for stream, _ in streams:
            await stream.live()
        await one.publish(*(event(f"alpha.{i}") for i in range(3)))
        await streams[0][0].count(4)
        await streams[3][0].count(3)
        stopping = asyncio.create_task(here.stop())
        for stream, _ in streams:
            ends_well(stream, await stream.refusal())
        await stopping
        fresh = await two.publish(event("alpha.1"))
        for stream, again in streams:
            resumed = await again(cursor=stream.cursor).live()
            assert resumed.sequences == fresh
    assert here.calls.active == 0
    assert (
        len(here.rooms.events.hub.channels),
        len(here.rooms.events.hub.tailers),
        len(here.rooms.match.pool),
    ) == (0, 0, 0)


async def test_a_stream_that_is_catching_up_ends_with_a_cursor_too(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    here = await start_server(valkey.url, embedder=words, shutdown_grace_s=4)
    there = await start_server(valkey.url, embedder=words)
    async with Api.of(here, ("grpc.http2.bdp_probe", 0)) as one, Api.of(there) as two:
        await two.register("a", "alpha", last_seen_sequence="0")
        payload = b'"%s"' % (b"1" * 50_000)
        published: list[str] = []
        for _ in range(10):
            published += await two.publish(*(event(f"alpha.{i}", payload) for i in range(10)))
        # Or it would have caught up with the little that is decided.
        decided = agent_service_pb2.WaitForAgentRequest(
            project=P,
            agent_id="a",
            sequence=published[-1],
            until=agent_service_pb2.WAIT_UNTIL_DECIDED,
            timeout_ms=10_000,
        )
        assert (await two.agents.WaitForAgent(decided)).passed
        streams: list[tuple[Stream, Any]] = [
            (one.subscribe(event_types=["data_published"]), two.subscribe),
            (one.listen("a"), lambda **fields: two.listen("a", **fields)),
        ]
        for stream, _ in streams:
            await stream.read()
        stopping = asyncio.create_task(here.stop())
        await eventually(lambda: here.drain.started)
        for stream, again in streams:
            ends_well(stream, await stream.refusal())
            assert "caught_up" not in stream.kinds
            rest = await again(cursor=stream.cursor).live()
            assert stream.sequences + rest.sequences == published
        await stopping


async def test_a_replay_is_cut_off_where_it_can_resume(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    here = await start_server(valkey.url, embedder=words, shutdown_grace_s=4)
    there = await start_server(valkey.url, embedder=words)
    async with Api.of(here, ("grpc.http2.bdp_probe", 0)) as one, Api.of(there) as two:
        payload = b'"%s"' % (b"1" * 50_000)
        published: list[str] = []
        for _ in range(20):
            published += await two.publish(*(event(f"alpha.{i}", payload) for i in range(10)))
        replay = one.replay()
        await replay.read()
        stopping = asyncio.create_task(here.stop())
        await asyncio.sleep(0.1)
        refused = await replay.refusal()
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
        rest = await two.replay(cursor=replay.cursor).to_end()
        assert replay.sequences + rest.sequences == published
        await stopping


async def test_an_import_that_waits_for_its_client_ends_and_can_go_on(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    here = await start_server(valkey.url, embedder=words, shutdown_grace_s=6)
    there = await start_server(valkey.url, embedder=words)
    async with Api.of(here) as one, Api.of(there) as two:
        await two.publish(*(event(f"k{n}") for n in range(20)))
        data = await exported(two)
        call = one.transfers.ImportProject()
        first, part, _ = requests(data, ImportStart(project="copy", import_id="i"), len(data))
        for request in (first, part):
            await call.write(request)
            await call.read()
        async with asyncio.timeout(4):  # not the whole grace
            await here.stop()
        refused = await refusal(call.read())
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
        report = await imported(two, data, import_id="i")
        assert report.imported_count == 20
        assert await two.log("copy") == await two.log()


async def test_what_is_in_flight_is_answered(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, shutdown_grace_s=6)
    async with Api.of(server) as api:
        await api.publish(event("warm"))
        words.delay_s = 1.5
        publishes = [
            asyncio.ensure_future(
                api.events.Publish(PublishRequest(project=P, events=[event(f"new.{name}")]))
            )
            for name in "abcdefgh"
        ]
        call = api.events.PublishStream()
        for name in "ijklmnop":
            await call.write(in_stream(project=P, events=[event(f"new.{name}")]))
        registering = asyncio.ensure_future(api.register("a", "quite new"))
        await eventually(lambda: server.calls.active == 10)
        await asyncio.sleep(0.2)  # For the stream's batches.
        await server.stop()
        sequences = [(await p).receipts[0].sequence for p in publishes]
        answers = []
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.append(answer)
        assert Refusal.of(ended.value).reason == "SHUTTING_DOWN"
        assert len(answers) == 8
        sequences += [a.published.receipts[0].sequence for a in answers]
        assert (await registering).agent.agent_id == "a"
    again = await start_server(valkey.url, embedder=Words())
    async with Api.of(again) as api:
        log = {e.sequence for e in await api.log() if e.data_key.startswith("new.")}
        assert log == set(sequences)
        assert len(log) == 16


async def test_new_calls_are_refused_while_others_end(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, shutdown_grace_s=4)
    async with Api.of(server) as api:
        words.delay_s = 0.7
        slow = asyncio.ensure_future(api.publish(event("new")))
        await asyncio.sleep(0.2)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.page()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await slow
        await stopping
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.page()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_health_says_so_first(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, shutdown_grace_s=2)
    async with Api.of(server) as api:
        health: Any = health_pb2_grpc.HealthStub(api.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="contex.v1.EventService"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


async def test_a_call_that_does_not_end_is_ended(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server: Server = await start_server(valkey.url, embedder=words, shutdown_grace_s=0.5)
    async with Api.of(server) as api:
        words.delay_s = 120
        stuck = asyncio.ensure_future(api.register("a", "need"))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            await server.stop()
        assert server.calls.active == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await stuck


@pytest.mark.own_store
async def test_a_server_stops_while_its_store_is_away(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words)
    async with Api.of(server) as api:
        await api.register("a", "alpha")
        streams = [await api.subscribe().live(), await api.listen("a").live()]
        await valkey.stop()
        refused = await refusal(api.publish(event()))
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert refused.retry_after_ms
        async with asyncio.timeout(10):
            stopping = asyncio.create_task(server.stop())
            for stream in streams:
                ends_well(stream, await stream.refusal())
            await stopping

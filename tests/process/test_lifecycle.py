"""Starting, stopping and sharing a port."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import psutil
import pytest
from contex import AsyncClient
from contex.v1 import event_service_pb2, event_service_pb2_grpc

from tests.process.conftest import NewServer
from tests.process.servers import ServerProcess, eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_busy_server_cleanly(server: ServerProcess, number: int) -> None:
    (store,) = server.children("valkey-server")
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = event_service_pb2_grpc.EventServiceStub(channel)
        streams = [
            stub.Subscribe(event_service_pb2.SubscribeRequest(project=f"p{n % 5}"))
            for n in range(20)
        ]
        for stream in streams:
            assert (await stream.read()).WhichOneof("message") == "caught_up"
        ended = asyncio.create_task(server.end(number))
        for stream in streams:
            last = await stream.read()
            assert last.checkpoint.last
            assert last.cursor
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stream.read()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        code, took = await ended
    assert code == 0
    assert took < 10
    assert not store.is_running()
    await server.start()


async def test_what_is_in_flight_is_answered_before_the_end(server: ServerProcess) -> None:
    async with AsyncClient(server.target, timeout=30) as client:
        await client.publish("p", "warm", 1)
        publishes = [asyncio.create_task(client.publish("p", f"k{n}", n)) for n in range(200)]
        await asyncio.sleep(0.02)
        ended = asyncio.create_task(server.end())
        await ended
        await server.start()
        receipts = await asyncio.gather(*publishes)
        log = {event.sequence async for event in client.list_events("p", page_size=1_000)}
    assert {receipt.sequence for receipt in receipts} < log
    assert len(log) == 201


async def test_a_data_directory_of_any_name(new_server: NewServer, data_dir: Path) -> None:
    server = new_server("--workers", "2", directory=data_dir / "a#b?c%20d é")
    for revision in (1, 2):
        await server.start()
        async with AsyncClient(server.target, timeout=30) as client:
            receipt = await client.publish("p", "k", revision, metadata={"subject": "s"})
            assert receipt.revision == revision
            stored = [event.value async for event in client.list_events("p", since="0")]
            assert stored == [*range(1, revision + 1)]
        assert (await server.end())[0] == 0
    assert [path.name for path in data_dir.iterdir()] == ["a#b?c%20d é"]


async def test_a_second_server_is_refused(server: ServerProcess, new_server: NewServer) -> None:
    other = new_server()
    with pytest.raises(AssertionError, match="in use by another server"):
        await other.start()
    assert (await other.end())[0] == 1


async def test_a_port_in_use_is_refused(
    server: ServerProcess, new_server: NewServer, tmp_path: Path
) -> None:
    for flags in ((), ("--workers", "2")):
        other = new_server(*flags, port=server.port, directory=tmp_path)
        with pytest.raises(AssertionError, match="can't listen"):
            await other.start()
        assert (await other.end())[0] == 1


async def test_an_open_address_is_refused_without_insecure(new_server: NewServer) -> None:
    other = new_server("--host", "0.0.0.0")
    with pytest.raises(AssertionError, match="--insecure"):
        await other.start()
    assert (await other.end())[0] == 2


async def test_workers_share_a_port_and_are_replaced(new_server: NewServer) -> None:
    server = new_server("--workers", "2")
    await server.start()
    await server.logged("worker_serving", 2)
    received: list[list[str]] = [[] for _ in range(8)]

    async def subscribe(number: int) -> None:
        # A client of its own: the kernel spreads connections over the workers.
        async with AsyncClient(server.target) as client, client.subscribe("p") as events:
            async for event in events:
                received[number].append(event.data_key)

    subscribers = [asyncio.create_task(subscribe(n)) for n in range(8)]
    async with AsyncClient(server.target, timeout=60) as client:
        for n in range(20):
            await client.publish("p", f"k{n}", n)
        await eventually(lambda: all(len(keys) == 20 for keys in received))
        worker = server.children("spawn_main")[0]
        worker.kill()
        await server.logged("worker_serving", 3)
        for n in range(20, 40):
            await client.publish("p", f"k{n}", n)
        await eventually(lambda: all(len(keys) == 40 for keys in received))
    assert all(keys == [f"k{n}" for n in range(40)] for keys in received)
    for subscriber in subscribers:
        subscriber.cancel()
    await asyncio.gather(*subscribers, return_exceptions=True)
    family = psutil.Process(server.pid).children(recursive=True)
    code, took = await server.end()
    assert code == 0
    assert took < 10
    await eventually(lambda: not [member for member in family if member.is_running()])

"""kill -9, in turn of the server and of the store: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid

import pytest
from contex import AsyncClient, ContexError, Event, NewEvent

from tests.process.servers import ServerProcess, eventually, healthy


async def test_a_killed_server_loses_nothing_that_was_acknowledged(server: ServerProcess) -> None:
    acknowledged: dict[str, str] = {}
    received: list[Event] = []
    done = asyncio.Event()

    async def publish(number: int) -> None:
        async with AsyncClient(server.target, timeout=60) as client:
            for n in range(60):
                key = f"k{number}.{n}"
                receipt = await client.publish("p", key, {"n": n}, request_id=uuid.uuid4().hex)
                acknowledged[key] = receipt.sequence

    async def subscribe() -> None:
        async with AsyncClient(server.target) as client, client.subscribe("p") as events:
            async for event in events:
                received.append(event)
                if len(received) == 240:
                    done.set()
                    return

    subscriber = asyncio.create_task(subscribe())
    publishers = [asyncio.create_task(publish(n)) for n in range(4)]
    for _ in range(2):
        before = len(acknowledged)
        await eventually(lambda before=before: len(acknowledged) > before + 25)  # type: ignore[misc]
        await server.kill()
        await server.start()
    await asyncio.gather(*publishers)
    async with asyncio.timeout(60):
        await done.wait()
    await subscriber

    async with AsyncClient(server.target) as client:
        log = [event async for event in client.list_events("p", page_size=1_000)]
    assert {event.data_key: event.sequence for event in log} == acknowledged
    assert len(log) == 240
    assert [event.sequence for event in received] == [event.sequence for event in log]


async def test_callers_that_share_a_client_survive_a_killed_server(server: ServerProcess) -> None:
    chance = random.Random(3)
    callers, each = 100, 8
    answered: dict[str, str] = {}

    async def publish(client: AsyncClient, caller: int) -> None:
        for n in range(each):
            key = f"k{caller}.{n}"
            answered[key] = (await client.publish("p", key, {"n": n})).sequence

    async with AsyncClient(server.target, timeout=60) as client:
        tasks = [asyncio.create_task(publish(client, caller)) for caller in range(callers)]
        given_up: set[int] = set()
        for _ in range(2):
            until = len(answered) + chance.randint(20, 300)
            await eventually(lambda until=until: len(answered) > until)  # type: ignore[misc]
            await server.kill()
            for caller in chance.sample(range(callers), 3):
                given_up.add(caller)
                tasks[caller].cancel()
            await server.start()
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        log = [event async for event in client.list_events("p", page_size=1_000)]
    failed = {caller: end for caller, end in enumerate(ends) if end is not None}
    assert set(failed) <= given_up, failed
    where = {event.data_key: event.sequence for event in log}
    assert len(where) == len(log)
    assert answered.items() <= where.items()
    for caller in range(callers):
        keys = [event.data_key for event in log if event.data_key.startswith(f"k{caller}.")]
        assert keys == [f"k{caller}.{n}" for n in range(len(keys))]
        assert len(keys) == each or caller in failed


async def test_a_batch_stream_survives_a_killed_server(server: ServerProcess) -> None:
    batches = [[NewEvent(f"k{b}.{n}", {"n": n}) for n in range(10)] for b in range(80)]
    answered = []
    async with (
        AsyncClient(server.target, timeout=60) as client,
        client.publish_stream("p", batches) as answers,
    ):
        async for answer in answers:
            assert answer.error is None
            answered.append(answer)
            if len(answered) == 25:
                await server.kill()
                await server.start()
    async with AsyncClient(server.target) as client:
        log = [event.data_key async for event in client.list_events("p", page_size=1_000)]
    assert log == [event.data_key for batch in batches for event in batch]
    assert len(answered) == len(batches)


async def test_a_retry_after_a_crash_is_recognised(server: ServerProcess) -> None:
    async with AsyncClient(server.target) as client:
        first = await client.publish("p", "k", 1, request_id="same")
        await server.kill()
        await server.start()
        await healthy(client)
        again = await client.publish("p", "k", 1, request_id="same")
    assert again.duplicate
    assert again.sequence == first.sequence


async def test_a_killed_store_loses_nothing_and_comes_back(server: ServerProcess) -> None:
    received: list[str] = []
    async with AsyncClient(server.target, timeout=60) as client:
        subscription = client.subscribe("p")

        async def subscribe() -> None:
            async with subscription as events:
                async for event in events:
                    received.append(event.sequence)

        subscriber = asyncio.create_task(subscribe())
        acknowledged = [(await client.publish("p", f"k{n}", n)).sequence for n in range(100)]
        (store,) = server.children("valkey-server")
        os.kill(store.pid, signal.SIGKILL)
        acknowledged += [(await client.publish("p", f"k{n}", n)).sequence for n in range(100, 200)]
        await eventually(lambda: len(received) == 200)
        log = [event.sequence async for event in client.list_events("p", page_size=1_000)]
        subscriber.cancel()
        await asyncio.gather(subscriber, return_exceptions=True)
    assert log == acknowledged == received
    # The tailer reconnected below the stream; the client noticed nothing.
    assert subscription.reconnects == 0
    (replaced,) = server.children("valkey-server")
    assert replaced.pid != store.pid


async def test_agents_resume_after_a_crash(server: ServerProcess) -> None:
    async with AsyncClient(server.target, timeout=60) as client:
        await client.register_agent("p", "a", ["zip archives"])
        got: list[str] = []

        async def listen() -> None:
            async with client.listen("p", "a") as matches:
                async for match in matches:
                    got.append(match.event.data_key)
                    await client.acknowledge("p", "a", match)

        listener = asyncio.create_task(listen())
        await client.publish("p", "zipfile", {}, description="read and write zip archives")
        await eventually(lambda: got == ["zipfile"])
        await server.kill()
        await server.start()
        await healthy(client)
        (need,) = (await client.get_agent("p", "a")).needs
        assert need.text == "zip archives"
        await client.publish("p", "tls", {}, description="sockets with TLS encryption")
        await client.publish("p", "zipimport", {}, description="import modules from zip archives")
        await eventually(lambda: len(got) == 2)
        assert got == ["zipfile", "zipimport"]
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


@pytest.mark.thorough  # In one process: test_store_limits.py.
async def test_health_follows_the_store(server: ServerProcess) -> None:
    async with AsyncClient(server.target) as client:
        assert await client.health() == "SERVING"
        (store,) = server.children("valkey-server")
        os.kill(store.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                while await client.health() != "NOT_SERVING":
                    await asyncio.sleep(0.1)
            with pytest.raises(ContexError) as refused:
                await client.publish("p", "k", 1, request_id="")
            assert refused.value.reason in ("STORE_UNAVAILABLE", "")
        finally:
            os.kill(store.pid, signal.SIGCONT)
        await healthy(client)


async def test_facts_expire_once_though_the_server_is_killed_among_them(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when the first of two batches has expired."""
    await server.kill()
    monkeypatch.setenv("CONTEX_FAILPOINT", "facts-expired=0")
    await server.start()
    keys = [f"k{n}" for n in range(700)]
    async with AsyncClient(server.target) as client:
        events = [NewEvent(key, 1, valid_for=1) for key in keys]
        await client.publish_batch("p", events)
        await server.ended()
        monkeypatch.delenv("CONTEX_FAILPOINT")
        await server.start()
        await healthy(client)
        ended: list[str] = []
        async with asyncio.timeout(30), client.subscribe("p") as log:
            async for event in log:
                if event.event_type == "data_expired":
                    ended.append(event.data_key)
                if len(ended) == len(keys):
                    break
        await asyncio.sleep(0.3)
        found = client.list_events("p", event_types=["data_expired"], page_size=1_000)
        assert sorted([event.data_key async for event in found]) == sorted(ended) == sorted(keys)

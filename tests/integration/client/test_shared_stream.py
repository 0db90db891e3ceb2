"""The publishes of one client share a stream: answers, errors, cancellation, closing, restarts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from contex import AsyncClient, Client, ContexError, Durability, KeyState, NewEvent, Receipt
from contex._async import shared_stream
from contex_server.kernel.config import Settings
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.integration.support import Api, Words, eventually

P = "shop"


@pytest.fixture
async def server(start_server: StartServer, valkey: EmbeddedValkey) -> Server:
    return await start_server(valkey.url, embedder=Words())


class Calls:
    """A client, what it calls for each publish by itself, and the requests of its streams."""

    def __init__(self, client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.alone: list[str] = []
        self.requests: list[int] = []
        repeated, following = client._repeated, shared_stream.SharedStream._next

        async def note(method: Any, request: Any, *args: Any) -> Any:
            self.alone.append(request.request_id)
            return await repeated(method, request, *args)

        def note_next(stream: shared_stream.SharedStream) -> Any:
            if taken := following(stream):
                self.requests.append(len(taken))
            return taken

        monkeypatch.setattr(client, "_repeated", note)
        monkeypatch.setattr(shared_stream.SharedStream, "_next", note_next)

    async def streaming(self) -> AsyncClient:
        """The client, with its stream open."""
        for _ in range(2):
            await self.client.publish("other", "k", 1)
        assert len(self.alone) == 1
        self.alone.clear()
        self.requests.clear()
        return self.client


@pytest.fixture
async def calls(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Calls]:
    async with AsyncClient(f"127.0.0.1:{server.port}", publisher="me") as client:
        yield Calls(client, monkeypatch)


async def in_turn(client: AsyncClient, name: str, count: int) -> list[str]:
    """Publishes one after the other; returns the sequences."""
    return [(await client.publish(P, f"{name}.{n}", n)).sequence for n in range(count)]


def orderly(log: Iterable[Any], callers: Iterable[str], count: int) -> None:
    """Asserts that the log has each publish of each caller once, in the caller's order."""
    keys = [event.data_key for event in log]
    for name in callers:
        mine = [key for key in keys if key.startswith(f"{name}.")]
        assert mine == [f"{name}.{n}" for n in range(count)]


async def test_callers_share_requests_and_get_their_own_answers(calls: Calls, api: Api) -> None:
    client = await calls.streaming()
    names = [f"c{n}" for n in range(100)]
    answers = await asyncio.gather(*(in_turn(client, name, 5) for name in names))
    log = await api.log()
    orderly(log, names, 5)
    where = {event.data_key: event.sequence for event in log}
    for name, sequences in zip(names, answers, strict=True):
        assert sequences == [where[f"{name}.{n}"] for n in range(5)]
    assert {event.publisher for event in log} == {"me"}
    assert calls.alone == []
    assert sum(calls.requests) == 500
    assert len(calls.requests) < 150


async def test_calls_of_one_task_keep_their_order(calls: Calls, api: Api) -> None:
    client = await calls.streaming()
    tasks = [asyncio.create_task(client.publish(P, "k", n)) for n in range(200)]
    receipts = await asyncio.gather(*tasks)
    assert [receipt.revision for receipt in receipts] == list(range(1, 201))
    assert [event.payload for event in await api.log()] == [b"%d" % n for n in range(200)]


Publish = Callable[[AsyncClient], Awaitable[Receipt | list[Receipt]]]

REFUSED: dict[str, Publish] = {
    "key": lambda c: c.publish(P, "a\tb", 1),
    "two fields": lambda c: c.publish(P, "a\tb", 1, metadata={"": "x"}),
    "project": lambda c: c.publish("no such/name", "k", 1),
    "request id": lambda c: c.publish(P, "k", 1, request_id="a b"),
    "type": lambda c: c.publish(P, "k", 1, event_type="data_expired"),
    "payload": lambda c: c.publish(P, "k", b"{", content_type="application/json"),
    "validity": lambda c: c.publish(P, "k", 1, valid_for=0.5),
    "revision": lambda c: c.publish(P, "known", 1, expected_revision=7),
    "state": lambda c: c.publish(P, "known", 1, expected_state=KeyState.ABSENT),
    "deletion": lambda c: c.delete(P, "new", expected_state=KeyState.PRESENT),
    "in a batch": lambda c: c.publish_batch(P, [NewEvent("k", 1), NewEvent("", 2)]),
    "empty": lambda c: c.publish_batch(P, []),
    "too many": lambda c: c.publish_batch(P, [NewEvent("k")] * 1_001),
}


def facts(error: BaseException) -> tuple[Any, ...]:
    assert isinstance(error, ContexError)
    told = error.message, error.code, error.reason, error.metadata
    return type(error), *told, error.retry_after, error.violations


async def failure(call: Awaitable[Any]) -> ContexError:
    with pytest.raises(ContexError) as caught:
        await call
    return caught.value


async def test_refusals_are_those_of_a_call_of_its_own(calls: Calls, server: Server) -> None:
    client = await calls.streaming()
    await client.publish(P, "known", 1)
    good = [client.publish(P, f"good{n}", n) for n in range(len(REFUSED))]
    bad = [publish(client) for publish in REFUSED.values()]
    together = [call for pair in zip(bad, good, strict=True) for call in pair]
    answers = await asyncio.gather(*together, return_exceptions=True)
    assert calls.alone == []
    for name, error, receipt in zip(REFUSED, answers[::2], answers[1::2], strict=True):
        assert isinstance(receipt, Receipt), receipt
        assert isinstance(error, BaseException), name
        async with AsyncClient(f"127.0.0.1:{server.port}", publisher="me") as alone:
            assert facts(error) == facts(await failure(REFUSED[name](alone))), name


async def test_who_may_not_call_is_told_so(server: Server) -> None:
    target = f"127.0.0.1:{server.port}"
    async with AsyncClient(target, publisher="a\tb") as client:
        errors = await asyncio.gather(*(failure(client.publish(P, "k", n)) for n in range(5)))
    assert [facts(error) for error in errors] == [facts(errors[0])] * 5
    assert "publisher" in str(errors[0]) or "identity" in str(errors[0])


@pytest.mark.own_store
async def test_what_a_full_store_refuses_is_refused_to_each(
    calls: Calls, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await calls.streaming()
    client._timeout = 1.0
    async with Redis.from_url(valkey.url) as store:
        await store.config_set("maxmemory", 1)
        errors = await asyncio.gather(*(failure(client.publish(P, "k", n)) for n in range(10)))
        assert {error.reason for error in errors} == {"STORE_FULL"}
        await store.config_set("maxmemory", 0)
    assert (await client.publish(P, "k", 1)).revision == 1


async def test_what_is_too_much_at_once_is_repeated(
    start_server: StartServer, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(valkey.url, embedder=Words(), pending_appends=2)
    async with AsyncClient(f"127.0.0.1:{server.port}", timeout=30) as client:
        await Calls(client, monkeypatch).streaming()
        receipts = await asyncio.gather(*(client.publish(P, "k", n) for n in range(50)))
        assert sorted(receipt.revision for receipt in receipts) == list(range(1, 51))


async def test_a_caller_that_is_cancelled_harms_nobody(calls: Calls, api: Api) -> None:
    client = await calls.streaming()
    tasks = [asyncio.create_task(client.publish(P, f"k{n}", n)) for n in range(300)]
    await asyncio.sleep(0)
    for n, task in enumerate(tasks):
        if n % 3 == 0 or n > 290:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    answered = {f"k{n}" for n, result in enumerate(results) if isinstance(result, Receipt)}
    assert answered == {f"k{n}" for n in range(291) if n % 3}
    keys = [event.data_key for event in await api.log()]
    assert answered <= set(keys)
    assert len(keys) == len(set(keys))
    assert (await client.publish(P, "k", 1)).revision == 1
    assert calls.alone == []


async def test_closing_answers_everybody(calls: Calls, api: Api) -> None:
    client = await calls.streaming()
    tasks = [asyncio.create_task(client.publish(P, f"k{n}", n)) for n in range(300)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await client.close()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    told = {type(result) for result in results}
    assert told <= {Receipt, RuntimeError}
    assert Receipt in told
    keys = [event.data_key for event in await api.log()]
    assert {f"k{n}" for n, r in enumerate(results) if isinstance(r, Receipt)} <= set(keys)
    with pytest.raises(RuntimeError, match="closed"):
        await client.publish(P, "k", 1)


async def test_closing_answers_what_goes_by_a_call_of_its_own(server: Server) -> None:
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        await client.publish(P, "k", 0)
        large = "x" * (shared_stream.MAX_BYTES + 1)
        tasks = [asyncio.create_task(client.publish(P, f"k{n}", large)) for n in range(30)]
        tasks.append(asyncio.create_task(client.publish(P, "k", 1, request_id="")))
        await asyncio.wait(tasks, timeout=0.005)
        await client.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    told = {str(result) for result in results if not isinstance(result, Receipt)}
    assert told == {"the client was closed before the call was answered"}


async def test_each_gets_the_durability_that_it_asks_for(calls: Calls) -> None:
    client = await calls.streaming()
    levels = [None, Durability.MEMORY, Durability.FSYNC] * 10
    receipts = await asyncio.gather(
        *(client.publish(P, f"k{n}", n, durability=level) for n, level in enumerate(levels))
    )
    assert {receipt.durability for receipt in receipts} == {Durability.FSYNC}
    assert calls.alone == []
    streams = [s for s in client._streams if isinstance(s, shared_stream.SharedStream)]
    assert len(streams) == 3


async def test_what_can_not_be_repeated_or_is_large_goes_alone(calls: Calls) -> None:
    client = await calls.streaming()
    await client.publish(P, "k", 1, request_id="")
    await client.publish(P, "k", b"x" * 100_000, request_id="large")
    await client.publish(P, "k", 1, durability=Durability.REPLICATED, request_id="replicated")
    assert calls.alone == ["", "large", "replicated"]
    assert (await client.publish(P, "k", 1, request_id="large")).duplicate


async def test_requests_are_bounded_in_bytes(calls: Calls, api: Api) -> None:
    client = await calls.streaming()
    await asyncio.gather(*(client.publish(P, f"k{n}", b"x" * 25_000) for n in range(40)))
    assert max(calls.requests) == 2
    assert len(await api.log()) == 40


async def test_a_stream_that_nobody_uses_ends(
    calls: Calls, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_stream, "IDLE_S", 0.1)
    client = await calls.streaming()
    (stream,) = [s for s in client._streams if isinstance(s, shared_stream.SharedStream)]
    await eventually(lambda: stream.ended)
    receipts = await asyncio.gather(*(client.publish(P, "k", n) for n in range(20)))
    assert sorted(receipt.revision for receipt in receipts) == list(range(1, 21))


async def test_another_server_goes_on_where_one_stops(
    valkey: EmbeddedValkey, calls: Calls, server: Server, tmp_path: Path
) -> None:
    client = await calls.streaming()
    names = [f"c{n}" for n in range(20)]
    tasks = [asyncio.create_task(in_turn(client, name, 30)) for name in names]
    await asyncio.wait([asyncio.create_task(in_turn(client, "first", 3))])
    await server.stop()
    settings = Settings(port=server.port, data_dir=tmp_path)
    again = await Server.start(settings, valkey.url, embedder=Words())
    try:
        async with asyncio.timeout(30), Api.of(again) as api:
            await asyncio.gather(*tasks)
            orderly(await api.log(), names, 30)
    finally:
        await again.stop()


async def test_threads_share_a_stream(server: Server, api: Api) -> None:
    names = [f"t{n}" for n in range(16)]
    answers: dict[str, list[str]] = {}

    def run() -> None:
        with Client(f"127.0.0.1:{server.port}", publisher="me") as client:

            def publish(name: str) -> None:
                answers[name] = [client.publish(P, f"{name}.{n}", n).sequence for n in range(20)]
                with pytest.raises(ContexError, match="data_key"):
                    client.publish(P, "a\tb", 1)

            threads = [threading.Thread(target=publish, args=(name,)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    await asyncio.to_thread(run)
    log = await api.log()
    orderly(log, names, 20)
    where = {event.data_key: event.sequence for event in log}
    for name in names:
        assert answers[name] == [where[f"{name}.{n}"] for n in range(20)]


async def test_closing_answers_every_thread(server: Server, api: Api) -> None:
    ends: list[str] = []

    def run(payload: str) -> None:
        client = Client(f"127.0.0.1:{server.port}")
        started = threading.Semaphore(0)

        def publish(name: str) -> None:
            try:
                for n in range(10_000):
                    client.publish(P, f"{name}.{n}", payload)
                    started.release()
            except Exception as error:
                ends.append(repr(error))

        threads = [threading.Thread(target=publish, args=(f"t{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            started.acquire()
        client.close()
        for thread in threads:
            thread.join(10)

    for payload in ("small", "x" * (shared_stream.MAX_BYTES + 1)):
        ends.clear()
        await asyncio.to_thread(run, payload)
        assert len(ends) == 8
        assert all(end.startswith("RuntimeError('the client ") for end in ends), ends

"""The asyncio client against a fake service over a real socket."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from contex import (
    AsyncClient,
    Client,
    Need,
    NeedsChanged,
    NewEvent,
    NotFound,
    Receipt,
    RevisionConflict,
    Unavailable,
    Unimplemented,
)

from tests.unit.client.fakes import FakeEvents, event, serving


@pytest.fixture
async def events() -> FakeEvents:
    return FakeEvents()


@pytest.fixture
async def port(events: FakeEvents) -> AsyncIterator[int]:
    async with serving(events) as port:
        yield port


@pytest.fixture
async def client(port: int) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{port}", publisher="me", timeout=5.0) as client:
        yield client


async def take(subscription, count: int) -> list[str]:
    return [(await anext(subscription)).sequence for _ in range(count)]


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


async def test_a_lost_answer_appends_nothing_twice(client: AsyncClient, events: FakeEvents) -> None:
    events.lose_answers = 2
    receipt = await client.publish("p", "k", {"a": 1})
    assert (receipt.sequence, receipt.duplicate) == ("1-0", True)
    assert len(events.log) == 1
    assert len(events.publish_attempts) == 3
    assert len(set(events.publish_attempts)) == 1
    assert [found.value async for found in client.list_events("p", page_size=1)] == [{"a": 1}]


async def test_callers_share_the_stream_of_a_server_that_takes_one_batch_a_request(
    client: AsyncClient, events: FakeEvents
) -> None:
    await client.publish("p", "first", 0)
    receipts = await asyncio.gather(*(client.publish("p", "k", n) for n in range(100)))
    assert [receipt.sequence for receipt in receipts] == [f"{n}-0" for n in range(2, 102)]
    assert [stored.payload for stored in events.log[1:]] == [b"%d" % n for n in range(100)]
    assert len(events.publish_attempts) == 1


async def test_what_a_broken_shared_stream_leaves_is_repeated(
    client: AsyncClient, events: FakeEvents
) -> None:
    await client.publish("p", "first", 0)
    events.stream_breaks_after = [3, 0, 9]
    events.refuse = {"bad"}
    calls = [client.publish("p", "bad" if n == 2 else f"k{n}", n) for n in range(50)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[2], RevisionConflict)
    assert answers[2].actual_revision == 7
    stored = {event.data_key: event.sequence for event in events.log[1:]}
    assert len(stored) == len(events.log) - 1 == 49
    for n, answer in enumerate(answers):
        assert n == 2 or (isinstance(answer, Receipt) and answer.sequence == stored[f"k{n}"])


async def test_a_shared_stream_that_hangs_is_left_in_time(port: int, events: FakeEvents) -> None:
    async with AsyncClient(f"127.0.0.1:{port}", timeout=2.5) as client:
        await client.publish("p", "first", 0)
        events.hang = True
        receipts = await asyncio.gather(*(client.publish("p", "k", n) for n in range(5)))
        assert len(set(receipts)) == 5
        assert len(events.log) == 6


async def test_answers_that_are_not_to_what_was_asked_are_not_taken(
    client: AsyncClient, events: FakeEvents
) -> None:
    await client.publish("p", "first", 0)
    events.mistaken = True
    receipts = await asyncio.gather(*(client.publish("p", f"k{n}", n) for n in range(5)))
    stored = {event.data_key: event.sequence for event in events.log}
    assert [receipt.sequence for receipt in receipts] == [stored[f"k{n}"] for n in range(5)]


async def test_a_subscription_survives_breaks(client: AsyncClient, events: FakeEvents) -> None:
    events.log = [event(number) for number in range(1, 8)]
    events.break_after = [1, 0, 2]
    async with client.subscribe("p") as subscription:
        assert await take(subscription, 7) == [f"{number}-0" for number in range(1, 8)]
        assert subscription.reconnects == 3
        await client.publish("p", "k", "live")
        assert await take(subscription, 1) == ["8-0"]
        assert subscription.caught_up
        cursor = subscription.cursor
    await client.publish("p", "k", "next")
    async with client.subscribe("p", cursor=cursor) as subscription:
        assert await take(subscription, 1) == ["9-0"]


async def test_cancelling_a_wait_loses_nothing(client: AsyncClient, events: FakeEvents) -> None:
    async with client.subscribe("p", start="end") as subscription:
        for number in range(1, 4):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(subscription), 0.1)
            await client.publish("p", "k", number)
            assert await take(subscription, 1) == [f"{number}-0"]


async def test_silence_is_a_break(client: AsyncClient, events: FakeEvents) -> None:
    events.hang = True
    async with client.subscribe("p", heartbeat_interval_ms=100) as subscription:
        reading = asyncio.create_task(take(subscription, 1))
        await until(lambda: subscription.reconnects > 0)
        events.hang = False
        await client.publish("p", "k", 1)
        assert await reading == ["1-0"]


async def test_closing_ends_an_iteration(client: AsyncClient, events: FakeEvents) -> None:
    subscription = client.subscribe("p")
    reading = asyncio.create_task(anext(subscription, "ended"))
    await until(lambda: bool(events.requests))
    await client.close()
    assert await reading == "ended"
    with pytest.raises(RuntimeError, match="closed"):
        await client.publish("p", "k", 1)


async def test_an_agent_may_start_before_the_server(events: FakeEvents, unused_tcp_port) -> None:
    async with AsyncClient(f"127.0.0.1:{unused_tcp_port}", timeout=5.0) as client:
        subscription = client.subscribe("p")
        reading = asyncio.create_task(take(subscription, 1))
        publishing = asyncio.create_task(client.publish("p", "k", 1))
        with pytest.raises(Unavailable):
            await client.health()
        async with serving(events, unused_tcp_port):
            assert (await publishing).sequence == "1-0"
            assert await reading == ["1-0"]
            assert await client.health() == "SERVING"
            await subscription.close()


async def test_a_replay_ends_and_resumes(client: AsyncClient, events: FakeEvents) -> None:
    events.log = [event(number) for number in range(1, 11)]
    events.break_after = [1, 2]
    async with client.replay("p") as replay:
        found = [replayed.sequence async for replayed in replay]
    assert found == [f"{number}-0" for number in range(1, 11)]
    assert replay.reconnects == 2


async def test_agents(client: AsyncClient) -> None:
    registration = await client.register_agent("p", "a", ["what"])
    assert [datum.score for datum, _ in registration.by_need()["what"]] == [0.7]
    assert await client.acknowledge("p", "a", registration.data[0]) == "1-0"
    assert await client.acknowledge("p", "a", cursor="c") == "7-0"
    with pytest.raises(NotFound) as caught:
        async with client.listen("p", "a"):
            pass
    assert caught.value.metadata == {"agent_id": "a"}


async def test_a_change_of_needs_is_told_before_what_it_brings(client: AsyncClient) -> None:
    told: list[NeedsChanged] = []
    async with client.listen("p", "changing", on_needs_changed=told.append) as matches:
        assert (await anext(matches)).event.sequence == "7-0"
        assert matches.needs_changed is None
        assert (await anext(matches)).event.sequence == "5-0"
        assert (matches.position, matches.cursor) == ("7-0", "c2")
        assert told == [matches.needs_changed]
        assert told[0].agent.needs == (Need("another"),)


async def test_a_subscription_acknowledges_what_was_handed_out(
    client: AsyncClient, events: FakeEvents
) -> None:
    async with client.listen("p", "changing") as matches:
        acknowledged, steps = events.agents.acknowledged, list[list[str]]()
        assert await matches.acknowledge() is None
        for _ in range(4):
            await anext(matches)
            before = len(acknowledged)
            durable = await matches.acknowledge()
            assert durable == ("8-0" if acknowledged[-1] == "8-0" else "7-0")
            steps.append(acknowledged[before:])
            assert await matches.acknowledge() == durable  # nothing new: nothing is sent
            assert len(acknowledged) == before + len(steps[-1])
    # Of a message that is not done its cursor is not acknowledged, but an event in its place.
    assert steps == [["cursor:c1"], ["cursor:c2"], ["8-0"], ["cursor:c3"]]


async def test_only_what_listens_is_acknowledged(client: AsyncClient) -> None:
    async with client.subscribe("p") as events:
        with pytest.raises(TypeError, match="listen"):
            await events.acknowledge()


async def test_a_publish_stream_survives_breaks(client: AsyncClient, events: FakeEvents) -> None:
    async def batches() -> AsyncIterator[list[NewEvent]]:
        for number in range(20):
            await asyncio.sleep(0)
            yield [NewEvent("bad" if number == 7 else "k", number)]

    events.stream_breaks_after = [3, 0, 9]
    events.refuse = {"bad"}
    async with client.publish_stream("p", batches(), window=4) as stream:
        results = [result async for result in stream]
    assert stream.reconnects == 3
    assert len(results) == 20
    assert isinstance(results[7].error, RevisionConflict)
    assert results[7].error.actual_revision == 7
    assert [stored.payload for stored in events.log] == [
        b"%d" % number for number in range(20) if number != 7
    ]
    receipts = [result.receipts[0].sequence for result in results if result.error is None]
    assert receipts == [stored.sequence for stored in events.log]


async def test_results_come_while_the_source_waits(client: AsyncClient) -> None:
    queue: asyncio.Queue[list[NewEvent]] = asyncio.Queue()

    async def batches() -> AsyncIterator[list[NewEvent]]:
        while True:
            yield await queue.get()

    async with client.publish_stream("p", batches()) as stream:
        for number in range(1, 4):
            queue.put_nowait([NewEvent("k", number)])
            assert (await anext(stream)).receipts[0].sequence == f"{number}-0"


async def test_what_the_source_raises_comes_after_the_results(client: AsyncClient) -> None:
    def batches():
        yield [NewEvent("k", 1)]
        raise LookupError("source")

    async with client.publish_stream("p", batches()) as stream:
        assert (await anext(stream)).error is None
        with pytest.raises(LookupError):
            await anext(stream)


def endless() -> Iterator[list[NewEvent]]:
    for number in itertools.count():
        yield [NewEvent("k", number)]


async def test_a_closed_publish_stream_leaves_no_task_behind(
    client: AsyncClient, events: FakeEvents
) -> None:
    def running() -> set[str]:
        names = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
        return names & {"PublishStream._pull", "_Duplex._send"}

    events.stream_breaks_after = [2, 0]
    async with client.publish_stream("p", endless()) as stream:
        for number in range(1, 6):
            assert (await anext(stream)).receipts[0].sequence == f"{number}-0"
        assert len(running()) == 2
    assert [result async for result in stream] == []
    await asyncio.wait_for(until(lambda: not running()), 10)


async def test_a_closed_blocking_publish_stream_leaves_no_thread_behind(
    port: int, events: FakeEvents
) -> None:
    def use() -> None:
        with (
            Client(f"127.0.0.1:{port}", timeout=5.0) as client,
            client.publish_stream("p", endless()) as stream,
        ):
            for number in range(1, 6):
                assert next(stream).receipts[0].sequence == f"{number}-0"
        assert list(stream) == []

    others = set(threading.enumerate())

    def is_over() -> bool:
        new = set(threading.enumerate()) - others
        return not any(thread.name.startswith("contex-") for thread in new)

    events.stream_breaks_after = [2, 0]
    await asyncio.to_thread(use)
    await asyncio.wait_for(until(is_over), 10)


async def test_the_blocking_client_over_a_real_channel(port: int, events: FakeEvents) -> None:
    def use() -> list[str]:
        with Client(f"127.0.0.1:{port}", timeout=5.0) as client:
            assert client.health() == "SERVING"
            batches = [[NewEvent("k", number)] for number in range(10)]
            with client.publish_stream("p", batches, window=3) as results:
                assert len(list(results)) == 10
            with client.subscribe("p") as subscription:
                return [found.sequence for found in itertools.islice(subscription, 10)]

    events.stream_breaks_after = [2, 3]
    events.break_after = [2, 1]
    assert await asyncio.to_thread(use) == [f"{number}-0" for number in range(1, 11)]


async def test_a_server_without_server_info_has_the_window_that_is_promised(
    client: AsyncClient,
) -> None:
    with pytest.raises(Unimplemented):
        await client.server_info()
    batches = [[NewEvent("k", number)] for number in range(3)]
    async with client.publish_stream("p", batches, window=1) as stream:
        assert len([result async for result in stream]) == 3
        assert stream._window.window_s == 600


async def test_a_client_outlives_its_loop_but_serves_one_at_a_time(
    port: int, events: FakeEvents
) -> None:
    def use() -> None:
        client = AsyncClient(f"127.0.0.1:{port}", timeout=5.0)

        async def publish(number: int) -> None:
            client.subscribe("p")  # left open
            stream = client.subscribe("p", start="end")
            await stream.open()
            assert (await client.publish("p", "k", number)).sequence == f"{number}-0"
            assert (await stream.next(5)).sequence == f"{number}-0"

        async def publish_elsewhere() -> None:
            await client.publish("p", "k", 4)

        async def intrude() -> None:
            await publish(3)
            elsewhere = asyncio.to_thread(asyncio.run, publish_elsewhere())
            with pytest.raises(RuntimeError, match="in use in another event loop"):
                await elsewhere

        asyncio.run(publish(1))
        asyncio.run(publish(2))
        asyncio.run(intrude())
        asyncio.run(client.close())

    await asyncio.to_thread(use)
    assert len(events.log) == 3

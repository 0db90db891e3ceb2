"""Consumers that share an agent's deliveries, with the ordinary client."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from contex import (
    AsyncClient,
    ClaimedDelivery,
    ClaimLost,
    Client,
    ConsumerReplaced,
    DeliveryStream,
    EventFilter,
    MatchKind,
    NewEvent,
    NotFound,
    ParkCause,
    SyncClaimedDelivery,
)
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.integration.client.conftest import InThread
from tests.integration.support import Words

P = "work"
pytestmark = pytest.mark.timeout(60)


async def queue(client: AsyncClient, *keys: str) -> list[str]:
    """An agent that gets everything, and some facts; returns their sequences."""
    await client.register_agent(P, "a", [EventFilter(data_keys=("*",))])
    return await facts(client, *keys)


async def facts(client: AsyncClient, *keys: str) -> list[str]:
    if not keys:
        return []
    receipts = await client.publish_batch(P, [NewEvent(key, "x") for key in keys])
    return [receipt.sequence for receipt in receipts]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.02)


async def outstanding(client: AsyncClient) -> int:
    return (await client.consumer_group(P, "a")).outstanding_count


async def test_going_on_acknowledges(client: AsyncClient) -> None:
    sequences = await queue(client, *"klm")
    got = []
    async with client.consume(P, "a", until_idle=True) as deliveries:
        async for delivery in deliveries:
            got.append(delivery)
            assert await outstanding(client) > 0
        assert deliveries.idle
    assert [d.event.sequence for d in got] == sequences
    assert [(d.attempt, d.redriven, d.kind) for d in got] == [(1, False, MatchKind.MATCHED)] * 3
    assert got[0].matches[0].score == 1.0
    assert deliveries.lost_count == 0
    assert deliveries.missed.dropped_count == 0
    assert deliveries.blocked is None
    assert await outstanding(client) == 0
    await until(lambda: _has_acknowledged(client, sequences[-1]))


async def _has_acknowledged(client: AsyncClient, sequence: str) -> bool:
    return (await client.get_agent(P, "a")).acknowledged_sequence == sequence


async def test_what_a_consumer_says(client: AsyncClient) -> None:
    await queue(client, "ack", "nack", "park", "skip", "extend")
    async with client.consume(P, "a", consumer="w") as deliveries:
        for _ in range(5):
            delivery = await anext(deliveries)
            match delivery.event.data_key:
                case "ack":
                    await delivery.ack()
                    with pytest.raises(RuntimeError, match="settled already: ack"):
                        await delivery.skip()
                case "nack":
                    await delivery.nack(delay=0)
                case "park":
                    await delivery.park("no such customer")
                case "skip":
                    await delivery.skip()
                case "extend":
                    await delivery.extend(60)
                    assert not delivery.lost
        again = await anext(deliveries)
        assert (again.event.data_key, again.attempt) == ("nack", 2)
        await again.ack()
        assert await outstanding(client) == 0
    (parked,) = [each async for each in client.parked(P, "a")]
    assert (parked.matched.event.data_key, parked.reason) == ("park", "no such customer")
    assert (parked.cause, parked.consumer, parked.attempts) == (ParkCause.CONSUMER, "w", 1)


async def test_what_can_not_be_said_leaves_the_stream_as_it_is(client: AsyncClient) -> None:
    await queue(client, "a")
    async with client.consume(P, "a") as deliveries:
        delivery = await anext(deliveries)
        wrong = (
            (delivery.nack, -1),
            (delivery.nack, timedelta(days=7, seconds=1)),
            (delivery.extend, 0),
            (delivery.extend, 0.9),
            (delivery.extend, 3_601),
            (delivery.park, "x" * 1_001),
        )
        for say, argument in wrong:
            with pytest.raises(ValueError, match=r"must be|at most"):
                await say(argument)  # type: ignore[operator]
        with pytest.raises(TypeError, match="reason: expected str, not ValueError"):
            await delivery.park(ValueError("x"))  # type: ignore[arg-type]
        await delivery.extend(1)
        await delivery.extend(3_600)
        await delivery.park("x" * 1_000)
    assert (await client.consumer_group(P, "a")).parked_count == 1


async def test_parked_deliveries_are_redriven_and_dropped(client: AsyncClient) -> None:
    await queue(client, *"klmn")
    async with client.consume(P, "a", until_idle=True) as deliveries:
        async for delivery in deliveries:
            await delivery.park()
    ids = [each.parked_id async for each in client.parked(P, "a", page_size=3)]
    assert len(ids) == 4
    assert await client.drop_parked(P, "a", []) == 0
    assert await client.redrive(P, "a", []) == 0
    assert await client.drop_parked(P, "a", ids[:1]) == 1
    assert await client.redrive(P, "a", ids[1:2]) == 1
    async with client.consume(P, "a", until_idle=True) as deliveries:
        async for delivery in deliveries:
            assert (delivery.event.data_key, delivery.redriven) == ("l", True)
    assert await client.redrive(P, "a") == 2
    with pytest.raises(ValueError, match="either"):
        await client.drop_parked(P, "a")
    assert await client.drop_parked(P, "a", all=True) == 0


async def test_a_block_acknowledges_or_lets_come_again(client: AsyncClient) -> None:
    await queue(client, *"kl")
    async with client.consume(P, "a", auto_ack=False) as deliveries:
        async with await anext(deliveries):
            pass
        with pytest.raises(ZeroDivisionError):
            async with await anext(deliveries) as delivery:
                1 / 0  # noqa: B018
        assert delivery.settled
        again = await anext(deliveries)
        assert (again.event.data_key, again.attempt) == ("l", 2)
        async with again:
            await again.skip()
        assert await outstanding(client) == 0


async def test_leaving_settles_what_is_in_hand_and_gives_back_the_rest(client: AsyncClient) -> None:
    await queue(client, *"klmn")
    async with client.consume(P, "a") as deliveries:
        async for delivery in deliveries:
            if delivery.event.data_key == "l":
                break
    with pytest.raises(ZeroDivisionError):
        async with client.consume(P, "a") as deliveries:
            async for delivery in deliveries:
                assert delivery.event.data_key in "mn"
                1 / 0  # noqa: B018
    with pytest.raises(RuntimeError, match="settled already: retry"):
        await delivery.skip()
    left = await client.consumer_group(P, "a")
    assert left.outstanding_count == 2
    assert left.delayed_count == 2
    assert all(c.outstanding_count == 0 for c in left.consumers)


async def test_a_cancelled_consumer_gives_back_at_once(client: AsyncClient) -> None:
    await queue(client, *"k")
    has_one = asyncio.Event()

    async def consume() -> None:
        async with client.consume(P, "a") as deliveries:
            async for _ in deliveries:
                has_one.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    await has_one.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    async with client.consume(P, "a") as deliveries, asyncio.timeout(0.9):
        assert (await anext(deliveries)).attempt == 2


async def test_what_is_held_is_extended(client: AsyncClient) -> None:
    await queue(client, *"kl")
    async with client.consume(P, "a", ack_deadline=1, auto_ack=False) as deliveries:
        first = await anext(deliveries)  # the second waits in the client
        async with client.consume(P, "a") as others:
            await asyncio.sleep(2.5)
            await first.ack()
            second = await anext(deliveries)
            await second.ack()
            assert deliveries.lost_count == 0
            await others.drain()
            assert [delivery async for delivery in others] == []


async def test_nobody_acts_on_a_lost_claim(client: AsyncClient) -> None:
    await queue(client, *"kl")
    stream = client.consume(P, "a", ack_deadline=1, max_extension=0, auto_ack=False)
    async with stream as deliveries:
        first = await anext(deliveries)
        async with client.consume(P, "a", consumer="other") as others:
            got = [await anext(others), await anext(others)]
        assert {d.event.data_key for d in got} == {"k", "l"}
        await until(lambda: _value(first.lost))
        with pytest.raises(ClaimLost, match="of k is no longer"):
            await first.ack()
        with pytest.raises(ClaimLost):
            await first.extend()
        await facts(client, "m")
        last = await anext(deliveries)
        while last.event.data_key != "m":  # what the other has left unsettled comes again
            last = await anext(deliveries)
        assert deliveries.lost_count >= 2
    with pytest.raises(ClaimLost, match="the stream was left"):
        await last.nack()


async def _value(value: bool) -> bool:
    return value


async def test_a_lost_claim_is_logged_where_nobody_waits(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await queue(client, "k")
    async with client.consume(P, "a") as deliveries:
        async for _ in deliveries:
            moved = await client.seek_consumers(P, "a", start="end")
            assert moved.cleared_count == 1
            break
    assert deliveries.lost_count == 1
    assert "no longer this consumer's" in caplog.text


async def test_seeking_begins_again(client: AsyncClient) -> None:
    sequences = await queue(client, *"kl")

    async def all_there_is() -> list[str]:
        async with client.consume(P, "a", until_idle=True) as deliveries:
            return [delivery.event.data_key async for delivery in deliveries]

    assert await all_there_is() == ["k", "l"]
    assert await all_there_is() == []
    moved = await client.seek_consumers(P, "a", after_sequence=sequences[0])
    assert moved.position_sequence == sequences[0]
    assert await all_there_is() == ["l"]
    await client.seek_consumers(P, "a", start="beginning")
    assert await all_there_is() == ["k", "l"]
    with pytest.raises(ValueError, match="exactly one"):
        await client.seek_consumers(P, "a")


async def test_idle_waits_for_what_its_own_work_sets_free(client: AsyncClient) -> None:
    await queue(client, *["k"] * 20)
    async with client.consume(P, "a", until_idle=True) as deliveries:
        assert [d.event.revision async for d in deliveries] == [*range(1, 21)]


async def test_a_handler_is_called_for_each(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"k{i % 10}" for i in range(100)]
    await queue(client, *keys)
    active: Counter[str] = Counter()
    done: list[tuple[str, int]] = []
    most = 0

    async def handle(delivery: ClaimedDelivery) -> None:
        nonlocal most
        key = delivery.event.data_key
        active[key] += 1
        assert active[key] == 1
        most = max(most, active.total())
        await asyncio.sleep(0.002)
        active[key] -= 1
        if (key, delivery.attempt) == ("k3", 1) and delivery.event.revision == 2:
            raise ValueError("not today")
        if delivery.event.data_key == "k4":
            await delivery.park("never")
        done.append((key, delivery.event.revision))
        if len(done) == 100:
            await deliveries.drain()

    with caplog.at_level(logging.ERROR, "contex"):
        async with client.consume(P, "a") as deliveries:
            await deliveries.run(handle, concurrency=8)
    assert sorted(done) == sorted((f"k{i % 10}", i // 10 + 1) for i in range(100))
    assert most > 1
    assert "k3, attempt 1: the handler failed" in caplog.text
    assert "not today" in caplog.text
    state = await client.consumer_group(P, "a")
    assert (state.outstanding_count, state.parked_count) == (0, 10)


async def test_another_stream_of_the_name_replaces(client: AsyncClient) -> None:
    await queue(client)
    async with client.consume(P, "a", consumer="x") as former:
        waiting = asyncio.create_task(anext(former))
        await until(lambda: _is_there(client, "x"))
        async with client.consume(P, "a", consumer="x", until_idle=True) as latter:
            assert [d async for d in latter] == []
            with pytest.raises(ConsumerReplaced):
                await waiting
        assert former.reconnects == 0


async def _is_there(client: AsyncClient, name: str) -> bool:
    return name in [c.name for c in (await client.consumer_group(P, "a")).consumers]


async def test_an_agent_that_is_not_there(client: AsyncClient) -> None:
    await client.publish(P, "k", 1)
    async with client.consume(P, "nobody") as deliveries:
        with pytest.raises(NotFound):
            await anext(deliveries)
    with pytest.raises(NotFound):
        async with client.consume(P, "nobody") as deliveries:
            await deliveries.run(_nothing, concurrency=3)
    with pytest.raises(ValueError, match="concurrency"):
        await deliveries.run(_nothing, concurrency=0)


async def _nothing(_: ClaimedDelivery) -> None: ...


async def test_a_consumer_goes_on_after_a_restart(
    valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    server = await start_server(valkey.url, embedder=Words())
    port = server.port
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        await queue(client, *"klmn")
        async with client.consume(P, "a", auto_ack=False) as deliveries:
            held = [await anext(deliveries), await anext(deliveries)]
            await server.stop()
            saying = asyncio.create_task(held[0].ack())
            await asyncio.sleep(0.05)
            assert not saying.done()
            await start_server(valkey.url, embedder=Words(), port=port)
            await saying
            await held[1].ack()
            rest = [await anext(deliveries), await anext(deliveries)]
            assert [(d.event.data_key, d.attempt) for d in rest] == [("m", 1), ("n", 1)]
            for delivery in rest:
                await delivery.ack()
            assert deliveries.reconnects > 0
            assert deliveries.lost_count == 0
        assert await outstanding(client) == 0


async def test_blocking_code_consumes(client: AsyncClient, in_thread: InThread) -> None:
    await queue(client, *(f"k{i % 10}" for i in range(50)))
    done: list[int] = []
    threads = set()

    def consume(sync: Client) -> None:
        with sync.consume(P, "a", consumer="blocking") as deliveries:
            first = next(deliveries)
            assert first.event.revision == 1
            first.nack(delay=0)
            with next(deliveries) as second:
                second.extend(30)
            for delivery in deliveries:
                delivery.park("enough")
                break

        def handle(delivery: SyncClaimedDelivery) -> None:
            threads.add(threading.current_thread())
            if delivery.event.data_key == "k5" and delivery.attempt == 1:
                raise ValueError
            done.append(1)

        with sync.consume(P, "a", until_idle=True) as deliveries:
            deliveries.run(handle, concurrency=4)
        assert deliveries.lost_count == 0

    await in_thread(consume)
    assert len(threads) > 1
    state = await client.consumer_group(P, "a")
    assert state.parked_count == 1
    assert len(done) + state.parked_count + state.outstanding_count == 49
    assert [key.data_key for key in state.blocked_keys] == ["k5"], state


async def test_the_streams_of_a_client_end_with_it(client: AsyncClient) -> None:
    await queue(client, "k")
    async with AsyncClient(client._connection._target) as other:
        stream: DeliveryStream = other.consume(P, "a")
        assert (await anext(stream)).event.data_key == "k"
    async with client.consume(P, "a") as deliveries:
        assert (await anext(deliveries)).attempt == 2

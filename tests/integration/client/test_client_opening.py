"""What is published between opening a stream and its first iteration arrives."""

from __future__ import annotations

from typing import Any

import pytest
from contex import (
    AsyncClient,
    Client,
    MatchedEvent,
    MatchKind,
    Subscription,
    SyncSubscription,
)
from contex_server.server import Server

from tests.integration.client.conftest import InThread

P = "opening"


async def first(stream: Subscription[Any]) -> str:
    return (await stream.next(timeout=10)).sequence


async def test_the_end_is_that_at_the_opening(client: AsyncClient, small_server: Server) -> None:
    await client.publish(P, "k", 0)
    async with (
        AsyncClient(f"127.0.0.1:{small_server.port}") as other,
        client.subscribe(P, start="end") as entered,
        await client.subscribe(P, start="end").open() as opened,
        client.subscribe(P, start="end") as raw,
    ):
        receipt = await other.publish(P, "k", 1)
        assert await first(entered) == await first(opened) == receipt.sequence
        messages = raw.messages()
        assert (await anext(messages)).WhichOneof("message") == "caught_up"
        assert (await anext(messages)).events.events[0].sequence == receipt.sequence


async def test_a_listener_at_its_durable_cursor_stays_where_it_opened(client: AsyncClient) -> None:
    await client.register_agent(P, "a", ["apples"])
    async with client.listen(P, "a") as matches:
        receipt = await client.publish(P, "k", "apples")
        await client.acknowledge(P, "a", receipt.sequence)  # by another listener, say
        assert (await matches.next(timeout=10)).event.sequence == receipt.sequence


async def test_an_opened_listener_is_told_of_a_change(client: AsyncClient) -> None:
    old = await client.publish(P, "k", "pears")
    await client.register_agent(P, "a", ["apples"])
    async with client.listen(P, "a") as matches:
        await client.publish(P, "other", "apples")
        assert (await matches.next(timeout=10)).event.data_key == "other"
        await client.update_agent(P, "a", needs=["pears"])
        brought = await matches.next(timeout=10)
        assert (brought.kind, brought.event.sequence) == (MatchKind.MATCHED, old.sequence)
        assert matches.needs_changed is not None


async def test_what_a_registration_brought_is_acknowledged_by_its_cursor(
    client: AsyncClient,
) -> None:
    for number in range(3):
        await client.publish(P, f"k{number}", f"apples {number}", description="apples")
    await client.register_agent(P, "a", ["apples"])
    held: dict[str, MatchedEvent] = {}
    async with client.listen(P, "a") as matches:
        while len(held) < 3:
            matched = await matches.next(timeout=10)
            assert matched.kind is MatchKind.MATCHED
            matched.apply_to(held)
        await matches.acknowledge()
    deleted = await client.delete(P, "k1")
    async with client.listen(P, "a") as matches:
        matched = await matches.next(timeout=10)
        assert (matched.kind, matched.event.sequence) == (MatchKind.DELETED, deleted.sequence)
        matched.apply_to(held)
    assert set(held) == {"k0", "k2"}


async def test_the_blocking_client_acknowledges_what_it_handed_out(
    in_thread: InThread, client: AsyncClient
) -> None:
    await client.publish(P, "k", "apples")
    await client.register_agent(P, "a", ["apples"])

    def use(sync: Client) -> None:
        with sync.listen(P, "a") as matches:
            assert matches.acknowledge() is None
            matches.next(timeout=10)
            assert matches.acknowledge()
        sync.publish(P, "other", "apples too")
        with sync.listen(P, "a") as matches:
            assert matches.next(timeout=10).event.data_key == "other"

    await in_thread(use)


async def test_the_blocking_client_opens_at_the_call(
    in_thread: InThread, client: AsyncClient
) -> None:
    await client.register_agent(P, "a", ["apples"])

    def use(sync: Client) -> None:
        sync.publish(P, "k", 0)
        events: SyncSubscription[Any] = sync.subscribe(P, start="end")
        matches = sync.listen(P, "a")
        receipt = sync.publish(P, "k", "apples")
        sync.acknowledge(P, "a", receipt.sequence)
        assert events.next(timeout=10).sequence == receipt.sequence
        assert matches.next(timeout=10).event.sequence == receipt.sequence

    await in_thread(use)


async def test_a_wait_with_a_timeout_loses_nothing(
    in_thread: InThread, client: AsyncClient
) -> None:
    def use(sync: Client) -> None:
        events = sync.subscribe(P, start="end")
        for number in range(3):
            with pytest.raises(TimeoutError, match=r"nothing arrived within 0\.05 s"):
                events.next(timeout=0.05)
            sequence = sync.publish(P, "k", number).sequence
            assert events.next(timeout=10).sequence == sequence
        assert events.reconnects == 0

    await in_thread(use)
    async with client.subscribe(P, start="end") as events:
        for number in range(3):
            with pytest.raises(TimeoutError, match=r"nothing arrived within 0\.05 s"):
                await events.next(timeout=0.05)
            sequence = (await client.publish(P, "k", number)).sequence
            assert (await events.next(timeout=10)).sequence == sequence


async def test_a_timeout_also_ends_a_wait_for_a_server(unused_tcp_port: int) -> None:
    async with AsyncClient(f"127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(TimeoutError):
            await client.subscribe(P).next(timeout=0.3)


async def test_a_timeout_also_ends_a_blocking_wait_for_a_server(unused_tcp_port: int) -> None:
    with Client(f"127.0.0.1:{unused_tcp_port}") as client, pytest.raises(TimeoutError):
        client.subscribe(P).next(timeout=0.3)

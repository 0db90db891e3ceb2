"""What an agent holds by its deliveries, with the ordinary client."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from contex import (
    AgentProgress,
    AsyncClient,
    Client,
    DeadlineExceeded,
    DecidingState,
    MatchedEvent,
    MatchKind,
    NewEvent,
    NotFound,
    RegistrationOutcome,
    WaitUntil,
)

from tests.integration.client.conftest import InThread

P = "deliveries"


async def held_after(
    client: AsyncClient, agent_id: str, last: str
) -> tuple[dict[str, int], list[str]]:
    """What an agent holds, by revision, and the kinds of its deliveries, from its registration to
    an event.
    """
    held: dict[str, MatchedEvent] = {}
    kinds = []
    async with client.listen(P, agent_id) as deliveries, asyncio.timeout(20):
        async for delivery in deliveries:
            assert delivery.kind is not None
            delivery.apply_to(held)
            kinds.append(f"{delivery.event.data_key} {delivery.kind.value}")
            if delivery.event.sequence == last:
                break
    return {key: matched.event.revision for key, matched in held.items()}, kinds


async def test_an_agent_that_was_away_holds_what_is_there(client: AsyncClient) -> None:
    for key in ("stays", "changes", "goes", "old"):
        await client.publish(P, key, f"apples {key}", description="apples")
    for agent_id in ("all", "muted"):
        registration = await client.register_agent(
            P,
            agent_id,
            ["apples"],
            muted_kinds=[MatchKind.UPDATED] if agent_id == "muted" else None,
        )
        assert registration.outcome is RegistrationOutcome.REGISTERED
    again = await client.register_agent(P, "all", ["apples"])
    assert again.outcome is RegistrationOutcome.UNCHANGED
    await client.publish(P, "stays", "apples once more", description="apples")
    await client.publish(P, "changes", "sunny", description="weather of tomorrow")
    await client.delete(P, "goes")
    last = await client.publish(P, "last", "apples at last", description="apples")

    held, kinds = await held_after(client, "all", last.sequence)
    assert held == {"stays": 2, "old": 1, "last": 1}
    changes = ["stays updated", "changes left", "goes deleted", "last matched"]
    assert sorted(kinds[:4]) == ["changes matched", "goes matched", "old matched", "stays matched"]
    assert kinds[4:] == changes
    _, kinds = await held_after(client, "muted", last.sequence)
    assert kinds[4:] == changes[1:]


async def test_an_agent_does_without_what_it_publishes_itself(client: AsyncClient) -> None:
    await client.register_agent(P, "ops", ["apples"], exclude_own=True)  # the client's publisher
    await client.register_agent(P, "other", ["apples"], exclude_own=True)
    own = await client.publish(P, "own", "apples", description="apples")
    assert (await held_after(client, "other", own.sequence))[1] == ["own matched"]
    async with client.listen(P, "ops") as deliveries:
        while not deliveries.caught_up:
            await anext(deliveries.messages())
        assert deliveries.position is None


async def test_an_erasure_of_earlier_revisions_leaves_what_is_held(client: AsyncClient) -> None:
    await client.register_agent(P, "a", ["apples"])
    of_ann = {"subject": "ann"}
    await client.publish(P, "k", "apples", description="apples", metadata=of_ann)
    second = await client.publish(P, "k", "more apples", description="apples")
    await client.publish(P, "gone", "apples of Ann", description="apples", metadata=of_ann)
    await client.erase(P, subject="ann", reason="asked")
    last = await client.publish(P, "last", "apples at last", description="apples")
    held, kinds = await held_after(client, "a", last.sequence)
    assert held == {"k": second.revision, "last": 1}
    assert {"k erased", "gone erased"} <= set(kinds)


async def test_an_agent_that_was_away_forgets_what_was_erased(client: AsyncClient) -> None:
    await client.register_agent(P, "a", ["apples"])
    await client.publish(P, "k", "apples", description="apples")
    await client.publish(P, "k", "more apples", description="apples")
    await client.erase(P, data_key="k", reason="asked")
    last = await client.publish(P, "last", "apples at last", description="apples")
    held, kinds = await held_after(client, "a", last.sequence)
    assert held == {"last": 1}
    assert kinds == ["k matched", "k updated", "k erased", "last matched"]


async def test_restarts_amid_what_a_registration_brings_lose_nothing(client: AsyncClient) -> None:
    keys = [f"k{number}" for number in range(600)]
    await client.publish_batch(P, [NewEvent(key, f"apples {key}", "apples") for key in keys[:300]])
    await client.publish_batch(P, [NewEvent(key, f"apples {key}", "apples") for key in keys[300:]])
    await client.register_agent(P, "a", ["apples"])
    received: list[str] = []
    starts = 0
    while len(set(received)) < len(keys):
        starts += 1
        async with client.listen(P, "a") as deliveries, asyncio.timeout(20):
            # Inside of a message what a registration brings can't be acknowledged: to the end of
            # one, and a little into the next.
            taken = 0
            while len(set(received)) < len(keys) and (taken < 10 or deliveries.cursor is None):
                received.append((await anext(deliveries)).event.data_key)
                taken += deliveries.cursor is not None
            await deliveries.acknowledge()
    assert set(received) == set(keys)
    assert starts > 1
    assert len(received) < 2 * len(keys)


async def test_an_agent_is_waited_for(client: AsyncClient, in_thread: InThread) -> None:
    await client.register_agent(P, "worker", ["apples"], ttl=3_600)
    published = await client.publish(P, "fresh", "apples", description="apples")
    decided = await client.wait_for_agent(P, "worker", published.sequence, until=WaitUntil.DECIDED)
    assert decided.deciding_state in (DecidingState.CATCHING_UP, DecidingState.LIVE)
    assert decided.unacknowledged_count == 1
    with pytest.raises(DeadlineExceeded, match="1 unacknowledged, decided up to"):
        await client.wait_for_agent(P, "worker", published.sequence, timeout=0.2)

    def passed(sync: Client) -> AgentProgress:
        return sync.wait_for_agent(P, "worker", published.sequence, timeout=20)

    waiting = asyncio.create_task(in_thread(passed))  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    await client.acknowledge(P, "worker", published.sequence)
    assert (await waiting).unacknowledged_count == 0
    agent = await client.get_agent(P, "worker")
    assert agent.ttl == timedelta(hours=1)
    assert agent.last_contact_time is not None
    assert agent.progress is not None
    assert agent.progress.acknowledged_sequence == published.sequence
    assert [a.progress is not None async for a in client.list_agents(P)] == [True]
    updated = await client.update_agent(P, "worker", ttl=0)
    assert updated.agent.ttl is None
    with pytest.raises(NotFound):
        await client.wait_for_agent(P, "nobody", published.sequence, timeout=5)

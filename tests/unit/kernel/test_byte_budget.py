"""Bytes that many share: who waits, in which order, and for how long at most."""

from __future__ import annotations

import asyncio

import pytest
from contex_server.kernel.byte_budget import ByteBudget, Share


async def started(*coroutines: object) -> list[asyncio.Task[Share]]:
    tasks = [asyncio.ensure_future(each) for each in coroutines]  # type: ignore[call-overload]
    await asyncio.sleep(0)
    return tasks


async def test_shares_are_given_out_in_the_order_of_asking() -> None:
    budget = ByteBudget(100)
    first = await budget.take(80)
    large, small = await started(budget.take(90), budget.take(10))
    # The small one would fit, but then the large one might wait for ever.
    assert budget.take_now(10) is None
    assert (budget.held, budget.waiting, budget.waited) == (80, 100, 2)
    assert not small.done()
    first.give_back()
    first.give_back()
    (await large).give_back()
    (await small).give_back()
    assert (budget.held, budget.waiting) == (0, 0)


async def test_what_exceeds_the_whole_is_served_alone() -> None:
    budget = ByteBudget(100)
    share = await budget.take(500)
    assert budget.take_now(1) is None
    share.resize(60)
    assert budget.take_now(40) is not None


async def test_one_who_stops_waiting_holds_up_nobody() -> None:
    budget = ByteBudget(100)
    first = await budget.take(80)
    large, small = await started(budget.take(90), budget.take(10))
    large.cancel()
    assert (await small).size == 10
    assert (budget.held, budget.waiting) == (90, 0)
    (late,) = await started(budget.take(50))
    first.give_back()
    late.cancel()  # Its share was there already.
    with pytest.raises(asyncio.CancelledError):
        await late
    assert budget.held == 10


async def test_what_is_held_for_long_is_lent_to_those_who_wait() -> None:
    budget = ByteBudget(100, lend_after_s=0.05)
    slow = await budget.take(100)
    await asyncio.sleep(0.06)
    assert slow.size == 100
    share = await asyncio.wait_for(budget.take(100), 5)
    assert (slow.size, share.size, budget.held) == (0, 100, 100)
    slow.resize(200)
    slow.give_back()
    assert budget.held == 100


async def test_an_owner_leaves_half_to_others() -> None:
    budget = ByteBudget(100)
    first = await budget.take(40, "b")
    flood = [asyncio.ensure_future(budget.take(20, "b")) for _ in range(10)]
    await asyncio.sleep(0)
    assert budget.held == 40
    # Those of others pass the ones that their owner alone keeps waiting.
    other = await budget.take_within(50, 0, "a")
    assert other is not None
    assert budget.take_now(20, "c") is None  # Now it is the whole that is used up.
    other.give_back()
    assert budget.held == 40
    first.give_back()
    await asyncio.sleep(0)
    assert [one.done() for one in flood].count(True) == 2
    for one in flood:
        one.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    for one in flood[:2]:
        one.result().give_back()
    assert (budget.held, budget.waiting) == (0, 0)
    assert not budget._held_by
    assert not budget._waiting_by
    assert not budget._queues


async def test_an_owner_waits_for_at_most_half() -> None:
    budget = ByteBudget(100)
    held = await budget.take(50, "b")
    waiting = [asyncio.ensure_future(budget.take_within(30, None, "b")) for _ in range(2)]
    await asyncio.sleep(0)
    assert await budget.take_within(30, None, "b") is None
    assert await budget.take_within(30, None, "a") is not None
    held.give_back()
    for one in waiting:
        assert await one is not None or one.cancel()
        share = one.result()
        assert share is not None
        share.give_back()

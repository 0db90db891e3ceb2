from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from contex_server.kernel.ahead import ahead


async def count(until: int) -> AsyncIterator[int]:
    for number in range(until):
        yield number


async def test_the_next_items_are_under_way_while_one_is_worked_on() -> None:
    begun: list[int] = []

    async def double(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0.01 if number % 2 else 0)
        return 2 * number

    results: list[int] = []
    async for result in ahead(count(7), double, 2):
        results.append(result)
        await asyncio.sleep(0)
        assert len(begun) == min(7, len(results) + 2)
    assert results == [0, 2, 4, 6, 8, 10, 12]


async def test_a_failure_stops_what_is_under_way() -> None:
    stopped: list[int] = []

    async def work(number: int) -> int:
        if number == 1:
            raise ValueError("of one")
        try:
            await asyncio.sleep(0 if not number else 60)
        except asyncio.CancelledError:
            stopped.append(number)
            raise
        return number

    results: list[int] = []
    with pytest.raises(ValueError, match="of one"):
        async for result in ahead(count(9), work, 2):
            results.append(result)
    assert (results, stopped) == ([0], [2])

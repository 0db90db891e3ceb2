"""What takes long gives way to publishing and delivering, and still comes to its end."""

from __future__ import annotations

import asyncio

import pytest
from contex_server.kernel import right_of_way
from contex_server.kernel.right_of_way import RightOfWay


async def test_heavy_work_waits_while_the_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(right_of_way, "MOST_S", 60.0)
    way = RightOfWay()
    with way.taken():
        work = asyncio.create_task(way.heavily(lambda: "done"))
        await asyncio.sleep(0.05)
        assert not work.done()
    assert await work == "done"


async def test_a_thread_pauses_between_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(right_of_way, "MOST_S", 60.0)
    way, seen = RightOfWay(), list[int]()

    def run() -> None:
        for item in way.giving(range(3)):
            seen.append(item)

    with way.taken():
        work = asyncio.create_task(asyncio.to_thread(run))
        await asyncio.sleep(0.05)
        assert seen == [0]
    await work
    assert seen == [0, 1, 2]


async def test_it_never_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(right_of_way, "MOST_S", 0.01)
    way = RightOfWay()
    with way.taken():
        items = await asyncio.wait_for(way.heavily(lambda: list(way.giving(range(1000)))), 5)
    assert len(items) == 1000


async def test_what_takes_long_is_done_one_after_the_other() -> None:
    way, at_once, most = RightOfWay(), 0, 0

    def work() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        for _ in range(10_000):
            pass
        at_once -= 1

    await asyncio.gather(*(way.heavily(work) for _ in range(8)))
    assert most == 1

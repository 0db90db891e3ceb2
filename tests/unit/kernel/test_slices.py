from __future__ import annotations

import asyncio
import time

import pytest
from contex_server.kernel import slices
from contex_server.kernel.slices import SLICE_S, Slices, sliced
from contex_server.kernel.work import Meter, metered


def _busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_others_run_after_each_slice() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    seen = []
    async for item in sliced(range(10)):
        _busy(SLICE_S / 2)
        seen.append(item)
    task.cancel()
    assert seen == list(range(10))
    assert 3 <= turns <= 10


async def test_short_work_is_not_interrupted() -> None:
    interrupted = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(interrupted.set_result, None)
    short = Slices()
    for _ in range(10):
        await short.pause()
    assert not interrupted.done()


async def test_one_slice_goes_on_in_a_turn_and_owners_go_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    turns: list[str] = []

    async def work(owner: str) -> None:
        with metered(Meter(owner, lambda _: None, lambda: 0.0, throttled=False)):
            async for _ in sliced(range(4)):
                turns.append(owner)

    works = [asyncio.create_task(work(owner)) for owner in (*"bbbbbbbb", "a")]
    await asyncio.sleep(0)
    begun = len(turns)
    assert begun == 9  # The first slice of each.
    seen = 0
    while not works[-1].done():
        await asyncio.sleep(0)
        assert len(turns) - begun <= seen + 1
        seen = len(turns) - begun
    # Of nine calls one is hers, and she has every other turn.
    assert turns[begun:].count("b") <= 5
    await asyncio.gather(*works)

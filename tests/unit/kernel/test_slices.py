from __future__ import annotations

import asyncio
import time

from contex_server.kernel.slices import SLICE_S, Slices, sliced


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
    slices = Slices()
    for _ in range(10):
        await slices.pause()
    assert not interrupted.done()

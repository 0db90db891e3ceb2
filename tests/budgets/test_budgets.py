"""One request of each kind costs no more than the table says; `make budgets` prints it.

What is limited does not depend on what else the machine does: processor time, memory and bytes.
A row that exceeds a limit is tried twice more, since processors that are shared are slower.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from contex_server.server import SERVICERS

from tests.budgets.measure import KEYS, Result, measured, printed
from tests.budgets.meter import Cost, LoopMeter
from tests.budgets.table import ROWS, SLOW
from tests.integration.hostile.scene import METHODS

TRIES = 3
QUICK_KEYS = KEYS // 10


def test_every_rpc_has_a_budget() -> None:
    quick = {row.rpc for row in ROWS if str(row) not in SLOW}
    served = {method.name for kind in SERVICERS for method in kind.SERVICE.methods}
    assert served == METHODS.keys() == quick
    assert {str(row) for row in ROWS} > SLOW


async def test_budgets() -> None:
    results = await measured([row for row in ROWS if str(row) not in SLOW], QUICK_KEYS, tries=TRIES)
    assert _exceeded(results) == []


@pytest.mark.thorough
@pytest.mark.timeout(900)
async def test_budgets_of_a_larger_project() -> None:
    """With more keys no step is longer, and no request takes more than in proportion."""
    times = 2
    results = await measured(ROWS, times * KEYS, tries=TRIES, times=times)
    assert _exceeded(results) == []


def _exceeded(results: list[Result]) -> list[str]:
    return [printed(result) for result in results if result.exceeded]


async def test_the_meter_sees_what_holds_the_loop() -> None:
    def busy(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    async def waits() -> None:
        await asyncio.to_thread(busy, 0.05)
        time.sleep(0.05)  # Held, but it takes no processor time.

    meter, waiting, holding = LoopMeter(), Cost(), Cost()
    with meter.installed():
        with meter.measuring(waiting):
            await asyncio.create_task(waits())
        with meter.measuring(holding):
            asyncio.get_running_loop().call_soon(busy, 0.05)
            await asyncio.sleep(0.01)
    assert waiting.held_ms < 20
    assert waiting.cpu_ms >= 50
    assert 50 <= holding.held_ms < 150

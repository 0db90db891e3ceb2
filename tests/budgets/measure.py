"""Measures rows of the table, one after the other, on one server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from tests.budgets.meter import Cost, LoopMeter
from tests.budgets.scene import Scene, running
from tests.budgets.table import Row
from tests.canaries import captured_logs

KEYS = 20_000
PEAK_MIB = 1024
"""What the whole suite may take."""


@dataclass(frozen=True)
class Result:
    """A row and what its request cost."""

    row: Row
    cost: Cost
    error: str = ""
    times: int = 1

    @property
    def exceeded(self) -> list[str]:
        """Which limits do not hold."""
        row, cost = self.row, self.cost
        pairs = {
            "held_ms": (cost.held_ms, row.held_ms),
            "cpu_ms": (cost.cpu_ms, self.times * row.cpu_ms),
            "memory_mib": (cost.memory_mib, self.times * row.memory_mib),
            "log_bytes": (cost.log_bytes, self.times * row.log_bytes),
        }
        over = [
            f"{name} {is_:.0f} > {most:.0f}" for name, (is_, most) in pairs.items() if is_ > most
        ]
        return [self.error, *over] if self.error else over


async def measured(
    rows: Iterable[Row],
    keys: int = KEYS,
    *,
    tries: int = 1,
    sampled: bool = False,
    times: int = 1,
    told: Callable[[Result], None] = lambda _: None,
    peak: Callable[[float], None] = lambda _: None,
) -> list[Result]:
    """Measures rows, one after the other.

    Args:
        tries: How often a row that exceeds a limit is tried; the last counts.
        sampled: Whether to find out where the longest steps were.
        times: How many times the limits there may be used, but for the longest step.
        told: Called with each result.
        peak: Called at the end with the highest memory of the process, in MiB: that of the server
            and of those who call it, as both are in this process.
    """
    meter, results = LoopMeter(sampled=sampled), list[Result]()
    with captured_logs() as logs:
        async with running(keys) as scene:
            with meter.installed():
                for row in rows:
                    for _ in range(tries):
                        result = await _measure(scene, meter, row, logs, times)
                        if not result.exceeded:
                            break
                    results.append(result)
                    told(result)
            peak(meter.peak_mib)
    return results


async def _measure(scene: Scene, meter: LoopMeter, row: Row, logs: list[Any], times: int) -> Result:
    if row.before is not None:
        await row.before(scene)
    requests = list(row.make(scene))
    await asyncio.sleep(0)  # What was done up to here is no step of the call.
    logs.clear()
    cost, error = Cost(), ""
    with meter.measuring(cost):
        try:
            await scene.call(row.rpc, requests, row.until, cost)
        except Exception as raised:
            error = f"{raised}"[:300]
    cost.log_bytes = sum(
        len(orjson.dumps(entry, default=str)) for entry in logs if entry["log_level"] != "debug"
    )
    return Result(row, cost, error, times)


HEAD = (
    f"{'':52}{'loop held':>16}{'processor':>16}{'memory':>16}{'logged':>14}{'answer':>9}\n"
    f"{'':52}{'ms / most':>16}{'ms / most':>16}{'MiB / most':>16}{'B / most':>14}{'MiB':>9}"
)


def printed(result: Result, *, where: bool = False) -> str:
    """A line of the table for people."""
    row, cost, times = result.row, result.cost, result.times
    line = (
        f"{str(row)[:51]:52}{cost.held_ms:9.1f} /{row.held_ms:5.0f}"
        f"{cost.cpu_ms:8.0f} /{times * row.cpu_ms:6.0f}"
        f"{cost.memory_mib:9.1f} /{times * row.memory_mib:5.0f}"
        f"{cost.log_bytes:7} /{times * row.log_bytes:5}{cost.answer_mib:9.2f}"
    )
    if result.exceeded:
        line += f"   ! {'; '.join(result.exceeded)}"
    return f"{line}\n      {cost.where}" if where and cost.held_ms > row.held_ms / 2 else line

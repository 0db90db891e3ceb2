"""Measures rows of the table, one after the other, on one server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from tests.budgets.meter import Cost, LoopMeter
from tests.budgets.scene import Scene, running
from tests.budgets.table import HELD_MS, Row
from tests.canaries import captured_logs

KEYS = 20_000


@dataclass(frozen=True)
class Result:
    """A row and what its request cost."""

    row: Row
    cost: Cost
    error: str = ""

    @property
    def exceeded(self) -> list[str]:
        """Which limits do not hold."""
        row, cost = self.row, self.cost
        pairs = {
            "held_ms": (cost.held_ms, HELD_MS),
            "cpu_ms": (cost.cpu_ms, row.cpu_ms),
            "memory_mib": (cost.memory_mib, row.memory_mib),
            "log_bytes": (cost.log_bytes, row.log_bytes),
        }
        over = [
            f"{name} {is_:.0f} > {most:.0f}" for name, (is_, most) in pairs.items() if is_ > most
        ]
        return [self.error, *over] if self.error else over


async def measured(
    rows: Iterable[Row], keys: int = KEYS, *, tries: int, sampled: bool = False
) -> list[Result]:
    """Measures rows; one that exceeds a limit up to `tries` times, and the best counts."""
    meter = LoopMeter(sampled=sampled)
    with captured_logs() as logs:
        async with running(keys) as scene:
            with meter.installed():
                results = []
                for row in rows:
                    for _ in range(tries):
                        result = await _measure(scene, meter, row, logs)
                        if not result.exceeded:
                            break
                    results.append(result)
                    print(printed([result], where=sampled).split("\n", 2)[2], flush=True)
    return results


async def _measure(scene: Scene, meter: LoopMeter, row: Row, logs: list) -> Result:
    if row.before is not None:
        await row.before(scene)
    requests = list(row.make(scene))
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
    return Result(row, cost, error)


def printed(results: Iterable[Result], *, where: bool = False) -> str:
    """A table for people."""
    lines = [
        f"{'':56}{'loop held':>18}{'processor':>18}{'memory':>16}{'logged':>14}{'answer':>9}",
        f"{'':56}{'ms / most':>18}{'ms / most':>18}{'MiB / most':>16}{'B / most':>14}{'MiB':>9}",
    ]
    for result in results:
        row, cost = result.row, result.cost
        lines.append(
            f"{str(row)[:55]:56}{cost.held_ms:9.1f} /{HELD_MS:7.0f}{cost.cpu_ms:9.0f} /"
            f"{row.cpu_ms:7.0f}{cost.memory_mib:7.1f} /{row.memory_mib:7.0f}"
            f"{cost.log_bytes:6} /{row.log_bytes:6}{cost.answer_mib:9.2f}"
            + (f"   ! {'; '.join(result.exceeded)}" if result.exceeded else "")
        )
        if where and cost.held_ms > HELD_MS / 2:
            lines.append(f"      {cost.where}")
    return "\n".join(lines)

"""Runs seeds and prints what became of each: `make fault-suite`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from itertools import islice

from contex import Durability

from tests.faults.suite.plan import FAULTS, Plan
from tests.faults.suite.run import Run, run
from tests.faults.suite.verdict import KINDS, shown

_SHOWN = 3
_WIDTH = 11


def main() -> int:
    """Runs seeds; returns 1 if any of them broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.suite", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many to run, from --first on")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--topology", choices=FAULTS, help="only the seeds of this topology")
    parser.add_argument("--minutes", type=float, default=25, help="start no seed after this")
    parser.add_argument("--jobs", type=int, default=2, help="how many run side by side")
    parser.add_argument("--quick", action="store_true", help="the short form, as in make test")
    parser.add_argument(
        "--strict", action="store_true", help="fail also if a follower was not told of a loss"
    )
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    if given.seed is not None:
        seeds = range(given.seed, given.seed + 1)
    plans = [Plan.of(seed, quick=given.quick) for seed in seeds]
    if given.topology:
        plans = [plan for plan in plans if plan.topology == given.topology]
    runs = asyncio.run(_all(plans, given.jobs, given.minutes * 60))
    print(_table(runs))
    print(f"{len(runs)} of {len(plans)} seeds run")
    broken = [r for r in runs if r.verdict.violations or (given.strict and r.verdict.unnoticed)]
    if broken:
        print("broken by: " + ", ".join(f"SEED={each.plan.seed}" for each in broken))
    return 1 if broken or len(runs) < min(1, len(plans)) else 0


async def _all(plans: list[Plan], jobs: int, limit_s: float) -> list[Run]:
    runs: list[Run] = []
    end = time.monotonic() + limit_s
    left = iter(plans)

    async def work() -> None:
        while time.monotonic() < end and (plan := next(left, None)) is not None:
            done = await run(plan)
            runs.append(done)
            print(done, flush=True)
            _tell(done)

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(work())
    return runs


def _tell(done: Run) -> None:
    """The evidence, and how to see it again."""
    verdict = done.verdict
    for kind, evidence in islice(verdict.violations, _SHOWN):
        print(f"       ! {kind}: {evidence}")
    if len(verdict.violations) > _SHOWN:
        print(f"       ! and {len(verdict.violations) - _SHOWN} more")
    for evidence in islice(verdict.unnoticed, 1):
        print(f"       ~ unnoticed: {evidence}")
    for evidence in islice(done.slow, _SHOWN):
        print(f"       ~ slow: {evidence}")
    if verdict.violations or done.slow or verdict.unnoticed:
        for fault in done.model.faults:
            print(f"       . {shown(fault)}")
    if verdict.violations:
        print(f"       ! again: make fault-suite SEED={done.plan.seed}", flush=True)


def _table(runs: list[Run]) -> str:
    """What was found, by topology."""
    by_topology: dict[str, list[Run]] = defaultdict(list)
    for each in runs:
        by_topology[each.plan.topology].append(each)
    head = ("topology", "seeds", "published", "acked", *map(str.lower, Durability.__members__))
    head += ("delivered", *KINDS, "unnoticed", "told")
    rows: list[tuple[object, ...]] = [head]
    for topology in FAULTS:
        some = by_topology[topology]
        rows.append(
            (
                *(topology, len(some), sum(r.published for r in some)),
                sum(r.acknowledged for r in some),
                *(sum(r.reached(durability) for r in some) for durability in Durability),
                sum(r.delivered for r in some),
                *(sum(r.verdict.count(kind) for r in some) for kind in KINDS),
                *(sum(len(r.verdict.unnoticed) for r in some), sum(r.verdict.told for r in some)),
            )
        )
    return "\n".join("".join(f"{cell!s:>{_WIDTH}}" for cell in row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())

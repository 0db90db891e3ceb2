"""One seed: its lab, its traffic, its faults, and the verdict."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from contex import Durability

from tests.faults.suite.lab import Lab
from tests.faults.suite.model import Model
from tests.faults.suite.nodes import Sharded, Watched
from tests.faults.suite.one_store import Bundled, Pair
from tests.faults.suite.plan import Plan
from tests.faults.suite.traffic import Traffic
from tests.faults.suite.verdict import Verdict, judge

LABS: dict[str, type[Lab]] = {
    "bundled": Bundled,
    "pair": Pair,
    "sentinel": Watched,
    "cluster": Sharded,
    "workers": Bundled,
}
LIMIT_S = 280.0
"""Four faults of a minute, with what it takes to mend them, are done by then."""


@dataclass(frozen=True, slots=True)
class Run:
    """A seed that was run."""

    plan: Plan
    model: Model
    verdict: Verdict
    slow: tuple[str, ...]
    took_s: float

    @property
    def published(self) -> int:
        """Events that were sent."""
        return sum(len(request.keys) for request in self.model.requests)

    @property
    def acknowledged(self) -> int:
        """Those that were answered with a receipt."""
        return sum(len(request.keys) for request in self.model.requests if request.answers)

    def reached(self, durability: Durability) -> int:
        """Those of them whose receipt says this."""
        return sum(
            len(request.keys)
            for request in self.model.requests
            if request.answers and request.answers[0].receipts[0].durability is durability
        )

    @property
    def delivered(self) -> int:
        """What all followers were given together."""
        stretches = (s for follower in self.model.followers for s in follower.stretches)
        return sum(len(stretch.entries) for stretch in stretches)

    def __str__(self) -> str:
        plan, verdict = self.plan, self.verdict
        faults = Counter(fault.kind for fault in self.model.faults)
        kinds = " ".join(f"{kind}x{n}" if n > 1 else kind for kind, n in faults.items())
        found = Counter(kind for kind, _ in verdict.violations)
        parts = [f"{n} {kind}" for kind, n in found.items()] or ["kept"]
        parts += [f"{verdict.lost} lost as they may be"] if verdict.lost else []
        parts += [f"{len(verdict.unnoticed)} unnoticed"] if verdict.unnoticed else []
        parts += [f"{verdict.told} told"] if verdict.told else []
        parts += [f"{len(self.slow)} slow"] if self.slow else []
        return (
            f"{plan.seed:>5}  {plan.topology}/{plan.fsync}/{plan.replicas}  {kinds}  published "
            f"{self.published}, acknowledged {self.acknowledged}, delivered {self.delivered}  "
            f"{self.took_s:.0f} s  {', '.join(parts)}"
        )


async def run(plan: Plan) -> Run:
    """Runs a plan, for as long as it takes."""
    started = time.monotonic()
    model = Model()
    # A short name: Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ctx") as directory:
        lab = LABS[plan.topology](Path(directory), plan, model)
        traffic = Traffic(lab, model)
        logs = {}
        try:
            async with asyncio.timeout(LIMIT_S):
                await lab.start()
                await traffic.start()
                for fault in plan.faults:
                    await asyncio.sleep(fault.after_s)
                    await lab.inject(fault)
                await asyncio.sleep(plan.faults[0].after_s)
                await traffic.finish()
                logs = await traffic.logs()
        except Exception as error:
            last = model.faults[-1].kind if model.faults else "the start"
            model.oddities.append(f"it did not get over {last}: {error!r}")
        finally:
            await traffic.stop()
            lab.note_defects()
            await lab.stop()
    verdict = judge(model, logs)
    return Run(plan, model, verdict, tuple(traffic.slow), time.monotonic() - started)

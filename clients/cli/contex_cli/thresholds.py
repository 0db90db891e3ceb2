"""A table to choose a threshold by: what each would deliver, and what the next would lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import contex
from contex import THRESHOLDS

from contex_cli import output as out
from contex_cli.bars import bar

_BAR = 30
_SAME = 0.005
"""Thresholds less apart are shown as one."""


@dataclass(frozen=True, slots=True)
class Step:
    """A threshold, how many it delivers, and the worst of these where it is known."""

    threshold: float
    count: int
    lowest: tuple[float, str] | None = None
    cut: bool = False  # There may be more: an answer has a limit.

    def record(self) -> dict[str, Any]:
        """For programs."""
        score, key = self.lowest or (None, None)
        return {
            "threshold": round(self.threshold, 4),
            "data_matched": self.count,
            "cut": self.cut,
            "lowest": None if key is None else {"data_key": key, "score": score},
        }


def steps_of(found: Sequence[tuple[float, str]], applied: float, limit: int) -> list[Step]:
    """What the thresholds and the applied one would deliver of data found above all of them.

    Args:
        found: Scores and data keys, best first.
        applied: The threshold that applies now.
        limit: How many data were asked for; as many may not be all.
    """
    steps = []
    for at in _with(THRESHOLDS, applied):
        delivered = [pair for pair in found if pair[0] >= at]
        cut = len(delivered) >= limit
        lowest = delivered[-1] if delivered and not cut else None
        steps.append(Step(at, len(delivered), lowest, cut))
    return steps


def steps_counted(counted: contex.NeedSummary, applied: float) -> list[Step]:
    """What a backtest counted at the thresholds and at the applied one."""
    counts = dict(zip(THRESHOLDS, counted.events_at_threshold, strict=False))
    return [
        Step(at, counts.get(at, counted.events_matched)) for at in _with(tuple(counts), applied)
    ]


def _with(thresholds: tuple[float, ...], applied: float) -> list[float]:
    """The thresholds in order, and the applied one if it is none of them."""
    chosen = marked(thresholds, applied)
    return sorted({*thresholds, applied if chosen is None else chosen})


def marked(thresholds: Sequence[float], applied: float) -> float | None:
    """Which of the thresholds is the applied one."""
    return next((at for at in thresholds if abs(at - applied) < _SAME), None)


def show_steps(steps: Sequence[Step], applied: float, things: str) -> None:
    """Prints the table; the applied threshold is marked."""
    chosen = marked([step.threshold for step in steps], applied)
    highest = max((step.count for step in steps), default=0)
    marks = {False: " ", True: "+"} if any(step.cut for step in steps) else {False: ""}
    columns: out.Columns[Step] = {
        "threshold": lambda step: (
            f"{'▸' if step.threshold == chosen else ' '} {step.threshold:.2f}"
        ),
        things: lambda step: out.styled(f"{step.count:,}{marks[step.cut]}"),
        "": lambda step: out.styled(bar(step.count / highest if highest else 0.0, _BAR)),
    }
    if things == "data":
        columns = {**columns, "lowest that matches": _lowest_text}
    out.show_table(steps, columns)


def _lowest_text(step: Step) -> str:
    if step.cut:
        return "not known: the answer is full"
    return f"{step.lowest[0]:.3f}  {out.plain(step.lowest[1], 80)}" if step.lowest else ""

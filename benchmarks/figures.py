"""What a benchmark reports: measured values, beside their ceiling, against a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for.

    Attributes:
        kind: "ratio": at least `bound` times the ceiling, "times": at most; "least" and "most"
            bound the value.
    """

    kind: Literal["ratio", "times", "least", "most"]
    bound: float

    def __str__(self) -> str:
        sign = "≤" if self.kind in ("times", "most") else "≥"
        return f"{sign} {number(self.bound)}{' x' if self.kind in ('ratio', 'times') else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity, one value a run.

    Attributes:
        ours: Values of the runs, in order.
        ceiling: What the ceiling reached in the same runs, each measured beside `ours`.
        ceiling_name: What the ceiling is.
        details: More about the runs, for the JSON file.
    """

    name: str
    unit: str
    ours: Sequence[float]
    ceiling: Sequence[float] = ()
    ceiling_name: str = ""
    target: Target | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Median over the runs of ours / ceiling: a drift of the machine hits both alike."""
        if not self.ceiling:
            return None
        return median(o / c for o, c in zip(self.ours, self.ceiling, strict=True))

    @property
    def met(self) -> bool | None:
        """Whether the target is met by the median; None without a target."""
        if self.target is None:
            return None
        if self.target.kind == "ratio":
            return self.ratio is not None and self.ratio >= self.target.bound
        if self.target.kind == "times":
            return self.ratio is not None and self.ratio <= self.target.bound
        value = median(self.ours)
        return (
            value <= self.target.bound
            if self.target.kind == "most"
            else (value >= self.target.bound)
        )

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": _spread(self.ours),
            "ceiling": _spread(self.ceiling) if self.ceiling else None,
            "ceiling_name": self.ceiling_name,
            "ratio": self.ratio,
            "target": str(self.target) if self.target else None,
            "met": self.met,
            "details": self.details,
        }


def number(value: float) -> str:
    """A number with three significant digits or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """min / median / max, as text."""
    if not values:
        return ""
    if len(values) == 1:
        return number(values[0])
    return " / ".join(number(v) for v in (min(values), median(values), max(values)))


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "min": min(values),
        "median": median(values),
        "max": max(values),
        "runs": list(values),
    }

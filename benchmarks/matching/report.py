"""Tables and plots of what was measured, for the guide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contex_server.matching.score import Floats, Weights
from numpy.typing import NDArray

from benchmarks.matching.left_out import BM25, COSINE, OURS, UNTUNED, Result
from benchmarks.matching.pairs import FEATURES
from benchmarks.matching.quality import bins, judged, precision_recall
from benchmarks.matching.robustness import COPIES, NEAR, Steadiness
from benchmarks.matching.sets import Kind

BEGIN = "<!-- begin: make bench-matching -->"
END = "<!-- end: make bench-matching -->"
_FEW = 20
"""Bins with fewer pairs are not drawn."""
_COLOURS = {OURS: "#1f6feb", UNTUNED: "#d4760a", COSINE: "#2a8a4a", BM25: "#888888"}
_DECIDED = (Kind.TEAM, Kind.MIXED, Kind.SINGLE)


def summary(results: Sequence[Result]) -> str:
    """Means over the team sets in English."""
    head = [f"{len(_of(results, Kind.TEAM))} team sets"]
    head += ["F1", "precision", "recall", "best F1", "average precision", "ECE", "MRR", "nDCG@10"]
    rows = []
    for method in results[0].methods:
        scored = [r.methods[method] for r in _of(results, Kind.TEAM)]
        values = [
            (
                s.decisions.f1,
                s.decisions.precision,
                s.decisions.recall,
                s.decisions.best_f1,
                s.decisions.average_precision,
                s.decisions.calibration_error,
                s.ranking.mrr,
                s.ranking.ndcg10,
            )
            for s in scored
        ]
        means = [f"{value:.3f}" for value in np.mean(values, 0)]
        if method not in (OURS, UNTUNED):
            means[5] = ""  # No probabilities.
        rows.append([method, *means])
    return _table(head, rows)


def markdown(results: Sequence[Result], shipped: Weights, steady: Steadiness | None) -> str:
    """The tables."""
    parts = [
        f"Shipped weights `{shipped.version}`: bias {shipped.bias}, "
        + ", ".join(f"{name} {getattr(shipped, name)}" for name in FEATURES)
        + f"; default threshold {shipped.default_threshold:.2f}. Every set below was left out: its "
        "prior, weights and threshold were fitted on the others. Which parts the score has was "
        "chosen with these sets in view.",
        "**Team sets, means.** Each set counts the same.",
        summary(results),
        "**Decisions** at the threshold that was fitted without the set.",
        _decisions(results),
        "**Order.** Each need against all documents of its set. Cosine and BM25 beside it.",
        _ranking(results),
    ]
    if steady:
        parts += ["**How steady it is.**", _steady(steady)]
    return "\n\n".join(parts)


def write(tables: str, results: Sequence[Result], guide: Path) -> None:
    """Puts the tables between the guide's marks and the plots beside it."""
    before, _, rest = guide.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    guide.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")
    images = guide.parent / "img"
    images.mkdir(exist_ok=True)
    _plot_precision(results, images / "matching-precision-recall.png")
    _plot_reliability(results, images / "matching-reliability.png")


def _decisions(results: Sequence[Result]) -> str:
    head = ["set", "threshold", "F1", "precision", "recall", "best F1", "ECE"]
    head += ["untuned: F1", "best", "ECE", "cosine: F1", "best", "BM25: F1", "best"]
    rows = []
    for kind in _DECIDED:
        for r in _of(results, kind):
            ours, old = r.methods[OURS], r.methods[UNTUNED].decisions
            own = ours.decisions
            numbers = [own.f1, own.precision, own.recall, own.best_f1, own.calibration_error]
            numbers += [old.f1, old.best_f1, old.calibration_error]
            for name in (COSINE, BM25):
                numbers += [r.methods[name].decisions.f1, r.methods[name].decisions.best_f1]
            rows.append([_label(r), f"{ours.threshold:.2f}", *(f"{n:.3f}" for n in numbers)])
    return _table(head, rows)


def _ranking(results: Sequence[Result]) -> str:
    head = ["set", "needs, documents", "hit@1", "MRR", "nDCG@10", "first 10 right"]
    head += ["MRR: untuned", "cosine", "BM25", "nDCG@10: untuned", "cosine", "BM25"]
    rows = []
    for kind in Kind:
        for r in _of(results, kind):
            own = r.methods[OURS].ranking
            others = [r.methods[name].ranking for name in (UNTUNED, COSINE, BM25)]
            numbers = [own.hit1, own.mrr, own.ndcg10, own.precision10]
            numbers += [other.mrr for other in others] + [other.ndcg10 for other in others]
            size = f"{len(r.set.needs):,}, {len(r.set.documents):,}"
            rows.append([_label(r), size, *(f"{n:.3f}" for n in numbers)])
    return _table(head, rows)


def _steady(steady: Steadiness) -> str:
    far = f"not within {NEAR:.2f} of the threshold"
    rows = [["a copy alone: mean score", f"{steady.alone:.3f}"]]
    for place, moved in (
        ("all that there is", steady.first_copies),
        ("after 100 others", steady.late_copies),
    ):
        for k in COPIES[1:]:
            text = f"{k} data that say the same, {place}: a score against its score alone, at most"
            rows.append([text, f"{moved[k]:.3f}"])
    rows += [
        [text, f"{share:.2%}"]
        for text, share in (
            ("200 strangers in a project of 50: decisions changed", steady.strangers),
            (f"the same, of pairs {far}", steady.strangers_far),
            ("two orders of publishing: deliveries that differ", steady.orders),
            (f"the same, of pairs {far}", steady.orders_far),
        )
    ]
    both = steady.directions
    text = "by need and by datum: largest difference; in one direction only"
    rows.append([text, f"{both.difference:.0e}; {both.one_only} of {both.pairs:,}"])
    return _table(["", OURS], rows)


def _plot_precision(results: Sequence[Result], path: Path) -> None:
    figure, axes = _axes(2)
    for axis, kind, title in _panels(axes):
        for method, colour in _COLOURS.items():
            scores, right = _pooled(results, kind, method)
            precision, recall, _ = precision_recall(scores, right)
            axis.plot(*_thinned(recall, precision), color=colour, label=method)
        given = [
            (r.methods[OURS].decisions.recall, r.methods[OURS].decisions.precision)
            for r in _of(results, kind)
        ]
        axis.plot(*zip(*given, strict=True), "o", ms=3, alpha=0.6, color=_COLOURS[OURS])
        axis.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes[0].plot([], [], "o", ms=3, color=_COLOURS[OURS], label="a set at the default")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def _plot_reliability(results: Sequence[Result], path: Path) -> None:
    figure, axes = _axes(2)
    for axis, kind, title in _panels(axes):
        axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1)
        for method in (OURS, UNTUNED):
            scores, right = _pooled(results, kind, method)
            kept = [(mean, share) for mean, share, n in bins(scores, right) if n >= _FEW]
            axis.plot(*zip(*kept, strict=True), "o-", ms=4, color=_COLOURS[method], label=method)
        axis.set(
            title=title, xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1)
        )
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def _panels(axes: Any) -> list[tuple[Any, Kind, str]]:
    return [(axes[0], Kind.TEAM, "team sets"), (axes[1], Kind.SINGLE, "public sets")]


def _pooled(results: Sequence[Result], kind: Kind, method: str) -> tuple[Floats, NDArray[np.bool_]]:
    """The pairs of all sets of a kind."""
    parts = [judged(r.methods[method].scores, r.labels) for r in _of(results, kind)]
    return np.concatenate([s for s, _ in parts]), np.concatenate([right for _, right in parts])


def _axes(count: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(8.4, 3.8), layout="constrained")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes


def _thinned(recall: Floats, precision: Floats) -> tuple[Floats, Floats]:
    step = np.unique(np.searchsorted(recall, np.linspace(0.005, recall[-1], 300)))
    step = step[step < len(recall)]
    return recall[step], precision[step]


def _of(results: Sequence[Result], kind: Kind) -> list[Result]:
    return [r for r in results if r.set.kind is kind]


def _label(result: Result) -> str:
    match result.set.kind:
        case Kind.TEAM:
            return f"team: {result.set.name}"
        case Kind.MIXED:
            return f"team, three languages: {result.set.name}"
        case _:
            return result.set.name


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

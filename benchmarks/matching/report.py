"""Tables and plots of what was measured, for the guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contex_server.matching.score import Floats, Weights

from benchmarks.matching.evaluation import OURS, SetQuality
from benchmarks.matching.quality import Flags, RankingQuality, bins, precision_recall

BEGIN = "<!-- begin: make bench-matching -->"
END = "<!-- end: make bench-matching -->"
_FEW = 20
"""Bins with fewer pairs are not drawn."""
_NAMES = {"needs": "API functions", "aws": "AWS operations", "stdlib": "Python modules"}
_COLOURS = {"needs": "#1f6feb", "aws": "#d4760a", "stdlib": "#2a8a4a"}


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """All that is reported.

    Attributes:
        sets: By set, with a background that knows nothing of it.
        shipped: The same with the background that is shipped.
        aside: Rankings among the documents held aside of the first set only.
        aside_documents: How many these are.
        stability: By set: largest and 99.9 % quantile of moves.
        directions: By set: difference, pairs of one direction only, pairs.
    """

    weights: Weights
    sets: Sequence[SetQuality]
    shipped: Sequence[SetQuality]
    aside: dict[str, RankingQuality]
    aside_documents: int
    stability: dict[str, tuple[float, float]]
    directions: dict[str, tuple[float, int, int]]


def markdown(found: Findings) -> str:
    """The tables."""
    ranking = [
        [label, method, *(f"{value:.3f}" for value in _values(quality))]
        for label, rankings in (
            *((_label(q), q.ranking) for q in found.sets),
            (f"{_NAMES['needs']}, {found.aside_documents} held aside", found.aside),
        )
        for method, quality in rankings.items()
    ]
    decisions = [
        [
            _NAMES[q.name],
            method,
            f"{d.given:.3f}",
            f"{d.best:.3f} at {d.best_threshold:.2f}",
            f"{d.error:.4f}",
            f"{d.error_above:.3f}",
        ]
        for q in found.sets
        for method, d in q.decisions.items()
    ]
    sizes = sorted({size for q in found.sets for size in q.by_size})
    by_size = []
    for size in sizes:
        row = [f"{size:,}"]
        for q in found.sets:
            if size in q.by_size:
                ours, cosine = q.by_size[size]
                row += [f"{ours.given:.2f} / {ours.best:.2f}", f"{cosine.given:.2f}"]
            else:
                row += ["", ""]
        by_size.append(row)
    sure = [
        [_NAMES[q.name], *_sure(q, 0.8), *_sure(q, found.weights.default_threshold)]
        for q in found.sets
    ]
    steady = [
        [
            _NAMES[q.name],
            f"{q.near_misses:.0%}",
            f"{found.stability[q.name][0]:.3f}",
            f"{found.stability[q.name][1]:.3f}",
            _directions(*found.directions[q.name]),
        ]
        for q in found.sets
    ]
    backgrounds = [
        [
            _NAMES[q.name],
            f"{q.ranking[OURS].mrr:.3f}, {s.ranking[OURS].mrr:.3f}",
            f"{q.decisions[OURS].given:.3f}, {s.decisions[OURS].given:.3f}",
            f"{q.decisions[OURS].error_above:.3f}, {s.decisions[OURS].error_above:.3f}",
        ]
        for q, s in zip(found.sets, found.shipped, strict=True)
    ]
    size_head = ["documents"]
    for q in found.sets:
        size_head += [_NAMES[q.name], "cosine"]
    return "\n\n".join(
        [
            f"Weights `{found.weights.version}`, default threshold "
            f"{found.weights.default_threshold:.2f}.",
            "**Order.** Every need against all documents of its set.",
            _table(
                ["needs, documents", "by", "hit@1", "hit@5", "hit@10", "MRR", "nDCG@10"], ranking
            ),
            "**Decision.** Pairs of need and document in projects of 2 documents up to the whole "
            "set, all sizes together.",
            _table(
                ["set", "by", "F1 as set", "best F1", "ECE, all pairs", "ECE, p ≥ 0.02"], decisions
            ),
            "**Size of the project.** F1 at the default threshold / at the best one of that size; "
            "beside it F1 of the cosine at its one threshold.",
            _table(size_head, by_size),
            "**What the scores are worth.** Pairs that reach a score: how many, the share that is "
            "right by the labels, and the share if near duplicates of a right document are right.",
            _table(
                [
                    "set",
                    *("pairs ≥ 0.80", "right", "or alike"),
                    *(f"pairs ≥ {found.weights.default_threshold:.2f}", "right", "or alike"),
                ],
                sure,
            ),
            "**How steady it is.** Wrong first places that are near duplicates of a right "
            "document; how far probabilities of 0.02 and more move when a project of 200 data gets "
            "one more, of another set; scores of the same pairs by need and by datum.",
            _table(
                ["set", "near duplicates", "most", "99.9 % stay below", "both directions"], steady
            ),
            "**Background.** With one that knows nothing of the set, as everywhere above, and with "
            "the one that is shipped, to which the set belongs.",
            _table(["set", "MRR", "F1 as set", "ECE, p ≥ 0.02"], backgrounds),
        ]
    )


def write(found: Findings, guide: Path) -> None:
    """Puts the tables between the guide's marks and the plots beside it."""
    before, _, rest = guide.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    guide.write_text(f"{before}{BEGIN}\n\n{markdown(found)}\n\n{END}{after}", encoding="utf-8")
    images = guide.parent / "img"
    images.mkdir(exist_ok=True)
    _plot_precision(found, images / "matching-precision-recall.png")
    _plot_reliability(found, images / "matching-reliability.png")


def _plot_precision(found: Findings, path: Path) -> None:
    figure, axes = _axes()
    for quality in found.sets:
        scores, right = quality.pairs
        colour, label = _COLOURS[quality.name], _NAMES[quality.name]
        precision, recall, thresholds = precision_recall(scores, right)
        axes.plot(*_thinned(recall, precision), color=colour, label=label)
        at = int((thresholds >= found.weights.default_threshold).sum()) - 1
        axes.plot(recall[at], precision[at], "o", color=colour)
        precision, recall, _ = precision_recall(quality.cosine_pairs, right)
        axes.plot(*_thinned(recall, precision), color=colour, ls=":", lw=1)
    axes.plot([], [], "k:", lw=1, label="cosine alone")
    axes.plot([], [], "ko", label="default threshold")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def _plot_reliability(found: Findings, path: Path) -> None:
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color="#999999", lw=1)
    for quality in found.sets:
        scores, right = quality.pairs
        colour, label = _COLOURS[quality.name], _NAMES[quality.name]
        axes.plot(*_reliability(scores, right), "o-", ms=4, color=colour, label=label)
        if quality is found.sets[0]:
            label += ", near duplicates right"
            axes.plot(*_reliability(scores, quality.alike), "o:", ms=3, color=colour, label=label)
    axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def _reliability(scores: Floats, right: Flags) -> tuple[list[float], list[float]]:
    kept = [(mean, share) for mean, share, count in bins(scores, right) if count >= _FEW]
    return [mean for mean, _ in kept], [share for _, share in kept]


def _axes() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 4), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _thinned(recall: Floats, precision: Floats) -> tuple[Floats, Floats]:
    step = np.unique(np.searchsorted(recall, np.linspace(0.005, recall[-1], 300)))
    step = step[step < len(recall)]
    return recall[step], precision[step]


def _label(quality: SetQuality) -> str:
    return f"{_NAMES[quality.name]}: {quality.needs:,}, {quality.documents:,}"


def _values(quality: RankingQuality) -> tuple[float, ...]:
    return quality.hit1, quality.hit5, quality.hit10, quality.mrr, quality.ndcg10


def _sure(quality: SetQuality, score: float) -> tuple[str, str, str]:
    scores, right = quality.pairs
    kept = scores >= score
    return (
        f"{kept.sum():,}",
        f"{right[kept].mean():.0%}" if kept.any() else "",
        f"{quality.alike[kept].mean():.0%}" if kept.any() else "",
    )


def _directions(difference: float, unequal: int, pairs: int) -> str:
    return f"{difference:.0e} apart in {pairs:,} pairs, {unequal} in one only"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

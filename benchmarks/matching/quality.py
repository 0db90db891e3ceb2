"""Measures of rankings and of probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from contex_server.matching.score import Floats
from numpy.typing import NDArray

BINS = 15
WORTH_A_LOOK = 0.02
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RankingQuality:
    """Averages over needs; of several right answers the first counts, but in nDCG."""

    hit1: float
    hit5: float
    hit10: float
    mrr: float
    ndcg10: float


def ranking_quality(scores: Floats, right: Flags) -> RankingQuality:
    """How well documents are ordered; among equal scores the right one comes last.

    Args:
        scores: float64 [needs, documents].
        right: bool [needs, documents], at least one in each row.
    """
    order = np.lexsort((right, -scores), axis=1)
    hits = np.take_along_axis(right, order, axis=1)
    first = hits.argmax(1) + 1
    gains = 1 / np.log2(np.arange(2, 12))
    top = hits[:, :10]
    gained = top @ gains[: top.shape[1]]
    count = np.minimum(right.sum(1), top.shape[1])
    ideal = np.cumsum(gains)[count - 1]
    return RankingQuality(
        float((first <= 1).mean()),
        float((first <= 5).mean()),
        float((first <= 10).mean()),
        float((1 / first).mean()),
        float((gained / ideal).mean()),
    )


def f1(scores: Floats, right: Flags, threshold: float) -> float:
    """F1 of the pairs that reach a threshold."""
    given = scores >= threshold
    return float(2 * (given & right).sum() / max(1, given.sum() + right.sum()))


def best_f1(scores: Floats, right: Flags) -> tuple[float, float]:
    """The highest F1 of any threshold, and that threshold."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    values = 2 * found / (np.arange(1, len(order) + 1) + right.sum())
    at = int(values.argmax())
    return float(values[at]), float(scores[order[at]])


def calibration_error(scores: Floats, right: Flags, at_least: float = 0.0) -> float:
    """Expected calibration error over 15 bins of equal width.

    Args:
        scores: Probabilities of pairs.
        right: Which pairs are right.
        at_least: Pairs with less are left out: nearly all are far from any threshold.
    """
    kept = scores >= at_least
    total = max(1, int(kept.sum()))
    return float(
        sum(abs(means - shares) * count for means, shares, count in bins(scores[kept], right[kept]))
        / total
    )


def bins(scores: Floats, right: Flags) -> list[tuple[float, float, int]]:
    """Mean probability, share that is right, and number of pairs, of each bin that has any."""
    place = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    return [
        (float(scores[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for place_ in range(BINS)
        if (inside := place == place_).any()
    ]


def precision_recall(scores: Floats, right: Flags) -> tuple[Floats, Floats, Floats]:
    """Precision and recall at every threshold, highest first."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    return found / np.arange(1, len(order) + 1), found / max(1, right.sum()), scores[order]

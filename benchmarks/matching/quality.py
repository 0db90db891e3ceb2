"""Measures of rankings and of probabilities. Labels: 1 answers, 0 does not, -1 counts neither way.

Scores and labels are [needs, documents].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from contex_server.matching.score import Floats
from numpy.typing import NDArray

BINS = 15
WORTH_A_LOOK = 0.02
Labels = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class RankingQuality:
    """Averages over needs that have an answer; of several the first counts, but in nDCG."""

    hit1: float
    mrr: float
    ndcg10: float
    precision10: float


@dataclass(frozen=True, slots=True)
class DecisionQuality:
    """Of all pairs of a set together, at one threshold."""

    f1: float
    precision: float
    recall: float
    best_f1: float
    average_precision: float
    calibration_error: float  # over pairs with at least 0.02


def ranking_quality(scores: Floats, labels: Labels) -> RankingQuality:
    """How well documents are ordered; among equal scores the right one comes last."""
    answered = (labels > 0).any(1)
    scores = np.where(labels < 0, -np.inf, scores)[answered]
    right = labels[answered] > 0
    order = np.lexsort((right, -scores), axis=1)
    hits = np.take_along_axis(right, order, axis=1)
    first = hits.argmax(1) + 1
    gains = 1 / np.log2(np.arange(2, 12))
    top = hits[:, :10]
    gained = top @ gains[: top.shape[1]]
    count = np.minimum(right.sum(1), top.shape[1])
    return RankingQuality(
        float((first <= 1).mean()),
        float((1 / first).mean()),
        float((gained / np.cumsum(gains)[count - 1]).mean()),
        float(top.mean()),
    )


def decision_quality(scores: Floats, labels: Labels, threshold: float) -> DecisionQuality:
    """What the pairs that reach a threshold are worth."""
    scores, right = judged(scores, labels)
    given = scores >= threshold
    hits = int((given & right).sum())
    precision, recall, _ = precision_recall(scores, right)
    curve = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    steps = np.diff(recall, prepend=0.0)
    return DecisionQuality(
        2 * hits / max(1, int(given.sum() + right.sum())),
        hits / max(1, int(given.sum())),
        hits / max(1, int(right.sum())),
        float(curve.max()),
        float((precision * steps).sum()),
        calibration_error(scores, right, WORTH_A_LOOK),
    )


def judged(scores: Floats, labels: Labels) -> tuple[Floats, NDArray[np.bool_]]:
    """The scores of pairs that count, and which of them are right."""
    counted = labels >= 0
    return scores[counted], labels[counted] > 0


def f1(scores: Floats, labels: Labels, threshold: float) -> float:
    """F1 of the pairs that reach a threshold."""
    given = (scores >= threshold) & (labels >= 0)
    right = labels > 0
    return float(2 * (given & right).sum() / max(1, given.sum() + right.sum()))


def calibration_error(scores: Floats, right: NDArray[np.bool_], at_least: float = 0.0) -> float:
    """Expected calibration error over 15 bins of equal width.

    Args:
        scores: Probabilities of pairs.
        right: Which pairs are right.
        at_least: Pairs with less are left out: nearly all are far from any threshold.
    """
    kept = scores >= at_least
    gaps = [abs(mean - share) * count for mean, share, count in bins(scores[kept], right[kept])]
    return float(sum(gaps) / max(1, int(kept.sum())))


def bins(scores: Floats, right: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """Mean probability, share that is right, and number of pairs, of each bin that has any."""
    place = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    return [
        (float(scores[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for number in range(BINS)
        if (inside := place == number).any()
    ]


def precision_recall(scores: Floats, right: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Precision and recall at each threshold that a pair just reaches, highest first."""
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    last = np.append(descending[1:] != descending[:-1], True)  # of pairs with equal scores
    found = np.cumsum(right[order])
    precision = found / np.arange(1, len(order) + 1)
    return precision[last], (found / max(1, right.sum()))[last], descending[last]

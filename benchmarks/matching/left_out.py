"""Each set measured with all that was fitted without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contex_server.matching.relative.background import Prior as RelativePrior
from contex_server.matching.relative.score import shipped_weights as relative_weights
from contex_server.matching.score import Floats, Scorer, Weights

from benchmarks.matching.baselines import bm25
from benchmarks.matching.encoded import Encoded
from benchmarks.matching.fitting import best_cut, fit
from benchmarks.matching.pairs import cosines, measured, project, relative_scores, sample
from benchmarks.matching.priors import Priors
from benchmarks.matching.quality import (
    DecisionQuality,
    Labels,
    RankingQuality,
    decision_quality,
    ranking_quality,
)
from benchmarks.matching.sets import DataSet, Kind

OURS, RELATIVE, COSINE, BM25 = "Contex", "relative", "cosine", "BM25"
_CUTS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A method's scores of a set, and what they are worth."""

    scores: Floats
    threshold: float
    ranking: RankingQuality
    decisions: DecisionQuality


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What is reported of a set."""

    set: DataSet
    labels: Labels
    weights: Weights  # fitted without it
    methods: dict[str, Scored]


def leave_each_out(
    sets: Sequence[Encoded], priors: Priors, relative: RelativePrior | None = None
) -> list[Result]:
    """Measures every set; prior, weights and threshold know nothing of it.

    Cosine and BM25 have the cut with the best mean F1 over the other team sets.
    """
    samples = [sample(each) for each in sets]
    others = {
        name: [method(each) for each in sets] for name, method in ((COSINE, cosines), (BM25, bm25))
    }
    results = []
    for at, each in enumerate(sets):
        weights = fit(samples, priors, {each.set.name})
        results.append(_result(each, weights, priors, relative))
        labels, methods = results[-1].labels, results[-1].methods
        for name, values in others.items():
            cut = _cut(sets, values, at)
            methods[name] = _scored(values[at], labels, cut)
        own = methods[OURS].decisions
        print(
            f"  {each.set.name}: F1 {own.f1:.3f}, best {own.best_f1:.3f}, "
            f"threshold {weights.default_threshold:.2f}",
            flush=True,
        )
    return results


def _result(
    each: Encoded, weights: Weights, priors: Priors, relative: RelativePrior | None
) -> Result:
    index = project(each, priors.without({each.set.name}), Scorer(weights))
    scores = measured(index, each, range(len(each.needs)))[1]
    labels = each.set.labels()
    former = relative_weights().default_threshold
    methods = {
        OURS: _scored(scores, labels, weights.default_threshold),
        RELATIVE: _scored(relative_scores(each, relative), labels, former),
    }
    return Result(each.set, labels, weights, methods)


def _cut(sets: Sequence[Encoded], values: Sequence[Floats], left_out: int) -> float:
    teams = [
        (values[at], each.set.labels())
        for at, each in enumerate(sets)
        if at != left_out and each.set.kind is Kind.TEAM
    ]
    pooled = np.concatenate([scores.ravel() for scores, _ in teams])
    return best_cut(teams, np.quantile(pooled, np.linspace(0.5, 1.0, _CUTS)), 0.0)


def _scored(scores: Floats, labels: Labels, threshold: float) -> Scored:
    return Scored(
        scores,
        threshold,
        ranking_quality(scores, labels),
        decision_quality(scores, labels, threshold),
    )

"""Each set measured with all that was fitted without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contex_server.matching.score import Floats, Scorer, Weights

from benchmarks.matching.baselines import bm25
from benchmarks.matching.encoded import Encoded
from benchmarks.matching.fitting import best_cut, fit
from benchmarks.matching.pairs import cosines, measured, project, sample
from benchmarks.matching.priors import Priors
from benchmarks.matching.quality import (
    DecisionQuality,
    Labels,
    RankingQuality,
    decision_quality,
    ranking_quality,
)
from benchmarks.matching.sets import DataSet, Kind

OURS, UNTUNED, COSINE, BM25 = "Contex", "untuned", "cosine", "BM25"
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
    sets: Sequence[Encoded], priors: Priors, untuned: tuple[Sequence[Encoded], Priors]
) -> list[Result]:
    """Measures every set; prior, weights and threshold know nothing of it.

    Cosine and BM25 have the cut with the best mean F1 over the other team sets. `untuned` are the
    same sets under the model as it was before it was tuned.
    """
    models = {OURS: (sets, priors), UNTUNED: untuned}
    samples = {name: [sample(each) for each in of_model] for name, (of_model, _) in models.items()}
    others = {
        name: [method(each) for each in sets] for name, method in ((COSINE, cosines), (BM25, bm25))
    }
    results = []
    for at, each in enumerate(sets):
        labels = each.set.labels()
        fitted = {
            name: fit(samples[name], known, {each.set.name}) for name, (_, known) in models.items()
        }
        methods = {
            name: _absolute(of_model[at], fitted[name], known, labels)
            for name, (of_model, known) in models.items()
        }
        for name, values in others.items():
            cut = _cut(sets, values, at)
            methods[name] = _scored(values[at], labels, cut)
        results.append(Result(each.set, labels, fitted[OURS], methods))
        own = methods[OURS].decisions
        print(
            f"  {each.set.name}: F1 {own.f1:.3f}, best {own.best_f1:.3f}, "
            f"threshold {methods[OURS].threshold:.2f}",
            flush=True,
        )
    return results


def _absolute(each: Encoded, weights: Weights, priors: Priors, labels: Labels) -> Scored:
    index = project(each, priors.without({each.set.name}), Scorer(weights))
    scores = measured(index, each, range(len(each.needs)))[1]
    return _scored(scores, labels, weights.default_threshold)


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

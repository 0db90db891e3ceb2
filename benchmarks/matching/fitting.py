"""Fits the weights of the score and its default threshold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from hashlib import blake2b

import numpy as np
from contex_server.matching.data_index import DataIndex
from contex_server.matching.score import Floats, Scorer, Weights
from numpy.typing import NDArray

from benchmarks.matching.pairs import Sample, measured, project
from benchmarks.matching.priors import Priors
from benchmarks.matching.quality import f1
from benchmarks.matching.sets import Kind

START = Weights("start", -3.4, 0.35, 7.3, 3.6, 0.15)
"""With these the best passage of each datum is chosen at first."""
FITTED_ON = frozenset({Kind.TEAM, Kind.SINGLE, Kind.HEADINGS})
TEAM_WEIGHT = 8.0
"""What a team set weighs; a public one weighs 1."""
RIDGE = 1e-4
_ROUNDS = 2
_AS_GOOD = 0.005
_FOUND = 0.6
_THRESHOLDS = np.arange(0.10, 0.70, 0.01)


def fit(samples: Sequence[Sample], priors: Priors, without: Collection[str] = ()) -> Weights:
    """Fits on all sets but some; each set's background knows nothing of it, nor of those.

    The default threshold is the one with the best mean F1 over team sets; among those that are
    nearly as good the highest that finds 60 % of what is right.
    """
    chosen = [s for s in samples if s.kind in FITTED_ON and s.name not in without]
    scorer = Scorer(START)
    # With a project's own moments in full, for those that know them: what is fitted so serves
    # projects best that have none yet (ADR 26).
    of = [replace(priors.without({*without, s.name}), own_moments=1.0) for s in chosen]
    indexes = [
        project(s.encoded, prior, scorer, s.documents.tolist())
        for s, prior in zip(chosen, of, strict=True)
    ]
    for _ in range(_ROUNDS):
        features = _features(chosen, indexes, scorer)
        scorer = Scorer(_weights(chosen, features))
    teams = [
        (measured(index, s.encoded, s.needs.tolist())[1], s.labels)
        for s, index in zip(chosen, indexes, strict=True)
        if s.kind is Kind.TEAM
    ]
    return _named(replace(scorer.weights, default_threshold=best_cut(teams, _THRESHOLDS)))


def best_cut(
    teams: Sequence[tuple[Floats, NDArray[np.int8]]], cuts: Floats, as_good: float = _AS_GOOD
) -> float:
    """The cut whose mean F1 over sets is nearly the best; each set is scores and labels.

    Of several the highest whose mean recall is `_FOUND`; if none is, the lowest.
    """
    means = np.array([np.mean([f1(*team, cut) for team in teams]) for cut in cuts])
    near = cuts[means >= means.max() - as_good]
    found = [
        np.mean([(scores[right > 0] >= cut).mean() for scores, right in teams]) for cut in near
    ]
    enough = near[np.array(found) >= _FOUND]
    return round(float(enough[-1] if len(enough) else near[0]), 4)


def nonnegative(features: Floats, right: NDArray[np.bool_], weights: Floats) -> Floats:
    """Coefficients of the features, the bias last; those that would be negative are 0."""
    scale = features.std(0) + 1e-12
    kept = np.arange(features.shape[1])
    found = np.zeros(features.shape[1] + 1)
    while len(kept):
        part = logistic(features[:, kept] / scale[kept], right, weights)
        if (part[:-1] >= 0).all():
            found[kept], found[-1] = part[:-1] / scale[kept], part[-1]
            return found
        kept = np.delete(kept, part[:-1].argmin())
    raise ValueError("no feature tells right pairs from wrong ones")


def logistic(features: Floats, right: NDArray[np.bool_], weights: Floats) -> Floats:
    """Coefficients of the features, the bias last, by Newton's method.

    Args:
        features: float64 [pairs, n].
        right: bool [pairs].
        weights: float64 [pairs], what each pair counts.
    """
    x = np.column_stack([features, np.ones(len(features))])
    w = weights / weights.sum()
    ridge = RIDGE * np.append(np.ones(features.shape[1]), 1e-6)
    found = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ found)))
        slope = x.T @ (w * (p - right)) + ridge * found
        bend = (x * (w * p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        # The first steps may be far too long where nearly all pairs are wrong.
        step *= min(1.0, 3.0 / float(np.abs(step).max()))
        found -= step
        if np.abs(step).max() < 1e-8:
            break
    return found


def _features(
    samples: Sequence[Sample], indexes: Sequence[DataIndex], scorer: Scorer
) -> list[Floats]:
    found = []
    for s, index in zip(samples, indexes, strict=True):
        index.scorer = scorer
        found.append(measured(index, s.encoded, s.needs.tolist())[0])
    return found


def _weights(samples: Sequence[Sample], features: Sequence[Floats]) -> Weights:
    """Each need of a set weighs the same, and so has each set of a kind the same weight."""
    x = np.concatenate([each[s.used] for s, each in zip(samples, features, strict=True)])
    right = np.concatenate([s.labels[s.used] > 0 for s in samples])
    weights = np.concatenate(
        [
            np.full(
                int(s.used.sum()),
                (TEAM_WEIGHT if s.kind is Kind.TEAM else 1.0) / len(s.needs),
            )
            for s in samples
        ]
    )
    found = [round(float(value), 4) for value in nonnegative(x, right, weights)]
    standing, contrast, surplus, bias = found
    return replace(START, bias=bias, standing=standing, contrast=contrast, surplus=surplus)


def _named(weights: Weights) -> Weights:
    values = {name: value for name, value in asdict(weights).items() if name != "version"}
    digest = blake2b(repr(sorted(values.items())).encode(), digest_size=3).hexdigest()
    return replace(weights, version=f"absolute-{digest}")

"""Logistic regression, and the fit of the score's weights with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from contex_server.matching.score import Floats, Scorer, Weights
from numpy.typing import NDArray

from benchmarks.matching.projects import Project

_RIDGE = 1e-6


def logistic(features: Floats, right: NDArray[np.bool_], weights: Floats) -> Floats:
    """Coefficients of the features, the bias last, by Newton's method.

    Args:
        features: float64 [pairs, n].
        right: bool [pairs].
        weights: float64 [pairs], what each pair counts.
    """
    x = np.column_stack([features, np.ones(len(features))])
    w = weights / weights.sum()
    found = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ found)))
        slope = x.T @ (w * (p - right)) + _RIDGE * found
        bend = (x * (w * p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(len(found))
        step = np.linalg.solve(bend, slope)
        # The first steps may be far too long where nearly all pairs are wrong.
        step *= min(1.0, 3.0 / float(np.abs(step).max()))
        found -= step
        if np.abs(step).max() < 1e-8:
            break
    return found


def fit(projects: Sequence[Project], shape: Weights) -> Weights:
    """Fits bias, standing, lexical and share; the rest is taken from `shape`.

    Each need weighs the same, however many documents it is compared with.
    """
    scorer = Scorer(shape)
    features = np.concatenate(
        [
            np.stack([p.standing.ravel(), p.lexical.ravel(), p.shares(scorer).ravel()], 1)
            for p in projects
        ]
    )
    right = np.concatenate([p.right.ravel() for p in projects])
    standing, lexical, share, bias = logistic(features, right, np.ones(len(right)))
    return replace(
        shape,
        bias=round(float(bias), 3),
        standing=round(float(standing), 3),
        lexical=round(float(lexical), 3),
        share=round(float(share), 3),
    )


def log_loss(projects: Sequence[Project], scorer: Scorer) -> float:
    """Mean over needs of the summed loss over documents."""
    total, needs = 0.0, 0
    for project in projects:
        p = np.clip(project.scores(scorer), 1e-12, 1 - 1e-12)
        total -= float(np.where(project.right, np.log(p), np.log1p(-p)).sum())
        needs += len(project.needs)
    return total / needs

"""The measures that the figures in docs/guide/matching.md come from."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.matching.baselines import mix, rrf
from benchmarks.matching.fitting import logistic
from benchmarks.matching.quality import best_f1, calibration_error, f1, ranking_quality


def test_a_ranking_is_judged_by_its_first_right_document() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    right = np.array([[True, False, False], [False, False, True]])
    quality = ranking_quality(scores, right)
    assert quality.hit1 == 0.5
    assert quality.hit5 == 1.0
    assert quality.mrr == pytest.approx((1 + 1 / 3) / 2)
    assert quality.ndcg10 == pytest.approx((1 + 1 / np.log2(4)) / 2)


def test_equal_scores_count_against_the_ranking() -> None:
    assert ranking_quality(np.zeros((1, 4)), np.array([[True, False, False, False]])).mrr == 0.25


def test_f1_and_its_best_threshold() -> None:
    scores = np.array([0.9, 0.8, 0.3, 0.2])
    right = np.array([True, False, True, False])
    assert f1(scores, right, 0.85) == pytest.approx(2 / 3)
    assert best_f1(scores, right) == (pytest.approx(0.8), 0.3)


def test_calibration_error_is_the_gap_of_each_bin() -> None:
    scores = np.array([0.9, 0.9, 0.1, 0.1])
    right = np.array([True, False, False, False])
    assert calibration_error(scores, right) == pytest.approx((0.4 * 2 + 0.1 * 2) / 4)
    assert calibration_error(scores, right, at_least=0.5) == pytest.approx(0.4)


def test_logistic_regression_finds_what_made_the_data() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50_000, 2))
    right = rng.random(50_000) < 1 / (1 + np.exp(-(2 * x[:, 0] - x[:, 1] - 3)))
    found = logistic(x, right, np.ones(len(x)))
    np.testing.assert_allclose(found, [2, -1, -3], atol=0.1)


def test_fusions() -> None:
    cosines, bm25 = np.array([[0.9, 0.1]]), np.array([[1.0, 4.0]])
    np.testing.assert_allclose(rrf(cosines, bm25), [[1 / 61 + 1 / 62] * 2])
    np.testing.assert_allclose(mix(cosines, bm25, 0.5), [[0.575, 0.55]])

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from contex_server.matching.relative.score import (
    RIVALS,
    Scorer,
    rarity,
    saturation,
    shipped_weights,
)
from hypothesis import given
from hypothesis import strategies as st

STANDINGS = st.floats(0, 12)
WORDS = st.floats(0, 1)
PASSAGES = st.integers(0, 1_000_000)
WEIGHTS = st.builds(
    lambda a, b, bias, z, words, s: replace(
        shipped_weights(),
        fit_standing=a, fit_lexical=b, bias=bias, standing=z, lexical=words, share=s,
    ),
    st.floats(0.1, 3), st.floats(0.1, 12), st.floats(-5, 5),
    st.floats(0, 2), st.floats(0, 8), st.floats(0.1, 4),
)  # fmt: skip


def score(scorer: Scorer, standing: float, lexical: float, others: list[float], n: int) -> float:
    z, words = np.array(standing), np.array(lexical)
    fit, crowd = scorer.fit(z, words), scorer.crowd(n)
    best = np.sort(np.append(others, fit))[::-1][:RIVALS]
    share = scorer.share(fit, scorer.rivalry(best, crowd).sum(), crowd)
    return float(scorer.score(z, words, share))


@given(STANDINGS, WORDS, st.lists(st.floats(0, 20), max_size=4), PASSAGES)
def test_the_formula(standing: float, lexical: float, others: list[float], n: int) -> None:
    weights = shipped_weights()
    fit = weights.fit_standing * standing + weights.fit_lexical * lexical
    crowd = weights.crowd * (n + weights.prior_passages)
    rivals = sorted([*others, fit], reverse=True)[:2]
    rivalry = sum(max(0.0, math.exp(f) - weights.rival_floor * crowd) for f in rivals)
    share = fit - math.log(crowd + rivalry)
    odds = weights.bias + weights.standing * standing + weights.lexical * lexical
    expected = 1 / (1 + math.exp(-odds - weights.share * share))
    found = score(Scorer(), standing, lexical, others, n)
    assert 0 < found < 1 or expected in (0, 1)
    assert found == pytest.approx(expected, abs=1e-12)
    named = Scorer().contributions(standing, lexical, share)
    assert 1 / (1 + math.exp(-sum(value * w for _, value, w, _ in named))) == pytest.approx(
        expected
    )


@given(WEIGHTS, STANDINGS, WORDS, STANDINGS, WORDS, st.lists(st.floats(0, 20)), PASSAGES)
def test_more_is_never_worse_and_rivals_and_crowds_never_help(
    weights: object, z: float, words: float, other_z: float, other_words: float,
    others: list[float], n: int,
) -> None:  # fmt: skip
    scorer = Scorer(weights)  # type: ignore[arg-type]
    plain = score(scorer, z, words, others, n)
    better = score(scorer, max(z, other_z), max(words, other_words), others, n)
    assert better >= plain - 1e-12
    assert score(scorer, z, words, [*others, 10.0], n) <= plain + 1e-12
    assert score(scorer, z, words, others, n + 1_000) <= plain + 1e-12
    assert score(scorer, z, words, [], n) >= plain - 1e-12


@given(WEIGHTS, STANDINGS, WORDS, st.floats(1e-6, 0.999999), PASSAGES)
def test_nothing_below_the_lowest_fit_reaches_the_threshold(
    weights: object, z: float, words: float, threshold: float, n: int
) -> None:
    scorer = Scorer(weights)  # type: ignore[arg-type]
    lowest = scorer.lowest_fit(threshold, scorer.crowd(n))
    if float(scorer.fit(np.array(z), np.array(words))) < lowest - 1e-9:
        assert score(scorer, z, words, [], n) < threshold
    assert scorer.lowest_fit(threshold, 0.9 * scorer.crowd(n)) <= lowest + 1e-9


def test_thresholds_at_the_ends() -> None:
    scorer = Scorer()
    assert scorer.lowest_fit(0.0, scorer.crowd(10)) == 0.0
    assert scorer.lowest_fit(1.0, scorer.crowd(10)) == math.inf
    assert scorer.lowest_fit(0.9, scorer.crowd(10**15)) == math.inf


@given(PASSAGES)
def test_fits_below_the_floor_are_no_rivals(n: int) -> None:
    scorer = Scorer()
    crowd = scorer.crowd(n)
    floor = scorer.rival_floor(crowd)
    assert scorer.rivalry(np.array([floor - 1e-9, floor - 1.0]), crowd).tolist() == [0.0, 0.0]
    assert scorer.rivalry(np.array([floor + 1e-3]), crowd)[0] > 0


@given(st.integers(0, 255), st.floats(0, 1e4), st.floats(1, 1e4))
def test_saturation_is_a_share(count: int, length: float, average: float) -> None:
    got = saturation(np.array([count, count + 1.0]), np.array(length), average)
    assert 0 <= got[0] < got[1] < 1


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_rare_words_count_more_and_none_less_than_nothing(frequency: float, more: float) -> None:
    total = frequency + more
    frequencies = np.array([frequency, total, total + 1])
    found = rarity(frequencies, total)
    assert found[0] >= found[1] >= found[2] == 0.0


def test_the_shipped_weights_are_complete() -> None:
    weights = shipped_weights()
    assert Scorer().name == weights.version
    assert 0 < weights.default_threshold < 1
    assert min(weights.standing, weights.lexical, weights.share) >= 0
    assert 0 < weights.rival_floor < 1

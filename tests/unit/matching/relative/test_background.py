from __future__ import annotations

import random

import numpy as np
import pytest
from contex_server.matching.encoding import Encoding
from contex_server.matching.relative.background import (
    PASSAGES_PER_TEXT,
    Background,
)
from contex_server.matching.relative.score import shipped_weights

from tests.thorough import one_of
from tests.unit.matching.corpora import Corpus, prior
from tests.unit.matching.relative.brute_force import BruteForce


def test_what_it_says_is_what_all_passages_say() -> None:
    corpus = Corpus(1)
    texts = [corpus.text(1 + n % 12) for n in range(80)]
    background = Background(prior())
    for text in texts:
        background.add(text)
    truth = BruteForce(texts, prior(), shipped_weights())
    assert background.passages == truth.passages
    assert background.average_length == pytest.approx(truth.average_length)
    for _ in range(20):
        need = corpus.need()
        (baseline,) = background.baselines([need])
        mean, deviation = truth.moments(need)
        assert (baseline.mean, baseline.deviation) == pytest.approx((mean, deviation), abs=1e-9)
        assert baseline.weights == pytest.approx(truth.rarity(need.terms[0].ids), abs=1e-9)
        # Against the cosines themselves, with no component rounded.
        q = need.vectors[0].astype(np.float64)
        rows = np.concatenate([text.vectors[:PASSAGES_PER_TEXT] for text in texts])
        cosines, total = rows.astype(np.float64) @ q, len(rows) + 50
        plain = (cosines.sum() + 50 * q @ prior().mean) / total
        square = (cosines @ cosines + 50 * q @ prior().second @ q) / total
        assert baseline.mean == pytest.approx(plain, abs=1e-4)
        assert baseline.deviation == pytest.approx((square - plain**2) ** 0.5, abs=1e-4)


@pytest.mark.parametrize("seed", one_of(*range(4)))
def test_any_history_of_the_same_texts_gives_the_same_bits(seed: int) -> None:
    corpus, randomly = Corpus(seed), random.Random(seed)
    kept = [corpus.text(1 + n % 10) for n in range(300)]
    passing = [corpus.text(1 + n % 3) for n in range(60)]
    plain, other = Background(prior()), Background(prior())
    for text in kept:
        plain.add(text)
    coming = [*kept, *passing]
    there: list[Encoding] = []
    randomly.shuffle(coming)
    while coming or len(there) > len(kept):
        if coming and randomly.random() < 0.7:
            there.append(coming.pop())
            other.add(there[-1])
        else:
            gone = [n for n, text in enumerate(there) if any(text is one for one in passing)]
            if gone:
                other.remove(there.pop(randomly.choice(gone)))
        if randomly.random() < 0.1:
            other.moments()
    for one, same in zip(plain.moments(), other.moments(), strict=True):
        assert (one == same).all()
    ids = np.unique(np.concatenate([t.ids for text in coming + kept for t in text.terms]))
    assert (plain.rarity(ids) == other.rarity(ids)).all()
    assert plain.average_length == other.average_length
    for text in kept:
        other.remove(text)
    for one, same in zip(Background(prior()).moments(), other.moments(), strict=True):
        assert (one == same).all()
    assert other.passages == 0


def test_only_the_first_passages_of_a_text_count() -> None:
    corpus = Corpus(3)
    long = corpus.text(PASSAGES_PER_TEXT + 5)
    cut = Encoding(long.vectors[:PASSAGES_PER_TEXT], long.terms[:PASSAGES_PER_TEXT])
    whole, first = Background(prior()), Background(prior())
    whole.add(long)
    first.add(cut)
    assert whole.passages == first.passages == PASSAGES_PER_TEXT
    assert (whole.moments()[1] == first.moments()[1]).all()
    assert whole.average_length == first.average_length


def test_an_empty_project_has_the_priors() -> None:
    background, known = Background(prior()), prior()
    mean, second = background.moments()
    assert mean == pytest.approx(known.mean, abs=1e-5)
    assert second == pytest.approx(known.second, abs=1e-8)
    assert background.average_length == known.length
    assert background.baselines([]) == []

"""A need's ranking is what going through all data gives, whatever the history."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from contex_server.matching.encoding import Encoding
from contex_server.matching.relative import data_index as data_module
from contex_server.matching.relative.background import Model
from contex_server.matching.relative.data_index import NO_CHANGE, DataIndex, Ranking
from contex_server.matching.relative.score import Scorer, shipped_weights
from contex_server.matching.terms import NO_TERMS
from contex_server.matching.vectors import VectorIndex

from tests.thorough import one_of
from tests.unit.matching.corpora import Corpus, prior
from tests.unit.matching.relative.brute_force import BruteForce

SCORER = Scorer(replace(shipped_weights(), prior_passages=10.0))


class Project:
    def __init__(self) -> None:
        self.index = DataIndex(Model("model", prior()), SCORER)
        self.texts: dict[str, tuple[bytes, Encoding]] = {}

    def put(self, key: str, digest: bytes, text: Encoding) -> None:
        self.index.put(key, digest, text)
        self.texts[key] = digest, text

    def remove(self, key: str) -> None:
        self.index.remove(key)
        self.texts.pop(key, None)

    def truth(self) -> dict[bytes, Encoding]:
        return dict(self.texts.values())

    def check(self, need: Encoding, lowest: float) -> Ranking:
        texts = self.truth()
        truth = BruteForce(texts.values(), prior(), SCORER.weights)
        fits = dict(zip(texts, truth.fits(need), strict=True))
        ranking = self.index.rank(need, lowest)
        serial = {text.serial: d for d in texts if (text := self.index.text(d)) is not None}
        found = [serial[s] for s in ranking.serials.tolist()]
        assert len(set(found)) == len(found)
        assert (np.diff(ranking.fits) <= 0).all()
        assert {d for d, fit in fits.items() if fit >= lowest + 1e-9} <= set(found)
        rival_floor = SCORER.rival_floor(truth.crowd)
        best = sorted(fits.values(), reverse=True)[:2]
        rivals = [fit for fit in best if fit >= rival_floor + 1e-9]
        assert ranking.fits[: len(rivals)] == pytest.approx(rivals, abs=1e-9)
        for at, digest in enumerate(found):
            parts = truth.parts(need, texts[digest])
            if ranking.fits[at] >= lowest:
                assert ranking.fits[at] == pytest.approx(parts.fit, abs=1e-9)
                assert ranking.cosines[at] == pytest.approx(parts.cosine, abs=1e-9)
                assert ranking.standing[at] == pytest.approx(parts.standing, abs=1e-9)
                assert ranking.lexical[at] == pytest.approx(parts.lexical, abs=1e-9)
                assert ranking.passages[at] == parts.passage
        return ranking


@pytest.mark.parametrize(("seed", "keys"), one_of((3, 100), (1, 2), (2, 10), (4, 400)))
def test_rankings_are_those_of_brute_force(seed: int, keys: int) -> None:
    randomly, corpus, project = random.Random(seed), Corpus(seed), Project()
    for _ in range(25):
        for _ in range(randomly.randrange(1, max(4, keys // 6))):
            key, chance = f"k{randomly.randrange(keys)}", randomly.random()
            if chance < 0.2:
                project.remove(key)
            elif chance < 0.35 and project.texts:
                project.put(key, *randomly.choice(list(project.texts.values())))
            elif chance < 0.45 and project.texts:
                _, same = randomly.choice(list(project.texts.values()))
                again = Encoding(same.vectors, same.terms)
                project.put(key, randomly.randbytes(16), again)
            else:
                passages = randomly.choice([1, 1, 1, 3, 10])
                noise = randomly.choice([0.1, 1.0])
                project.put(key, randomly.randbytes(16), corpus.text(passages, noise))
        for lowest in (0.5, 3.0, 8.0, np.inf):
            project.check(corpus.need(), lowest)
    index, texts = project.index, project.truth()
    assert len(index) == len(project.texts)
    assert index.passages == sum(text.passages for text in texts.values())
    for digest in texts:
        text = index.text(digest)
        assert text is not None
        keys_of = {key for key, (d, _) in project.texts.items() if d == digest}
        assert index.data_keys(text.serial) == keys_of
        assert all(index.digest_of(key) == digest for key in keys_of)
    for key in list(project.texts):
        project.remove(key)
    assert (len(index), index.passages) == (0, 0)
    assert not len(index.rank(corpus.need(), 0.0).fits)


def test_an_approximate_ranking_has_all_that_words_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "VectorIndex", partial(VectorIndex, exact_vectors=100))
    monkeypatch.setattr(data_module, "_MAX_CANDIDATES", 64)
    corpus, project = Corpus(8), Project()
    for n in range(300):
        project.put(f"k{n}", n.to_bytes(16), corpus.text())
    texts = project.truth()
    truth = BruteForce(texts.values(), prior(), SCORER.weights)
    for _ in range(10):
        need = corpus.need()
        all_parts = {digest: truth.parts(need, text) for digest, text in texts.items()}
        for lowest in (0.5, 3.0, 6.0):
            ranking = project.index.rank(need, lowest)
            fits = dict(zip(ranking.serials.tolist(), ranking.fits.tolist(), strict=True))
            for digest, parts in all_parts.items():
                if parts.fit >= lowest + 1e-9 and parts.lexical:
                    text = project.index.text(digest)
                    assert text is not None
                    assert fits[text.serial] == pytest.approx(parts.fit, abs=1e-9)


def test_a_text_far_away_is_found_by_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among more near ones than an approximate index is asked for."""
    monkeypatch.setattr(data_module, "VectorIndex", partial(VectorIndex, exact_vectors=100))
    monkeypatch.setattr(data_module, "_MAX_CANDIDATES", 64)
    corpus, project = Corpus(9), Project()
    need = corpus.need()
    for n in range(200):
        row = need.vectors + 0.01 * corpus.numbers.normal(size=need.vectors.shape)
        row /= np.linalg.norm(row)
        project.put(f"k{n}", n.to_bytes(16), Encoding(row.astype(np.float32), (NO_TERMS,)))
    project.put("far", b"f" * 16, Encoding(-need.vectors, need.terms))
    far = project.index.text(b"f" * 16)
    assert far is not None
    ranking = project.index.rank(need, 0.5)
    assert far.serial in ranking.serials.tolist()


def test_other_histories_give_the_same_fits() -> None:
    corpus, randomly = Corpus(9), random.Random(9)
    texts = [(f"k{n}", n.to_bytes(16), corpus.text(1 + n % 4)) for n in range(120)]
    one, other = Project(), Project()
    for text in texts:
        one.put(*text)
    for n in range(40):
        other.put(f"k{n}", randomly.randbytes(16), corpus.text(1 + n % 5))
    for text in reversed(texts):
        other.put(*text)
    for _ in range(20):
        need = corpus.need()
        first, second = one.index.rank(need, 0.0), other.index.rank(need, 0.0)
        assert first.baseline.mean == second.baseline.mean
        assert first.baseline.deviation == second.baseline.deviation
        assert first.fits == pytest.approx(second.fits, abs=1e-12)


def test_changes_tell_which_texts_came_and_went() -> None:
    corpus, index = Corpus(1), Project().index
    one, other = corpus.text(2), corpus.text()
    came = index.put("a", b"1", one)
    assert came.added is not None
    assert came.removed is None
    serial, encoding = came.added
    assert encoding is one
    assert serial in index
    assert index.put("a", b"1", one) is NO_CHANGE
    assert index.put("b", b"1", one) == NO_CHANGE
    assert index.remove("a") == NO_CHANGE
    assert index.remove("a") is NO_CHANGE
    change = index.put("b", b"2", other)
    assert change.added is not None
    assert change.removed is not None
    assert change.removed[0] == serial
    assert (change.removed[1].vectors == one.vectors).all()
    assert serial not in index
    assert index.data_keys(serial) == set()
    gone = index.remove("b")
    assert gone.added is None
    assert gone.removed is not None
    assert index.digest_of("b") is None

"""An explanation says what an answer does, and its parts make up the score."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from contex_server.kernel.model import BEGINNING, DATA_DELETED, DATA_PUBLISHED, Event, Match, Need
from contex_server.matching.describe import QUOTED_CHARS, Description
from contex_server.matching.embedders.port import unit
from contex_server.matching.encoding import Encoding, as_stored, need_recipe
from contex_server.matching.formats.media import Format
from contex_server.matching.formats.passages import Passage
from contex_server.matching.relative import data_index as data_module
from contex_server.matching.relative.background import Model
from contex_server.matching.relative.data_index import DataIndex
from contex_server.matching.relative.explain import Explanation, explain
from contex_server.matching.relative.score import Scorer, shipped_weights
from contex_server.matching.terms import terms_of
from contex_server.matching.vectors import VectorIndex

from tests.thorough import one_of
from tests.unit.matching.corpora import TOPICS, VOCABULARY, Corpus, prior
from tests.unit.matching.relative.brute_force import BruteForce

SCORER = Scorer(replace(shipped_weights(), prior_passages=10.0))
PRIOR = prior()

Text = tuple[bytes, Encoding, Description]


class Project:
    """Data that have words, so that there is something to quote."""

    def __init__(self, seed: int) -> None:
        self.randomly, self.corpus = random.Random(seed), Corpus(seed)
        self.index = DataIndex(Model("model", PRIOR), SCORER)
        self.texts: dict[str, Text] = {}

    def text(self, passages: int = 1) -> Text:
        topic = self.randomly.randrange(TOPICS)
        words = [self.corpus.words(topic, self.randomly.randrange(3, 30)) for _ in range(passages)]
        rows = np.stack([self.corpus.vector(topic) for _ in words]).astype(np.float32)
        terms = tuple(terms_of(((text, 1),)) for text in words)
        parts = tuple(Passage(f"part {at}" if at else "", text) for at, text in enumerate(words))
        description = Description("", "", parts, Format.TEXT, False)
        return self.randomly.randbytes(16), as_stored(Encoding(unit(rows), terms)), description

    def need(self, threshold: float = 1e-6, exclude: frozenset[str] = frozenset()) -> Need:
        words = self.corpus.words(self.randomly.randrange(TOPICS), self.randomly.randrange(1, 8))
        return Need(f"tell me about {words}", b"n" * 16, threshold, 1_000, exclude)

    def encode(self, need: Need) -> Encoding:
        row = self.corpus.vector(self.randomly.randrange(TOPICS))[None].astype(np.float32)
        return as_stored(need_recipe(need.text).encoding(unit(row)))

    def put(self, key: str, text: Text) -> None:
        self.index.put(key, *text[:2])
        self.texts[key] = text

    def fill(self, data: int, passages: tuple[int, ...] = (1, 1, 1, 3, 10)) -> None:
        for n in range(data):
            shared = self.texts and self.randomly.random() < 0.2
            known = self.randomly.choice(list(self.texts.values())) if shared else None
            self.put(f"k{n}", known or self.text(self.randomly.choice(passages)))

    def truth(self) -> BruteForce:
        texts = {digest: encoding for digest, encoding, _ in self.texts.values()}
        return BruteForce(texts.values(), PRIOR, SCORER.weights)

    def explain(
        self, need: Need, encoding: Encoding, key: str, text: Text | None = None,
        event_type: str = DATA_PUBLISHED,
    ) -> Explanation:  # fmt: skip
        digest, own, description = text or self.texts[key]
        event = Event(BEGINNING, event_type, key, b"", "", "", "", 1, None, digest)
        return explain(self.index, need, encoding, event, own, description, BEGINNING)

    def answer(self, need: Need, encoding: Encoding) -> dict[str, Match]:
        found = self.index.search([need], [encoding])
        return {key: matches[0] for key, matches in found}


@pytest.mark.parametrize(("seed", "data"), one_of((3, 40), (1, 1), (2, 5), (4, 300)))
def test_scores_and_ranks_are_those_of_all_pairs_and_of_an_answer(seed: int, data: int) -> None:
    project = Project(seed)
    project.fill(data)
    truth = project.truth()
    for _ in range(5):
        need = project.need()
        encoding = project.encode(need)
        scores = {key: truth.score(encoding, text) for key, (_, text, _) in project.texts.items()}
        answered = project.answer(need, encoding)
        for key in project.randomly.sample(sorted(scores), min(data, 15)):
            told = project.explain(need, encoding, key)
            assert told.match.score == pytest.approx(scores[key], abs=1e-9)
            parts = truth.parts(encoding, project.texts[key][1])
            assert told.match.passage == parts.passage
            assert told.rank == 1 + sum(score > scores[key] + 1e-12 for score in scores.values())
            assert told.data_count == data
            assert told.matched == (told.match.score >= need.threshold)
            match = answered.get(key)
            if match is None:
                assert scores[key] < need.threshold + 1e-9
                continue
            for name in ("score", "cosine", "standing", "lexical", "share", "mean", "deviation"):
                assert getattr(told.match, name) == pytest.approx(getattr(match, name), abs=1e-9)
            assert told.match.passage == match.passage
            assert (told.match.scorer, told.match.model) == (match.scorer, match.model)
            assert told.match.background_passages == match.background_passages
            place = 1 + sum(other.score > match.score + 1e-12 for other in answered.values())
            assert told.rank == place


@pytest.mark.parametrize("seed", range(4))
def test_the_parts_make_up_the_score(seed: int) -> None:
    project = Project(seed)
    project.fill(60)
    for key in project.texts:
        need = project.need()
        told = project.explain(need, project.encode(need), key)
        match = told.match
        log_odds = sum(part.log_odds for part in told.contributions)
        assert match.score == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-12)
        assert sum(term.weight for term in told.terms) == pytest.approx(1)
        assert sum(term.hit for term in told.terms) == pytest.approx(match.lexical, abs=1e-12)
        assert all(0 <= term.hit < term.weight for term in told.terms)
        single = [term for term in told.terms if " " not in term.word]
        assert [t.word for t in single] == list(dict.fromkeys(need.text.split()[3:]))
        _, encoding, description = project.texts[key]
        assert len(told.passages) == encoding.passages
        assert [p.score for p in told.passages] == sorted(
            (p.score for p in told.passages), reverse=True
        )
        chosen = description.passages[match.passage]
        assert (match.path, match.passage_text) == (chosen.path, chosen.text[:QUOTED_CHARS])
        (decided,) = [p for p in told.passages if p.path == match.path]
        assert (decided.score, decided.cosine) == (match.score, match.cosine)
        assert decided.lexical == match.lexical


def test_an_event_that_is_not_its_keys_latest_is_scored_among_those_that_are() -> None:
    project = Project(5)
    project.fill(50)
    truth, old = project.truth(), project.text(3)
    for _ in range(20):
        need = project.need()
        encoding = project.encode(need)
        told = project.explain(need, encoding, "k1", old)
        assert told.rank == 0
        assert told.match.score == pytest.approx(truth.score(encoding, old[1]), abs=1e-9)
        # Another datum's text is not this one's, even if it is the same.
        assert project.explain(need, encoding, "gone", project.texts["k2"]).rank == 0


def test_data_that_share_a_text_each_have_a_place() -> None:
    project = Project(6)
    need = project.need()
    encoding = project.encode(need)
    best = b"b" * 16, Encoding(encoding.vectors, encoding.terms), project.text()[2]
    for key in ("a", "b", "c"):
        project.put(key, best)
    project.put("d", project.text())
    assert [project.explain(need, encoding, key).rank for key in "abcd"] == [1, 1, 1, 4]
    told = project.explain(need, encoding, "d")
    assert told.verdict.endswith("3 of 4 data fit better.")


def test_an_excluded_key_is_scored_and_never_matches() -> None:
    project = Project(7)
    project.fill(12)
    need = project.need()
    encoding = project.encode(need)
    plain = {key: project.explain(need, encoding, key) for key in project.texts}
    fussy = replace(need, exclude=frozenset({"k1*"}))
    answered = project.answer(fussy, encoding)
    for key, open_to_all in plain.items():
        told = project.explain(fussy, encoding, key)
        assert told.match == open_to_all.match
        assert told.rank == open_to_all.rank
        assert told.matched == (key in answered)
        assert ("excludes" in told.verdict) == key.startswith("k1")
    assert plain["k1"].matched
    assert not project.explain(fussy, encoding, "k1").matched


def test_the_verdict_says_which_way_and_why() -> None:
    project = Project(8)
    project.fill(30)
    need = Need(" ".join(VOCABULARY[:9]), b"n" * 16, 0.01, 10)
    encoding = project.encode(need)
    all_words = terms_of(((need.text, 1),))
    text = b"t" * 16, Encoding(encoding.vectors, (all_words,)), project.text()[2]
    project.put("it", text)
    told = project.explain(need, encoding, "it")
    assert told.verdict.startswith(f"It matches: {told.match.score:.2f} reaches the threshold 0.01")
    assert "deviations out from the project's usual" in told.verdict
    assert f'"{VOCABULARY[4]}" and 4 more of its words' in told.verdict
    assert "fit better" not in told.verdict
    high = project.explain(replace(need, threshold=1.0), encoding, "it")
    assert "It does not match" in high.verdict
    assert "below the threshold 1.00" in high.verdict
    deleted = project.explain(need, encoding, "it", event_type=DATA_DELETED)
    assert deleted.verdict.startswith("The datum deleted here matches")
    other = replace(need, text="zephyr")
    away = as_stored(Encoding(-encoding.vectors, need_recipe(other.text).terms))
    unlike = project.explain(other, away, "it")
    assert unlike.match.standing == unlike.match.lexical == 0
    assert "no nearer than is usual" in unlike.verdict
    assert "none of the need's words" in unlike.verdict


def test_a_need_of_stop_words_is_explained_by_its_meaning() -> None:
    project = Project(9)
    project.fill(10)
    need = Need("what is it", b"n" * 16, 0.5, 10)
    told = project.explain(need, project.encode(need), "k3")
    assert told.terms == ()
    assert told.match.lexical == 0
    assert told.rank >= 1


def test_data_beyond_those_that_an_approximate_index_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "VectorIndex", partial(VectorIndex, exact_vectors=50))
    monkeypatch.setattr(data_module, "_MAX_CANDIDATES", 64)
    project = Project(10)
    project.fill(250, passages=(1,))
    truth, need = project.truth(), Need("zephyr", b"n" * 16, 0.5, 10)
    encoding = project.encode(need)
    # It has none of the need's words, so only the nearest are looked at.
    assert len(project.index.rank(encoding, 0.0).fits) == 64
    scores = {key: truth.score(encoding, text) for key, (_, text, _) in project.texts.items()}
    for key, score in scores.items():
        told = project.explain(need, encoding, key)
        assert told.match.score == pytest.approx(score, abs=1e-9)
        better = sum(other > score + 1e-12 for other in scores.values())
        assert 1 <= told.rank <= better + 1

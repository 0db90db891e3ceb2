"""The absolute score: the same in both directions, whatever else there is, in whatever order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from contex_server.kernel.model import BEGINNING, Agent, Match, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.matching import data_index as data_module
from contex_server.matching.background import (
    OWN_MOMENTS,
    SIZES,
    Snapshot,
    background,
    pack_prior,
    shipped_prior,
    size_reached,
    unpack_prior,
)
from contex_server.matching.data_index import DataIndex
from contex_server.matching.encoding import Encoding, as_stored, unit
from contex_server.matching.need_index import NeedIndex
from contex_server.matching.rules import AbsoluteRule
from contex_server.matching.score import Scorer, Weights, log_odds_of, probability
from contex_server.matching.vectors import VectorIndex
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.matching.brute_force import BruteForce
from tests.unit.matching.corpora import Corpus, absolute_prior

WEIGHTS = Weights("test", -2.0, 1.0, 1.5, 2.5, 0.3)
SINCE = LogSequence(7, 0)


class Project:
    """Texts and needs, matched in both directions."""

    def __init__(self, seed: int, texts: int, needs: int = 12, max_passages: int = 3) -> None:
        corpus = Corpus(seed)
        self.texts = [corpus.text(1 + n % max_passages) for n in range(texts)]
        self.encodings = [corpus.need() for _ in range(needs)]
        self.rule = AbsoluteRule("test#2", absolute_prior(), Scorer(WEIGHTS))

    def needs(self, threshold: float) -> tuple[Need, ...]:
        return tuple(
            Need(f"need {n}", b"%d" % n, threshold, 10_000) for n in range(len(self.encodings))
        )

    def index(self, order: Iterable[int]) -> DataIndex:
        data = self.rule.data()
        for at in order:
            data.put(f"k{at}", at.to_bytes(16), self.texts[at])
        return data

    def delivered(self, data: DataIndex, threshold: float) -> dict[tuple[int, str], Match]:
        """What the needs get of data published now, each by itself."""
        index = NeedIndex(data)
        index.set_agent(
            Agent("a", self.needs(threshold), threshold, 1, 0, 0), tuple(self.encodings)
        )
        found = {}
        for at, (text, rows) in enumerate(zip(self.texts, index.scan(self.texts), strict=True)):
            for match in index.match(text, rows, f"k{at}", None).get("a", ()):
                found[match.need_index, f"k{at}"] = match
        return found

    def searched(self, data: DataIndex, threshold: float) -> dict[tuple[int, str], Match]:
        """What the needs find among the data."""
        result = data.search(self.needs(threshold), self.encodings)
        return {(match.need_index, key): match for key, matches in result for match in matches}


def snapshot(texts: Sequence[Encoding]) -> Snapshot:
    return Snapshot.of(texts, len(texts))


@pytest.mark.parametrize("usual", [0, 40])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.7])
def test_both_directions_find_what_a_full_scan_finds(usual: int, threshold: float) -> None:
    project = Project(usual, 150)
    data = project.index(range(150))
    own = project.texts[:usual]
    if usual:
        packed = snapshot(own).pack()
        project.rule.set_background(data, NeedIndex(data), packed, SINCE)
    truth = BruteForce(absolute_prior(), WEIGHTS, own)
    expected = {}
    for n, need in enumerate(project.encodings):
        for at, text in enumerate(project.texts):
            parts = truth.parts(need, text)
            if parts.score >= threshold:
                expected[n, f"k{at}"] = parts
    assert expected
    there, back = project.searched(data, threshold), project.delivered(data, threshold)
    assert there.keys() == back.keys() == expected.keys()
    for pair, parts in expected.items():
        for match in (there[pair], back[pair]):
            assert match.score == pytest.approx(parts.score, abs=1e-6)
            assert match.passage == parts.passage
            assert (match.cosine, match.usual) == pytest.approx((parts.cosine, parts.usual))
            assert (match.coverage, match.expected) == pytest.approx(
                (parts.coverage, parts.expected)
            )
            assert match.background_as_of == (SINCE if usual else BEGINNING)
        assert there[pair].score == pytest.approx(back[pair].score, abs=1e-9)


def test_a_match_is_recomputed_from_its_parts() -> None:
    project = Project(5, 60)
    for match in project.searched(project.index(range(60)), 0.1).values():
        log_odds = (
            WEIGHTS.bias
            + WEIGHTS.standing * (match.cosine - match.mean) / match.deviation
            + WEIGHTS.contrast * (match.cosine - match.usual)
            + WEIGHTS.surplus * (match.coverage - match.expected)
        )
        assert match.standing == pytest.approx((match.cosine - match.mean) / match.deviation)
        assert match.score == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1_000), st.randoms(use_true_random=False))
def test_neither_order_nor_other_data_nor_copies_change_a_score(
    seed: int, shuffled: random.Random
) -> None:
    project = Project(seed, 40, needs=4)
    alone = {}
    for at in range(40):
        alone |= project.searched(project.index([at]), 0.05)
    order = list(range(40))
    shuffled.shuffle(order)
    data = project.index(order)
    # The same text under other keys, and texts that came and went.
    for copy in range(5):
        data.put(f"copy{copy}", order[0].to_bytes(16), project.texts[order[0]])
    for at in range(3):
        data.remove(f"k{order[at + 1]}")
        data.put(f"k{order[at + 1]}", order[at + 1].to_bytes(16), project.texts[order[at + 1]])
    together = project.searched(data, 0.05)
    copies = {pair: match for pair, match in together.items() if pair[1].startswith("copy")}
    for pair in copies:
        del together[pair]
    assert together.keys() == alone.keys()
    for pair, match in alone.items():
        assert together[pair].score == pytest.approx(match.score, abs=1e-12)
    for (need, _), match in copies.items():
        assert match.score == together[need, f"k{order[0]}"].score


def test_what_has_a_score_reaches_a_threshold_of_that_score() -> None:
    odds = np.linspace(-40, 40, 4_001)
    for log_odds, score in zip(odds.tolist(), probability(odds).tolist(), strict=True):
        assert log_odds_of(score) <= log_odds
    assert log_odds_of(0.5) == pytest.approx(0.0, abs=1e-12)
    assert log_odds_of(0) == -math.inf


def test_a_score_changes_with_the_background_alone() -> None:
    project = Project(3, 120)
    data = project.index(range(120))
    needs = NeedIndex(data)
    needs.set_agent(Agent("a", project.needs(0.05), 0.05, 1, 0, 0), tuple(project.encodings))

    def live() -> dict[tuple[int, str], float]:
        found = {}
        for at, (text, rows) in enumerate(
            zip(project.texts, needs.scan(project.texts), strict=True)
        ):
            for match in needs.match(text, rows, f"k{at}", None).get("a", ()):
                found[match.need_index, f"k{at}"] = match.score
        return found

    before = live()
    assert project.rule.size_due(data)
    packed = Snapshot.of(project.rule.texts(data), len(data)).pack()
    project.rule.set_background(data, needs, packed, SINCE)
    assert not project.rule.size_due(data)  # The next one is due at 1,000.
    after = live()
    assert after != before
    searched = {pair: match.score for pair, match in project.searched(data, 0.05).items()}
    assert after == pytest.approx(searched, abs=1e-12)
    project.rule.set_background(data, needs, None, SINCE)
    assert live() == before
    assert data.background.sequence == BEGINNING


def test_a_large_project_is_summed_up_by_a_sample() -> None:
    project = Project(4, 50)
    data = project.index(range(50))
    heads = [text.vectors[0] for text in project.texts]
    for at_most, expected in ((None, range(50)), (100, range(50)), (20, range(0, 50, 3))):
        found = [text.vectors[0] for text in data.encodings(at_most)]
        assert np.array_equal(found, [heads[at] for at in expected])
    assert list(project.index([]).encodings(20)) == []


def test_snapshots_survive_being_packed() -> None:
    corpus = Corpus(9)
    one = snapshot([corpus.text(1 + n % 12) for n in range(30)])
    read = Snapshot.unpack(one.pack())
    assert read.mean == pytest.approx(one.mean, abs=1e-6)
    assert read.second == pytest.approx(one.second, abs=1e-6)
    assert read.term_ids.tolist() == one.term_ids.tolist()
    assert read.term_share.tolist() == one.term_share.tolist()
    assert (read.data, read.different) == (one.data, one.different)
    assert Snapshot.unpack(read.pack()).pack() == read.pack()


def test_what_says_the_same_counts_once() -> None:
    corpus = Corpus(21)
    text, other = corpus.text(), corpus.text(noise=3.0)
    alike = [
        as_stored(Encoding(unit(text.vectors + 0.02 * other.vectors * n), text.terms))
        for n in range(20)
    ]
    one, many = snapshot([text]), snapshot(alike)
    assert (many.data, many.different) == (20, 1)
    assert many.mean == pytest.approx(one.mean, abs=1e-3)
    assert snapshot([text, other]).different == 2


def test_a_prior_survives_being_packed() -> None:
    prior = absolute_prior()
    read = unpack_prior(pack_prior(prior))
    assert read.mean == pytest.approx(prior.mean, abs=1e-6)
    assert read.needs == pytest.approx(prior.needs, abs=0.01)
    assert np.linalg.norm(read.needs, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert read.second == pytest.approx(prior.second, abs=1e-3)
    assert (read.second == read.second.T).all()


def test_what_is_usual_moves_from_the_prior_to_the_project() -> None:
    corpus, prior = Corpus(2), absolute_prior()
    need = corpus.need()
    (shipped,) = background(prior).baselines([need])
    q = need.vectors[0].astype(float)
    assert shipped.mean == pytest.approx(float(q @ prior.mean))
    texts = [corpus.text(noise=4.0) for _ in range(1_500)]
    rows = np.concatenate([text.vectors for text in texts]).astype(float)
    (own,) = background(prior, snapshot(texts), SINCE).baselines([need])
    assert own.mean == pytest.approx(float((rows @ q).mean()), abs=0.02)
    assert own.deviation == pytest.approx(float((rows @ q).std()), abs=0.02)
    bounded = replace(prior, own_moments=0.2)
    (mixed,) = background(bounded, snapshot(texts), SINCE).baselines([need])
    assert mixed.mean == pytest.approx(0.8 * shipped.mean + 0.2 * float((rows @ q).mean()))


def test_the_first_background_of_a_project_does_not_overturn_what_is_usual() -> None:
    """What agents get of data about one thing must not fall by half as the hundredth arrives."""
    assert shipped_prior().own_moments == OWN_MOMENTS < 0.25
    assert shipped_prior(tuned=False).own_moments == 1.0  # As what they decided was decided.


@pytest.mark.parametrize(
    ("data", "size"),
    [(0, 0), (99, 0), (100, 100), (999, 100), (1_000, 1_000), (5_000_000, SIZES[-1])],
)
def test_sizes_at_which_a_background_is_taken(data: int, size: int) -> None:
    assert size_reached(data) == size


def test_an_approximate_index_finds_what_words_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "VectorIndex", partial(VectorIndex, exact_vectors=100))
    project = Project(11, 300)
    data = project.index(range(300))
    truth = BruteForce(absolute_prior(), WEIGHTS)
    found = project.searched(data, 0.3)
    for n, need in enumerate(project.encodings):
        for at, text in enumerate(project.texts):
            if truth.parts(need, text).score >= 0.3 + 1e-6:
                assert (n, f"k{at}") in found


def test_needs_that_come_and_go() -> None:
    project = Project(13, 40)
    data = project.index(range(40))
    index = NeedIndex(data)
    encodings = tuple(project.encodings)
    for name in ("a", "b"):
        index.set_agent(Agent(name, project.needs(0.1), 0.1, 1, 0, 0), encodings)
    assert (len(index), index.needs) == (2, len(encodings))
    assert index.nbytes > 0
    index.remove_agent("a")
    index.set_agent(Agent("b", project.needs(0.1)[:3], 0.1, 1, 0, 0), encodings[:3])
    assert (len(index), index.needs) == (1, 3)
    expected = {pair for pair in project.delivered(data, 0.1) if pair[0] < 3}
    found = set()
    for at, (text, rows) in enumerate(zip(project.texts, index.scan(project.texts), strict=True)):
        for agent, matches in index.match(text, rows, f"k{at}", None).items():
            assert agent == "b"
            found |= {(match.need_index, f"k{at}") for match in matches}
    assert found == expected
    index.remove_agent("b")
    assert index.needs == 0
    assert all(not len(rows) for rows in index.scan(project.texts))

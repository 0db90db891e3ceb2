"""Random texts with vectors and terms that behave like those of real ones."""

from __future__ import annotations

import random

import numpy as np
from contex_server.matching import background
from contex_server.matching.encoding import Encoding, as_stored, unit
from contex_server.matching.relative.background import Prior
from contex_server.matching.terms import Terms, terms_of

DIMENSION = 48
TOPICS = 12
VOCABULARY = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("mon", "rt", "sk")]


class Corpus:
    """Texts about topics: of one topic their vectors are alike, and so are their words."""

    def __init__(self, seed: int) -> None:
        self.randomly = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.common = self.numbers.normal(size=DIMENSION)
        self.topics = self.numbers.normal(size=(TOPICS, DIMENSION))

    def vector(self, topic: int, noise: float = 1.0) -> np.ndarray:
        row = 0.5 * self.common + 1.2 * self.topics[topic]
        return row + noise * self.numbers.normal(size=DIMENSION)

    def words(self, topic: int, count: int) -> str:
        own = VOCABULARY[topic * 7 : topic * 7 + 7]
        return " ".join(
            self.randomly.choice(own if self.randomly.random() < 0.5 else VOCABULARY)
            for _ in range(count)
        )

    def text(self, passages: int = 1, noise: float = 1.0) -> Encoding:
        topic = self.randomly.randrange(TOPICS)
        rows = np.stack([self.vector(topic, noise) for _ in range(passages)])
        terms = tuple(
            terms_of(((self.words(topic, self.randomly.randrange(3, 30)), 1),))
            for _ in range(passages)
        )
        return as_stored(Encoding(unit(rows.astype(np.float32)), terms))

    def need(self) -> Encoding:
        topic = self.randomly.randrange(TOPICS)
        terms = terms_of(((self.words(topic, self.randomly.randrange(1, 8)), 1),))
        ones = Terms(terms.ids, np.ones_like(terms.counts))
        return as_stored(Encoding(unit(self.vector(topic)[None].astype(np.float32)), (ones,)))


def prior(seed: int = 0) -> Prior:
    """A background of a hundred texts of other topics."""
    corpus = Corpus(seed + 1_000)
    rows = np.concatenate([corpus.text().vectors for _ in range(100)]).astype(np.float64)
    counted = terms_of(((" ".join(VOCABULARY), 1),))
    single = counted.ids[counted.ids < 2**31]
    share = np.full(len(single), 0.05, np.float32)
    return Prior(rows.mean(0), rows.T @ rows / len(rows), single, share, 25.0)


def absolute_prior(seed: int = 0) -> background.Prior:
    """The same for the absolute score, with a hundred needs."""
    known, corpus = prior(seed), Corpus(seed + 2_000)
    needs = np.concatenate([corpus.need().vectors for _ in range(100)])
    return background.Prior(known.mean, known.second, needs, known.term_ids, known.term_share)

"""What a need is to a text: the parts of a score, exact and the same in each direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.background import Background, Baseline, Prior
from contex_server.matching.embedders.port import Vector
from contex_server.matching.encoding import Encoding
from contex_server.matching.score import Floats, Scorer, by_chance, probability
from contex_server.matching.terms import TermIds, look_up, single_words

_LINES_PER_STEP = 1_024
"""Passages whose vectors are copied at a time: pairs without number take no more."""
_USUAL_PER_STEP = 64
"""Passages whose usual cosines are computed at a time: what that takes stays in the cache."""


class Parts(NamedTuple):
    """The parts of a pair's score."""

    passage: int
    cosine: float
    usual: float
    standing: float
    coverage: float
    expected: float
    score: float


class Measured(NamedTuple):
    """The parts of some pairs' scores, one a pair; of each datum its best passage."""

    passages: NDArray[np.int64]  # the best passage's position in the text
    cosines: Floats
    usual: Floats  # the passage's mean cosine with the shipped needs nearest to it
    standing: Floats
    contrast: Floats
    coverage: Floats  # of the whole text
    expected: Floats
    log_odds: Floats

    def parts(self, at: NDArray[np.int64]) -> Iterator[Parts]:
        """The parts of these pairs."""
        columns = (
            self.passages,
            self.cosines,
            self.usual,
            self.standing,
            self.coverage,
            self.expected,
            probability(self.log_odds),
        )
        return map(Parts, *(column[at].tolist() for column in columns))


class Passages(NamedTuple):
    """The same for each passage of a text with each of some needs, [needs, passages]."""

    cosines: Floats
    usual: Floats  # [passages]
    standing: Floats
    contrast: Floats
    coverage: Floats  # [needs]
    expected: Floats  # [needs]
    fits: Floats

    def best(self, scorer: Scorer) -> Measured:
        """Of each need the best passage, the first of equals."""
        at = self.fits.argmax(1)
        rows = np.arange(len(at))
        log_odds = scorer.log_odds(self.fits[rows, at], self.coverage - self.expected)
        return Measured(
            at,
            self.cosines[rows, at],
            self.usual[at],
            self.standing[rows, at],
            self.contrast[rows, at],
            self.coverage,
            self.expected,
            log_odds,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Some texts, laid out so that any pairs of them and needs are measured at once."""

    rows: Vector  # of their passages, text by text, as `rows_of` has them
    owner: NDArray[np.int64]  # by passage: the text, from 0
    edges: NDArray[np.int64]  # by text: its first passage; last the number of passages
    words: list[TermIds]  # by text: its different words, ascending

    @classmethod
    def of(cls, encodings: Sequence[Encoding], background: Background) -> Texts:
        """Lays texts out."""
        sizes = [encoding.passages for encoding in encodings]
        vectors = np.concatenate([encoding.vectors for encoding in encodings])
        return cls(
            with_usual(vectors, background.prior),
            np.repeat(np.arange(len(sizes)), sizes),
            np.cumsum([0, *sizes]),
            [words_of(encoding) for encoding in encodings],
        )


def measure_pairs(
    needs: Vector,
    rows: NDArray[np.int64],
    baselines: Sequence[Baseline],
    texts: Texts,
    of: NDArray[np.int64],
    scorer: Scorer,
) -> Measured:
    """Measures pairs, at least one; each has the bits that `measure` gives it.

    Args:
        needs: Vectors, one a row.
        rows: Of each pair, the need's row.
        baselines: Of each pair, the need's.
        of: Of each pair, the text.
    """
    count = len(of)
    sizes = np.diff(texts.edges)[of]
    starts = np.cumsum(sizes) - sizes
    # From here to `best`, a line is a passage of a pair.
    pair = np.repeat(np.arange(count), sizes)
    passages = np.arange(len(pair)) - starts[pair]
    at = texts.edges[of][pair] + passages
    usual = texts.rows[at, -1].astype(np.float64)
    cosines = np.empty(len(pair))
    for start in range(0, len(pair), _LINES_PER_STEP):
        step = slice(start, start + _LINES_PER_STEP)
        cosines[step] = cosines_of(texts.rows[at[step], :-1], needs[rows[pair[step]]])
    means, deviations, ceilings, masses = (
        np.fromiter(map(attrgetter(name), baselines), np.float64, count)
        for name in ("mean", "deviation", "ceiling", "mass")
    )
    cosines = np.minimum(cosines, ceilings[pair])
    standing, contrast = (cosines - means[pair]) / deviations[pair], cosines - usual
    fits = scorer.fit(standing, contrast)
    highest = np.flatnonzero(fits == np.maximum.reduceat(fits, starts)[pair])
    best = highest[np.unique(pair[highest], return_index=True)[1]]

    words = np.concatenate([one.words for one in baselines])
    weights = np.concatenate([one.weights for one in baselines])
    shares = np.concatenate([one.shares for one in baselines])
    owner = np.repeat(np.arange(count), [len(one.words) for one in baselines])
    sizes = np.array([len(own) for own in texts.words])
    known = _keys(np.repeat(np.arange(len(sizes)), sizes), np.concatenate(texts.words))
    covered = look_up(_keys(of[owner], words), known, np.ones(len(known)))
    coverage = np.bincount(owner, weights * covered, count) / masses
    by_luck = by_chance(shares, sizes[of[owner]].astype(np.float64))
    expected = np.bincount(owner, weights * by_luck, count) / masses
    return Measured(
        passages[best],
        cosines[best],
        usual[best],
        standing[best],
        contrast[best],
        coverage,
        expected,
        scorer.log_odds(fits[best], coverage - expected),
    )


def _keys(texts: NDArray[np.int64], words: TermIds) -> NDArray[np.int64]:
    """One number for a text and a word."""
    return texts << 32 | words.astype(np.int64)


def measure(
    needs: Vector,
    baselines: Sequence[Baseline],
    encoding: Encoding,
    background: Background,
    scorer: Scorer,
) -> Passages:
    """Measures a text for needs, each given by its vector (a row) and its baseline."""
    count = len(baselines)
    rows = rows_of(encoding, background)
    usual = rows[:, -1].astype(np.float64)
    ceilings = np.array([[one.ceiling] for one in baselines])
    cosines = np.minimum(cosines_of(rows[None, :, :-1], needs[:, None]), ceilings)
    means = np.array([[one.mean] for one in baselines])
    deviations = np.array([[one.deviation] for one in baselines])
    standing, contrast = (cosines - means) / deviations, cosines - usual
    words = np.concatenate([one.words for one in baselines])
    weights = np.concatenate([one.weights for one in baselines])
    owner = np.repeat(np.arange(count), [len(one.words) for one in baselines])
    own = words_of(encoding)
    masses = np.array([one.mass for one in baselines])
    coverage = np.bincount(owner, weights * np.isin(words, own), count) / masses
    shares = np.concatenate([one.shares for one in baselines])
    expected = np.bincount(owner, weights * by_chance(shares, float(len(own))), count) / masses
    fits = scorer.fit(standing, contrast)
    return Passages(cosines, usual, standing, contrast, coverage, expected, fits)


def rows_of(encoding: Encoding, background: Background) -> Vector:
    """The passages' vectors, and as one more component their usual cosine with needs, float32."""
    return _rows(encoding, background.prior)


@lru_cache(maxsize=256)
def _rows(encoding: Encoding, prior: Prior) -> Vector:
    """A text is indexed, scanned and measured within one event."""
    return with_usual(encoding.vectors, prior)


def with_usual(vectors: Vector, prior: Prior) -> Vector:
    """The same for the vectors of some passages."""
    rows = np.empty((len(vectors), vectors.shape[1] + 1), np.float32)
    rows[:, :-1] = vectors
    for start in range(0, len(vectors), _USUAL_PER_STEP):
        step = slice(start, start + _USUAL_PER_STEP)
        rows[step, -1] = prior.usual_cosines(vectors[step])
    return rows


def words_of(encoding: Encoding) -> TermIds:
    """The different words of a text, ascending."""
    first, *others = encoding.terms
    if not others:
        return single_words(first)
    return different_words([single_words(terms) for terms in encoding.terms])


def different_words(passages: Sequence[TermIds]) -> TermIds:
    """The different words of some passages, ascending."""
    return np.unique(np.concatenate(passages))


def cosines_of(vectors: Vector, needs: Vector) -> Floats:
    """The exact cosines of rows with needs: which other rows there are changes no bit."""
    cosines: Floats = np.vecdot(vectors.astype(np.float64), needs.astype(np.float64))
    return np.clip(cosines, -1.0, 1.0)

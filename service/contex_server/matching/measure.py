"""What a need is to a text: the parts of a score, exact and the same in each direction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.background import Background, Baseline, Prior
from contex_server.matching.embedders.port import Vector
from contex_server.matching.encoding import Encoding
from contex_server.matching.score import Floats, Scorer, by_chance
from contex_server.matching.terms import TermIds, single_words


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
    own = different_words([single_words(passage) for passage in encoding.terms])
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
    usual = prior.usual_cosines(encoding.vectors).astype(np.float32)
    rows: Vector = np.concatenate([encoding.vectors, usual[:, None]], axis=1)
    return rows


def different_words(passages: Sequence[TermIds]) -> TermIds:
    """The different words of some passages, ascending."""
    return np.unique(np.concatenate(passages))


def cosines_of(vectors: Vector, needs: Vector) -> Floats:
    """The exact cosines of rows with needs: which other rows there are changes no bit."""
    cosines: Floats = np.vecdot(vectors.astype(np.float64), needs.astype(np.float64))
    return np.clip(cosines, -1.0, 1.0)

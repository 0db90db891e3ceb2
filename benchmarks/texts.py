"""Encodings that behave like those of real texts, without a model."""

from __future__ import annotations

import numpy as np
from contex_server.matching.embedders.port import unit
from contex_server.matching.encoding import Encoding
from contex_server.matching.terms import Terms
from numpy.typing import NDArray

DIMENSION = 384
_CLUSTERS = 400
_WORDS = 30_000
_COMMON = 0.32
_CLUSTER = 0.62
"""Shares of a vector: with these, cosines of all pairs have mean 0.1 and deviation 0.11 about."""
_DATUM_WORDS = 60
_NEED_WORDS = 6


class Texts:
    """Texts in clusters, with words that are as frequent as Zipf says.

    A text of a cluster takes a third of its words from the cluster's own.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._common = self._directions(1)[0]
        self._centres = self._directions(_CLUSTERS)
        weights = 1.0 / np.arange(1, _WORDS + 1)
        self._zipf = np.cumsum(weights / weights.sum())
        self._own = self._random.integers(200, _WORDS, (_CLUSTERS, 60))

    def vectors(self, clusters: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [n, DIMENSION], rows of length 1, of these clusters."""
        noise = self._directions(len(clusters))
        rest = (1 - _COMMON**2 - _CLUSTER**2) ** 0.5
        rows = _COMMON * self._common + _CLUSTER * self._centres[clusters] + rest * noise
        return unit(rows.astype(np.float32))

    def data(self, count: int) -> list[Encoding]:
        """Texts of data."""
        return self._encodings(count, _DATUM_WORDS, counts=True)

    def needs(self, count: int) -> list[Encoding]:
        """Texts of needs."""
        return self._encodings(count, _NEED_WORDS, counts=False)

    def near(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors whose cosine with these is about 0.8."""
        noise = self._directions(len(vectors)).astype(np.float32)
        return unit(vectors + 0.75 * noise)

    def _encodings(self, count: int, words: int, *, counts: bool) -> list[Encoding]:
        clusters = self._random.integers(0, _CLUSTERS, count)
        found = []
        for vector, cluster in zip(self.vectors(clusters), clusters, strict=True):
            terms = self._terms(int(cluster), max(2, int(self._random.poisson(words))))
            if not counts:
                terms = Terms(terms.ids, np.ones_like(terms.counts))
            found.append(Encoding(vector[None], (terms,)))
        return found

    def _terms(self, cluster: int, words: int) -> Terms:
        """Single words and pairs of neighbours; ids are spread as checksums are."""
        random = self._random
        chosen = np.searchsorted(self._zipf, random.random(words))
        own = random.random(words) < 1 / 3
        chosen[own] = random.choice(self._own[cluster], int(own.sum()))
        single = (chosen * 2_654_435_761) % (1 << 31)
        pairs = ((single[:-1] * 31 + single[1:] * 2_246_822_519) % (1 << 31)) | (1 << 31)
        ids, times = np.unique(np.concatenate([single, pairs]), return_counts=True)
        return Terms(ids.astype(np.uint32), np.minimum(times, 255).astype(np.uint8))

    def _directions(self, count: int) -> NDArray[np.float64]:
        rows = self._random.standard_normal((count, DIMENSION))
        # Real vectors fill few dimensions; what they share of these spreads their cosines.
        rows *= (1.0 / np.arange(1, DIMENSION + 1)) ** 0.35
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

"""What the score is compared with: each alone, and the two usual ways to join them."""

from __future__ import annotations

import numpy as np
from contex_server.matching.score import Floats
from contex_server.matching.terms import is_pair
from numpy.typing import NDArray

from benchmarks.matching.encoded import Encoded

_K1 = 1.2
_B = 0.75
_RRF_K = 60


class Bm25:
    """Okapi BM25 over single words of whole documents: the same stems, nothing else of ours."""

    def __init__(self, encoded: Encoded) -> None:
        needs = [need.terms[0].ids for need in encoded.needs]
        needs = [ids[~is_pair(ids)] for ids in needs]
        self._vocabulary = np.unique(np.concatenate(needs))
        self._needs = [np.searchsorted(self._vocabulary, ids) for ids in needs]
        self._counts = np.zeros((len(self._vocabulary), len(encoded.documents)), np.float32)
        self._lengths = np.zeros(len(encoded.documents))
        for column, document in enumerate(encoded.documents):
            for terms in document.terms:
                single = ~is_pair(terms.ids)
                ids, counts = terms.ids[single], terms.counts[single]
                self._lengths[column] += counts.sum(dtype=np.int64)
                _, mine, theirs = np.intersect1d(self._vocabulary, ids, True, return_indices=True)
                self._counts[mine, column] += counts[theirs]

    def scores(self, needs: NDArray[np.int64], documents: NDArray[np.int64]) -> Floats:
        """float64 [needs, documents], with the statistics of these documents."""
        asked = [self._needs[need] for need in needs.tolist()]
        terms = np.unique(np.concatenate(asked))
        counts = self._counts[np.ix_(terms, documents)].astype(np.float64)
        lengths = self._lengths[documents]
        frequencies = (counts > 0).sum(1)
        rarity = np.log1p((len(documents) - frequencies + 0.5) / (frequencies + 0.5))
        weighted = rarity[:, None] * counts * (_K1 + 1)
        weighted /= counts + _K1 * (1 - _B + _B * lengths / lengths.mean())
        found = np.zeros((len(needs), len(documents)))
        for row, at in enumerate(asked):
            found[row] = weighted[np.searchsorted(terms, at)].sum(0)
        return found


def rrf(cosines: Floats, bm25: Floats) -> Floats:
    """Reciprocal rank fusion: Cormack, Clarke and Büttcher, 2009."""
    return 1 / (_RRF_K + _ranks(cosines)) + 1 / (_RRF_K + _ranks(bm25))


def mix(cosines: Floats, bm25: Floats, part: float) -> Floats:
    """A convex combination: part of the cosine, the rest BM25 over the need's highest."""
    highest = np.maximum(bm25.max(1, keepdims=True), 1e-9)
    mixed: Floats = part * cosines + (1 - part) * bm25 / highest
    return mixed


def _ranks(scores: Floats) -> Floats:
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
    return ranks

"""A project's background: mean and covariance of its vectors, and how rare its words are.

Over passages with mean m and second moment M, a need q has the mean cosine q·m and the variance
qᵀMq - (q·m)²: no scan is needed to know how a need scores against the whole project. Both are
sums of integers, so that they don't depend on the order of changes: every process with the same
data has the same background to the last bit. A shipped prior is mixed in as if it were
`PRIOR_PASSAGES` more passages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.encoding import Encoding
from contex_server.matching.relative.score import Floats, rarity
from contex_server.matching.terms import PAIR_WEIGHT, TermIds, is_pair, look_up

PRIOR_PASSAGES = 50.0
PASSAGES_PER_TEXT = 8
"""Maximum number of passages counted per text, so that no long document dominates."""
_SCALE = 2.0**14
"""Components are rounded to 2^-14, so that sums of products are integers, exact in float64 up to
2^25 passages. That moves a mean cosine by less than 1e-5."""
MIN_DEVIATION = 0.02
_FLUSH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """The background of text in general, under one model."""

    mean: Floats  # [dimension], the mean vector
    second: Floats  # [dimension, dimension], the mean of x xᵀ
    term_ids: TermIds  # ascending: the known terms
    term_share: NDArray[np.float32]  # the share of passages that contain each
    length: float  # average length of a passage in terms

    def under(self, vectors: NDArray[np.float32]) -> Prior:
        """The same terms with the moments of texts under another model, one a row, of length 1."""
        rows = vectors.astype(np.float64)
        return replace(self, mean=rows.mean(0), second=rows.T @ rows / len(rows))

    def share(self, ids: TermIds) -> Floats:
        """The share of passages that contain each term; 0 if the term is unknown."""
        return look_up(ids, self.term_ids, self.term_share)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """An embedding model in use, with the background of text in general under it."""

    id: str
    prior: Prior

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return len(self.prior.mean)


@dataclass(frozen=True, slots=True, eq=False)
class NeedBaseline:
    """A need against a background."""

    mean: float  # of its cosines
    deviation: float  # of its cosines
    weights: Floats  # of each of its terms
    mass: float  # the sum of the weights; 1 if there are no terms


class Background:
    """The background of one project. Not for use by several threads at once."""

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self._sum, self._products = _sums(prior)
        self._frequencies: Counter[int] = Counter()
        self._length = 0
        self._pending: list[tuple[Floats, float]] = []
        self.passages = 0

    @property
    def weight(self) -> float:
        """Number of passages, those of the prior included."""
        return self.passages + PRIOR_PASSAGES

    @property
    def average_length(self) -> float:
        """The average length of a passage in terms."""
        prior = self._prior
        return (self._length + PRIOR_PASSAGES * prior.length) / self.weight

    @property
    def nbytes(self) -> int:
        """Memory in bytes of what is the project's own."""
        counts = 100 * len(self._frequencies)
        return counts + (self._products.nbytes + self._sum.nbytes if self.passages else 0)

    def add(self, encoding: Encoding) -> None:
        """Adds a text."""
        self._change(encoding, 1)

    def remove(self, encoding: Encoding) -> None:
        """Removes a text that was added before."""
        self._change(encoding, -1)

    def _change(self, encoding: Encoding, sign: int) -> None:
        counted = encoding.terms[:PASSAGES_PER_TEXT]
        self.passages += sign * len(counted)
        for terms in counted:
            self._length += sign * terms.length
            ids = terms.ids.tolist()
            if sign > 0:
                self._frequencies.update(ids)
            else:
                self._frequencies.subtract(ids)
                for term in ids:
                    if not self._frequencies[term]:
                        del self._frequencies[term]
        rounded = np.rint(encoding.vectors[: len(counted)].astype(np.float64) * _SCALE)
        self._pending.append((rounded, float(sign)))
        if len(self._pending) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            rows = np.concatenate([vectors for vectors, _ in self._pending])
            signs = np.concatenate([np.full(len(v), sign) for v, sign in self._pending])
            self._pending.clear()
            # Not in place: at first they are those of all projects.
            self._sum = self._sum + signs @ rows
            self._products = self._products + (rows * signs[:, None]).T @ rows

    def moments(self) -> tuple[Floats, Floats]:
        """The mean vector and the second moment, with the prior."""
        self._flush()
        return self._sum / (_SCALE * self.weight), self._products / (_SCALE**2 * self.weight)

    def means(self, needs: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """The means of each need's cosines and of their squares; a need is a row of length 1."""
        self._flush()
        exact = needs.astype(np.float64)
        means = exact @ self._sum / (_SCALE * self.weight)
        squares = np.vecdot(exact @ self._products, exact) / (_SCALE**2 * self.weight)
        return means, squares

    def frequencies(self, ids: TermIds) -> Floats:
        """The number of passages that contain each term, with those of the prior."""
        known = self._frequencies
        own = np.fromiter((known.get(term, 0) for term in ids.tolist()), np.float64, len(ids))
        return own + PRIOR_PASSAGES * self._prior.share(ids)

    def rarity(self, ids: TermIds) -> Floats:
        """The weight of each term."""
        return rarities(ids, self.frequencies(ids), self.weight)

    def baselines(self, needs: Sequence[Encoding]) -> list[NeedBaseline]:
        """The baseline of each need."""
        if not needs:
            return []
        means, squares = self.means(np.concatenate([need.vectors[:1] for need in needs]))
        edges = np.cumsum([len(need.terms[0].ids) for need in needs])
        ids = np.concatenate([need.terms[0].ids for need in needs])
        weights = np.split(self.rarity(ids), edges[:-1])
        return [
            NeedBaseline(mean, deviation, each, float(each.sum()) or 1.0)
            for mean, deviation, each in zip(
                means.tolist(), deviations(means, squares).tolist(), weights, strict=True
            )
        ]


@lru_cache(maxsize=8)
def _sums(prior: Prior) -> tuple[Floats, Floats]:
    """The sums of a prior's vectors and of their products; one for all projects under it."""
    products = np.rint(PRIOR_PASSAGES * prior.second * _SCALE**2)
    return np.rint(PRIOR_PASSAGES * prior.mean * _SCALE), products


def deviations(means: Floats, squares: Floats) -> Floats:
    """Standard deviations of cosines from their means and the means of their squares."""
    return np.sqrt(np.maximum(squares - means**2, MIN_DEVIATION**2))


def rarities(ids: TermIds, frequencies: Floats, passages: float) -> Floats:
    """The weights of terms of these frequencies; a pair of words counts half."""
    weights = rarity(frequencies, passages)
    weights[is_pair(ids)] *= PAIR_WEIGHT
    return weights


def unpack_prior(packed: bytes) -> Prior:
    """Reads what `benchmarks.matching.priors.pack_prior` wrote."""
    with np.load(BytesIO(packed)) as archive:
        mean = archive["mean"].astype(np.float64)
        second = np.zeros((len(mean), len(mean)))
        second[np.triu_indices(len(mean))] = archive["second"].astype(np.float64)
        return Prior(
            mean,
            second + np.triu(second, 1).T,
            archive["term_ids"],
            archive["term_share"].astype(np.float32),
            float(archive["length"]),
        )


@cache
def shipped_prior() -> Prior:
    """The prior of the built-in model; made by `benchmarks.matching prior`."""
    packed = (files("contex_server.matching.relative") / "data" / "prior.npz").read_bytes()
    return unpack_prior(packed)

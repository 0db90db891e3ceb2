"""The formula of `score.py` over whole projects, with nothing kept and nothing left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from contex_server.matching.encoding import Encoding
from contex_server.matching.relative.background import Prior
from contex_server.matching.relative.score import Weights

COUNTED = 8
PRIOR = 50
GRAIN = 2.0**14


@lru_cache(10_000)
def passages_of(text: Encoding) -> list[tuple[np.ndarray, dict[int, int], float]]:
    """Vector, counts by term, and length of each passage."""
    return [
        (
            vector.astype(np.float64),
            dict(zip(terms.ids.tolist(), terms.counts.tolist(), strict=True)),
            terms.length,
        )
        for vector, terms in zip(text.vectors, text.terms, strict=True)
    ]


@dataclass(frozen=True)
class Parts:
    """What a need is to a text, through its best passage."""

    passage: int
    cosine: float
    standing: float
    lexical: float
    fit: float


class BruteForce:
    """A project's texts, all known at once."""

    def __init__(self, texts: Iterable[Encoding], prior: Prior, weights: Weights) -> None:
        self.texts = list(texts)
        self.weights = weights
        self.prior = prior
        vectors = [text.vectors[:COUNTED] for text in self.texts]
        rows = np.concatenate([np.empty((0, len(prior.mean))), *vectors]).astype(np.float64)
        # Components count in whole steps, so that sums don't depend on their order.
        rows = np.rint(rows * GRAIN) / GRAIN
        self.passages = len(rows)
        total = self.passages + PRIOR
        self.mean = (rows.sum(0) + np.rint(PRIOR * prior.mean * GRAIN) / GRAIN) / total
        known = np.rint(PRIOR * prior.second * GRAIN**2) / GRAIN**2
        self.second = (rows.T @ rows + known) / total
        counted = [t for text in self.texts for t in text.terms[:COUNTED]]
        self.frequencies = Counter(i for terms in counted for i in terms.ids.tolist())
        self.known = dict(zip(prior.term_ids.tolist(), prior.term_share.tolist(), strict=True))
        lengths = sum(t.length for t in counted)
        self.average_length = (lengths + PRIOR * prior.length) / total
        self._fits: dict[Encoding, list[float]] = {}
        self.crowd = weights.crowd * (self.passages + weights.prior_passages)

    def moments(self, need: Encoding) -> tuple[float, float]:
        q = need.vectors[0].astype(np.float64)
        mean = float(q @ self.mean)
        return mean, max(float(q @ self.second @ q) - mean**2, 0.02**2) ** 0.5

    def rarity(self, ids: np.ndarray) -> np.ndarray:
        having = [float(self.frequencies[int(i)]) for i in ids]
        frequency = np.array(having) + PRIOR * np.array([self.known.get(int(i), 0.0) for i in ids])
        total = self.passages + PRIOR
        rarity = np.sqrt(np.log1p((total - frequency + 0.5) / (frequency + 0.5)))
        return rarity * np.where(ids >> 31, 0.5, 1.0)

    def parts(self, need: Encoding, text: Encoding) -> Parts:
        mean, deviation = self.moments(need)
        ids = need.terms[0].ids
        return self._parts(need, text, mean, deviation, self.rarity(ids))

    def fits(self, need: Encoding) -> list[float]:
        if need not in self._fits:
            self._fits[need] = self._all_fits(need)
        return self._fits[need]

    def _all_fits(self, need: Encoding) -> list[float]:
        mean, deviation = self.moments(need)
        rarity = self.rarity(need.terms[0].ids)
        return [self._parts(need, t, mean, deviation, rarity).fit for t in self.texts]

    def score(self, need: Encoding, text: Encoding) -> float:
        """The score of a text that is among the project's (the same object), or of another."""
        weights, crowd, parts = self.weights, self.crowd, self.parts(need, text)
        rivals = list(self.fits(need))
        if not any(text is one for one in self.texts):
            rivals.append(parts.fit)
        best = sorted(rivals, reverse=True)[:2]
        rivalry = sum(max(0.0, np.exp(fit) - weights.rival_floor * crowd) for fit in best)
        share = parts.fit - np.log(crowd + rivalry)
        log_odds = (
            weights.bias
            + weights.standing * parts.standing
            + weights.lexical * parts.lexical
            + weights.share * share
        )
        return float(1 / (1 + np.exp(-log_odds)))

    def _parts(
        self, need: Encoding, text: Encoding, mean: float, deviation: float, rarity: np.ndarray
    ) -> Parts:
        best: Parts | None = None
        ((q, asked, _),) = passages_of(need)
        mass = rarity.sum()
        for passage, (vector, counts, length) in enumerate(passages_of(text)):
            cosine = float(q @ vector)
            standing = min(max((cosine - mean) / deviation, 0.0), 12.0)
            norm = 1.2 * (0.25 + 0.75 * length / self.average_length)
            hits = np.array([counts.get(i, 0) for i in asked], float)
            lexical = float(rarity @ (hits / (hits + norm)) / mass) if mass else 0.0
            fit = self.weights.fit_standing * standing + self.weights.fit_lexical * lexical
            if best is None or fit > best.fit:
                best = Parts(passage, cosine, standing, lexical, fit)
        assert best is not None
        return best

"""The formula of `score.py` pair by pair, from the guide: nothing is kept, nothing left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contex_server.matching.background import Prior
from contex_server.matching.encoding import Encoding
from contex_server.matching.score import Weights

COUNTED = 8


@dataclass(frozen=True)
class Parts:
    """What a need is to a text."""

    passage: int
    cosine: float
    usual: float
    standing: float
    coverage: float
    expected: float
    log_odds: float

    @property
    def score(self) -> float:
        return 1 / (1 + math.exp(-self.log_odds))


class BruteForce:
    """Scores against what some texts, if any, and the prior make usual."""

    def __init__(self, prior: Prior, weights: Weights, usual: Sequence[Encoding] = ()) -> None:
        self.weights, self.prior = weights, prior
        counted: list[Encoding] = []
        for text in usual:
            if all(float(text.vectors[0] @ one.vectors[0]) < 0.7 for one in counted):
                counted.append(text)
        self.own = len(counted) / (len(counted) + 60)
        passages = [
            (vector.astype(float), terms)
            for text in counted
            for vector, terms in list(zip(text.vectors, text.terms, strict=True))[:COUNTED]
        ]
        count = len(passages) or 1
        rows = np.stack([vector for vector, _ in passages]) if passages else np.zeros((1, 1))
        mean, second = (rows.mean(0), rows.T @ rows / count) if passages else (0.0, 0.0)
        moments = min(self.own, prior.own_moments)
        self.mean = (1 - moments) * prior.mean + moments * mean
        self.moments = [(1 - moments, prior.mean, prior.second), (moments, mean, second)]
        having = Counter(i for _, terms in passages for i in terms.ids.tolist())
        self.share = {i: n / count for i, n in having.items() if n > 1}
        self.known = dict(zip(prior.term_ids.tolist(), prior.term_share.tolist(), strict=True))

    def share_of(self, term: int) -> float:
        own, known = self.share.get(term, 0.0), self.known.get(term, 0.0)
        return (1 - self.own) * known + self.own * own

    def rarity(self, term: int) -> float:
        whole = math.sqrt(max(0.0, -math.log(min(1.0, self.share_of(term) + 0.0005))))
        return whole * (0.5 if term >> 31 else 1.0)

    def parts(self, need: Encoding, text: Encoding) -> Parts:
        weights = self.weights
        q = need.vectors[0].astype(float)
        asked = {term: self.rarity(term) for term in need.terms[0].ids.tolist()}
        words = {term: weight for term, weight in asked.items() if not term >> 31}
        mean = float(q @ self.mean)
        variance = sum(
            share * (float(q @ second @ q) - float(q @ m) ** 2)
            for share, m, second in self.moments
            if share
        )
        deviation = max(variance, 0.02**2) ** 0.5
        own = {term for terms in text.terms for term in terms.ids.tolist() if not term >> 31}
        mass = sum(words.values()) or 1.0
        coverage = sum(weight for term, weight in words.items() if term in own) / mass
        expected = (
            sum(
                weight * (1 - (1 - min(self.share_of(term), 0.99)) ** (len(own) / 30))
                for term, weight in words.items()
            )
            / mass
        )
        best: Parts | None = None
        for passage, vector in enumerate(text.vectors):
            cosine = float(q @ vector)
            near = sorted((self.prior.needs.astype(float) @ vector.astype(float)).tolist())[-8:]
            usual = sum(near) / len(near)
            standing = (cosine - mean) / deviation
            log_odds = (
                weights.bias
                + weights.standing * standing
                + weights.contrast * (cosine - usual)
                + weights.surplus * (coverage - expected)
            )
            if best is None or log_odds > best.log_odds:
                best = Parts(passage, cosine, usual, standing, coverage, expected, log_odds)
        assert best is not None
        return best

"""The score of a need and a passage: one calibrated probability. Pure.

    standing  z = (cosine - mean) / deviation, of the need's cosines over the project, 0 to 12
    lexical   l = BM25 of the passage, divided by what a perfect passage would get, 0 to 1
    fit       f = a z + b l
    rivals    K = k (n + n0): the weight of n unrelated passages and n0 presumed ones;
              R = the sum of max(0, e^f - r K) over the best two texts of the project
    share     s = f - ln(K + R): the passage's weight against all its competitors
    score     1 / (1 + e^-(w0 + w1 z + w2 l + w3 s))

Standing makes needs comparable with each other, share makes projects comparable: a passage that
stands out a little is probably right in a project of ten and chance in one of ten thousand, and
less likely to be right if another stands out more. ADR 8 measures each part. The weights are
fitted by `python -m benchmarks.matching fit`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.explanation import Contribution

Floats = NDArray[np.float64]
_Numbers = Floats | float

BM25_SATURATION = 1.2
BM25_LENGTH = 0.75
RIVALS = 2
"""Number of a need's best texts that count as rivals."""
MAX_STANDING = 12.0


@dataclass(frozen=True, slots=True)
class Weights:
    """The fitted constants of the formula."""

    version: str  # Names them; part of every match.
    fit_standing: float  # a
    fit_lexical: float  # b
    crowd: float  # k
    prior_passages: float  # n0
    rival_floor: float  # r
    bias: float  # w0
    standing: float  # w1
    lexical: float  # w2
    share: float  # w3
    default_threshold: float  # The best one by F1 on the split that they were fitted on.


@cache
def shipped_weights() -> Weights:
    """The weights of this version."""
    text = (files("contex_server.matching.relative") / "data" / "weights.json").read_text(
        encoding="utf-8"
    )
    return Weights(**json.loads(text))


class Scorer:
    """The formula with its weights. Arrays broadcast."""

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or shipped_weights()

    @property
    def name(self) -> str:
        """Identity of formula and weights."""
        return self.weights.version

    def standing(self, cosines: _Numbers, means: _Numbers, deviations: _Numbers) -> Floats:
        """z of cosines."""
        return np.clip((cosines - means) / deviations, 0.0, MAX_STANDING)

    def fit(self, standing: Floats, lexical: Floats) -> Floats:
        """f of passages; the best passage of a text is the one that fits best."""
        weights = self.weights
        return weights.fit_standing * standing + weights.fit_lexical * lexical

    def crowd(self, passages: int) -> float:
        """K of a project with this many passages in its background."""
        return self.weights.crowd * (passages + self.weights.prior_passages)

    def rivalry(self, fits: Floats, crowd: float) -> Floats:
        """What rivals with these fits add to R."""
        return np.maximum(0.0, np.exp(fits) - self.weights.rival_floor * crowd)

    def rival_floor(self, crowd: float) -> float:
        """The lowest fit that counts as a rival."""
        return math.log(self.weights.rival_floor * crowd)

    def share(self, fits: Floats, rivalry: Floats, crowd: float) -> Floats:
        """s of fits among rivals; R sums the best `RIVALS` texts, the passage's own among them."""
        return fits - np.log(crowd + rivalry)

    def score(self, standing: Floats, lexical: Floats, share: Floats) -> Floats:
        """The probability."""
        weights = self.weights
        log_odds = (
            weights.bias
            + weights.standing * standing
            + weights.lexical * lexical
            + weights.share * share
        )
        return 1.0 / (1.0 + np.exp(-log_odds))

    def contributions(self, standing: float, lexical: float, share: float) -> list[Contribution]:
        """The terms of the log-odds."""
        weights = self.weights
        return [
            Contribution("bias", 1.0, weights.bias),
            Contribution("standing", standing, weights.standing),
            Contribution("lexical", lexical, weights.lexical),
            Contribution("share", share, weights.share),
        ]

    def lowest_fit(self, threshold: float, crowd: float) -> float:
        """A fit below which no score can reach the threshold."""
        weights = self.weights
        if threshold <= 0:
            return 0.0
        steepest = max(
            weights.standing / weights.fit_standing, weights.lexical / weights.fit_lexical
        )
        required = math.inf if threshold >= 1 else math.log(threshold / (1 - threshold))
        low, high = 0.0, weights.fit_standing * MAX_STANDING + weights.fit_lexical

        def best(fit: float) -> float:
            alone = max(0.0, math.exp(fit) - weights.rival_floor * crowd)
            share = fit - math.log(crowd + alone)
            return weights.bias + steepest * fit + weights.share * share

        if best(high) < required:
            return math.inf
        for _ in range(40):
            middle = (low + high) / 2
            if best(middle) < required:
                low = middle
            else:
                high = middle
        return low


def saturation(counts: Floats, lengths: _Numbers, average_length: float) -> Floats:
    """BM25's weight of a term in passages, 0 to 1; lengths are in terms.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009,
    without the constant factor.
    """
    norm = 1 - BM25_LENGTH + BM25_LENGTH * lengths / average_length
    return counts / (counts + BM25_SATURATION * norm)


def rarity(frequencies: Floats, passages: float) -> Floats:
    """The weight of a term: the square root of its inverse document frequency.

    The root brings rare and common words closer together, which was better on all three sets
    tried (MRR of BM25 alone 0.575 to 0.583, 0.740 to 0.750, 0.680 to 0.695). Frequencies count the
    passages that contain the term, `passages` all of them.
    """
    return np.sqrt(np.maximum(0.0, np.log((passages + 1) / (frequencies + 0.5))))

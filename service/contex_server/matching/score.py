"""The score of a need and a datum: one calibrated probability that depends on nothing else. Pure.

    standing  z = (cosine - mean) / deviation, of the need's usual cosines with data
    contrast  c = cosine - the datum's usual cosine with the shipped needs that are nearest to it
    surplus   s = coverage - expected: the share of the need's words that the datum has anywhere,
              less the share that a datum with as many words has by chance
    score     1 / (1 + e^-(w0 + w1 z + w2 c + w3 s))

Cosine, z and c are a passage's, and the datum's best passage counts; s is the datum's. "Usual"
and the rarity of words are those of a *background*, a snapshot that changes by an event of the log
(`background.py`): what else the project holds, how many data say the same, and what came first
makes no difference. A need that is near to everything has to be nearer to count (z), and so has
a datum that is near to many needs of its kind (c). ADRs 21 and 23 measure each part;
`make fit-matching` fits the weights.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

USUAL_WORDS = 30.0
"""Different words of a usual passage."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The fitted constants of the formula."""

    version: str  # Names them; part of every match.
    bias: float  # w0
    standing: float  # w1
    contrast: float  # w2
    surplus: float  # w3
    default_threshold: float  # The best one by F1 over the sets that they were fitted on.


class Scorer:
    """The formula with its weights. Arrays broadcast."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @property
    def name(self) -> str:
        """Identity of formula and weights."""
        return self.weights.version

    def fit(self, standing: Floats, contrast: Floats) -> Floats:
        """The log-odds of passages, without bias and surplus; a datum's best passage has most."""
        return self.weights.standing * standing + self.weights.contrast * contrast

    def log_odds(self, fits: Floats, surplus: Floats) -> Floats:
        """The log-odds of data with these best passages."""
        return self.weights.bias + fits + self.weights.surplus * surplus


def probability(log_odds: Floats) -> Floats:
    """The probability of log-odds."""
    return 1.0 / (1.0 + np.exp(-log_odds))


def log_odds_of(threshold: float) -> float:
    """Log-odds that every probability reaches which, as a double, reaches the threshold.

    Close to 1 many log-odds have the same probability: these are the lowest of them.
    """
    if threshold <= 0:
        return -math.inf
    reached = min(threshold, 1.0) * (1.0 - _ROUNDING)
    return math.log(reached / (1.0 - reached))


_ROUNDING = 4 * float(np.finfo(np.float64).eps)


def by_chance(shares: Floats, words: Floats | float) -> Floats:
    """How probable a word is to be among so many different words, from its share of passages."""
    return -np.expm1(np.log1p(-np.minimum(shares, _MOST)) * (words / USUAL_WORDS))


_MOST = 0.99


@cache
def shipped_weights(model_id: str = "") -> Weights:
    """The weights that were fitted with a model; those of the built-in one for others."""
    text = (files("contex_server.matching") / "data" / "weights.json").read_text(encoding="utf-8")
    fitted = json.loads(text)
    name = model_id.partition("@")[0]
    return Weights(**fitted.get(name, fitted[""]))

"""From similarity to a score that a threshold is applied to."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Scorer(Protocol):
    """Says how well a datum fits a need.

    A score never falls when the cosine rises; indexes rely on it to prune.
    """

    @property
    def name(self) -> str:
        """Identity of the scorer."""
        ...

    def score(self, cosines: Floats) -> Floats:
        """Scores pairs.

        Args:
            cosines: Similarity of the pairs, -1 to 1, of any shape.

        Returns:
            Scores in [0, 1], of the same shape.
        """
        ...

    def floor(self, threshold: float) -> float:
        """The lowest cosine that can reach a score of `threshold`."""
        ...


class CosineScorer:
    """The cosine itself; what points away counts as unrelated."""

    name = "cosine"

    def score(self, cosines: Floats) -> Floats:
        """The cosines, cut to [0, 1]."""
        return np.clip(cosines, 0.0, 1.0)

    def floor(self, threshold: float) -> float:
        """The threshold, or -1 where every pair reaches it."""
        return threshold if threshold > 0 else -1.0

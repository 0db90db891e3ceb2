"""Running statistics of each need, in columns, that no text is read for again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.relative.background import deviations
from contex_server.matching.relative.score import Floats
from contex_server.matching.vectors import resized

Rows = NDArray[np.int64]

KEPT = 8
"""Nearest texts kept for each need; once this many are gone they are searched again."""
_ROUNDING = 5e-5
"""An upper bound on the error of means: the background rounds components, these are float32."""


class NeedColumns:
    """Arrays with a row for each need, and spare rows.

    Attributes:
        sum: float64, the sum of the need's cosines over the background.
        square: float64, the sum of their squares.
        mean: float64, a lower bound on their mean.
        deviation: float64, a lower bound on their standard deviation.
        mass: float64, the sum of its terms' weights.
        threshold: float64, the lowest that an agent has set.
        lowest_fit: float64, the fit that this requires; infinite in a free row.
        best: int64 [rows, KEPT], serials of the texts nearest to it, or 0.
        best_cosine: float64 [rows, KEPT], theirs.
        edge: float64, the highest cosine that any other text may have; infinite until it is known.
    """

    def __init__(self) -> None:
        # `grow` gives each an array of its own.
        self.sum = self.square = self.mean = self.deviation = np.zeros(0)
        self.mass = self.threshold = self.lowest_fit = self.edge = np.zeros(0)
        self.best = np.zeros((0, KEPT), np.int64)
        self.best_cosine = np.zeros((0, KEPT))

    def __len__(self) -> int:
        return len(self.sum)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(int(array.nbytes) for array in vars(self).values())

    def grow(self, rows: int) -> None:
        """Makes room."""
        before = len(self)
        for name, array in list(vars(self).items()):
            setattr(self, name, resized(array, rows))
        self.deviation[before:] = 1.0
        self.clear(np.arange(before, rows))

    def clear(self, rows: Rows | int) -> None:
        """Forgets needs: rows without one ask for an infinite fit."""
        self.lowest_fit[rows] = self.edge[rows] = np.inf
        self.mass[rows] = self.best[rows] = 0
        self.best_cosine[rows] = -np.inf

    def set_moments(self, rows: Rows, means: Floats, squares: Floats, weight: float) -> None:
        """Sets what the background of this weight says about needs."""
        self.sum[rows] = means * weight
        self.square[rows] = squares * weight
        self._derive(rows, weight)

    def move(self, rows: slice, cosines: Floats, signs: Floats, weight: float) -> None:
        """Follows the background, which weighs `weight` now.

        The cosines [rows, n] are those with passages that were added (1) or removed (-1).
        """
        self.sum[rows] += cosines @ signs
        self.square[rows] += cosines**2 @ signs
        self._derive(rows, weight)

    def _derive(self, rows: Rows | slice, weight: float) -> None:
        means = self.sum[rows] / weight
        self.mean[rows] = means - _ROUNDING
        self.deviation[rows] = deviations(means, self.square[rows] / weight - 2 * _ROUNDING)

    def set_nearest(self, row: int, serials: list[int], cosines: Floats, edge: float) -> None:
        """Sets the nearest texts of a need, as `DataIndex.nearest` returns them."""
        self.best[row], self.best_cosine[row] = 0, -np.inf
        self.best[row, : len(serials)] = serials
        self.best_cosine[row, : len(serials)] = cosines
        self.edge[row] = edge

    def text_added(self, serial: int, rows: Rows, cosines: Floats) -> None:
        """Adds a text to the nearest of needs whose edge it reaches.

        The cosines are theirs with its nearest passage.
        """
        worst = self.best_cosine[rows].argmin(1)
        given_up = self.best_cosine[rows, worst]
        taken = cosines > given_up
        self.edge[rows] = np.maximum(self.edge[rows], np.where(taken, given_up, cosines))
        rows, worst = rows[taken], worst[taken]
        self.best[rows, worst] = serial
        self.best_cosine[rows, worst] = cosines[taken]

    def texts_removed(self, serials: list[int]) -> None:
        """Frees the places of removed texts among the nearest."""
        known = np.flatnonzero(self.edge < np.inf)
        row, place = np.nonzero(np.isin(self.best[known], serials))
        self.best[known[row], place] = 0
        self.best_cosine[known[row], place] = -np.inf

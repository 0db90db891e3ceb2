"""Vectors of length 1."""

from __future__ import annotations

import numpy as np

from contex_server.matching.embedders.port import Vector


def unit(vectors: Vector) -> Vector:
    """The rows at length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vector = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled

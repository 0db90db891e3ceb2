"""Halves of a set in which nearly equal documents stay together."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.matching.encoded import Encoded
from benchmarks.matching.sets import SEED

NEAR_COSINE = 0.9
"""Heads that are closer say nearly the same."""
_NUMBER = re.compile(r"[_\-.]?\d+$")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Halves of a set: one to fit on, one held aside. No group of documents is in both.

    Attributes:
        train_needs: int64, positions.
        test_needs: int64, positions.
        train_documents: int64, positions.
        test_documents: int64, positions.
    """

    train_needs: NDArray[np.int64]
    test_needs: NDArray[np.int64]
    train_documents: NDArray[np.int64]
    test_documents: NDArray[np.int64]


def near_duplicates(encoded: Encoded) -> NDArray[np.bool_]:
    """bool [documents, documents]: same base name, or heads with a cosine above 0.9."""
    heads = np.stack([encoding.vectors[0] for encoding in encoded.documents])
    names = [_NUMBER.sub("", d.data_key).lower() for d in encoded.set.documents]
    _, name_of = np.unique(names, return_inverse=True)
    near: NDArray[np.bool_] = (heads @ heads.T > NEAR_COSINE) | (name_of[:, None] == name_of)
    return near


def halves(encoded: Encoded) -> Split:
    """Splits a set at random, by groups of documents that are near duplicates."""
    group = _components(near_duplicates(encoded))
    for need in encoded.set.needs:
        # A need with several answers joins their groups.
        for other in need.right[1:]:
            group[group == group[other]] = group[need.right[0]]
    of_need = np.array([group[need.right[0]] for need in encoded.set.needs])
    groups, sizes = np.unique(of_need, return_counts=True)
    # Of each two groups with about as many needs one is for fitting: halves equally hard.
    groups = groups[np.lexsort((groups, -sizes))]
    rng = np.random.default_rng(SEED)
    first = rng.integers(0, 2, (len(groups) + 1) // 2)
    chosen = groups[(np.arange(len(groups)) % 2) == np.repeat(first, 2)[: len(groups)]]
    unasked = np.setdiff1d(group, groups)
    chosen = np.concatenate([chosen, unasked[rng.integers(0, 2, len(unasked)) > 0]])
    train = np.isin(group, chosen)
    of_need = np.isin(of_need, chosen)
    return Split(
        np.flatnonzero(of_need),
        np.flatnonzero(~of_need),
        np.flatnonzero(train),
        np.flatnonzero(~train),
    )


def _components(linked: NDArray[np.bool_]) -> NDArray[np.int64]:
    group = np.arange(len(linked))
    while True:
        # Everybody takes the lowest number among those it is linked with.
        lowest = np.where(linked, group, len(linked)).min(1)
        if (lowest == group).all():
            return group
        group = lowest

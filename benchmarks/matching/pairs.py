"""What the service measures of needs and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from contex_server.matching.background import Prior, Snapshot, background, size_reached
from contex_server.matching.data_index import DataIndex
from contex_server.matching.score import Floats, Scorer, probability
from numpy.typing import NDArray

from benchmarks.matching.encoded import Encoded
from benchmarks.matching.sets import SEED, Kind

FEATURES = ("standing", "contrast", "surplus")
_TRAIN_NEEDS = 50
_TRAIN_WRONG = 120
"""Wrong documents for each need, at most."""
_TRAIN_ANSWERS = 400
"""Documents that answer one of these needs, at most."""
_ALL_BELOW = 160
"""Of smaller sets all documents are taken."""


@cache
def snapshot(encoded: Encoded) -> Snapshot | None:
    """The snapshot that a project of these documents has: taken at the last set size."""
    size = size_reached(len(encoded.documents))
    if not size:
        return None
    first = np.random.default_rng(SEED).permutation(len(encoded.documents))[:size]
    taken = Snapshot.of((encoded.documents[at] for at in sorted(first.tolist())), size)
    return Snapshot.unpack(taken.pack())


def project(
    encoded: Encoded, prior: Prior, scorer: Scorer, documents: Sequence[int] | None = None
) -> DataIndex:
    """A project of a set, which answers for some of its documents or all.

    The score of a document does not depend on which others are there, only on the background.
    """
    index = DataIndex("benchmark", scorer, background(prior, snapshot(encoded)))
    for at in range(len(encoded.documents)) if documents is None else documents:
        index.put(str(at), at.to_bytes(16), encoded.documents[at])
    return index


def measured(index: DataIndex, encoded: Encoded, needs: Sequence[int]) -> tuple[Floats, Floats]:
    """What the index measures.

    Returns:
        Features, [needs, documents, 3], and probabilities, [needs, documents].
    """
    features = np.zeros((len(needs), len(index), len(FEATURES)))
    scores = np.zeros((len(needs), len(index)))
    for row, need in enumerate(needs):
        ranking = index.rank(encoded.needs[need], 0.0)
        at, found = ranking.serials - 1, ranking.measured
        surplus = found.coverage - found.expected
        features[row, at] = np.stack([found.standing, found.contrast, surplus], 1)
        scores[row, at] = probability(found.log_odds)
    return features, scores


def cosines(encoded: Encoded) -> Floats:
    """The cosine of each need, as written, with each document's nearest passage."""
    rows = np.concatenate([document.vectors for document in encoded.documents])
    starts = np.cumsum([0, *(document.passages for document in encoded.documents)])[:-1]
    needs = np.concatenate([need.vectors[:1] for need in encoded.whole_needs])
    found: Floats = np.maximum.reduceat(needs @ rows.T, starts, axis=1).astype(np.float64)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Pairs of a set to fit on."""

    encoded: Encoded
    needs: NDArray[np.int64]
    documents: NDArray[np.int64]
    labels: NDArray[np.int8]  # [needs, documents]
    used: NDArray[np.bool_]  # [needs, documents]

    @property
    def name(self) -> str:
        """The set's."""
        return self.encoded.set.name

    @property
    def kind(self) -> Kind:
        """The set's."""
        return self.encoded.set.kind


def sample(encoded: Encoded) -> Sample:
    """All pairs of a small set; of a large one some needs, each with some wrong documents."""
    rng = np.random.default_rng(SEED)
    labels, total = encoded.set.labels(), len(encoded.documents)
    needs = np.sort(rng.permutation(len(labels))[:_TRAIN_NEEDS])
    documents = np.arange(total)
    if total > _ALL_BELOW:
        answers = np.flatnonzero((labels[needs] != 0).any(0))
        others = rng.permutation(np.setdiff1d(documents, answers))[:_TRAIN_WRONG]
        answers = rng.permutation(answers)[:_TRAIN_ANSWERS]
        documents = np.sort(np.concatenate([answers, others]))
    labels = labels[np.ix_(needs, documents)]
    used = labels > 0
    for row in range(len(needs)):
        used[row, rng.permutation(np.flatnonzero(labels[row] == 0))[:_TRAIN_WRONG]] = True
    return Sample(encoded, needs, documents, labels, used)

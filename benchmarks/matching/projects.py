"""Projects made of random documents of a set, and all that is known of each pair in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from contex_server.matching.background import Prior
from contex_server.matching.score import RIVALS, Floats, Scorer
from numpy.typing import NDArray

from benchmarks.matching.baselines import Bm25
from benchmarks.matching.encoded import Encoded

SIZES = (2, 5, 10, 30, 100, 200, 400, 800)
"""And all documents."""
_NEEDS = 100
"""With an answer, at most; as many without."""
_PER_SMALL = 60
"""Small projects are made more often: with 60 documents together as often as one of 30."""


@dataclass(frozen=True, slots=True, eq=False)
class Project:
    """Needs against the documents of one project. Arrays are [needs, documents].

    Attributes:
        size: How many documents.
        passages: How many passages its background has.
        needs: Positions of the needs in the set.
        documents: Positions of the documents.
        right: Which documents answer.
        cosines: Of each document's best passage.
        standing: z of it.
        lexical: l of it.
        fits: f of it.
        bm25: Plain BM25.
    """

    size: int
    passages: int
    needs: NDArray[np.int64]
    documents: NDArray[np.int64]
    right: NDArray[np.bool_]
    cosines: Floats
    standing: Floats
    lexical: Floats
    fits: Floats
    bm25: Floats

    def shares(self, scorer: Scorer) -> Floats:
        """s of every pair."""
        fits = scorer.fit(self.standing, self.lexical)
        crowd = scorer.crowd(self.passages)
        best = np.sort(fits, axis=1)[:, -RIVALS:]
        rivalry = scorer.rivalry(best, crowd).sum(1, keepdims=True)
        return scorer.share(fits, rivalry, crowd)

    def scores(self, scorer: Scorer) -> Floats:
        """The probability of every pair."""
        return scorer.score(self.standing, self.lexical, self.shares(scorer))

    def only(self, columns: NDArray[np.int64]) -> Project:
        """The same numbers for some of the documents."""
        parts = ("right", "cosines", "standing", "lexical", "fits", "bm25")
        kept = {name: getattr(self, name)[:, columns] for name in parts}
        return replace(self, size=len(columns), documents=self.documents[columns], **kept)


def measured(
    encoded: Encoded,
    bm25: Bm25,
    documents: NDArray[np.int64],
    needs: NDArray[np.int64],
    prior: Prior,
    scorer: Scorer,
) -> Project:
    """Ranks a project of these documents for each of these needs."""
    index = encoded.index(documents.tolist(), prior, scorer)
    shape = len(needs), len(documents)
    cosines, standing, lexical, fits = (np.zeros(shape) for _ in range(4))
    for row, need in enumerate(needs.tolist()):
        ranking = index.rank(encoded.needs[need], -1.0)
        at = ranking.serials - 1
        cosines[row, at], standing[row, at] = ranking.cosines, ranking.standing
        lexical[row, at], fits[row, at] = ranking.lexical, ranking.fits
    return Project(
        len(documents),
        index.background.passages,
        needs,
        documents,
        judgements(encoded)[np.ix_(needs, documents)],
        cosines,
        standing,
        lexical,
        fits,
        bm25.scores(needs, documents),
    )


def judgements(encoded: Encoded) -> NDArray[np.bool_]:
    """bool [needs, documents]: what answers what."""
    right = np.zeros((len(encoded.needs), len(encoded.documents)), np.bool_)
    for row, need in enumerate(encoded.set.needs):
        right[row, list(need.right)] = True
    return right


def sampled(
    encoded: Encoded,
    needs: NDArray[np.int64],
    prior: Prior,
    scorer: Scorer,
    *,
    seed: int,
    repeats: int = 3,
    sizes: Sequence[int] = SIZES,
) -> list[Project]:
    """Random projects of many sizes; half of the needs that are asked there have no answer.

    Where all documents are taken every need has one.

    Args:
        encoded: The set.
        needs: Which of its needs may be asked.
        prior: The background that is mixed in.
        scorer: The formula.
        seed: Of the random choices.
        repeats: Projects of each size; more of the small ones.
        sizes: How many documents; the whole set is added.
    """
    rng = np.random.default_rng(seed)
    right, bm25 = judgements(encoded), Bm25(encoded)
    total = len(encoded.documents)
    projects = []
    for size in [*(size for size in sizes if size < total), total]:
        for _ in range(max(repeats, repeats * _PER_SMALL // size if size < 30 else repeats)):
            documents = rng.choice(total, size, replace=False)
            answered = np.logical_or.reduce(right[:, documents], axis=1)
            asked = rng.permutation(needs[answered[needs]])[:_NEEDS]
            others = rng.permutation(needs[~answered[needs]])[: max(3, len(asked))]
            together = np.concatenate([asked, others])
            projects.append(measured(encoded, bm25, documents, together, prior, scorer))
            if size == total and len(needs) <= _NEEDS:
                break
    return projects

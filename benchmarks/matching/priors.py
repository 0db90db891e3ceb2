"""The background of text in general, made from the data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contex_server.matching.background import (
    OWN_MOMENTS,
    PASSAGES_PER_TEXT,
    Prior,
    shipped_texts,
)
from contex_server.matching.embedders.port import Role, unit
from contex_server.matching.gist import gist
from contex_server.matching.measure import different_words
from contex_server.matching.score import Floats
from contex_server.matching.terms import single_words

from benchmarks.matching.encoded import Embeddings, Encoded
from benchmarks.matching.sets import SEED, DataSet

GENERAL_NEEDS = Path(__file__).parent / "needs.txt"
_DOCUMENTS = 400
"""Of each set at most, so that none stands for text in general."""
_MIN_DOCUMENTS, _MIN_SETS = 3, 2
"""A term that fewer have is not kept."""
ABOUT_NEEDS = """\
# What needs of many kinds ask for, one a line: those of benchmarks/matching/needs.txt and of its
# teams, all written for this project. `make fit-matching` writes this file.
"""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a set adds to the prior."""

    mean: Floats
    second: Floats
    share: dict[int, float]  # of passages, by term
    documents: Counter[int]  # by term


class Priors:
    """The priors that some sets make, each set with the same weight.

    Needs are those that are shipped as text. Under a model that isn't built in, moments are those
    of `prior.txt`, as the service computes them; the words are the same.
    """

    def __init__(self, sets: Sequence[Encoded], embeddings: Embeddings) -> None:
        self._names = [each.set.name for each in sets]
        self._parts = [_part(each) for each in sets]
        terms = set().union(*(part.documents for part in self._parts))
        self._terms = np.array(sorted(terms), np.uint32)
        place = {term: at for at, term in enumerate(self._terms.tolist())}
        self._shares = np.zeros((len(sets), len(place)), np.float32)
        self._documents = np.zeros((len(sets), len(place)), np.int32)
        for row, part in enumerate(self._parts):
            at = [place[term] for term in part.share]
            self._shares[row, at] = list(part.share.values())
            self._documents[row, at] = [part.documents[term] for term in part.share]
        lines = need_lines([each.set for each in sets])
        needs = embeddings.vectors(lines, Role.NEED)
        self._needs = unit(np.stack([needs[line] for line in lines]))
        self._of_need = list(lines.values())
        self._own_moments = OWN_MOMENTS if embeddings.tuned else 1.0
        self._texts = None
        if not embeddings.builtin:
            texts = embeddings.vectors(shipped_texts(), Role.DATUM)
            self._texts = unit(np.stack([texts[text] for text in shipped_texts()]))

    def without(self, names: Collection[str] = ()) -> Prior:
        """The prior of all sets but these."""
        rows = [at for at, name in enumerate(self._names) if name not in names]
        parts = [self._parts[at] for at in rows]
        documents = self._documents[rows]
        known = (documents.sum(0) >= _MIN_DOCUMENTS) & ((documents > 0).sum(0) >= _MIN_SETS)
        kept = [at for at, name in enumerate(self._of_need) if name not in names]
        prior = Prior(
            np.mean([part.mean for part in parts], 0),
            np.mean([part.second for part in parts], 0),
            self._needs[kept],
            self._terms[known],
            self._shares[rows][:, known].mean(0),
            own_moments=self._own_moments,
        )
        if self._texts is None:
            return prior
        return prior.under(self._texts, self._needs[kept], latin_only=False)


def need_lines(sets: Sequence[DataSet]) -> dict[str, str]:
    """What needs in general and those of our own teams ask for, each with its set's name."""
    general = GENERAL_NEEDS.read_text(encoding="utf-8").splitlines()
    lines = {gist(line): "" for line in general if line and not line.startswith("#")}
    for each in sets:
        if each.own:
            lines |= {gist(need.text): each.name for need in each.needs}
    return lines


def _part(encoded: Encoded) -> _Part:
    rng = np.random.default_rng(SEED)
    chosen = rng.permutation(len(encoded.documents))[:_DOCUMENTS].tolist()
    passages: Counter[int] = Counter()
    documents: Counter[int] = Counter()
    rows, count = [], 0
    for at in sorted(chosen):
        encoding = encoded.documents[at]
        rows.append(encoding.vectors[:PASSAGES_PER_TEXT])
        for terms in encoding.terms[:PASSAGES_PER_TEXT]:
            passages.update(single_words(terms).tolist())
            count += 1
        documents.update(_ids(encoded, at))
    vectors = np.concatenate(rows).astype(np.float64)
    return _Part(
        vectors.mean(0),
        vectors.T @ vectors / len(vectors),
        {term: number / count for term, number in passages.items()},
        documents,
    )


def _ids(encoded: Encoded, at: int) -> list[int]:
    terms = encoded.documents[at].terms[:PASSAGES_PER_TEXT]
    together: list[int] = different_words([single_words(each) for each in terms]).tolist()
    return together

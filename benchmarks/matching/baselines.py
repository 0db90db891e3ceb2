"""What the score is compared with besides the cosine."""

from __future__ import annotations

import numpy as np
from contex_server.matching.score import Floats
from contex_server.matching.terms import is_pair

from benchmarks.matching.encoded import Encoded

_K1 = 1.2
_B = 0.75


def bm25(encoded: Encoded) -> Floats:
    """Okapi BM25 over single words of whole documents: the same stems, nothing else of ours.

    Returns:
        [needs, documents].
    """
    asked = [need.terms[0].ids for need in encoded.whole_needs]
    asked = [ids[~is_pair(ids)] for ids in asked]
    vocabulary = np.unique(np.concatenate(asked))
    counts = np.zeros((len(vocabulary), len(encoded.documents)))
    lengths = np.zeros(len(encoded.documents))
    for column, document in enumerate(encoded.documents):
        for terms in document.terms:
            single = ~is_pair(terms.ids)
            ids, own = terms.ids[single], terms.counts[single]
            lengths[column] += own.sum(dtype=np.int64)
            _, mine, theirs = np.intersect1d(vocabulary, ids, True, return_indices=True)
            counts[mine, column] += own[theirs]
    frequencies = (counts > 0).sum(1)
    rarity = np.log1p((len(lengths) - frequencies + 0.5) / (frequencies + 0.5))
    weighted = rarity[:, None] * counts * (_K1 + 1)
    weighted /= counts + _K1 * (1 - _B + _B * lengths / lengths.mean())
    rows = [weighted[np.searchsorted(vocabulary, ids)].sum(0) for ids in asked]
    return np.stack(rows)

"""The background of text in general, made from the data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from contex_server.matching.background import PASSAGES_PER_TEXT, Prior
from contex_server.matching.describe import describe
from contex_server.matching.encoding import Encoding

from benchmarks.matching.encoded import Encoded
from benchmarks.matching.sets import SEED, Document
from benchmarks.matching.splits import Split

_DOCUMENTS = 750
"""Of each set at most, so that none stands for text in general."""
_LINES = 150
"""Of each kind of text in prior.txt."""
_CHARS = 220
_ABOUT = """\
# Describing texts of many kinds, one a line: operations of AWS as botocore documents them
# (Apache-2.0) and modules of Python's standard library (PSF-2.0).
"""


def prior_without(sets: Mapping[str, Encoded], split: Split, left_out: str = "") -> Prior:
    """The background that all sets but one make; of `needs` only the half to fit on."""
    return build_prior(
        Encoding(e.vectors[:PASSAGES_PER_TEXT], e.terms[:PASSAGES_PER_TEXT])
        for name, encoded in sets.items()
        if name != left_out
        for e in _documents(encoded, split)
    )


def build_prior(encodings: Iterable[Encoding]) -> Prior:
    """The prior of texts of many kinds."""
    frequencies: Counter[int] = Counter()
    length = passages = 0
    rows = []
    for encoding in encodings:
        rows.append(encoding.vectors.astype(np.float64))
        for terms in encoding.terms:
            frequencies.update(terms.ids.tolist())
            length += terms.length
            passages += 1
    vectors = np.concatenate(rows)
    kept = sorted(term for term, count in frequencies.items() if count >= 3)
    return Prior(
        vectors.mean(0),
        vectors.T @ vectors / len(vectors),
        np.array(kept, np.uint32),
        np.array([frequencies[term] / passages for term in kept], np.float32),
        length / passages,
    )


def pack_prior(prior: Prior) -> bytes:
    """The prior as a compressed numpy archive, the second moment as a triangle."""
    buffer = BytesIO()
    np.savez_compressed(
        buffer,
        mean=prior.mean.astype(np.float32),
        second=prior.second[np.triu_indices(len(prior.mean))].astype(np.float16),
        term_ids=prior.term_ids,
        term_share=prior.term_share.astype(np.float16),
        length=np.float64(prior.length),
    )
    return buffer.getvalue()


def write_prior(sets: Mapping[str, Encoded], split: Split, folder: Path) -> None:
    """Writes prior.npz and prior.txt."""
    (folder / "prior.npz").write_bytes(pack_prior(prior_without(sets, split)))
    rng = np.random.default_rng(SEED)
    library = sets["stdlib"].set.documents
    kinds = sets["aws"].set.documents, [d for d in library if d.data_key.startswith("module")]
    lines = [_line(kind[at]) for kind in kinds for at in rng.permutation(len(kind))[:_LINES]]
    (folder / "prior.txt").write_text(_ABOUT + "\n".join(lines) + "\n", encoding="utf-8")


def _documents(encoded: Encoded, split: Split) -> list[Encoding]:
    positions = np.arange(len(encoded.documents))
    if encoded.set.name == "needs":
        positions = split.train_documents
    chosen = np.random.default_rng(SEED).permutation(positions)[:_DOCUMENTS]
    return [encoded.documents[at] for at in sorted(chosen.tolist())]


def _line(document: Document) -> str:
    head = describe(document.data_key, document.description, document.payload, "").texts[0]
    return head if len(head) <= _CHARS else head[:_CHARS].rsplit(" ", 1)[0]

"""The background of text in general, made from the data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from contex_server.matching.background import PASSAGES_PER_TEXT, Prior, build_prior, pack_prior
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

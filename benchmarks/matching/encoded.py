"""Data sets as the server sees them: described and embedded, with the vectors kept in a cache."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from contex_server.kernel.config import EmbedderSettings
from contex_server.matching.background import Model, Prior
from contex_server.matching.data_index import DataIndex
from contex_server.matching.describe import describe
from contex_server.matching.embedders import create
from contex_server.matching.embedders.minilm import MODEL_ID
from contex_server.matching.embedders.port import Role
from contex_server.matching.encoding import (
    Encoding,
    Recipe,
    as_stored,
    description_recipe,
    need_recipe,
)
from contex_server.matching.score import Scorer
from numpy.typing import NDArray

from benchmarks.matching.sets import DataSet

Vectors = NDArray[np.float32]

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A data set with its encodings."""

    set: DataSet
    documents: tuple[Encoding, ...]
    needs: tuple[Encoding, ...]

    def index(self, positions: Sequence[int], prior: Prior, scorer: Scorer) -> DataIndex:
        """A project of some of the documents; keys are their positions."""
        index = DataIndex(Model(MODEL_ID, prior), scorer)
        for at in positions:
            index.put(str(at), at.to_bytes(16), self.documents[at])
        return index

    def whole(self, prior: Prior, scorer: Scorer) -> DataIndex:
        """A project of all documents."""
        return self.index(range(len(self.documents)), prior, scorer)


def encode(data: DataSet, cache: Path) -> Encoded:
    """Describes and embeds a set; what was embedded before comes from the cache."""
    documents = [
        description_recipe(describe(d.data_key, d.description, d.payload, ""))
        for d in data.documents
    ]
    needs = [need_recipe(need.text) for need in data.needs]
    return Encoded(
        data,
        _encodings(documents, Role.DATUM, cache),
        _encodings(needs, Role.NEED, cache),
    )


def _encodings(recipes: Sequence[Recipe], role: Role, cache: Path) -> tuple[Encoding, ...]:
    texts = sorted({text for recipe in recipes for text in recipe.texts})
    vectors = dict(zip(texts, _embedded(texts, role, cache), strict=True))
    return tuple(
        as_stored(recipe.encoding(np.stack([vectors[text] for text in recipe.texts])))
        for recipe in recipes
    )


def _embedded(texts: Sequence[str], role: Role, cache: Path) -> Vectors:
    """The texts' vectors; those that the cache lacks are embedded and put there."""
    path = cache / f"{MODEL_ID}-{role}.npz"
    known: dict[bytes, Vectors] = {}
    if path.exists():
        with np.load(path) as archive:
            known = dict(zip(map(bytes, archive["digests"]), archive["vectors"], strict=True))
    digests = [blake2b(text.encode(), digest_size=16).digest() for text in texts]
    missing = [
        (digest, text) for digest, text in zip(digests, texts, strict=True) if digest not in known
    ]
    if missing:
        known |= asyncio.run(_embed(missing, role))
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(
            part,
            digests=np.array([np.frombuffer(digest, np.uint8) for digest in known]),
            vectors=np.stack(list(known.values())),
        )
        part.replace(path)
    return np.stack([known[digest] for digest in digests])


async def _embed(missing: Sequence[tuple[bytes, str]], role: Role) -> dict[bytes, Vectors]:
    # Texts of like length are embedded together: less padding.
    ordered = sorted(missing, key=lambda entry: len(entry[1]))
    embedder = create(EmbedderSettings())
    await embedder.start()
    found: dict[bytes, Vectors] = {}
    for start in range(0, len(ordered), _BATCH):
        step = ordered[start : start + _BATCH]
        rows = await embedder.embed([text for _, text in step], role)
        found |= zip((digest for digest, _ in step), rows, strict=True)
        print(f"\r  embedded {len(found)} of {len(ordered)} texts", end="", flush=True)
    print()
    await embedder.close()
    return found

"""Data sets as the server sees them: described and embedded, with the vectors kept in a cache."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from contex_server.kernel.config import EmbedderSettings
from contex_server.matching.describe import describe
from contex_server.matching.embedders import create
from contex_server.matching.embedders.minilm import UntunedMiniLM
from contex_server.matching.embedders.port import Embedder, Role
from contex_server.matching.encoding import (
    Encoding,
    Recipe,
    as_stored,
    description_recipe,
    gist_recipe,
    need_recipe,
)
from numpy.typing import NDArray

from benchmarks.matching.sets import DataSet

Vectors = NDArray[np.float32]
BUILTIN, UNTUNED = "minilm", "untuned"

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A data set with its encodings."""

    set: DataSet
    documents: tuple[Encoding, ...]
    needs: tuple[Encoding, ...]  # as the absolute score has them
    whole_needs: tuple[Encoding, ...]  # as they are written


class Embeddings:
    """The texts' vectors under a model; what was embedded before comes from a file."""

    def __init__(self, name: str, cache: Path) -> None:
        """`name` is the built-in model, the same before it was tuned, or another's directory."""
        self.builtin = name in (BUILTIN, UNTUNED)
        self.tuned = name == BUILTIN
        settings = EmbedderSettings()
        if not self.builtin:
            settings = EmbedderSettings(kind="local", path=Path(name))
        self._embedder: Embedder = UntunedMiniLM() if name == UNTUNED else create(settings)
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._embedder.start())
        self._cache = cache

    @property
    def model_id(self) -> str:
        """The model's identity."""
        return self._embedder.model_id

    def close(self) -> None:
        """Stops the model."""
        self._loop.run_until_complete(self._embedder.close())
        self._loop.close()

    def encode(self, sets: Sequence[DataSet]) -> list[Encoded]:
        """Describes and embeds sets."""
        documents = [
            [
                description_recipe(describe(d.data_key, d.description, d.payload, d.content_type))
                for d in each.documents
            ]
            for each in sets
        ]
        gists = [[gist_recipe(need.text) for need in each.needs] for each in sets]
        whole = [[need_recipe(need.text) for need in each.needs] for each in sets]
        of_data = self.vectors(_texts(documents), Role.DATUM)
        of_needs = self.vectors(_texts(gists + whole), Role.NEED)
        return [
            Encoded(each, _made(d, of_data), _made(g, of_needs), _made(w, of_needs))
            for each, d, g, w in zip(sets, documents, gists, whole, strict=True)
        ]

    def vectors(self, texts: Iterable[str], role: Role) -> dict[str, Vectors]:
        """The vector of each text; those that the file lacks are embedded and put there."""
        name = re.sub(r"[^\w.@-]", "_", self.model_id)
        path = self._cache / f"{name}-{role}.npz"
        known: dict[bytes, Vectors] = {}
        with suppress(FileNotFoundError), np.load(path) as archive:
            known = dict(zip(map(bytes, archive["digests"]), archive["vectors"], strict=True))
        digests = {text: blake2b(text.encode(), digest_size=16).digest() for text in texts}
        missing = [(digest, text) for text, digest in digests.items() if digest not in known]
        # Texts of like length are embedded together: less padding.
        missing.sort(key=lambda entry: len(entry[1]))
        for start in range(0, len(missing), _BATCH):
            step = missing[start : start + _BATCH]
            rows = self._loop.run_until_complete(
                self._embedder.embed([text for _, text in step], role)
            )
            known |= zip((digest for digest, _ in step), rows, strict=True)
            print(f"  {role}: embedded {start + len(step):,} of {len(missing):,} texts", flush=True)
            if start // _BATCH % 10 == 9:
                _save(path, known)
        if missing:
            _save(path, known)
        return {text: known[digest] for text, digest in digests.items()}


def _texts(recipes: Sequence[Sequence[Recipe]]) -> set[str]:
    return {text for each in recipes for recipe in each for text in recipe.texts}


def _made(recipes: Sequence[Recipe], vectors: dict[str, Vectors]) -> tuple[Encoding, ...]:
    return tuple(
        as_stored(recipe.encoding(np.stack([vectors[text] for text in recipe.texts])))
        for recipe in recipes
    )


def _save(path: Path, known: dict[bytes, Vectors]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        digests=np.array([np.frombuffer(digest, np.uint8) for digest in known]),
        vectors=np.stack(list(known.values())),
    )
    part.replace(path)

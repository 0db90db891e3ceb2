"""What an embedder is: texts to vectors whose cosine tells how alike their meanings are."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class Role(StrEnum):
    """Which side of a match a text stands for; many models want to be told by a prefix."""

    NEED = "need"
    DATUM = "datum"


class ModelInvalid(RuntimeError):
    """The configured model can't be used; the message names the file or setting at fault."""


class ModelCorrupt(RuntimeError):
    """The model file is not the one that this version was built and measured with."""


class EmbeddingFailed(RuntimeError):
    """The model gave no vectors, or none that can be used."""


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def model_id(self) -> str:
        """Identity of the model and of how it is used.

        Vectors of different identities can't be compared. Known once `start` has returned.
        """
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector; known once `start` has returned."""
        ...

    @property
    def max_tokens(self) -> int:
        """Texts are cut after this many tokens."""
        ...

    async def start(self) -> None:
        """Loads the model, or asks for it; a second call does nothing.

        Raises:
            ModelInvalid: The settings, the files or the endpoint's answer can't be used.
            ModelCorrupt: A file is not the expected one.
            OSError: A file can't be read, or the endpoint can't be reached.
        """
        ...

    async def embed(self, texts: Sequence[str], role: Role) -> Vector:
        """Embeds texts.

        Returns:
            float32 [len(texts), dimension]; rows have length 1.

        Raises:
            EmbeddingFailed: The model failed, or is known to be away.
            RuntimeError: The embedder is closed.
        """
        ...

    async def close(self) -> None:
        """Stops the embedder; texts that still wait fail."""
        ...


def unit(vectors: Vector) -> Vector:
    """The rows at length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vector = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled

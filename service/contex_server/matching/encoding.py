"""What a text is compared by: the vectors and terms of its passages, as computed and as stored."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np

from contex_server.matching.describe import Description
from contex_server.matching.embedders.port import Vector, unit
from contex_server.matching.gist import gist, is_foreign
from contex_server.matching.terms import Terms, terms_of

TITLE_WEIGHT = SUMMARY_WEIGHT = 2
"""How often a word of the key and of the description counts; one of the payload counts once."""
BRIEF_SHARE = 0.35
"""The share of the vector of key and description alone in the head's vector. It ranks the right
datum of the Berkeley set first 1.7 points more often on one half, 0.6 on the other (ADR 8)."""

_HEADER = struct.Struct("<BBHH")
_VERSION = 1
_COUNT = struct.Struct("<H")
_MAX_TERMS = 65_535


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """A text under a model."""

    vectors: Vector  # [passages, dimension], rows of length 1
    terms: tuple[Terms, ...]  # of each passage
    foreign: bool = False  # a need in a script that models for English can't read

    @property
    def passages(self) -> int:
        """Number of passages."""
        return len(self.terms)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a text becomes an encoding: what has to be embedded, and each passage's terms."""

    texts: tuple[str, ...]
    brief: bool  # The first text is the head without its outline, to be mixed into its vector.
    terms: tuple[Terms, ...]
    foreign: bool = False  # See `Encoding`.

    def encoding(self, vectors: Vector) -> Encoding:
        """Puts the model's answer together: float32 [len(texts), dimension], rows of length 1."""
        if self.brief:
            head = BRIEF_SHARE * vectors[0] + (1 - BRIEF_SHARE) * vectors[1]
            vectors = np.concatenate([head[None], vectors[2:]])
        return Encoding(unit(vectors), self.terms, self.foreign)


def description_recipe(description: Description) -> Recipe:
    """The recipe of a datum's text."""
    head, *rest = description.passages
    title, summary, texts = description.title, description.summary, description.texts
    brief = ". ".join(part for part in (title, summary) if part)
    mixed = bool(brief and head.text)
    terms = [
        terms_of(((title, TITLE_WEIGHT), (summary, SUMMARY_WEIGHT), (head.text, 1))),
        *(terms_of(((title, TITLE_WEIGHT), (passage.text, 1))) for passage in rest),
    ]
    return Recipe((brief, *texts) if mixed else texts, mixed, tuple(terms))


def need_recipe(text: str) -> Recipe:
    """The recipe of a need: one passage, in which each word counts once."""
    terms = terms_of(((text, 1),))
    return Recipe((text,), False, (Terms(terms.ids, np.ones_like(terms.counts)),))


def gist_recipe(text: str) -> Recipe:
    """The recipe of what a need asks for, under the absolute score."""
    recipe = need_recipe(gist(text))
    return replace(recipe, foreign=is_foreign(text))


def pack(encoding: Encoding) -> bytes:
    """An encoding as it is stored.

    A head of 6 bytes, the vectors as little-endian float16 (768 bytes each at 384
    dimensions; cosines differ by less than 1e-4), and 5 bytes a term.
    """
    passages, dimension = encoding.vectors.shape
    parts = [
        _HEADER.pack(_VERSION, encoding.foreign, passages, dimension),
        np.asarray(encoding.vectors, "<f2").tobytes(),
    ]
    for terms in encoding.terms:
        count = min(len(terms.ids), _MAX_TERMS)
        parts += (
            _COUNT.pack(count),
            terms.ids[:count].astype("<u4").tobytes(),
            terms.counts[:count].tobytes(),
        )
    return b"".join(parts)


def unpack(packed: bytes) -> Encoding:
    """Reads a stored encoding; packing it again gives the same bytes.

    Raises:
        ValueError: The bytes are not a valid encoding.
    """
    try:
        version, foreign, passages, dimension = _HEADER.unpack_from(packed)
        if version != _VERSION or not passages or not dimension:
            raise ValueError(f"an encoding of version {version} with {passages} passages")
        at = _HEADER.size
        halves = np.frombuffer(packed, "<f2", passages * dimension, at)
        at += halves.nbytes
        terms = []
        for _ in range(passages):
            (count,) = _COUNT.unpack_from(packed, at)
            at += _COUNT.size
            ids = np.frombuffer(packed, "<u4", count, at)
            counts = np.frombuffer(packed, np.uint8, count, at + 4 * count)
            at += 5 * count
            terms.append(Terms(ids, counts))
    except struct.error as error:
        raise ValueError("a truncated encoding") from error
    if at != len(packed):
        raise ValueError(f"{len(packed) - at} bytes after an encoding")
    vectors = halves.reshape(passages, dimension).astype(np.float32)
    return Encoding(unit(vectors), tuple(terms), bool(foreign))


def unpack_finite(packed: bytes) -> Encoding:
    """Reads an encoding that may be of elsewhere, or damaged.

    Raises:
        ValueError: The bytes are not a valid encoding, or its vectors are not finite.
    """
    with np.errstate(all="ignore"):
        encoding = unpack(packed)
    if not np.isfinite(encoding.vectors).all():
        raise ValueError("an encoding that is not finite")
    return encoding


def dimension_of(packed: bytes) -> int:
    """The dimension that an encoding says it has.

    Raises:
        ValueError: It is no encoding.
    """
    if len(packed) < _HEADER.size:
        raise ValueError("a truncated encoding")
    return int(_HEADER.unpack_from(packed)[3])


def as_stored(encoding: Encoding) -> Encoding:
    """The encoding rounded as the store does, so that every process scores alike."""
    return unpack(pack(encoding))

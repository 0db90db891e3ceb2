"""What tuning minimizes: how a set's needs tell its right documents from its wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from contex_server.matching.encoding import BRIEF_SHARE, Recipe
from jax.scipy.special import logsumexp

from benchmarks.matching.quality import Labels
from benchmarks.matching.tuning.transformer import Array

TEXTS, PASSAGES, DOCUMENTS, NEEDS = 640, 512, 128, 40
"""A set's, at most. All sets have this shape, so that the objective is compiled once."""
_TEMPERATURE = 0.07
_OF_DOCUMENTS = 0.5
_START = {"slope": 10.0, "bias": -5.0}
_SMALL = 1e-9
_NEVER = -1e9


class Layout(NamedTuple):
    """Where the texts of a set belong."""

    brief: Array  # int32 [PASSAGES], the text that is mixed into this passage's
    mixed: Array  # bool [PASSAGES], whether there is one
    text: Array  # int32 [PASSAGES]
    document: Array  # int32 [PASSAGES]; DOCUMENTS if there is no such passage
    need: Array  # int32 [NEEDS], its text
    labels: Array  # int8 [NEEDS, DOCUMENTS]; -1 is no pair, or counts neither way


def layout(documents: Sequence[Recipe], needs: int, labels: Labels) -> Layout:
    """The layout of a set whose texts are those of its documents, and then its needs."""
    brief, text, document = (np.zeros(PASSAGES, np.int32) for _ in range(3))
    mixed = np.zeros(PASSAGES, np.bool_)
    document[:] = DOCUMENTS
    at = row = 0
    for number, recipe in enumerate(documents):
        mixed[row] = recipe.brief
        brief[row] = at
        at += recipe.brief
        for _ in recipe.texts[recipe.brief :]:
            text[row], document[row] = at, number
            at, row = at + 1, row + 1
    need = np.zeros(NEEDS, np.int32)
    need[:needs] = at + np.arange(needs)
    every = np.full((NEEDS, DOCUMENTS), -1, np.int8)
    every[:needs, : len(documents)] = labels
    return Layout(brief, mixed, text, document, need, every)


def cosines(vectors: Array, of: Layout) -> Array:
    """The cosine of each need with each document's nearest passage, as the service has them."""
    share = jnp.where(of.mixed, BRIEF_SHARE, 0.0)[:, None]
    passages = share * vectors[of.brief] + (1 - share) * vectors[of.text]
    passages = passages / (jnp.linalg.norm(passages, axis=-1, keepdims=True) + _SMALL)
    each = passages @ vectors[of.need].T
    return jax.ops.segment_max(each, of.document, DOCUMENTS + 1)[:DOCUMENTS].T


def new_line() -> dict[str, Array]:
    """Slope and bias of the probability that a pair is right, given its cosine."""
    return {name: jnp.float32(value) for name, value in _START.items()}


def loss(vectors: Array, line: dict[str, Array], of: Layout) -> Array:
    """The sum of three: for each need, each right document against the wrong ones; for each
    document, each right need against the wrong ones; and the log loss of all pairs, for which
    one line has to do in all sets.

    Args:
        vectors: float32 [TEXTS, width], of length 1.
    """
    known, right = of.labels != -1, of.labels > 0
    cosine = jnp.where(known, cosines(vectors, of), 0.0)
    total = _contrast(cosine, right, known, 1) + _OF_DOCUMENTS * _contrast(cosine, right, known, 0)
    odds = line["slope"] * cosine + line["bias"]
    lost = jnp.where(known, jax.nn.softplus(odds) - jnp.where(right, odds, 0.0), 0.0)
    return total + lost.sum() / (3 * known.any(1).sum())


def _contrast(cosine: Array, right: Array, known: Array, axis: int) -> Array:
    scaled = cosine / _TEMPERATURE
    wrong = jnp.where(known & ~right, scaled, _NEVER)
    lost = jnp.where(right, jax.nn.softplus(logsumexp(wrong, axis, keepdims=True) - scaled), 0.0)
    count = right.sum(axis)
    return (lost.sum(axis) / jnp.maximum(count, 1)).sum() / jnp.maximum((count > 0).sum(), 1)

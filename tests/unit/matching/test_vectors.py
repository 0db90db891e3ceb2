from __future__ import annotations

import numpy as np
import pytest
from contex_server.matching.vectors import VectorIndex
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

DIMENSION = 16
KEYS = st.integers(0, 40)
SEEDS = st.integers(0, 2**32 - 1)
# Few enough that equal vectors under different keys occur.
CODEBOOK = 30


def unit(seed: int, count: int = 1, dimension: int = DIMENSION) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


class IndexAgainstBruteForce(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index: VectorIndex[int] = VectorIndex(DIMENSION)
        self.model: dict[int, NDArray[np.float32]] = {}

    @rule(key=KEYS, seed=st.integers(0, CODEBOOK))
    def put(self, key: int, seed: int) -> None:
        (vector,) = unit(seed)
        self.index.put(key, vector)
        self.model[key] = vector

    @rule(keys=st.lists(KEYS, max_size=10), seed=SEEDS)
    def put_many(self, keys: list[int], seed: int) -> None:
        vectors = unit(seed, len(keys))
        self.index.put_many(keys, vectors)
        self.model.update(zip(keys, vectors, strict=True))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        self.index.remove(key)
        del self.model[key]

    @rule(key=KEYS)
    def remove_unknown(self, key: int) -> None:
        if key not in self.model:
            with pytest.raises(KeyError):
                self.index.remove(key)

    @rule(seed=st.integers(0, CODEBOOK), count=st.integers(0, 12), floor=st.floats(-1, 1))
    def range_search(self, seed: int, count: int, floor: float) -> None:
        queries = unit(seed, count)
        hits = self.index.range_search(queries, floor)
        for query, vector in enumerate(queries):
            expected = {k: c for k, c in self.cosines(vector).items() if c >= floor}
            assert dict(hits.of(query)) == pytest.approx(expected, abs=1e-12)

    @rule(seed=st.integers(0, CODEBOOK), k=st.integers(1, 8), floor=st.floats(-1, 1))
    def search(self, seed: int, k: int, floor: float) -> None:
        (query,) = unit(seed)
        found = dict(self.index.search(query[None], k, floor).of(0))
        expected = {key: c for key, c in self.cosines(query).items() if c >= floor}
        best = sorted(expected.values(), reverse=True)
        least = best[k - 1] if len(best) >= k else floor
        assert {key for key, c in expected.items() if c >= least} <= found.keys()
        assert min(found.values(), default=1) >= least - 1e-4
        assert found == pytest.approx({key: expected[key] for key in found}, abs=1e-12)

    @invariant()
    def same_keys(self) -> None:
        assert len(self.index) == len(self.model)
        assert all((key in self.index) == (key in self.model) for key in range(41))

    def cosines(self, query: NDArray[np.float32]) -> dict[int, float]:
        wide = query.astype(np.float64)
        return {
            key: float(np.clip(wide @ vector.astype(np.float64), -1, 1))
            for key, vector in self.model.items()
        }


IndexAgainstBruteForce.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)
TestIndex = IndexAgainstBruteForce.TestCase


@given(seed=SEEDS, others=st.integers(0, 40), batch=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_cosine_is_the_same_to_the_bit_whatever_is_around_it(
    seed: int, others: int, batch: int
) -> None:
    vectors = unit(seed, others + batch + 1, 384)
    one, other = vectors[0], vectors[-1]
    small: VectorIndex[str] = VectorIndex(384)
    small.put("one", one)
    large: VectorIndex[str] = VectorIndex(384)
    large.put_many([str(i) for i in range(others)], vectors[1 : others + 1])
    large.put("other", other)
    there = dict(small.range_search(vectors[-batch:], -1.0).of(batch - 1))["one"]
    back = dict(large.range_search(vectors[:batch], -1.0).of(0))["other"]
    assert there == back


def test_misshapen_vectors_are_refused_and_change_nothing() -> None:
    index: VectorIndex[str] = VectorIndex(DIMENSION)
    index.put("a", unit(1)[0])
    for attempt in (
        lambda: index.put("a", np.zeros(3, np.float32)),
        lambda: index.put("b", np.zeros(3, np.float32)),
        lambda: index.put_many(["b"], unit(1, 2)),
        lambda: index.range_search(np.zeros((1, 3), np.float32), 0.5),
    ):
        with pytest.raises(ValueError, match="index of 16"):
            attempt()
    assert len(index) == 1
    assert index.range_search(unit(1), 0.9).of(0) == [("a", pytest.approx(1.0))]


def test_rows_survive_growth_and_shrinking() -> None:
    vectors = unit(7, 3_000)
    index: VectorIndex[int] = VectorIndex(DIMENSION)
    for key, vector in enumerate(vectors):
        index.put(key, vector)
    for key in range(0, 3_000, 2):
        index.remove(key)
    for key in range(1, 3_000, 200):
        assert max(index.range_search(vectors[key : key + 1], 0.99).of(0))[0] == key
        assert not index.range_search(vectors[key - 1 : key], 0.9999).of(0)

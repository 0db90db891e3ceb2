"""Exact nearest vectors by cosine: a flat FAISS index with rows that can be overwritten."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)

faiss.omp_set_num_threads(1)
# FAISS scans for each query until queries times dimension reach this, then multiplies matrices.
# With one thread and 384 dimensions, over 1,000 vectors as over 10,000, one query is six
# times faster by scanning and 32 are twice as fast by multiplying; they meet near 10.
faiss.cvar.distance_compute_blas_threshold = 10 * 384

_ROUNDING = 1e-5
"""More than FAISS's float32 sums can be off, by either way of computing them."""
_PAIRS_PER_STEP = 512
"""Stays within the processor's cache: 0.3 µs a pair, twice that for thousands at once."""


@dataclass(frozen=True, slots=True)
class Hits(Generic[Key]):
    """What a batch of queries found.

    Attributes:
        bounds: int64 [queries + 1]; the hits of query i are those from `bounds[i]` up to
            `bounds[i + 1]`.
        keys: Of all hits.
        cosines: float64 [hits], in [-1, 1].
    """

    bounds: NDArray[np.int64]
    keys: list[Key]
    cosines: NDArray[np.float64]

    def of(self, query: int) -> list[tuple[Key, float]]:
        """One query's hits with their cosines."""
        start, end = self.bounds[query : query + 2].tolist()
        return list(zip(self.keys[start:end], self.cosines[start:end].tolist(), strict=True))


class VectorIndex(Generic[Key]):
    """Vectors of length 1 by key.

    Cosines are those of the stored float32 vectors, summed in float64: which side is the
    query, what else is in the batch and how many rows there are changes no bit of them. A
    pair decided here and now is decided alike elsewhere and later.

    One writer; no search may run beside a write. Everything is meant to run on one thread.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._index = faiss.IndexFlatIP(dimension)
        self._row_bytes = dimension * np.dtype(np.float32).itemsize
        self._rows: dict[Key, int] = {}
        self._keys: list[Key] = []
        self._view = np.empty((0, dimension), np.float32)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def put(self, key: Key, vector: NDArray[np.float32]) -> None:
        """Adds a vector, or replaces the key's.

        Args:
            key: Its key.
            vector: float32 [dimension], of length 1.

        Raises:
            ValueError: The vector has another shape.
        """
        row = self._rows.get(key)
        if row is None:
            self.put_many([key], vector.reshape(1, -1))
            return
        if vector.shape != (self.dimension,):
            raise self._misshapen(vector)
        self._view[row] = vector

    def put_many(self, keys: Sequence[Key], vectors: NDArray[np.float32]) -> None:
        """Adds or replaces vectors; of a key that is given twice the last counts.

        Args:
            keys: Their keys.
            vectors: float32 [len(keys), dimension], rows of length 1.

        Raises:
            ValueError: The vectors have another shape.
        """
        if vectors.shape != (len(keys), self.dimension):
            raise self._misshapen(vectors)
        new = [key for key in dict.fromkeys(keys) if key not in self._rows]
        if new:
            first = len(self._keys)
            self._index.add(np.zeros((len(new), self.dimension), np.float32))
            self._keys += new
            self._rows.update(zip(new, range(first, len(self._keys)), strict=True))
            self._refresh()
        # One by one where a key may repeat: numpy leaves the order of such writes open.
        for key, vector in zip(keys, vectors, strict=True):
            self._view[self._rows[key]] = vector

    def remove(self, key: Key) -> None:
        """Removes a vector; its row is taken by the last one.

        Raises:
            KeyError: There is none by this key.
        """
        row = self._rows.pop(key)
        last = len(self._keys) - 1
        moved = self._keys.pop()
        if row != last:
            self._view[row] = self._view[last]
            self._keys[row] = moved
            self._rows[moved] = row
        self._index.codes.resize(last * self._row_bytes)
        self._index.ntotal = last
        self._view = self._view[:last]

    def search(self, queries: NDArray[np.float32], k: int, floor: float = -1.0) -> Hits[Key]:
        """The k nearest vectors of each query, in no particular order.

        What ties with the k-th, to within rounding, is among them too: which of those to
        take is the caller's choice, and need not depend on the order of rows.

        Args:
            queries: float32 [n, dimension], rows of length 1.
            k: How many, at least 1.
            floor: Lowest cosine that counts.

        Raises:
            ValueError: The queries have another shape.
        """
        bounds, rows, nearness = self._scan(queries, floor)
        kept = np.ones(len(rows), np.bool_)
        for start, end in pairwise(bounds.tolist()):
            if end - start > k:
                part = nearness[start:end]
                kept[start:end] = part >= np.partition(part, -k)[-k] - 2 * _ROUNDING
        return self._measure(queries, bounds, rows, kept, floor)

    def range_search(self, queries: NDArray[np.float32], floor: float) -> Hits[Key]:
        """Every vector that is near enough to a query, in no particular order.

        Args:
            queries: float32 [n, dimension], rows of length 1.
            floor: Lowest cosine that counts.

        Raises:
            ValueError: The queries have another shape.
        """
        bounds, rows, _ = self._scan(queries, floor)
        return self._measure(queries, bounds, rows, np.ones(len(rows), np.bool_), floor)

    def _scan(
        self, queries: NDArray[np.float32], floor: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """FAISS's answer: bounds, rows and rounded cosines, of a few pairs too many."""
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise self._misshapen(queries)
        queries = np.ascontiguousarray(queries, np.float32)
        bounds, nearness, rows = self._index.range_search(queries, floor - _ROUNDING)
        return bounds.astype(np.int64), rows, nearness

    def _measure(
        self,
        queries: NDArray[np.float32],
        bounds: NDArray[np.int64],
        rows: NDArray[np.int64],
        kept: NDArray[np.bool_],
        floor: float,
    ) -> Hits[Key]:
        """The candidates that are kept and reach the floor, with their exact cosines."""
        of_query = np.repeat(np.arange(len(queries)), np.diff(bounds))[kept]
        rows = rows[kept]
        cosines = np.empty(len(rows), np.float64)
        exact = queries.astype(np.float64)
        for start in range(0, len(rows), _PAIRS_PER_STEP):
            step = slice(start, start + _PAIRS_PER_STEP)
            stored = self._view[rows[step]].astype(np.float64)
            cosines[step] = np.vecdot(exact[of_query[step]], stored)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        reached = cosines >= floor
        counts = np.bincount(of_query[reached], minlength=len(queries))
        return Hits(
            np.concatenate(([0], np.cumsum(counts))),
            [self._keys[row] for row in rows[reached].tolist()],
            cosines[reached],
        )

    def _refresh(self) -> None:
        """Looks at FAISS's storage anew; growing may have moved it."""
        count = len(self._keys)
        flat = faiss.rev_swig_ptr(self._index.get_xb(), count * self.dimension)
        self._view = flat.reshape(count, self.dimension)

    def _misshapen(self, vectors: NDArray[np.float32]) -> ValueError:
        return ValueError(f"vectors of shape {vectors.shape} in an index of {self.dimension}")

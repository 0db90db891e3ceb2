"""Nearest vectors by cosine: flat FAISS indexes whose rows can be overwritten.

A vector has a *slot*, a small number that its owner chooses and that stays; its place in FAISS (its
row) changes when another is removed. Up to `EXACT_VECTORS` the index is exact. Beyond that, FAISS
scans 8-bit codes, a quarter of the memory, and what it finds is measured exactly.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from contex_server.matching.embedders.port import Vector

Slots = NDArray[np.int64]
_T = TypeVar("_T", bound=np.generic)

EXACT_VECTORS = 200_000
ROUNDING = 1e-5
"""An upper bound on the error of FAISS's float32 sums."""
_PAIRS_PER_STEP = 512
"""Stays within the processor's cache: 0.3 µs a pair, twice that for thousands at once."""
_CODE_SCALE = 512.0
"""Components of unit vectors of some hundred dimensions lie within ±0.25; see the recall test."""
_OVERFETCH = 8
"""Candidates per result that the codes return, to be measured exactly. With it, recall @10 of
400,000 clustered vectors is 0.999; without, 0.97."""
_GROWTH = 1.5


@cache
def library() -> Any:
    """FAISS, set up; loaded with the first call, since it takes a sixth of a server's start."""
    import faiss

    # FAISS scans for each query until queries times dimension reach this, then multiplies
    # matrices. With one thread and 384 dimensions, over 1,000 vectors as over 10,000, one query
    # is six times faster by scanning and 32 are twice as fast by multiplying; they meet near 10.
    faiss.cvar.distance_compute_blas_threshold = 10 * 384
    faiss.omp_set_num_threads(1)
    return faiss


def use_one_thread() -> None:
    """Keeps FAISS in the calling thread; to be called in each thread that searches."""
    library().omp_set_num_threads(1)


class VectorIndex:
    """Vectors of length 1 by slot.

    Cosines are those of the stored float32 vectors, summed in float64: which side is the
    query, what else is in the batch and how many rows there are changes no bit of them. A
    pair decided here and now is decided alike elsewhere and later.

    One writer; no search may run beside a write.
    """

    def __init__(self, dimension: int, *, exact_vectors: int = EXACT_VECTORS) -> None:
        self.dimension = dimension
        self._exact_vectors = exact_vectors
        self._flat = library().IndexFlatIP(dimension)
        self._codes: _Codes | None = None
        self._vectors = np.empty((0, dimension), np.float32)
        self._slot_of = np.empty(0, np.int64)
        self._row_of = np.empty(0, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_exact(self) -> bool:
        """Whether searches find everything for certain."""
        return self._codes is None

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        vectors = self._count * self.dimension * 4 if self._codes is None else self._vectors.nbytes
        codes = 0 if self._codes is None else self._codes.nbytes
        return vectors + codes + self._slot_of.nbytes + self._row_of.nbytes

    def put(self, slots: Slots, vectors: Vector) -> None:
        """Adds vectors of length 1 in slots that are free, each slot once.

        Raises:
            ValueError: The vectors have another shape than [slots, dimension].
        """
        if vectors.shape != (len(slots), self.dimension):
            raise ValueError(f"vectors of shape {vectors.shape} in an index of {self.dimension}")
        if not len(slots):
            return
        first, count = self._count, self._count + len(slots)
        if self._codes is None and count > self._exact_vectors:
            self._compress()
        if self._codes is None:
            self._flat.add(np.ascontiguousarray(vectors, np.float32))
            self._refresh_view()
        else:
            self._vectors = _sized(self._vectors, count)
            self._vectors[first:count] = vectors
            self._codes.append(vectors)
        self._slot_of = _sized(self._slot_of, count)
        self._slot_of[first:count] = slots
        self._row_of = _sized(self._row_of, int(slots.max()) + 1)
        self._row_of[slots] = np.arange(first, count)
        self._count = count

    def remove(self, slots: Slots) -> None:
        """Removes vectors; the last rows take their places."""
        for slot in slots.tolist():
            row, last = int(self._row_of[slot]), self._count - 1
            if row != last:
                self._vectors[row] = self._vectors[last]
                moved = self._slot_of[last]
                self._slot_of[row] = moved
                self._row_of[moved] = row
            if self._codes is None:
                self._flat.codes.resize(last * self.dimension * 4)
                self._flat.ntotal = last
            else:
                self._codes.move_last(row)
            self._count = last
        if self._codes is None:
            self._refresh_view()

    def search(self, queries: Vector, k: int) -> tuple[Slots, NDArray[np.float64]]:
        """The k nearest vectors of each query of length 1, nearest first.

        Returns:
            Slots and cosines, both [queries, min(k, len)]. The cosines may be off by `ROUNDING`.
        """
        k = min(k, self._count)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        queries = np.ascontiguousarray(queries, np.float32)
        if self._codes is None:
            nearness, rows = self._flat.search(queries, k)
            return self._slot_of[rows], nearness.astype(np.float64)
        rows = self._codes.search(queries, min(k * _OVERFETCH, self._count))
        slots = np.empty((len(queries), k), np.int64)
        cosines = np.empty((len(queries), k))
        for index, candidates in enumerate(rows):
            exact = self._vectors[candidates] @ queries[index]
            order = np.argsort(-exact, kind="stable")[:k]
            slots[index], cosines[index] = self._slot_of[candidates[order]], exact[order]
        return slots, cosines

    def cosines(self, query: Vector, slots: Slots) -> NDArray[np.float64]:
        """The exact cosines of a query with the vectors of some slots, float64 [slots]."""
        exact = query.astype(np.float64)
        cosines = np.empty(len(slots))
        for start in range(0, len(slots), _PAIRS_PER_STEP):
            step = slice(start, start + _PAIRS_PER_STEP)
            stored = self._vectors[self._row_of[slots[step]]].astype(np.float64)
            cosines[step] = np.vecdot(stored, exact)
        return np.clip(cosines, -1.0, 1.0)

    def vectors(self, slots: Slots) -> Vector:
        """Copies of the vectors of some slots, float32 [slots, dimension]."""
        vectors: Vector = self._vectors[self._row_of[slots]]
        return vectors

    def _refresh_view(self) -> None:
        """Takes a new view of FAISS's storage; growing may have moved it."""
        count = self._flat.ntotal
        if count:
            flat = library().rev_swig_ptr(self._flat.get_xb(), count * self.dimension)
            self._vectors = flat.reshape(count, self.dimension)
        else:
            self._vectors = np.empty((0, self.dimension), np.float32)

    def _compress(self) -> None:
        """Goes over to codes: the vectors are ours from here on, FAISS scans the codes."""
        vectors = self._vectors.copy()
        self._codes = _Codes(self.dimension)
        self._codes.append(vectors)
        self._vectors = vectors
        self._flat = library().IndexFlatIP(self.dimension)


class _Codes:
    """8-bit codes of vectors in FAISS, row by row."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._index = library().IndexScalarQuantizer(
            dimension,
            library().ScalarQuantizer.QT_8bit_direct_signed,
            library().METRIC_INNER_PRODUCT,
        )
        self._index.is_trained = True

    @property
    def nbytes(self) -> int:
        return int(self._index.ntotal) * self._dimension

    def append(self, vectors: Vector) -> None:
        self._index.add(_coded(vectors))

    def move_last(self, row: int) -> None:
        """The last row takes this row's place."""
        last, size = self._index.ntotal - 1, self._dimension
        if row != last:
            codes = library().rev_swig_ptr(self._index.codes.data(), (last + 1) * size)
            codes[row * size : (row + 1) * size] = codes[last * size :]
        self._index.codes.resize(last * size)
        self._index.ntotal = last

    def search(self, queries: Vector, k: int) -> NDArray[np.int64]:
        # FAISS takes a query for codes as well, and cuts its components down to whole numbers.
        _, rows = self._index.search(_coded(queries), k)
        nearest: NDArray[np.int64] = rows
        return nearest


def _coded(vectors: Vector) -> Vector:
    codes: Vector = np.clip(np.rint(vectors * _CODE_SCALE), -128, 127)
    return codes


def _sized(array: NDArray[_T], size: int) -> NDArray[_T]:
    """The array with room for at least `size` rows."""
    return array if size <= len(array) else resized(array, max(64, int(size * _GROWTH)))


def resized(array: NDArray[_T], rows: int) -> NDArray[_T]:
    """A copy with this many rows, the further ones zero."""
    grown = np.zeros((rows, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown

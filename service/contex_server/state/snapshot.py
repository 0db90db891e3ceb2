"""A project's state as it is kept for long: in columns."""

from __future__ import annotations

import sys
from bisect import bisect_left
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contex_server.kernel.model import KeyState, Sequence

U64Array = NDArray[np.uint64]

_KEY_BYTES = 64
"""Memory of a key, apart from its characters."""


class Snapshot:
    """An immutable state in columns, sorted by key: small and quick to read.

    Args:
        keys: The data keys, sorted.
        revisions: The revision of each key's latest event.
        ms: First half of its sequence.
        n: Second half.
        deleted: Whether it is a deletion.
        ends: Where in `digests` each key's digest ends.
        digests: The digests, concatenated.
    """

    def __init__(
        self,
        keys: list[str],
        revisions: U64Array,
        ms: U64Array,
        n: U64Array,
        deleted: NDArray[np.bool_],
        ends: U64Array,
        digests: bytes,
    ) -> None:
        self.keys = keys
        self.revisions = revisions
        self.ms = ms
        self.n = n
        self.is_deleted = deleted
        self.ends = ends
        self.digests = digests
        self.deleted = frozenset(keys[i] for i in np.flatnonzero(deleted))

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def nbytes(self) -> int:
        """Approximate memory."""
        characters = sum(map(len, self.keys))
        columns = 4 * self.ms.nbytes + self.is_deleted.nbytes + len(self.digests)
        return characters + _KEY_BYTES * len(self.keys) + columns + sys.getsizeof(self.keys)

    def at(self, index: int) -> KeyState:
        """The state of the key at an index."""
        start = self.ends.item(index - 1) if index else 0
        return KeyState(
            self.keys[index],
            self.revisions.item(index),
            Sequence(self.ms.item(index), self.n.item(index)),
            self.is_deleted.item(index),
            self.digests[start : self.ends.item(index)],
        )

    def __contains__(self, data_key: str) -> bool:
        return self._index(data_key) is not None

    def get(self, data_key: str) -> KeyState | None:
        """The state of a key, if it ever had an event."""
        index = self._index(data_key)
        return None if index is None else self.at(index)

    def _index(self, data_key: str) -> int | None:
        index = bisect_left(self.keys, data_key)
        return index if index < len(self.keys) and self.keys[index] == data_key else None


_NO_NUMBERS: U64Array = np.zeros(0, np.uint64)
EMPTY = Snapshot([], _NO_NUMBERS, _NO_NUMBERS, _NO_NUMBERS, np.zeros(0, np.bool_), _NO_NUMBERS, b"")
"""The state before the first event."""


def changed_rows(one: Snapshot, other: Snapshot) -> set[str]:
    """The keys whose latest events differ, or that only one of two snapshots has."""
    if one.keys == other.keys:
        differs = (one.ms != other.ms) | (one.n != other.n)
        return {one.keys[i] for i in np.flatnonzero(differs)}
    rows = [set(zip(s.keys, s.ms.tolist(), s.n.tolist(), strict=True)) for s in (one, other)]
    return {key for key, _, _ in rows[0] ^ rows[1]}

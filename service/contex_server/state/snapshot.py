"""A project's state as it is kept for long: in columns.

A stored snapshot is one byte, the version of the format, then a zstandard frame with a checksum. It
contains, all numbers little-endian: the number of keys and their total length (64-bit integers);
the sorted keys, joined by line feeds; three columns of 64-bit integers (revision and the two halves
of the sequence of each key's latest event), the first bytes of all numbers first, then the second
bytes, and so on, since those hardly differ; a byte for each key, 1 if its event is a deletion; a
byte for the length of each digest; the digests.
"""

from __future__ import annotations

import struct
import sys
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contex_server.kernel.blocks import packed, unpacked
from contex_server.kernel.model import KeyState, Sequence

U64Array = NDArray[np.uint64]

_VERSION = 1
_HEAD = struct.Struct("<QQ")
_MAX_BYTES = 4 * 1024 * 1024 * 1024
_KEY_BYTES = 64
"""Memory of a key, apart from its characters."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An immutable state in columns, sorted by key: small and quick to read.

    Attributes:
        keys: The data keys, sorted.
        revisions: The revision of each key's latest event.
        ms: First half of its sequence.
        n: Second half.
        is_deleted: Whether it is a deletion.
        ends: Where in `digests` each key's digest ends.
        digests: The digests, concatenated.
    """

    keys: list[str]
    revisions: U64Array
    ms: U64Array
    n: U64Array
    is_deleted: NDArray[np.bool_]
    ends: U64Array
    digests: bytes

    @cached_property
    def deleted(self) -> frozenset[str]:
        """The keys whose latest event is a deletion."""
        return frozenset(self.keys[i] for i in np.flatnonzero(self.is_deleted))

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

    def states(self) -> dict[str, KeyState]:
        """The states of all keys."""
        return {key: self.at(index) for index, key in enumerate(self.keys)}

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


class SnapshotDamaged(Exception):
    """The bytes are not a snapshot that this version can read."""


def encode_snapshot(state: Mapping[str, KeyState]) -> bytes:
    """Encodes a state: about 40 bytes a key, 16 of them its digest."""
    keys = sorted(state)
    states = [state[key] for key in keys]
    names = "\n".join(keys).encode()
    digests = [s.digest for s in states]
    raw = b"".join(
        (
            _HEAD.pack(len(keys), len(names)),
            names,
            _shuffled([s.revision for s in states]),
            _shuffled([s.sequence.ms for s in states]),
            _shuffled([s.sequence.n for s in states]),
            bytes([s.deleted for s in states]),
            bytes(map(len, digests)),
            *digests,
        )
    )
    return bytes([_VERSION]) + packed(raw)


def decode_snapshot(data: bytes) -> Snapshot:
    """Decodes a snapshot.

    Raises:
        SnapshotDamaged: It is damaged, or has another version.
    """
    if not data or data[0] != _VERSION:
        raise SnapshotDamaged(f"format {data[:1].hex() or 'none'}; this version reads {_VERSION}")
    try:
        raw = unpacked(data[1:], _MAX_BYTES)
        count, size = _HEAD.unpack_from(raw)
        at = _HEAD.size + size
        if raw.count(b"\n", _HEAD.size, at) != max(count - 1, 0):
            raise ValueError("it has another number of keys than it says")
        keys = raw[_HEAD.size : at].decode().split("\n") if count else []
        revisions, ms, n = (_restored(raw, at + 8 * i * count, count) for i in range(3))
        at += 24 * count
        deleted = np.frombuffer(raw, np.bool_, count, at)
        lengths = np.frombuffer(raw, np.uint8, count, at + count)
        ends = lengths.cumsum(dtype=np.uint64)
        digests = raw[at + 2 * count :]
    except (struct.error, ValueError) as error:
        raise SnapshotDamaged(str(error)) from error
    if len(keys) != count or len(digests) != (int(ends[-1]) if count else 0):
        raise SnapshotDamaged("its columns do not fit together")
    return Snapshot(keys, revisions, ms, n, deleted, ends, digests) if count else EMPTY


def _shuffled(values: list[int]) -> bytes:
    return np.array(values, "<u8").view(np.uint8).reshape(-1, 8).T.tobytes()


def _restored(raw: bytes, at: int, count: int) -> U64Array:
    planes = np.frombuffer(raw, np.uint8, 8 * count, at).reshape(8, count)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(count).astype(np.uint64, copy=False)

"""The stored format of snapshots.

One byte, the version of the format, then a zstandard frame with a checksum. It contains, all
numbers little-endian: the number of keys and their total length (64-bit integers); the sorted keys,
joined by line feeds; three columns of 64-bit integers (revision and the two halves of the sequence
of each key's latest event), the first bytes of all numbers first, then the second bytes, and so on,
since those hardly differ; a byte for each key, 1 if its event is a deletion; a byte for the length
of each digest; the digests.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import zstandard

from contex_server.kernel.model import KeyState
from contex_server.state.snapshot import EMPTY, Snapshot, U64Array

_VERSION = 1
_HEAD = struct.Struct("<QQ")
_LEVEL = 3


class SnapshotDamaged(Exception):
    """The bytes are not a snapshot that this version can read."""


def encode(state: Mapping[str, KeyState]) -> bytes:
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
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    return bytes([_VERSION]) + compressor.compress(raw)


def decode(data: bytes) -> Snapshot:
    """Decodes a snapshot.

    Raises:
        SnapshotDamaged: It is damaged, or has another version.
    """
    if not data or data[0] != _VERSION:
        raise SnapshotDamaged(f"format {data[:1].hex() or 'none'}; this version reads {_VERSION}")
    try:
        raw = zstandard.ZstdDecompressor().decompress(data[1:])
        count, size = _HEAD.unpack_from(raw)
        at = _HEAD.size + size
        keys = raw[_HEAD.size : at].decode().split("\n") if count else []
        revisions, ms, n = (_restored(raw, at + 8 * i * count, count) for i in range(3))
        at += 24 * count
        deleted = np.frombuffer(raw, np.bool_, count, at)
        lengths = np.frombuffer(raw, np.uint8, count, at + count)
        ends = lengths.cumsum(dtype=np.uint64)
        digests = raw[at + 2 * count :]
    except (zstandard.ZstdError, struct.error, ValueError) as error:
        raise SnapshotDamaged(str(error)) from error
    if len(keys) != count or len(digests) != (int(ends[-1]) if count else 0):
        raise SnapshotDamaged("its columns do not fit together")
    return Snapshot(keys, revisions, ms, n, deleted, ends, digests) if count else EMPTY


def _shuffled(values: list[int]) -> bytes:
    return np.array(values, "<u8").view(np.uint8).reshape(-1, 8).T.tobytes()


def _restored(raw: bytes, at: int, count: int) -> U64Array:
    planes = np.frombuffer(raw, np.uint8, 8 * count, at).reshape(8, count)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(count).astype(np.uint64, copy=False)

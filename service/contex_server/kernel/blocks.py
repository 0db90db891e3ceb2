"""Blocks: runs of events as they lie in files, compressed and checked.

A block is a zstandard frame with a checksum over, in this order, all integers little-endian:

    uint32  number of events, n
    uint32  length of the ids
    uint32  length of each body, n times
    bytes   the ids, "{unix_ms}-{n}", joined by "\\n"
    bytes   the bodies, joined

so that reading one costs a decompression, a split and a slice for each event.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from itertools import pairwise

import numpy as np
import zstandard

from contex_server.kernel.model import Entry

BLOCK_BYTES = 256 * 1024
"""About how many bytes of bodies a block holds: a read of one event decompresses one."""

_LEVEL = 3
_HEAD = np.dtype("<u4")
_MAX_BYTES = 64 * 1024 * 1024
"""No block decompresses to more; what claims to is damaged. (An event has at most 8 MiB.)"""
_MAX_EVENTS = BLOCK_BYTES
"""No block holds more: each has a byte at least. In memory an event takes some 150 besides."""
_entry = tuple.__new__


class BlockDamaged(Exception):
    """These bytes are no block, or not what was written."""


def packed(data: bytes) -> bytes:
    """A zstandard frame with a checksum."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(data)


def unpacked(frame: bytes, max_bytes: int) -> bytes:
    """What `packed` packed.

    Raises:
        ValueError: It is no such frame, is damaged, or claims to hold more than `max_bytes`.
    """
    try:
        parameters = zstandard.get_frame_parameters(frame)
        if not 0 < parameters.content_size <= max_bytes or not parameters.has_checksum:
            raise ValueError("no such frame")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def encode_block(entries: SequenceOf[Entry]) -> bytes:
    """Packs events, at least one."""
    ids = b"\n".join([entry.id for entry in entries])
    bodies = [entry.body for entry in entries]
    head = np.array([len(bodies), len(ids), *map(len, bodies)], _HEAD).tobytes()
    return packed(b"".join([head, ids, *bodies]))


def decode_block(block: bytes) -> list[Entry]:
    """The events of a block; some 2,000,000 a second.

    Raises:
        BlockDamaged: It is not as it was written.
    """
    try:
        data = unpacked(block, _MAX_BYTES)
        count, id_bytes = np.frombuffer(data, _HEAD, 2).tolist()
        start = 8 + 4 * count
        lengths = np.frombuffer(data, _HEAD, count, 8)
    except ValueError as error:
        raise BlockDamaged(f"not a block of events: {error}") from error
    if count > _MAX_EVENTS:
        raise BlockDamaged(f"a block of {count:,} events, and the limit is {_MAX_EVENTS:,}")
    # Counted first: of what is damaged or made up, the ids may be any number.
    ends = np.cumsum(lengths, dtype=np.int64) + (start + id_bytes)
    separators = data.count(b"\n", start, start + id_bytes)
    if not count or separators != count - 1 or ends[-1] != len(data):
        raise BlockDamaged("a block of events of other lengths than it says")
    ids = data[start : start + id_bytes].split(b"\n")
    edges = [start + id_bytes, *ends.tolist()]
    return [
        _entry(Entry, (sequence, data[low:high]))
        for sequence, (low, high) in zip(ids, pairwise(edges), strict=True)
    ]

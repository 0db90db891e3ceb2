"""Segments: sealed runs of a project's events, as objects.

    "CTXSEG1\\n"
    blocks      see kernel/blocks.py
    snapshots   states of the project at some of its events, as they were stored
    index       a zstandard frame with a checksum: the length of a JSON object (uint32), the
                object (`SegmentIndex` documents what it holds), then columns:
                    uint64  where each block begins, and where the last ends
                    uint32  how many events each block holds
                    uint64  first half of the sequence of each block's first event
                    uint64  second half
                    bytes   the data keys, sorted and joined by "\\n"
                    uint32  how many events each key has
                    uint32  the places of each key's events in the segment, ascending
    footer      uint64 where the index begins, uint64 its length, SHA-256 of all before the
                footer, "CTXSEG1\\n"

All integers are little-endian. The SHA-256 names the segment; each holds that of the segment
before, so that none can be changed or left out unnoticed.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from contex_server.kernel.blocks import BLOCK_BYTES, encode_block, packed, unpacked
from contex_server.kernel.model import Entry, EventFilter, Range, Sequence
from contex_server.log.state import SnapshotInfo

MAGIC = b"CTXSEG1\n"
_FOOTER = struct.Struct("<QQ32s8s")
FOOTER_BYTES = _FOOTER.size
_LENGTH = struct.Struct("<I")
_MAX_INDEX_BYTES = 256 * 1024 * 1024


class SegmentDamaged(Exception):
    """These bytes are no segment, or not the one that was written."""


class Sealed(NamedTuple):
    """A segment, ready to be stored."""

    data: bytes
    summary: SegmentIndex


@dataclass(frozen=True)
class SegmentIndex:
    """What a segment holds, and where.

    Attributes:
        project: The project, as it was called when the segment was made.
        ordinal: Its number among the project's, from 0.
        previous: The digest of the segment before; "" for the first.
        replaces: The digests of those that it took the place of, when data were erased.
        types: How many events of each type.
        snapshots: The snapshots in it; where each begins.
        offsets: Where each block begins, and where the last ends.
        counts: How many events each block holds.
        firsts: The sequence of each block's first event.
        keys: The data keys, sorted.
        ends: Where in `places` each key's end.
        places: The places of each key's events in the segment.
    """

    project: str
    ordinal: int
    previous: str
    replaces: tuple[str, ...]
    first: Sequence
    last: Sequence
    events: int
    bytes: int
    types: dict[str, int]
    snapshots: tuple[tuple[SnapshotInfo, int], ...]
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint32]
    firsts: list[Sequence]
    keys: list[str]
    ends: NDArray[np.uint64]
    places: NDArray[np.uint32]

    @cached_property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        columns = (self.offsets, self.counts, self.ends, self.places)
        listed = len(self.keys) + len(self.firsts)
        return sum(column.nbytes for column in columns) + 100 * listed + 2_000

    @cached_property
    def starts(self) -> list[int]:
        """The place of each block's first event, and how many events there are."""
        return [0, *np.cumsum(self.counts, dtype=np.int64).tolist()]

    def block_of(self, sequence: Sequence) -> int:
        """The block that has an event if the segment has it; -1: it is before all of them."""
        return bisect_right(self.firsts, sequence) - 1

    def end_of(self, block: int) -> Sequence:
        """A sequence that no event of a block is after, and all of the next are."""
        following = self.firsts[block + 1 : block + 2]
        return following[0].prev() if following else self.last

    def blocks_in(self, span: Range) -> range:
        """The blocks that may have events of a range."""
        start = max(0, self.block_of(span.after.next()))
        return range(start, bisect_right(self.firsts, span.until))

    def blocks_with(self, event_filter: EventFilter) -> SequenceOf[int]:
        """The blocks that may hold events that pass a filter, ascending: types are known of the
        segment, data keys of each event, publishers and metadata not at all."""
        if not any(map(event_filter.admits_type, self.types)):
            return ()
        if not event_filter.data_keys:
            return range(len(self.counts))
        starts = [0, *self.ends.tolist()]
        places = [
            self.places[starts[at] : starts[at + 1]]
            for at, key in enumerate(self.keys)
            if event_filter.admits_key(key)
        ]
        if not places:
            return ()
        blocks = np.searchsorted(self.starts, np.concatenate(places), "right") - 1
        return list(np.unique(blocks).tolist())

    def places_of(self, data_key: str) -> list[int]:
        """The places of a key's events, in order."""
        index = bisect_left(self.keys, data_key)
        if index == len(self.keys) or self.keys[index] != data_key:
            return []
        start = self.ends.item(index - 1) if index else 0
        places: list[int] = self.places[start : self.ends.item(index)].tolist()
        return places


@dataclass
class SegmentBuilder:
    """Makes a segment of events that are given in order.

    Attributes:
        previous: The digest of the segment before.
        replaces: The digests of those that it takes the place of.
    """

    project: str
    ordinal: int
    previous: str
    replaces: tuple[str, ...] = ()
    events: int = 0
    body_bytes: int = 0
    last: Sequence | None = None
    _blocks: list[bytes] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _firsts: list[Sequence] = field(default_factory=list)
    _pending: list[Entry] = field(default_factory=list)
    _pending_bytes: int = 0
    _places: dict[str, list[int]] = field(default_factory=dict)
    _types: Counter[str] = field(default_factory=Counter)
    _snapshots: list[tuple[SnapshotInfo, bytes]] = field(default_factory=list)

    def add(self, entries: SequenceOf[Entry], contents: SequenceOf[tuple[str, str]]) -> None:
        """Takes events that follow, each to be filed under its `event_codec.contents`, and
        compresses full blocks: a millisecond each, so call it in a thread for many."""
        for place, (data_key, _) in enumerate(contents, self.events):
            if data_key:
                self._places.setdefault(data_key, []).append(place)
        self._types.update([event_type for _, event_type in contents])
        start, size = 0, self._pending_bytes
        for at, entry in enumerate(entries, 1):
            size += len(entry.body)
            if size >= BLOCK_BYTES:
                self._pending += entries[start:at]
                self.body_bytes += size - self._pending_bytes
                self.pack()
                start, size = at, 0
        self._pending += entries[start:]
        self.body_bytes += size - self._pending_bytes
        self._pending_bytes = size
        self.events += len(entries)

    def pack(self) -> None:
        """Compresses what is pending into a block."""
        if not self._pending:
            return
        self._blocks.append(encode_block(self._pending))
        self._counts.append(len(self._pending))
        self._firsts.append(self._pending[0].sequence)
        self.last = self._pending[-1].sequence
        self._pending, self._pending_bytes = [], 0

    def add_snapshot(self, info: SnapshotInfo, data: bytes) -> None:
        """Takes a snapshot, as it is stored; in order."""
        self._snapshots.append((info, data))

    def seal(self) -> Sealed:
        """The segment; it must have an event."""
        self.pack()
        assert self.last is not None
        parts = [MAGIC, *self._blocks]
        offsets = np.cumsum([len(part) for part in parts], dtype="<u8")
        at = int(offsets[-1])
        snapshots = []
        for info, data in self._snapshots:
            snapshots.append((info, at))
            parts.append(data)
            at += len(data)
        keys = sorted(self._places)
        index = SegmentIndex(
            self.project,
            self.ordinal,
            self.previous,
            self.replaces,
            self._firsts[0],
            self.last,
            self.events,
            self.body_bytes,
            dict(self._types),
            tuple(snapshots),
            offsets,
            np.array(self._counts, "<u4"),
            self._firsts,
            keys,
            np.cumsum([len(self._places[key]) for key in keys], dtype="<u8"),
            np.array([place for key in keys for place in self._places[key]], "<u4"),
        )
        parts.append(encode_index(index))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        parts.append(_FOOTER.pack(at, len(parts[-1]), digest.digest(), MAGIC))
        return Sealed(b"".join(parts), index)


def encode_index(index: SegmentIndex) -> bytes:
    """An index as it lies in a segment."""
    head = orjson.dumps(
        {
            "project": index.project,
            "ordinal": index.ordinal,
            "previous": index.previous,
            "replaces": index.replaces,
            "first": str(index.first),
            "last": str(index.last),
            "events": index.events,
            "bytes": index.bytes,
            "types": index.types,
            "snapshots": [
                [str(info.sequence), info.events, info.bytes, info.keys, info.size, offset]
                for info, offset in index.snapshots
            ],
            "blocks": len(index.counts),
            "keys": len(index.keys),
        }
    )
    counts = np.diff(index.ends, prepend=np.uint64(0)).astype("<u4")
    names = "\n".join(index.keys).encode()
    raw = b"".join(
        (
            _LENGTH.pack(len(head)),
            head,
            index.offsets.tobytes(),
            index.counts.tobytes(),
            np.array(index.firsts, "<u8").T.tobytes(),
            _LENGTH.pack(len(names)),
            names,
            counts.tobytes(),
            index.places.tobytes(),
        )
    )
    return packed(raw)


def decode_index(data: bytes) -> SegmentIndex:
    """Reads what `encode_index` wrote.

    Raises:
        SegmentDamaged: It is not as it was written.
    """
    try:
        raw = unpacked(data, _MAX_INDEX_BYTES)
        (size,) = _LENGTH.unpack_from(raw)
        head = orjson.loads(raw[4 : 4 + size])
        at, blocks, keys = 4 + size, int(head["blocks"]), int(head["keys"])

        def column(kind: str, count: int) -> NDArray[np.uint64]:
            nonlocal at
            values = np.frombuffer(raw, kind, count, at)
            at += values.nbytes
            return values

        offsets, counts = column("<u8", blocks + 1), column("<u4", blocks)
        ms, n = column("<u8", blocks).tolist(), column("<u8", blocks).tolist()
        (size,) = _LENGTH.unpack_from(raw, at)
        at += 4 + size
        if raw.count(b"\n", at - size, at) != max(keys - 1, 0):
            raise ValueError("it has another number of keys than it says")
        names = raw[at - size : at].decode()
        ends = np.cumsum(column("<u4", keys), dtype=np.uint64)
        places = column("<u4", int(ends[-1]) if keys else 0)
        index = SegmentIndex(
            head["project"],
            head["ordinal"],
            head["previous"],
            tuple(head["replaces"]),
            Sequence.parse(head["first"]),
            Sequence.parse(head["last"]),
            head["events"],
            head["bytes"],
            head["types"],
            tuple(
                (SnapshotInfo(Sequence.parse(sequence), *numbers), offset)
                for sequence, *numbers, offset in head["snapshots"]
            ),
            offsets,
            counts.view(np.uint32),
            list(map(Sequence, ms, n)),
            names.split("\n") if keys else [],
            ends,
            places.view(np.uint32),
        )
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise SegmentDamaged(f"not the index of a segment: {error}") from error
    if at != len(raw) or int(index.counts.sum()) != index.events or len(index.keys) != keys:
        raise SegmentDamaged("an index whose parts do not fit together")
    return index


def read_footer(footer: bytes) -> tuple[int, int, str]:
    """Where the index begins, its length, and the digest, from an object's last bytes.

    Raises:
        SegmentDamaged: These are not the last bytes of a segment.
    """
    try:
        offset, length, digest, magic = _FOOTER.unpack(footer[-FOOTER_BYTES:])
    except struct.error as error:
        raise SegmentDamaged("too short for a segment") from error
    if magic != MAGIC:
        raise SegmentDamaged("not a segment")
    return offset, length, digest.hex()


def check(data: bytes) -> SegmentIndex:
    """Checks a whole segment against its digest, and returns its index.

    Raises:
        SegmentDamaged: It is not as it was written.
    """
    offset, length, digest = read_footer(data)
    whole = memoryview(data)[:-FOOTER_BYTES]
    if offset + length != len(whole) or hashlib.sha256(whole).hexdigest() != digest:
        raise SegmentDamaged("its bytes are not those of its digest")
    return decode_index(bytes(whole[offset:]))

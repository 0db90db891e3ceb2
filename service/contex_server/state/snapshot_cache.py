"""Reads snapshots, with a cache."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog
from cachetools import LRUCache

from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.state import SnapshotInfo, SnapshotReader
from contex_server.state.snapshot import EMPTY, Snapshot, SnapshotDamaged, decode_snapshot

log = structlog.get_logger(__name__)

_INLINE_BYTES = 128 * 1024
"""Up to this size snapshots are decoded on the event loop, in less than 2 ms."""


NO_SNAPSHOT = SnapshotInfo(BEGINNING, 0, 0, 0)
"""Stands for the state before the first event."""


class StoredSnapshot(NamedTuple):
    """A snapshot, and what the store knows of it."""

    info: SnapshotInfo
    snapshot: Snapshot


class SnapshotCache:
    """Reads the snapshots of all projects.

    Args:
        cache_bytes: Approximate size of the cache.
    """

    def __init__(self, stored: SnapshotReader, *, cache_bytes: int) -> None:
        self.stored = stored
        self._cache: LRUCache[tuple[str, Sequence], Snapshot] = LRUCache(
            cache_bytes, getsizeof=lambda snapshot: snapshot.nbytes
        )

    def forget(self, project: str) -> None:
        """Drops what is cached of a project."""
        for place in [place for place in self._cache if place[0] == project]:
            self._cache.pop(place, None)

    async def before(self, project: str, until: Sequence) -> StoredSnapshot:
        """The newest readable snapshot at or before a sequence."""
        while True:
            info = await self.stored.before(project, until)
            if info is None:
                return StoredSnapshot(NO_SNAPSHOT, EMPTY)
            snapshot = await self.read(project, info.sequence)
            if snapshot is not None:
                return StoredSnapshot(info, snapshot)
            until = info.sequence.prev()

    async def read(self, project: str, sequence: Sequence) -> Snapshot | None:
        """The snapshot at a sequence; None if there is none, or it is damaged."""
        cached = self._cache.get((project, sequence))
        if cached is not None:
            return cached
        data = await self.stored.get(project, sequence)
        if data is None:
            return None
        try:
            if len(data) <= _INLINE_BYTES:
                snapshot = decode_snapshot(data)
            else:
                snapshot = await asyncio.to_thread(_decoded, data)
        except SnapshotDamaged as error:
            log.error("snapshot_damaged", project=project, sequence=str(sequence), error=str(error))
            return None
        if snapshot.nbytes <= self._cache.maxsize:
            self._cache[project, sequence] = snapshot
        return snapshot


def _decoded(data: bytes) -> Snapshot:
    """Decodes a large snapshot, and counts its bytes while that holds nobody."""
    snapshot = decode_snapshot(data)
    _ = snapshot.nbytes
    return snapshot

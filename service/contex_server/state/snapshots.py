"""Reading snapshots; those in use are kept at hand."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog
from cachetools import LRUCache

from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.state import SnapshotInfo, SnapshotReader
from contex_server.state.snapshot_format import SnapshotDamaged, decode
from contex_server.state.state import EMPTY, Snapshot

log = structlog.get_logger(__name__)

_INLINE_BYTES = 128 * 1024
"""What is decoded on the event loop: less than 2 ms."""


class Taken(NamedTuple):
    """A snapshot and the sequence that it is the state as of; None: before the first event."""

    sequence: Sequence
    snapshot: Snapshot
    info: SnapshotInfo | None = None


class Snapshots:
    """The snapshots of all projects, as readers need them.

    Args:
        stored: Where they are.
        cache_bytes: What is kept at hand, about.
    """

    def __init__(self, stored: SnapshotReader, *, cache_bytes: int) -> None:
        self.stored = stored
        self._cache: LRUCache[tuple[str, Sequence], Snapshot] = LRUCache(
            cache_bytes, getsizeof=lambda snapshot: snapshot.nbytes
        )

    async def before(self, project: str, until: Sequence) -> Taken:
        """The newest snapshot at or before a sequence that can be read.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        while True:
            info = await self.stored.before(project, until)
            if info is None:
                return Taken(BEGINNING, EMPTY)
            snapshot = await self.read(project, info.sequence)
            if snapshot is not None:
                return Taken(info.sequence, snapshot, info)
            until = info.sequence.prev()

    async def read(self, project: str, sequence: Sequence) -> Snapshot | None:
        """The snapshot at a sequence; None if there is none, or it is damaged."""
        held = self._cache.get((project, sequence))
        if held is not None:
            return held
        data = await self.stored.get(project, sequence)
        if data is None:
            return None
        try:
            if len(data) <= _INLINE_BYTES:
                snapshot = decode(data)
            else:
                snapshot = await asyncio.to_thread(decode, data)
        except SnapshotDamaged as error:
            log.error("snapshot_damaged", project=project, sequence=str(sequence), error=str(error))
            return None
        if snapshot.nbytes <= self._cache.maxsize:
            self._cache[project, sequence] = snapshot
        return snapshot

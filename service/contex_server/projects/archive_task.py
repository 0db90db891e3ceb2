"""The task of changing the archive of a project: held by one process at a time.

A process that has lost the task without noticing does no harm: the store refuses what it
records.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import structlog

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Sequence
from contex_server.log.store import Store
from contex_server.log.tasks import HOLD_MS, Claims
from contex_server.tiers.archive import Archive
from contex_server.tiers.objects import archive_unavailable
from contex_server.tiers.segment import SegmentDamaged

log = structlog.get_logger(__name__)

TASK = "archive"
_WAIT_S = HOLD_MS / 1000 + 10.0
_POLL_S = 0.1
_SWEEP_S = 3600.0


class ArchiveTask:
    """Claims on the archives of all projects. Once an hour, orphaned objects are deleted as a
    claim begins."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self._store = store
        self._archive = archive
        self.claims = Claims(store.tasks, TASK)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._swept: dict[str, float] = {}

    @asynccontextmanager
    async def exclusive(self, project: str, *, sweep: bool = True) -> AsyncIterator[None]:
        """Waits for the task and holds it; with `sweep`, orphaned objects may be deleted.

        Raises:
            ContexError: ARCHIVE_UNAVAILABLE if another process holds the task for longer than
                the claim of a dead one lasts; STORE_UNAVAILABLE.
        """
        async with self.lock(project):
            deadline = time.monotonic() + _WAIT_S
            if not sweep:
                self._swept[project] = time.monotonic()
            while not await self.claim(project):
                if time.monotonic() > deadline:
                    raise archive_unavailable("another process is working on it")
                await asyncio.sleep(_POLL_S)
            try:
                yield
            finally:
                await self.claims.give_back(project)

    def lock(self, project: str) -> asyncio.Lock:
        """Serializes the work on a project within this process."""
        return self._locks.setdefault(project, asyncio.Lock())

    async def claim(self, project: str, *, afresh: bool = False) -> bool:
        """Whether this process holds the task; see `Claims.take`."""
        renewed = afresh or not self.claims.sure_of(project)
        if not await self.claims.take(project, afresh=afresh):
            return False
        if renewed and time.monotonic() > self._swept.get(project, -_SWEEP_S) + _SWEEP_S:
            await self._sweep(project)
            self._swept[project] = time.monotonic()
        return True

    async def _sweep(self, project: str) -> None:
        """Deletes orphans: segments that were stored and never recorded.

        A segment with an event that the log does not have is not an orphan: the store was restored
        from an older backup. Nothing is archived then until the project is repaired.
        """
        prefix = (await self._store.archive.archived(project)).directory
        if not prefix:
            return
        objects = self._archive.objects
        sizes = await objects.list(f"{prefix}/")
        # Read after the listing: what was recorded meanwhile is not an orphan.
        directory = await self._archive.directory(project)
        recorded = {record.name for record in directory.records}
        if directory.archived.remains is not None:
            recorded.add(directory.archived.remains.name)
        tail = (await self._store.events.bounds(project)).tail
        for name in sorted(sizes.keys() - recorded):
            if not name.endswith(".seg"):
                continue
            try:
                last = (await self._archive.describe(name, sizes[name]))[0].last
            except SegmentDamaged:
                last = Sequence(0, 0)
            if last > tail or await self._is_lost(project, last):
                raise ContexError(
                    Reason.ARCHIVE_DAMAGED,
                    "the archive has events that the store lacks: verify the project, with repair",
                    metadata={"object": name},
                )
            log.info("archive_swept", project=project, object=name)
            await objects.delete(name)

    async def _is_lost(self, project: str, last: Sequence) -> bool:
        """Whether an event that the archive once had is not in the log, nor was removed."""
        archived = await self._store.archive.archived(project)
        if archived.first is None or last < archived.first:
            return False
        (entry,) = await self._store.events.get(project, [last])
        return entry is None and not await self._archive.get(project, [last])

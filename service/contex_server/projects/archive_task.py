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

from contex_server.kernel.errors import log_lost
from contex_server.log.store import Store
from contex_server.log.tasks import HOLD_MS, Claims
from contex_server.projects.unrecorded import UnrecordedFinder
from contex_server.tiers.archive import Archive
from contex_server.tiers.objects import archive_unavailable

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
        self.unrecorded = UnrecordedFinder(store, archive)
        self._swept: dict[str, tuple[int, float]] = {}

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
                self._swept[project] = self._store.events.generation, time.monotonic()
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
        generation = self._store.events.generation
        swept_in, swept_at = self._swept.get(project, (-1, 0.0))
        # Another server of the store may have taken over, and know less.
        if renewed and (swept_in != generation or time.monotonic() > swept_at + _SWEEP_S):
            try:
                await self._sweep(project)
            except BaseException:
                await self.claims.give_back(project)  # Or the next one would not look again.
                raise
            self._swept[project] = generation, time.monotonic()
        return True

    async def _sweep(self, project: str) -> None:
        """Deletes orphans: segments that were stored and never recorded.

        A segment with an event that the log does not have is not an orphan: the store was restored
        from an older backup. Nothing is deleted or archived then until the project is repaired.
        """
        orphans, lost = await self.unrecorded.orphans(project)
        if lost is not None:
            raise log_lost(project, lost)
        for name in orphans:
            log.info("archive_swept", project=project, object=name)
            await self._archive.objects.delete(name)

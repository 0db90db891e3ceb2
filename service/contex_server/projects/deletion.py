"""Deletes projects, and notices on every server that one was deleted.

One call of the store takes a project out of sight, whole. What is left has a name that nobody can
use, and is removed piece by piece: by the process that deleted it or, if that was stopped, by
whichever comes by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.errors import ContexError, Reason, project_not_found
from contex_server.kernel.failpoints import reached
from contex_server.kernel.failures import Failures
from contex_server.kernel.growth import Growth
from contex_server.kernel.model import Origin, Sequence
from contex_server.log.projects import REMAINS, Deleting, Deletion, RetentionChanged
from contex_server.projects.archive_task import ArchiveTask
from contex_server.projects.retention import RetentionStore
from contex_server.tiers.storage import Storage

log = structlog.get_logger(__name__)

_WATCH_S = 1.0
"""A deletion is noticed by every process within this time, at once by the one that did it."""
_SWEEP_S = 60.0


class Deleter:
    """Deletes projects; `start` also notices what others delete, and finishes what they began.

    Args:
        task: Of the archive; None without one.
        models: Embedding models that may have made vectors.
        growth: Is told of every deletion.
    """

    def __init__(
        self,
        storage: Storage,
        retentions: RetentionStore,
        task: ArchiveTask | None,
        models: Callable[[], list[str]],
        growth: Growth,
    ) -> None:
        self._storage = storage
        self._projects = storage.store.projects
        self._retentions = retentions
        self._task = task
        self._models = models
        self._growth = growth
        self._announced: Sequence | None = None
        self._failures = Failures("deletion_failed")
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts watching; returns when no later deletion can be missed."""
        self._announced, _ = await self._projects.announced(None)
        self._loop = asyncio.create_task(self._run(), name="contex-deleter")

    async def close(self) -> None:
        """Stops watching."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def delete(
        self, project: str, *, request_id: str, reason: str, origin: Origin
    ) -> tuple[Deletion, bool]:
        """Deletes a project, and returns when nothing is left of it.

        Returns:
            What was done, and whether the request was answered before.

        Raises:
            ContexError: PROJECT_NOT_FOUND, LEGAL_HOLD; ARCHIVE_DISABLED, ARCHIVE_UNAVAILABLE,
                STORE_UNAVAILABLE, after which the call may be repeated.
        """
        answered = await self._projects.deletion(project, request_id)
        if answered is not None:
            if answered.remains in await self._projects.projects():
                await self._finish(answered.project, answered.last, answered.remains)
            return answered, True
        if self._task is None:
            await self._check_has_no_archive(project)
            deletion = await self._delete(project, request_id, reason, origin)
        else:
            # Otherwise the archiver could still store a segment.
            async with self._task.exclusive(project, sweep=False):
                deletion = await self._delete(project, request_id, reason, origin)
        log.warning("project_deleted", project=project, events=deletion.events)
        reached("project-deleted")
        await self._finish(project, deletion.last, deletion.remains)
        if not await self._storage.store.keys.rewrite_files(project):
            log.warning("store_keeps_its_files", project=project)
        return deletion, False

    async def _delete(self, project: str, request_id: str, reason: str, origin: Origin) -> Deletion:
        bounds = await self._storage.raw.bounds(project)
        if not bounds.exists:
            raise project_not_found(project, bounds.deleted.ms)
        detail = f"deleted the project, request {request_id}: {reason}"
        action = encode_action(AuditAction.ADMINISTERED, origin, detail, count=bounds.length)
        while True:
            retention = await self._projects.retention(project)
            await self._retentions.check_not_on_hold(project)
            request = Deleting(request_id, origin.identity, reason, retention, action)
            try:
                deletion = await self._projects.delete(project, request, self._models())
            except RetentionChanged:
                continue
            if deletion is None:
                raise project_not_found(project)
            return deletion

    async def _finish(self, project: str, last: Sequence, remains: str) -> None:
        """Tells of a deletion, and removes what is left; may be repeated."""
        await self._projects.announce(project, last)
        self._growth.deleted(project, last)
        await self._delete_objects(remains)
        reached("project-purging")
        await self._projects.purge(remains)

    async def _delete_objects(self, remains: str) -> None:
        directory = (await self._storage.store.archive.archived(remains)).directory
        if not directory:
            return
        archive = self._storage.archive
        if archive is None:
            raise _archive_missing()
        for name in await archive.objects.list(f"{directory}/"):
            await archive.objects.delete(name)

    async def _check_has_no_archive(self, project: str) -> None:
        if (await self._storage.store.archive.archived(project)).directory:
            raise _archive_missing()

    async def _run(self) -> None:
        swept = float("-inf")
        while True:
            try:
                await self._notice()
                if time.monotonic() > swept + _SWEEP_S:
                    swept = time.monotonic()
                    await self._sweep()
            except ContexError as error:
                log.warning("deletions_interrupted", error=error.message)
            except Exception as error:
                self._failures.failed("", error)
            await asyncio.sleep(_WATCH_S)

    async def _notice(self) -> None:
        self._announced, deletions = await self._projects.announced(self._announced)
        for project, last in deletions:
            with self._failures.isolated(project):
                self._growth.deleted(project, last)

    async def _sweep(self) -> None:
        """Finishes the deletions that were interrupted."""
        for remains in await self._projects.projects():
            project, mark, last = remains.partition(REMAINS)
            if mark:
                with self._failures.isolated(project):
                    await self._finish(project, Sequence.parse(last), remains)


def _archive_missing() -> ContexError:
    return ContexError(
        Reason.ARCHIVE_DISABLED, "the project has events in an archive, and the server has none"
    )

"""Refuses to append to a project of which the archive has more than the store.

A store that lost a project, or came back from an older copy, would begin it anew, or go on from
where the copy ends: what was archived since is then part of it no more, and nobody is told. So the
first append of a process, and the first one after another server of the store may have taken over,
looks into the archive. Where that has events that the store doesn't know of, an operator decides:
`VerifyProject` restores them, or sets them aside.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from cachetools import LRUCache, TTLCache

from contex_server.kernel.errors import ContexError, Reason, log_lost
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import Sequence
from contex_server.log.port import StoreLog
from contex_server.projects.unrecorded import UnrecordedFinder

log = structlog.get_logger(__name__)

_PROJECTS = 65_536
_REFUSED_S = 1.0
"""A project that is refused is looked at again after this."""
_UNKNOWN_S = 10.0
"""So is one of which the archive didn't tell; publishing goes on without it."""


class Admission:
    """Which projects may grow.

    Attributes:
        refused: Those of which the archive had more when they were looked at last.
    """

    def __init__(self, store: StoreLog, unrecorded: UnrecordedFinder) -> None:
        self._store = store
        self._unrecorded = unrecorded
        self._sound: LRUCache[str, int] = LRUCache(_PROJECTS)
        """The generation of the store in which a project was looked at."""
        self._unknown: LRUCache[str, float] = LRUCache(_PROJECTS)
        self._failures = Failures("archive_unknown")
        self._lost: TTLCache[str, Sequence] = TTLCache(_PROJECTS, _REFUSED_S)
        self._looking: dict[str, asyncio.Task[Sequence | None]] = {}
        self.refused: set[str] = set()

    async def check(self, project: str) -> None:
        """Returns if events may be appended.

        Raises:
            ContexError: LOG_CHANGED, STORE_UNAVAILABLE.
        """
        if self._sound.get(project) == self._store.generation:
            return
        lost = self._lost.get(project)
        if lost is None and time.monotonic() >= self._unknown.get(project, 0.0):
            # Many that come together look once.
            looking = self._looking.get(project)
            if looking is None:
                looking = self._looking[project] = asyncio.create_task(self._look(project))
                looking.add_done_callback(lambda _: self._looking.pop(project, None))
            lost = await asyncio.shield(looking)
        if lost is not None:
            raise log_lost(project, lost)

    def forget(self, project: str, _last: Sequence) -> None:
        """A project was deleted, or has another log."""
        self._sound.pop(project, None)

    async def _look(self, project: str) -> Sequence | None:
        """The last event that the store has lost, if any and if that can be told."""
        generation, known = self._store.generation, False
        lost: Sequence | None = None
        try:
            with self._failures.isolated(project):
                lost, known = await self._unrecorded.last_lost(project), True
        except ContexError as error:
            if error.reason is not Reason.ARCHIVE_UNAVAILABLE:
                raise
        if not known:
            self._unknown[project] = time.monotonic() + _UNKNOWN_S
        elif lost is None:
            self._sound[project] = generation
            self.refused.discard(project)
        else:
            self._lost[project] = lost
            if project not in self.refused:
                self.refused.add(project)
                log.error("project_refused", project=project, archived=str(lost))
        return lost

"""Refuses to append to a project of which the archive has more than the store.

A store that lost a project, or came back from an older copy, would begin it anew, or go on from
where the copy ends: what was archived since is then part of it no more, and nobody is told. So the
first append of a process, and the first one after another server of the store may have taken over,
looks into the archive. Where that has events that the store doesn't know of, an operator decides:
`VerifyProject` restores them, or sets them aside.
"""

from __future__ import annotations

import time

import structlog
from cachetools import LRUCache, TTLCache

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import Sequence
from contex_server.log.port import StoreLog
from contex_server.projects.recovery import Recovery

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

    def __init__(self, store: StoreLog, recovery: Recovery) -> None:
        self._store = store
        self._recovery = recovery
        self._sound: LRUCache[str, int] = LRUCache(_PROJECTS)
        """The generation of the store in which a project was looked at."""
        self._unknown: LRUCache[str, float] = LRUCache(_PROJECTS)
        self._failures = Failures("archive_unknown")
        self._refusals: TTLCache[str, ContexError] = TTLCache(_PROJECTS, _REFUSED_S)
        self.refused: set[str] = set()

    async def check(self, project: str) -> None:
        """Returns if events may be appended.

        Raises:
            ContexError: LOG_CHANGED, STORE_UNAVAILABLE.
        """
        generation = self._store.generation
        if self._sound.get(project) == generation:
            return
        if project in self._refusals:
            raise self._refusals[project]
        if time.monotonic() < self._unknown.get(project, 0.0):
            return
        lost: Sequence | None = None
        known = False
        try:
            with self._failures.isolated(project):
                lost, known = await self._recovery.last_lost(project), True
        except ContexError as error:
            if error.reason is not Reason.ARCHIVE_UNAVAILABLE:
                raise
        if not known:
            self._unknown[project] = time.monotonic() + _UNKNOWN_S
            return
        if lost is None:
            self._sound[project] = generation
            self.refused.discard(project)
            return
        if project not in self.refused:
            self.refused.add(project)
            log.error("project_refused", project=project, archived=str(lost))
        refusal = self._refusals[project] = _refusal(project, lost)
        raise refusal


def _refusal(project: str, last: Sequence) -> ContexError:
    return ContexError(
        Reason.LOG_CHANGED,
        f"the archive has events of project {project!r} up to {last} that the store does not have: "
        "an operator restores them (contex verify --repair) or does without (--set-aside)",
        metadata={"tail_sequence": str(last)},
    )

"""Work on many projects, where the failure of one is logged and leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from cachetools import LRUCache

from contex_server.kernel.errors import ContexError, Reason

log = structlog.get_logger(__name__)

_AGAIN_S = 3_600.0
_PROJECTS = 10_000
"""What is remembered; of more projects that fail, some are logged more often."""
AWAY = (Reason.STORE_UNAVAILABLE, Reason.ARCHIVE_UNAVAILABLE)
"""Failures of no project: what all of them need is away."""


class Failures:
    """Which projects fail in a piece of work that is done again and again.

    Each is logged when it begins to fail, again once an hour while it does, and when it works
    again: not every time, which for some work is once a second.

    Args:
        event: What is logged of a project that fails.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._told: LRUCache[str, tuple[object, float]] = LRUCache(_PROJECTS)
        """The failure that was logged last, and when."""

    def failed(self, project: str, error: Exception) -> None:
        """Logs that a project fails, unless that was logged lately."""
        now = time.monotonic()
        kind = error.reason if isinstance(error, ContexError) else type(error)
        told, at = self._told.get(project, (None, 0.0))
        if kind != told or now > at + _AGAIN_S:
            self._told[project] = kind, now
            if isinstance(error, ContexError):
                log.warning(self._event, project=project, error=error.message)
            else:
                log.error(self._event, project=project, exc_info=error)

    def worked(self, project: str) -> None:
        """Logs that a project works again, if it failed."""
        if self._told.pop(project, None) is not None:
            log.info("works_again", project=project, after=self._event)

    @contextmanager
    def isolated(self, project: str, *others: Reason) -> Iterator[None]:
        """Keeps the failure of the block to its project; one of store or archive is raised.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE, and `others`.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, ContexError) and error.reason in (*AWAY, *others):
                raise
            self.failed(project, error)
        else:
            self.worked(project)

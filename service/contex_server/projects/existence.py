"""Whether a project exists, as it is asked before what reads one."""

from __future__ import annotations

from cachetools import TTLCache

from contex_server.kernel.errors import project_not_found
from contex_server.kernel.model import Sequence
from contex_server.log.port import EventLog

_KNOWN = 65_536
_KNOWN_S = 60.0


class Existence:
    """Knows the projects that exist; the store is asked once a minute for each that is read.

    Deletions are told by `forget`.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._known: TTLCache[str, bool] = TTLCache(_KNOWN, _KNOWN_S)

    async def check(self, project: str) -> None:
        """Refuses a project that does not exist.

        Raises:
            ContexError: PROJECT_NOT_FOUND, STORE_UNAVAILABLE.
        """
        if project in self._known:
            return
        bounds = await self._log.bounds(project)
        if not bounds.exists:
            raise project_not_found(project, bounds.deleted.ms)
        self._known[project] = True

    def forget(self, project: str, _last: Sequence) -> None:
        """A project was deleted."""
        self._known.pop(project, None)

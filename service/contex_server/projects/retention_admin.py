"""What administrators do: read and set retentions, and remove events."""

from __future__ import annotations

import orjson

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Origin, Sequence
from contex_server.log.pages import check_not_beyond
from contex_server.log.port import EventLog
from contex_server.log.projects import ProjectStore
from contex_server.projects.archiver import Archiver
from contex_server.projects.removal import Removal
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.state.moments import Instant, check_not_in_future


class RetentionAdmin:
    """Administers the retention of projects.

    Args:
        store: Where retentions are kept.
        event_log: All events.
        retentions: The retentions.
        archiver: Moves events; None without an archive.
        removal: Removes them; None without an archive.
    """

    def __init__(
        self,
        store: ProjectStore,
        event_log: EventLog,
        retentions: RetentionStore,
        archiver: Archiver | None,
        removal: Removal | None,
    ) -> None:
        self._store = store
        self._log = event_log
        self._retentions = retentions
        self._archiver = archiver
        self._removal = removal

    @property
    def has_archive(self) -> bool:
        """Whether the server has an archive."""
        return self._archiver is not None

    async def retention(self, project: str) -> tuple[Retention, Retention]:
        """The retention that the project sets, and the one that applies.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        own = await self._retentions.own(project)
        return own, own.over(self._retentions.defaults)

    async def change(self, project: str, retention: Retention, origin: Origin) -> Retention:
        """Sets the retention, and returns the one that applies.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        changes = ", ".join(
            f"{name} {value}"
            for name, value in orjson.loads(retention.encode()).items()
            if value not in (None, False)
        )
        action = encode_action(
            AuditAction.ADMINISTERED, origin, f"set the retention: {changes or 'the defaults'}"
        )
        await self._store.put_retention(project, retention.encode(), action)
        if self._archiver is not None:
            self._archiver.appended(project)
        return retention.over(self._retentions.defaults)

    async def remove(
        self, project: str, before: Sequence | Instant, reason: str, origin: Origin
    ) -> tuple[int, Sequence | None]:
        """Removes events before a sequence or a time for good; see `Removal.remove`.

        Returns:
            How many were removed, and the oldest event that can still be read.

        Raises:
            ContexError: SEQUENCE_IN_FUTURE, TIME_IN_FUTURE, LEGAL_HOLD, ARCHIVE_DISABLED,
                ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        bounds = await self._log.bounds(project)
        if isinstance(before, Instant):
            check_not_in_future(before.unix_ms, bounds.now_ms)
            before = Sequence(before.unix_ms, 0)
        else:
            check_not_beyond(bounds, before)
        if self._archiver is None or self._removal is None:
            raise ContexError(
                Reason.ARCHIVE_DISABLED,
                "only archived events are removed, and there is no archive",
            )
        await self.check_not_on_hold(project)
        async with self._archiver.task.exclusive(project):
            removed = await self._removal.remove(
                project, self._archiver.task.claims, before, origin, reason
            )
        return removed, (await self._log.bounds(project)).first

    async def check_not_on_hold(self, project: str) -> None:
        """Checks that a project is not on legal hold.

        Raises:
            ContexError: LEGAL_HOLD, STORE_UNAVAILABLE.
        """
        if (await self._retentions.own(project)).legal_hold:
            raise ContexError(
                Reason.LEGAL_HOLD,
                f"project {project!r} is on legal hold: nothing may be removed or erased",
            )

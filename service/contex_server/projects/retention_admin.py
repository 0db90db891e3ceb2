"""What can be asked and decided about how a project is kept."""

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
    """Retention, as it is administered.

    Args:
        store: Where retentions are kept.
        event_log: All events.
        retentions: What is kept where.
        archiver: Moves events; None where there is no archive.
        removal: Removes them; None likewise.
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
        """Whether there is one."""
        return self._archiver is not None

    async def retention(self, project: str) -> tuple[Retention, Retention]:
        """What the project sets itself, and what holds.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        own = await self._retentions.own(project)
        return own, own.over(self._retentions.defaults)

    async def change(self, project: str, retention: Retention, origin: Origin) -> Retention:
        """Sets what holds, and returns it.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        said = ", ".join(
            f"{name} {value}"
            for name, value in orjson.loads(retention.encode()).items()
            if value not in (None, False)
        )
        detail = f"set the retention: {said or 'the defaults'}"
        action = encode_action(AuditAction.ADMINISTERED, origin, detail)
        await self._store.put_retention(project, retention.encode(), action)
        if self._archiver is not None:
            self._archiver.appended(project)
        return retention.over(self._retentions.defaults)

    async def remove(
        self, project: str, before: Sequence | Instant, reason: str, origin: Origin
    ) -> tuple[int, Sequence | None]:
        """Removes events before a place for good; see `Removal.remove`.

        Returns:
            How many were removed, and the oldest that can be read.

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
                Reason.ARCHIVE_DISABLED, "events are removed from the archive, and there is none"
            )
        await self.check_not_on_hold(project)
        async with self._archiver.task.exclusive(project):
            removed = await self._removal.remove(
                project, self._archiver.task.claims, before, origin, reason
            )
        return removed, (await self._log.bounds(project)).first

    async def check_not_on_hold(self, project: str) -> None:
        """Refuses what must not be done to a project on legal hold.

        Raises:
            ContexError: LEGAL_HOLD, STORE_UNAVAILABLE.
        """
        if (await self._retentions.own(project)).legal_hold:
            raise ContexError(
                Reason.LEGAL_HOLD,
                f"project {project!r} is on legal hold; nothing of it may be removed or erased",
            )

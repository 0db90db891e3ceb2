"""What administrators do: read and set retentions, and remove events."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class RetentionAdmin:
    """Administers the retention of projects; without an archive, `archiver` and `removal` are None.

    Every method may raise `ContexError` with STORE_UNAVAILABLE.
    """

    store: ProjectStore
    log: EventLog
    retentions: RetentionStore
    archiver: Archiver | None
    removal: Removal | None

    @property
    def has_archive(self) -> bool:
        """Whether the server has an archive."""
        return self.archiver is not None

    async def retention(self, project: str) -> tuple[Retention, Retention]:
        """The retention that the project sets, and the one that applies."""
        own = await self.retentions.own(project)
        return own, own.over(self.retentions.defaults)

    async def change(self, project: str, retention: Retention, origin: Origin) -> Retention:
        """Sets the retention, and returns the one that applies."""
        changes = ", ".join(
            f"{name} {value}"
            for name, value in orjson.loads(retention.encode()).items()
            if value not in (None, False)
        )
        action = encode_action(
            AuditAction.ADMINISTERED, origin, f"set the retention: {changes or 'the defaults'}"
        )
        await self.store.put_retention(project, retention.encode(), action)
        if self.archiver is not None:
            self.archiver.appended(project)
        return retention.over(self.retentions.defaults)

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
        bounds = await self.log.bounds(project)
        if isinstance(before, Instant):
            check_not_in_future(before.unix_ms, bounds.now_ms)
            before = Sequence(before.unix_ms, 0)
        else:
            check_not_beyond(bounds, before)
        if self.archiver is None or self.removal is None:
            raise ContexError(
                Reason.ARCHIVE_DISABLED, "only archived events are removed, and there is no archive"
            )
        await self.check_not_on_hold(project)
        async with self.archiver.task.exclusive(project):
            removed = await self.removal.remove(
                project, self.archiver.task.claims, before, origin, reason
            )
        return removed, (await self.log.bounds(project)).first

    async def check_not_on_hold(self, project: str) -> None:
        """Refuses with LEGAL_HOLD if the project is on legal hold."""
        if (await self.retentions.own(project)).legal_hold:
            raise ContexError(
                Reason.LEGAL_HOLD,
                f"project {project!r} is on legal hold: nothing may be removed or erased",
            )

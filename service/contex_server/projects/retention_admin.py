"""What administrators do: set retentions, and remove events."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Origin, Sequence
from contex_server.log.pages import check_not_beyond
from contex_server.log.port import EventLog
from contex_server.projects.archiver import Archiver
from contex_server.projects.removal import Removal
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.state.moments import Instant, check_not_in_future


@dataclass(frozen=True, slots=True)
class RetentionAdmin:
    """Administers the retention of projects; without an archive, `archiver` and `removal` are None.

    Every method may raise `ContexError` with STORE_UNAVAILABLE.
    """

    log: EventLog
    retentions: RetentionStore
    archiver: Archiver | None
    removal: Removal | None

    async def change(self, project: str, retention: Retention, origin: Origin) -> Retention:
        """Sets the retention, and returns the one that applies."""
        changes = ", ".join(
            f"{name} {value}"
            for name, value in asdict(retention).items()
            if value not in (None, False)
        )
        action = encode_action(
            AuditAction.ADMINISTERED, origin, f"set the retention: {changes or 'the defaults'}"
        )
        await self.retentions.store.put_retention(project, retention.encode(), action)
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
        await self.retentions.check_not_on_hold(project)
        async with self.archiver.task.exclusive(project):
            removed = await self.removal.remove(
                project, self.archiver.task.claims, before, origin, reason
            )
        return removed, (await self.log.bounds(project)).first

"""What the audit needs of the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from contex_server.kernel.model import Sequence
from contex_server.log.notes import Note


class AuditStore(Protocol):
    """The audit of each project. See `EventLog` for errors."""

    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        """Adds records of actions, whose content is opaque to the log."""
        ...

    async def audit(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Note]:
        """The first `count` records in (after, until], oldest first."""
        ...

    async def audit_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Note]:
        """The last `count` records in (after, until], newest first."""
        ...

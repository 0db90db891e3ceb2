"""What the audit needs of the store, and the notes that it and agents' journals consist of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Range, Sequence


class Note(NamedTuple):
    """An entry of the audit or of an agent's journal.

    Attributes:
        sequence: When it was written; its position in the stream.
        fields: Its content, opaque to the log. `audit.trail` and `agents.journal` read it.
    """

    sequence: Sequence
    fields: dict[bytes, bytes]


class AuditStore(Protocol):
    """The audit of each project. See `EventLog` for errors."""

    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        """Adds records of actions, whose content is opaque to the log."""

    async def note_refusals(self, project: str, refusals: Iterable[bytes]) -> None:
        """Adds records of refused calls to a stream of their own.

        Not to the audit: servers of the version before refusals were recorded read every record
        of the audit, and fail at one that they don't know.
        """

    async def refusals(self, project: str, span: Range, count: int) -> list[Note]:
        """The first `count` refusals of a range, in its direction."""

    async def audit(self, project: str, span: Range, count: int) -> list[Note]:
        """The first `count` records of a range, in its direction."""

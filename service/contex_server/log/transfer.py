"""What imports need of the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Entry, Links, Sequence


class Restored(NamedTuple):
    """An event to be stored unchanged.

    Attributes:
        id: Its sequence.
        body: The serialised `contex.v1.Event`, including what the store added originally.
    """

    id: bytes
    body: bytes
    data_key: str
    revision: int
    digest: bytes
    event_type: str
    publisher: str
    valid_until_ms: int | None = None

    @classmethod
    def of(cls, entry: Entry, links: Links) -> Restored:
        """An entry with its links."""
        key, revision, _, digest, event_type, publisher, until_ms = links
        # A named tuple's own constructor takes twice as long.
        fields = (entry.id, entry.body, key, revision, digest, event_type, publisher, until_ms)
        return tuple.__new__(cls, fields)


class TransferStore(Protocol):
    """Writes events that already have their sequences. See `EventLog` for errors.

    An import is staged in a project named after its target, "~" and an id. It is a project
    like any other, except that clients can't name it.
    """

    async def restore(
        self,
        project: str,
        expected: Sequence,
        events: Iterable[Restored],
        note: bytes = b"",
        *,
        archived: bool = False,
    ) -> bool:
        """Appends events with their sequences, all or none, after the tail `expected`.

        A non-empty `note` is kept with a staged project. With `archived` the events are
        counted, but not stored. Returns False and does nothing if the tail is another one;
        repeating a call that succeeded does nothing and returns True.
        """

    async def import_note(self, staged: str) -> bytes:
        """The note last kept with a staged project, or b""."""

    async def put_import_note(self, staged: str, note: bytes) -> None:
        """Keeps a note with a staged project."""

    async def commit_import(
        self, project: str, staged: str, models: Iterable[str], action: bytes
    ) -> bool:
        """Moves a staged project to its target in one step, and adds `action` to the audit.

        Returns False if the target is not empty.
        """

    async def drop_import(self, staged: str, models: Iterable[str]) -> None:
        """Removes a staged project."""

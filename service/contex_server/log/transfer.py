"""What imports and exports need of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple, Protocol

from contex_server.kernel.model import Entry, KeyState, Links, Sequence
from contex_server.log.archive import StoreLog


def named(project: str) -> str:
    """The project that a staged one shall become; of any other, itself."""
    return project.partition("~")[0]


class Restored(NamedTuple):
    """An event that is stored as it was.

    Attributes:
        id: Its sequence.
        body: The serialised `contex.v1.Event`, with all that the store added once.
    """

    id: bytes
    body: bytes
    data_key: str
    revision: int
    digest: bytes
    event_type: str
    publisher: str

    @classmethod
    def of(cls, entry: Entry, links: Links) -> Restored:
        """An entry, and what is told of it."""
        key, revision, _, digest, event_type, publisher = links
        # A named tuple's own constructor takes twice as long.
        fields = (entry.id, entry.body, key, revision, digest, event_type, publisher)
        return tuple.__new__(cls, fields)


class TransferLog(StoreLog, Protocol):
    """A log into which events can be put that have been in one before.

    A staged project has the name of the project that it shall become, "~" and more. It is one
    like any other, except that nobody can name it.
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
        """Appends events with their sequences, all or none, behind the tail `expected`, and
        keeps `note` with a staged project. With `archived` they are counted and not kept.

        Returns False, and does nothing, if the tail is another. A call that is repeated does
        nothing and returns True.
        """
        ...

    async def repair_state(
        self,
        project: str,
        expected: Sequence,
        states: Mapping[str, KeyState | None],
        deleted: int | None,
    ) -> bool:
        """Sets the state of some keys, None for those that are none, and, if it is given, how
        many keys are deleted; False, and nothing done, if the tail is not as expected."""
        ...

    async def drop_snapshot(self, project: str, sequence: Sequence) -> None:
        """Removes a snapshot."""
        ...

    async def import_note(self, staged: str) -> bytes:
        """The note that was kept last, or b""."""
        ...

    async def put_import_note(self, staged: str, note: bytes) -> None:
        """Keeps a note."""
        ...

    async def restore_agents(
        self, project: str, agents: Mapping[str, tuple[bytes, Sequence]]
    ) -> int:
        """Stores registrations and cursors of agents that are not there; returns how many."""
        ...

    async def commit_import(
        self, project: str, staged: str, models: Iterable[str], action: bytes
    ) -> bool:
        """Lets a staged project take the place of one that is empty, in one step, and notes
        `action` in the audit; False if the project is not empty."""
        ...

    async def drop_import(self, staged: str, models: Iterable[str]) -> None:
        """Removes what was staged."""
        ...

    def all_vectors(self, project: str, model: str) -> AsyncIterator[dict[bytes, bytes]]:
        """The encodings under a model, in chunks."""
        ...

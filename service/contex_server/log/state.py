"""What reading state needs of the store: the latest event of each key, and snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple, Protocol

from contex_server.kernel.model import KeyState, Sequence


class StateStore(Protocol):
    """The latest event of every data key. See `EventLog` for errors."""

    def state(self, project: str) -> AsyncIterator[list[KeyState]]:
        """The latest event of every key, in chunks.

        A key that changes during the scan may appear twice, or with its newer event; no key
        that existed at the start is missing.
        """

    async def state_now(
        self, project: str, max_keys: int
    ) -> tuple[Sequence, list[KeyState]] | None:
        """The latest event of every key at one moment, and the sequence of that moment.

        Returns None if there are more than `max_keys`, which would block the store for too
        long.
        """

    async def live_keys(self, project: str) -> int:
        """How many keys have a latest event that is no deletion."""

    async def latest(self, project: str, data_keys: Iterable[str]) -> dict[str, KeyState]:
        """The latest events of the given keys; keys without events are left out."""

    async def repair_state(
        self,
        project: str,
        expected: Sequence,
        states: Mapping[str, KeyState | None],
        deleted: int | None,
    ) -> bool:
        """Overwrites the state of some keys, and the count of deleted keys if it is given.

        None removes a key. Returns False and changes nothing if the tail of the log is not
        `expected`.
        """


class SnapshotInfo(NamedTuple):
    """A snapshot of a project's state.

    Attributes:
        sequence: The event that the state is as of.
        events: Number of events appended up to then.
        bytes: Bytes of those events; see `Counters`.
        keys: Number of keys in the snapshot.
        size: Bytes of the snapshot as stored.
    """

    sequence: Sequence
    events: int
    bytes: int
    keys: int
    size: int = 0


class SnapshotReader(Protocol):
    """Snapshots of a project's state. See `EventLog` for errors."""

    async def before(self, project: str, until: Sequence) -> SnapshotInfo | None:
        """The newest snapshot at or before a sequence."""

    async def after(self, project: str, after: Sequence, count: int) -> list[SnapshotInfo]:
        """The first `count` snapshots after a sequence, in order."""

    async def get(self, project: str, sequence: Sequence) -> bytes | None:
        """A snapshot as it was stored; None if there is none at this sequence."""


class SnapshotStore(SnapshotReader, Protocol):
    """The snapshots that are kept in the store."""

    async def put(self, project: str, info: SnapshotInfo, snapshot: bytes) -> bool:
        """Stores a snapshot; False if there is one at its sequence or a later one."""

    async def drop(self, project: str, sequence: Sequence) -> None:
        """Removes a snapshot."""

    async def drop_until(self, project: str, until: Sequence) -> int:
        """Removes the snapshots up to `until`, except the newest, and returns how many."""

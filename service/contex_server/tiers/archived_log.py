"""One log out of two: old events in the archive, new ones in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from contex_server.kernel import event_codec
from contex_server.kernel.model import BEGINNING, Entry, EventFilter, Sequence
from contex_server.log.archive import StoreLog
from contex_server.log.layer import LogLayer
from contex_server.log.port import Bounds, EventLog, Follower, SnapshotInfo
from contex_server.tiers.archive import Archive


def with_archive(store: StoreLog, archive: Archive) -> EventLog:
    """The log of events that lie in a store and in its archive."""
    return cast(EventLog, _ArchivedLog(store, archive))


class _ArchivedLog(LogLayer):
    """See `EventLog`.

    Events are archived before they are removed from the store, and both only from the old end.
    So what the store says first is complete from any event on that had not been archived when
    that was asked afterwards; what is older is read from the archive.
    """

    def __init__(self, store: StoreLog, archive: Archive) -> None:
        super().__init__(store)
        self._store = store
        self._archive = archive

    async def read(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Entry]:
        """See `EventLog.read`."""
        entries, archived = await self._store.read_tail(project, after, until, count)
        if archived <= after:
            return entries
        old = await self._archive.look(
            project,
            lambda directory: self._archive.read(directory, after, min(until, archived), count),
        )
        if len(old) >= count:
            return old[:count]
        fresh = [entry for entry in entries if entry.sequence > archived]
        if len(entries) == count and len(old) + len(fresh) < count:
            # Much of what the store said was archived too.
            last = entries[-1].sequence
            fresh += await self._store.read(
                project, max(last, archived), until, count - len(old) - len(fresh)
            )
        return (old + fresh)[:count]

    async def read_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Entry]:
        """See `EventLog.read_back`."""
        entries: list[Entry] = []
        # Backwards from before its first event, the store would go through all that it has.
        archived = until <= self._archive.known(project)
        if not archived:
            entries = await self._store.read_back(project, until, after, count)
            if len(entries) == count:
                return entries
        before = _before(entries[-1].sequence) if entries else until
        older = await self._archive.look(
            project,
            lambda directory: self._archive.read_back(
                directory, before, after, count - len(entries)
            ),
        )
        if archived and until > self._archive.known(project):
            # An older store took the place of the one that said so.
            return await self.read_back(project, until, after, count)
        return entries + older

    async def narrow(
        self,
        project: str,
        after: Sequence,
        until: Sequence,
        wanted: EventFilter,
        *,
        backwards: bool = False,
    ) -> tuple[Sequence, Sequence]:
        """See `EventLog.narrow`."""
        narrow = self._archive.narrow_back if backwards else self._archive.narrow
        return await self._archive.look(
            project, lambda directory: narrow(directory, after, until, wanted)
        )

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        """See `EventLog.get`."""
        wanted = list(sequences)
        archived = self._archive.known(project)
        found = await self._look_for(project, [s for s in wanted if s <= archived])
        missing = [s for s in wanted if s not in found]
        if missing:
            entries = await self._store.get(project, missing)
            found |= {entry.sequence: entry for entry in entries if entry is not None}
            # What has been archived and trimmed since.
            found |= await self._look_for(
                project, [s for s in missing if s > archived and s not in found]
            )
        return [found.get(s) for s in wanted]

    async def _look_for(self, project: str, sequences: list[Sequence]) -> dict[Sequence, Entry]:
        """The archived ones of some events."""
        if not sequences:
            return {}
        return await self._archive.look(
            project, lambda directory: self._archive.get(directory, sequences)
        )

    async def bounds(self, project: str) -> Bounds:
        """See `EventLog.bounds`."""
        bounds = await self._store.bounds(project)
        archived = await self._store.archived(project)
        if archived.first is None:
            return bounds
        return bounds._replace(
            first=archived.first,
            trimmed=archived.removed > 0,
            length=bounds.added - archived.removed,
        )

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        """See `EventLog.history`."""
        found = await self._store.history(project, sequence, count, max_bytes)
        max_bytes -= sum(len(entry.body) for entry in found)
        if len(found) >= count or max_bytes <= 0:
            return found
        before = event_codec.decode(found[-1]).previous_sequence if found else sequence
        if before is None:
            return found
        most, room = count - len(found), max_bytes
        return found + await self._archive.look(
            project, lambda directory: self._archive.history(directory, before, most, room)
        )

    def follower(self, bucket: int) -> Follower:
        """See `EventLog.follower`."""
        return _Follower(self._store.follower(bucket), self._store, self)

    # -- snapshots ---------------------------------------------------------------

    async def snapshot_before(self, project: str, until: Sequence) -> SnapshotInfo | None:
        """See `EventLog.snapshot_before`."""
        found = await self._store.snapshot_before(project, until)
        if found is not None:
            return found
        return await self._archive.look(
            project, lambda directory: self._archive.snapshot_before(directory, until)
        )

    async def snapshots(self, project: str, after: Sequence, count: int) -> list[SnapshotInfo]:
        """See `EventLog.snapshots`."""
        fresh = await self._store.snapshots(project, after, count)
        old = await self._archive.look(
            project, lambda directory: self._archive.snapshots(directory, after, count)
        )
        both = {info.sequence: info for info in (*old, *fresh)}
        return [both[sequence] for sequence in sorted(both)][:count]

    async def snapshot(self, project: str, sequence: Sequence) -> bytes | None:
        """See `EventLog.snapshot`."""
        found = await self._store.snapshot(project, sequence)
        if found is not None:
            return found
        return await self._archive.look(
            project, lambda directory: self._archive.snapshot(directory, sequence)
        )


class _Follower:
    """Sees to it that a follower that was away for long misses nothing."""

    def __init__(self, below: Follower, store: StoreLog, log: _ArchivedLog) -> None:
        self._below = below
        self._store = store
        self._log = log

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, list[Entry]]:
        """See `Follower.poll`."""
        received = await self._below.poll(positions)
        for project, entries in received.items():
            archived = await self._store.archived(project)
            if archived.last > positions[project] and entries:
                received[project] = await self._log.read(
                    project, positions[project], entries[-1].sequence, len(entries)
                )
        return received

    async def close(self) -> None:
        """See `Follower.close`."""
        await self._below.close()


def _before(sequence: Sequence) -> Sequence:
    return sequence.prev() if sequence > BEGINNING else BEGINNING

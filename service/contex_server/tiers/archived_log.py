"""One log out of two: old events in the archive, new ones in the store."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from contex_server.kernel import event_codec
from contex_server.kernel.byte_budget import ByteBudget
from contex_server.kernel.model import (
    Append,
    Appended,
    Entry,
    EventFilter,
    Proven,
    Range,
    Sequence,
    body_bytes,
)
from contex_server.log.port import (
    Bounds,
    EventLog,
    Follower,
    Part,
)
from contex_server.log.state import SnapshotInfo, SnapshotReader
from contex_server.log.store import Store
from contex_server.tiers.archive import Archive


class ArchivedLog(EventLog):
    """The log of a store and its archive.

    Events are archived before they are removed from the store, and both only from the old end.
    So a read of the store is complete from any event on that had not been archived when that
    was asked afterwards; older events are read from the archive.
    """

    def __init__(self, store: Store, archive: Archive) -> None:
        self._events = store.events
        self._store = store.archive
        self._archive = archive

    @property
    def reading(self) -> ByteBudget:
        return self._events.reading

    def append(self, append: Append) -> Coroutine[Any, Any, Appended]:
        return self._events.append(append)  # Awaited by the caller: no frame of its own.

    async def read_part(self, project: str, span: Range, count: int, max_bytes: int) -> Part:
        read = self._read_backwards if span.backwards else self._read_forwards
        return await read(project, span, count, max_bytes)

    async def _read_forwards(self, project: str, span: Range, count: int, max_bytes: int) -> Part:
        part, archived = await self._store.read_tail(project, span, count, max_bytes)
        if archived <= span.after:
            return part
        within = Range(span.after, min(span.until, archived))
        old = await self._archive.read_part(project, within, count, max_bytes)
        if not old.ended:
            return old
        fresh = [entry for entry in part.entries if entry.sequence > archived]
        both = old.entries + fresh
        if not both and not part.ended:
            # Of all that was read, the archive has nothing any more.
            rest = span.rest(max(part.entries[-1].sequence, archived))
            return await self._events.read_part(project, rest, count, max_bytes)
        return Part(both[:count], ended=part.ended and len(both) <= count).within(max_bytes)

    async def _read_backwards(self, project: str, span: Range, count: int, max_bytes: int) -> Part:
        part = await self._events.read_part(project, span, count, max_bytes)
        entries, room = part.entries, max_bytes - part.size
        if not part.ended or len(entries) == count or (entries and room <= 0):
            return part._replace(ended=False)
        rest = span.rest(entries[-1].sequence) if entries else span
        old = await self._archive.read_part(project, rest, count - len(entries), room)
        return Part(entries + old.entries, old.ended)

    async def narrow(self, project: str, span: Range, event_filter: EventFilter) -> Range:
        return await self._archive.narrow(project, span, event_filter)

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        requested = list(sequences)
        archived = self._archive.known(project)
        old = [s for s in requested if s <= archived]
        by_sequence = await self._archive.get(project, old) if old else {}
        missing = [s for s in requested if s not in by_sequence]
        if missing:
            entries = await self._events.get(project, missing)
            by_sequence |= {entry.sequence: entry for entry in entries if entry is not None}
            # What has been archived and trimmed since.
            late = [s for s in missing if s > archived and s not in by_sequence]
            if late:
                by_sequence |= await self._archive.get(project, late)
        return [by_sequence.get(s) for s in requested]

    async def bounds(self, project: str) -> Bounds:
        bounds = await self._events.bounds(project)
        archived = await self._store.archived(project)
        if archived.first is None:
            return bounds
        tail = bounds.tail
        if tail == archived.last and not isinstance(tail, Proven):
            tail = Proven.of(tail)  # The store has let go of its event.
        return bounds._replace(
            tail=tail,
            first=archived.first,
            trimmed=archived.removed > 0,
            length=bounds.added - archived.removed,
        )

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        entries = await self._events.history(project, sequence, count, max_bytes)
        max_bytes -= body_bytes(entries)
        if len(entries) >= count or max_bytes <= 0:
            return entries
        before = event_codec.decode(entries[-1]).previous_sequence if entries else sequence
        if before is None:
            return entries
        count -= len(entries)
        return entries + await self._archive.history(project, before, count, max_bytes)

    def home(self, project: str) -> str:
        return self._events.home(project)

    def follower(self) -> Follower:
        return self._events.follower()


class ArchivedSnapshots(SnapshotReader):
    """The snapshots of a store and its archive."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self._store = store.snapshots
        self._archive = archive

    async def before(self, project: str, until: Sequence) -> SnapshotInfo | None:
        info = await self._store.before(project, until)
        return info or await self._archive.snapshot_before(project, until)

    async def after(self, project: str, after: Sequence, count: int) -> list[SnapshotInfo]:
        fresh = await self._store.after(project, after, count)
        old = await self._archive.snapshots(project, after, count)
        both = {info.sequence: info for info in (*old, *fresh)}
        return [both[sequence] for sequence in sorted(both)][:count]

    async def get(self, project: str, sequence: Sequence) -> bytes | None:
        snapshot = await self._store.get(project, sequence)
        return await self._archive.snapshot(project, sequence) if snapshot is None else snapshot

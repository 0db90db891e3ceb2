"""Writes segments of the archive: stored and read back first, then recorded in the store.

If the process stops halfway, at worst an orphaned object is left, which the next process to hold
the task deletes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from contex_server.kernel import event_codec
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import SEALED_TAG, Entry
from contex_server.log.archive import Archived, ArchiveStore, SegmentRecord
from contex_server.log.buckets import target_project
from contex_server.projects.archive_task import ArchiveTask
from contex_server.projects.unrecorded import STAGED
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_keys import ArchivedKeys
from contex_server.tiers.objects import archive_unavailable
from contex_server.tiers.sealer import key_id_of
from contex_server.tiers.segment import SegmentBuilder

SNAPSHOT_EVENTS = 5_000
"""The least number of events between two snapshots in a segment."""
_SEALED = bytes([SEALED_TAG])


class NewSegment:
    """The next segment of a project, while it is built; `subjects` holds an event for each key
    that events of the segment are sealed with."""

    def __init__(self, project: str, archived: Archived) -> None:
        self.archived = archived
        self.builder = SegmentBuilder(target_project(project), archived.segments, archived.digest)
        self.subjects: dict[bytes, Entry] = {}

    def add(self, entries: list[Entry], contents: list[tuple[str, str]]) -> None:
        """Adds events, each with its `event_codec.contents`."""
        for entry in [entry for entry in entries if entry.body[:1] == _SEALED]:
            self.subjects.setdefault(key_id_of(entry), entry)
        self.builder.add(entries, contents)


@dataclass(frozen=True, slots=True)
class SegmentWriter:
    """Writes the segments of all projects, for the process that holds the `ArchiveTask`.

    Every method may raise `ContexError` with STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE or
    ARCHIVE_DAMAGED.

    Attributes:
        events: A segment is full at this number of events ...
        size: ... or of bytes.
    """

    store: ArchiveStore
    archive: Archive
    keys: ArchivedKeys
    task: ArchiveTask
    events: int
    size: int

    def is_full(self, events: int, size: int) -> bool:
        """Whether this much fills a segment."""
        return events >= self.events or size >= self.size

    async def write(self, project: str, new: NewSegment) -> SegmentRecord | None:
        """Stores a segment and records it.

        Returns:
            The record; None if another process holds the task by now, and does the same.
        """
        archived = new.archived
        sealed = await asyncio.to_thread(new.builder.seal)
        # Recorded before anything is stored in it, so that orphans are found.
        directory = archived.directory or await self._new_directory(project)
        await self.keys.keep(project, directory, new.subjects)
        name = f"{directory}/{archived.segments:08d}-{uuid4().hex[:8]}.seg"
        record = await self.archive.store(sealed, name)
        reached("archive-recording")
        claims = self.task.claims
        mine = await self.task.claim(project, afresh=True)
        if not mine or not await self.store.add_segment(project, claims.owner, directory, record):
            claims.lost(project)
            await self.archive.objects.delete(name)
            return None
        reached("archive-recorded")
        return record

    async def rewrite(
        self, project: str, record: SegmentRecord, change: Callable[[int, Entry], Entry]
    ) -> SegmentRecord | None:
        """Stores a segment, or the remains, once more with some events changed; keeps the task.

        Args:
            change: Given an event's place and itself, returns what stands there from now on: the
                very same entry where nothing changes. Called in another thread.

        Returns:
            The record, which the caller has to put in the place of the other; None if nothing
            changed.

        Raises:
            ContexError: Also ARCHIVE_UNAVAILABLE if another process holds the task by now.
        """
        index = await self.archive.index(record)
        replaces = (*index.replaces, record.digest)
        builder = SegmentBuilder(index.project, index.ordinal, index.previous, replaces)

        def add(entries: list[Entry]) -> bool:
            changed = [change(place, e) for place, e in enumerate(entries, builder.events)]
            builder.add(changed, list(map(event_codec.contents, changed)))
            return any(after is not before for before, after in zip(entries, changed, strict=True))

        fresh = False
        async for entries in self.archive.entries(record):
            fresh |= await asyncio.to_thread(add, entries)
            if not await self.task.claim(project):
                raise archive_unavailable("another process is working on it")
        if not fresh:
            return None
        for info, start in index.snapshots:
            data = await self.archive.objects.get_range(record.name, start, start + info.size)
            builder.add_snapshot(info, data)
        sealed = await asyncio.to_thread(builder.seal)
        name = f"{record.name.removesuffix('.seg').rpartition('-')[0]}-{uuid4().hex[:8]}.seg"
        return await self.archive.store(sealed, name)

    async def unmark_staged(self, project: str) -> None:
        """Removes the mark of a directory that belonged to no project, and is a project's now."""
        directory = (await self.store.archived(project)).directory
        if directory:
            await self.archive.objects.delete(f"{directory}/{STAGED}")

    async def drop_staged(self, project: str) -> None:
        """Deletes the objects of a staged project that is given up."""
        directory = (await self.store.archived(project)).directory
        if not directory:
            return
        mark = f"{directory}/{STAGED}"
        names = await self.archive.objects.list(f"{directory}/")
        for name in [*(names.keys() - {mark}), mark]:
            await self.archive.objects.delete(name)

    async def _new_directory(self, project: str) -> str:
        """Where the objects of a project go: a new directory each time it begins anew."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = target_project(project)
        proposed = f"{target}/{stamp}-{uuid4().hex[:6]}"
        if project != target:
            await self.archive.objects.put(f"{proposed}/{STAGED}", b"")
        return await self.store.archive_directory(project, proposed)

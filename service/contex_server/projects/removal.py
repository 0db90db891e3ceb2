"""Removes events for good, from the old end of the archive.

The state as of the first event that stays, and any later one, can still be read afterwards: the
events that it consists of are kept in a segment of their own, the remains, with a snapshot.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass
from uuid import uuid4

import structlog

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import SERVICE, Origin, Range, Sequence
from contex_server.log.archive import SegmentRecord
from contex_server.log.port import EventLog
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.log.tasks import Claims
from contex_server.projects.retention import Retention
from contex_server.state.reader import StateReader
from contex_server.state.snapshot import encode_snapshot
from contex_server.state.state import Selection
from contex_server.tiers.archive import Archive, Directory
from contex_server.tiers.segment import SegmentBuilder

log = structlog.get_logger(__name__)

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Removal:
    """Removes archived events.

    Every method may raise `ContexError` with STORE_UNAVAILABLE or ARCHIVE_UNAVAILABLE.
    """

    store: Store
    raw: EventLog
    archive: Archive
    states: StateReader

    async def expire(self, project: str, retention: Retention, claims: Claims) -> None:
        """Removes events that are older than the retention allows."""
        age_ms = (retention.archive_seconds or 0) * 1000
        bounds = await self.store.events.bounds(project)
        before = Sequence(max(0, bounds.now_ms - age_ms), 0)
        detail = f"retention: older than {retention.archive_seconds} s"
        await self.remove(project, claims, before, SERVICE, detail)

    async def remove(
        self, project: str, claims: Claims, before: Sequence, origin: Origin, detail: str
    ) -> int:
        """Removes the segments that end before a sequence, for the holder of the `ArchiveTask`.

        Returns:
            How many events were removed. Some before the sequence may stay, as segments are
            removed whole.
        """
        directory = await self.archive.directory(project)
        archived = directory.archived
        count = bisect_right(directory.lasts, before)
        removed = [record for record in directory.records[:count] if record.last < before]
        if not removed or archived.first is None:
            return 0
        following = [r.first for r in directory.records if r.ordinal > removed[-1].ordinal]
        if not following:
            entries = await self.store.events.read(project, Range(removed[-1].last), 1)
            following = [entry.sequence for entry in entries]
        if not following:
            return 0
        first = following[0]
        remains = await self._put_remains(project, directory, first)
        events = sum(record.events for record in removed)
        detail = f"removed {events} events before {first}: {detail}"
        action = encode_action(
            AuditAction.ADMINISTERED, origin, detail, sequence=first, count=events
        )
        reached("removal-recording")
        await claims.take(project, afresh=True)
        if not await self.store.archive.remove_segments(
            project, claims.owner, first, remains, archived.first, action
        ):
            await self.archive.objects.delete(remains.name)
            return 0
        reached("removal-recorded")
        log.warning("events_removed", project=project, events=events, first=str(first))
        if archived.remains is not None:
            removed.append(archived.remains)
        for record in removed:
            await self.archive.objects.delete(record.name)
        return events

    async def _put_remains(
        self, project: str, directory: Directory, first: Sequence
    ) -> SegmentRecord:
        """Stores the events that the state as of `first` consists of."""
        state = await self.states.at(project, first)
        keys = state.select(Selection(include_deleted=True))
        states = {key: latest for key in keys if (latest := state.get(key)) is not None}
        sequences = sorted({latest.sequence for latest in states.values()} | {first})
        builder = SegmentBuilder(project, directory.records[0].ordinal, "")
        for start in range(0, len(sequences), _BATCH):
            read = await self.raw.get(project, sequences[start : start + _BATCH])
            entries = [entry for entry in read if entry is not None]
            if len(entries) < len(read):
                raise ContexError(
                    Reason.ARCHIVE_DAMAGED, f"an event of the state as of {first} is missing"
                )
            contents = list(map(event_codec.contents, entries))
            await asyncio.to_thread(builder.add, entries, contents)
        data = await asyncio.to_thread(encode_snapshot, states)
        info = SnapshotInfo(first, builder.events, builder.body_bytes, len(states), len(data))
        builder.add_snapshot(info, data)
        sealed = await asyncio.to_thread(builder.seal)
        name = f"{directory.archived.directory}/remains-{first}-{uuid4().hex[:8]}.seg"
        return await self.archive.store(sealed, name)

"""Keeps the last revisions of each data key: removes the payloads of those before from the archive.

The events stay, without their payloads, so that no reader sees a gap. See docs/adr/0024.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel import event_codec
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import END_OF_TIME, SERVICE, Entry, Erasure, Sequence
from contex_server.log.archive import Archived, Compaction, SegmentRecord
from contex_server.log.store import Store
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.projects.segment_writer import SegmentWriter
from contex_server.tiers.archive import Directory

log = structlog.get_logger(__name__)

_FRESH = 8
"""A pass begins once one in this number of segments is new: so the archive is read this number of
times as fast as it grows."""
_KEYS = 1_000


def next_pass(archived: Archived, retention: Retention) -> Compaction | None:
    """The pass to go on with or to begin; None if nothing is due."""
    keep, before = retention.keep_revisions, archived.compaction
    if not keep or retention.legal_hold or not archived.events:
        return None
    if before is not None and before.keep == keep:
        if not before.is_over:
            return before
        fresh = archived.segments - before.segments
        if not fresh or fresh * _FRESH < before.looked:
            return None
    return Compaction(keep, archived.segments)


@dataclass(frozen=True, slots=True)
class Compactor:
    """Compacts archives, segment by segment."""

    store: Store
    retentions: RetentionStore
    segments: SegmentWriter

    async def compact(self, project: str) -> bool:
        """Compacts the next segment, for the holder of the `ArchiveTask`.

        Returns:
            Whether there are more segments to look at.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE, ARCHIVE_DAMAGED.
        """
        # As it is stored first: the store refuses what was decided by one that was replaced since.
        stored = await self.store.projects.retention(project)
        retention = await self.retentions.of(project)
        directory = await self.segments.archive.directory(project)
        compaction = next_pass(directory.archived, retention)
        if compaction is None:
            return False
        left = _left(directory, compaction)
        compaction = compaction._replace(
            looked=compaction.looked + len(left[:1]),
            last=left[0][0] if len(left) > 1 else END_OF_TIME,
        )
        places: set[int] = set()
        replacement, action = None, b""
        if left:
            _, record = left[0]
            places = await self._superseded(project, record, compaction.keep)
            if places:
                rule, replacement = await self._remove(project, record, places, compaction.keep)
                action = _action(record, len(places), rule)
        reached("compacting-segment")
        task, objects = self.segments.task, self.segments.archive.objects
        mine = await task.claim(project, afresh=True)
        if not mine or not await self.store.archive.compact(
            project, task.claims.owner, stored, compaction, replacement, len(places), action
        ):
            if replacement is not None:
                await objects.delete(replacement[1].name)
            return False
        reached("compacted-segment")
        if replacement is not None:
            await objects.delete(replacement[0].name)
            ordinal = replacement[0].ordinal
            log.info("compacted", project=project, segment=ordinal, events=len(places))
        return not compaction.is_over

    async def _superseded(self, project: str, record: SegmentRecord, keep: int) -> set[int]:
        """The places of the events to lose their payloads: `keep` later ones of the same key, or
        more, exist."""
        archive = self.segments.archive
        keys = (await archive.index(record)).keys
        newest: dict[str, int] = {}
        for start in range(0, len(keys), _KEYS):
            latest = await self.store.state.latest(project, keys[start : start + _KEYS])
            newest.update(
                (key, state.revision - keep)
                for key, state in latest.items()
                if state.revision > keep
            )
        places: set[int] = set()
        if newest:
            at = 0
            async for entries in archive.entries(record):
                places |= await asyncio.to_thread(_places, entries, at, newest)
                at += len(entries)
                await self.segments.task.claim(project)
        return places

    async def _remove(
        self, project: str, record: SegmentRecord, places: set[int], keep: int
    ) -> tuple[str, tuple[SegmentRecord, SegmentRecord] | None]:
        """Stores a segment without the payloads of some events; returns the rule that says so, and
        the segment before and after."""
        rule = f"retention: keeps the last {f'{keep} revisions' if keep > 1 else 'revision'}"
        erasure = Erasure((await self.store.events.bounds(project)).now_ms, "", rule)

        def remove(place: int, entry: Entry) -> Entry:
            return event_codec.erase(entry, erasure) if place in places else entry

        replaced = await self.segments.rewrite(project, record, remove)
        return rule, None if replaced is None else (record, replaced)


def _action(record: SegmentRecord, events: int, rule: str) -> bytes:
    """What the audit says."""
    detail = f"removed the payloads of {events} events up to {record.last}: {rule}"
    return encode_action(
        AuditAction.ADMINISTERED, SERVICE, detail, sequence=record.last, count=events
    )


def _left(directory: Directory, compaction: Compaction) -> list[tuple[Sequence, SegmentRecord]]:
    """What a pass has not looked at, in order, each with the `Compaction.last` that it leads to."""
    # The remains end with the first event of the segments.
    parts = [(record.last.prev(), record) for record in directory.remains]
    parts += [(r.last, r) for r in directory.records if r.ordinal < compaction.segments]
    return [(end, record) for end, record in parts if end > compaction.last]


def _places(entries: list[Entry], start: int, newest: dict[str, int]) -> set[int]:
    """The places of events that have something to remove, and of their key at most the revision
    that `newest` names; the first entry is at `start`."""
    places = set()
    for place, entry in enumerate(entries, start):
        links = event_codec.links(entry)
        if 0 < links.revision <= newest.get(links.data_key, 0) and event_codec.has_content(entry):
            places.add(place)
    return places

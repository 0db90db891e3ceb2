"""Restores from the archive what the store has lost.

A segment names its project, its number, and the one before it: so the archive alone is enough to
restore a project up to its newest segment. One that is damaged, or holds what no import could
bring, ends what is restored: the project stands as of the segment before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import structlog

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.event_rules import check_place
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import SERVICE, Entry, Proven, Sequence
from contex_server.log.archive import Archived, SegmentRecord
from contex_server.log.buckets import target_project
from contex_server.log.port import Bounds
from contex_server.log.tasks import Claims
from contex_server.log.transfer import Restored
from contex_server.projects.archive_task import TASK
from contex_server.projects.archiver import Archiver
from contex_server.tiers.archive import Archive
from contex_server.tiers.segment import SegmentIndex
from contex_server.tiers.storage import Storage

log = structlog.get_logger(__name__)

_BATCH_EVENTS = 1_000
_HOLD_MS = 30_000
SET_ASIDE = ".aside"


@dataclass(frozen=True, slots=True)
class UnrecordedSegments:
    """Segments that the store does not know of, in order.

    Attributes:
        empty: Whether the store knows nothing of the project.
        continues: Whether they go on from where the store's log ends. Otherwise that has other
            events in their place, and they can't be restored.
        refused: The first one that can't be restored, and why; `records` are those before.
    """

    directory: str
    records: tuple[SegmentRecord, ...]
    empty: bool
    continues: bool = True
    refused: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """Restores projects; `archiver` must not archive meanwhile.

    Every method may raise `ContexError` with STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE or
    ARCHIVE_DAMAGED; restoring also with PROJECT_NOT_EMPTY if somebody else appends.
    """

    storage: Storage
    archiver: Archiver

    @property
    def _archive(self) -> Archive:
        return self.archiver.segments.archive

    async def find_unrecorded(self, project: str) -> UnrecordedSegments | None:
        """Finds and checks segments with events that the log does not have, and those before them
        that the store does not know of; None if there are none."""
        finder = self.archiver.task.unrecorded
        found = await finder.find(project)
        archived, bounds = found.archived, found.bounds
        for directory in found.directories:
            described, damaged = list[tuple[SegmentIndex, SegmentRecord]](), ""
            for name in found.names[directory]:
                segment = await finder.described(found, name)
                if segment is None:
                    damaged = damaged or name
                elif segment[1].last > bounds.deleted:
                    described.append(segment)
            newest = [record for _, record in described]
            while newest and not await finder.is_lost(project, newest[-1].last):
                newest.pop()
            if not newest:
                continue  # Some were stored twice.
            foreign = archived.directory not in ("", directory)
            chain = _chain(described, *((0, "") if foreign else _end_of(archived)))
            lost = UnrecordedSegments(directory, tuple(chain), not bounds.exists)
            if damaged:
                lost = replace(lost, refused=(damaged, "it is damaged"))
            elif not chain or foreign or not await self._continues(chain, bounds, archived):
                return replace(lost, records=tuple(newest), continues=False)
            sound = await self._sound(lost, bounds.now_ms)
            continues = await self._continues(sound.records, bounds, archived)
            return replace(sound, continues=continues or not sound.records)
        return None

    async def _sound(self, lost: UnrecordedSegments, now_ms: int) -> UnrecordedSegments:
        """Those that can be restored."""
        sound = list[SegmentRecord]()
        for record in lost.records:
            problem = await self._problem(record, now_ms)
            if problem:
                log.warning("segment_refused", object=record.name, problem=problem)
                return replace(lost, records=tuple(sound), refused=(record.name, problem))
            sound.append(record)
        return lost

    async def set_aside(self, project: str, lost: UnrecordedSegments) -> None:
        """Keeps segments that the store does not know of under names that nothing reads."""
        objects = self._archive.objects
        async with self.archiver.task.exclusive(project, sweep=False):
            found = await self.archiver.task.unrecorded.find(project)
            for name in found.names.get(lost.directory, ()):
                await objects.put(name + SET_ASIDE, await objects.get(name))
                await objects.delete(name)
                log.warning("segment_set_aside", project=project, object=name)

    async def _continues(
        self, chain: SequenceOf[SegmentRecord], bounds: Bounds, archived: Archived
    ) -> bool:
        """Whether the store's log is the beginning of what the segments have."""
        tail = bounds.tail
        if tail <= max(archived.last, bounds.deleted):
            return True
        for record in chain:
            if record.first <= tail <= record.last:
                async for entries in self._archive.entries(record):
                    found = [entry for entry in entries if entry.sequence == tail]
                    if found and isinstance(tail, Proven):
                        return event_codec.proof(found[0]) in (b"", tail.proof)
        return False

    async def _problem(self, record: SegmentRecord, now_ms: int) -> str:
        """Why a segment can't be restored; "" if it can.

        Only what would keep the project from being published to and read: limits that are
        settings, and revisions with gaps, were accepted when the events were published.
        """
        last = Sequence(0, 0)
        try:
            async for entries in self._archive.entries(record):
                for entry in entries:
                    event = event_codec.decode(entry)
                    check_place(event, now_ms)
                    if event.sequence <= last:
                        return f"{event.sequence} stands after {last}"
                    last = event.sequence
                await asyncio.sleep(0)
        except ContexError as error:
            if error.reason not in (Reason.INVALID_FIELD, Reason.ARCHIVE_DAMAGED):
                raise
            return f"after {last}: {error.message}"
        return ""

    async def recover(self, project: str, ahead: UnrecordedSegments) -> None:
        """Restores the events of segments, and records the segments.

        A project that the store has lost is staged out of sight and becomes visible in one
        step.
        """
        if not ahead.empty:
            async with self.archiver.task.exclusive(project, sweep=False):
                await self._restore(project, ahead, self.archiver.task.claims, staged=False)
            return
        staged = f"{project}~recovery"
        claims = Claims(self.storage.store.tasks, TASK, hold_ms=_HOLD_MS)
        if not await claims.take(staged):
            raise ContexError(Reason.IMPORT_IN_PROGRESS, "it is being recovered already")
        try:
            await self.storage.store.transfer.drop_import(staged, [])
            await self._restore(staged, ahead, claims, staged=True)
            reached("recovery-committing")
            detail = f"taken over from the archive, {ahead.directory}"
            last, count = ahead.records[-1].last, sum(record.events for record in ahead.records)
            action = encode_action(
                AuditAction.ADMINISTERED, SERVICE, detail, sequence=last, count=count
            )
            if not await self.storage.store.transfer.commit_import(project, staged, [], action):
                raise ContexError(Reason.PROJECT_NOT_EMPTY, "the project has events by now")
        finally:
            await claims.give_back(staged)
        log.warning("recovered", project=project, last=str(last))

    async def _restore(
        self, project: str, ahead: UnrecordedSegments, claims: Claims, *, staged: bool
    ) -> None:
        if await self.archiver.segments.keys.bring_back(project, ahead.directory):
            await self._encrypt(target_project(project))
        for record in ahead.records:
            await self.restore_segment(project, record, archived=staged)
            if not await claims.take(project):
                raise ContexError(Reason.IMPORT_IN_PROGRESS, "it is being recovered already")
            # If the first segments are missing, they were removed.
            removed = min(record.ordinal, 1) if staged else None
            if not await self.storage.store.archive.add_segment(
                project, claims.owner, ahead.directory, record, removed=removed
            ):
                raise ContexError(
                    Reason.ARCHIVE_DAMAGED,
                    f"segment {record.ordinal} does not follow what the store knows",
                    metadata={"object": record.name},
                )

        if staged:
            for name, size in (await self._archive.objects.list(f"{ahead.directory}/")).items():
                if name.rpartition("/")[2].startswith("remains-"):
                    _, remains = await self._archive.describe(name, size)
                    if remains.last == ahead.records[0].first:
                        await self.storage.store.archive.replace_remains(
                            project, claims.owner, remains
                        )

    async def _encrypt(self, project: str) -> None:
        """Encrypts a project whose archived events are encrypted: the archive has no settings."""
        if not await self.storage.store.keys.is_encrypted(project):
            detail = "turned encryption on: the events in the archive are encrypted"
            action = encode_action(AuditAction.ADMINISTERED, SERVICE, detail)
            await self.storage.encryption.change(project, enabled=True, action=action)

    async def restore_segment(self, project: str, record: SegmentRecord, *, archived: bool) -> None:
        """Restores the events of a segment that follow the end of a project; see
        `TransferStore.restore`."""
        tail = (await self.storage.store.events.bounds(project)).tail
        batch: list[Restored] = []

        async def restore() -> None:
            nonlocal tail, batch
            if not await self.storage.store.transfer.restore(
                project, tail, batch, archived=archived
            ):
                raise ContexError(Reason.PROJECT_NOT_EMPTY, "somebody publishes to it")
            tail, batch = Entry(batch[-1].id, b"").sequence, []

        async for entries in self._archive.entries(record):
            fresh = [entry for entry in entries if entry.sequence > tail]
            # Events stay sealed; their links are those of the opened ones.
            opened = await self.storage.sealer.open(project, fresh)
            batch += map(Restored.of, fresh, map(event_codec.links, opened))
            if len(batch) >= _BATCH_EVENTS:
                await restore()
            await asyncio.sleep(0)
        if batch:
            await restore()


def _end_of(archived: Archived) -> tuple[int, str]:
    """The number of the next segment, and the digest that it names."""
    return archived.segments, archived.digest


def _chain(
    segments: list[tuple[SegmentIndex, SegmentRecord]], ordinal: int, digest: str
) -> list[SegmentRecord]:
    """The segments that follow one another from a number on.

    Of two with the same number, one was stored and never recorded. Both hold true events; the
    next segment names the one that was recorded.
    """
    by_ordinal: dict[int, list[tuple[SegmentIndex, SegmentRecord]]] = {}
    for index, record in segments:
        by_ordinal.setdefault(index.ordinal, []).append((index, record))
    chain: list[SegmentRecord] = []
    if not by_ordinal:
        return chain
    known = {digest}
    first = min(by_ordinal)
    if ordinal == 0:
        ordinal = first  # The ones before were removed for good.
        known = {index.previous for index, _ in by_ordinal[first]}
    while ordinal in by_ordinal:
        following = {index.previous for index, _ in by_ordinal.get(ordinal + 1, [])}
        candidates = [pair for pair in by_ordinal[ordinal] if pair[0].previous in known]
        if not candidates:
            break
        index, record = max(
            candidates,
            key=lambda pair: (
                bool({pair[1].digest, *pair[0].replaces} & following),
                pair[1].events,
            ),
        )
        chain.append(record)
        known = {record.digest, *index.replaces}
        ordinal += 1
    return chain

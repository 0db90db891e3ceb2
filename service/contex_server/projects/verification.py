"""Reads a project end to end, and compares what is derived from its events with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from contex_server.inbox.verification import DeliveryVerification
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import (
    BEGINNING,
    SERVICE_TYPES,
    Entry,
    KeyState,
    Range,
    Sequence,
)
from contex_server.kernel.slices import sliced
from contex_server.log.archive import SegmentRecord
from contex_server.log.expiry import Revision
from contex_server.log.pages import pages
from contex_server.log.port import Bounds
from contex_server.log.state import SnapshotInfo
from contex_server.match.agent_codec import AgentDamaged, decode_agent
from contex_server.match.service_events import check_service_event
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.encoding import unpack_finite
from contex_server.projects.recovery import Recovery, UnrecordedSegments
from contex_server.projects.retention import Retention
from contex_server.state.fold import fold_entries, key_state_of, read_current_state
from contex_server.state.moments import rfc3339
from contex_server.state.snapshot import Snapshot, SnapshotDamaged, decode_snapshot
from contex_server.tiers.archive import Archive
from contex_server.tiers.objects import ObjectMissing
from contex_server.tiers.segment import SegmentDamaged, check
from contex_server.tiers.storage import Storage

_PAGE_EVENTS = 2_000
_SNAPSHOTS = 100_000
_BATCH = 500
_READ = 32
"""Events read together for their texts, however large they are."""
_STATE_ATTEMPTS = 5


class FindingKind(IntEnum):
    """The numbers are those of `contex.v1.FindingKind`."""

    SEGMENT = 1
    ARCHIVE_AHEAD = 2
    EVENT = 3
    STATE = 4
    SNAPSHOT = 5
    COUNTER = 6
    VECTOR = 7
    DELIVERY = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference; see `contex.v1.Finding`."""

    kind: FindingKind
    place: str
    detail: str
    repairable: bool = False
    repaired: bool = False


@dataclass(slots=True)
class Summary:
    """What was verified; see `contex.v1.VerifySummary`."""

    as_of_sequence: str = ""
    event_count: int = 0
    segment_count: int = 0
    snapshot_count: int = 0
    data_key_count: int = 0
    finding_count: int = 0
    repaired_count: int = 0
    delivery_count: int = 0


class VerifyProgress(NamedTuple):
    """How far a verification has come."""

    events: int
    total: int
    deliveries: int
    finding: Finding | None = None
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """Verifies projects; `recovery` is None without an archive."""

    storage: Storage
    embeddings: Embeddings
    recovery: Recovery | None
    deliveries: DeliveryVerification

    async def verify(
        self,
        project: str,
        *,
        repair: bool,
        set_aside: bool = False,
        all_deliveries: bool = False,
    ) -> AsyncGenerator[VerifyProgress, None]:
        """Reads everything, and reports differences as they are found.

        Args:
            repair: Whether to restore what can be restored.
            set_aside: Whether to do without archived events that the store does not know of.
            all_deliveries: Whether to judge every delivery in the inboxes of agents, not only some.
        """
        run = _Run(self, project, repair, set_aside, all_deliveries)
        summary = run.summary
        async with aclosing(run.findings()) as findings:
            async for finding in findings:
                if finding is not None:
                    summary.finding_count += 1
                    summary.repaired_count += finding.repaired
                yield VerifyProgress(
                    summary.event_count, run.total, summary.delivery_count, finding
                )
        yield VerifyProgress(
            summary.event_count, run.total, summary.delivery_count, summary=summary
        )


class _Run:
    """One verification of a project.

    Attributes:
        summary: What was verified so far.
        total: How many events there are; 0 until that is known.
    """

    def __init__(
        self,
        of: Verification,
        project: str,
        repair: bool,
        set_aside: bool,
        all_deliveries: bool,
    ) -> None:
        self._storage = of.storage
        self._store = of.storage.store
        self._log = of.storage.log
        self._embeddings = of.embeddings
        self._recovery = of.recovery
        self._project = project
        self._repair = repair
        self._set_aside = set_aside
        self._deliveries = of.deliveries
        self._all_deliveries = all_deliveries
        self.summary = Summary()
        self.total = 0
        self._state: dict[str, KeyState] = {}
        """What the events read so far lead to."""
        self._valid_until: dict[str, int | None] = {}
        """Of the keys of these events, until when each is valid."""
        self._damaged = set[Sequence]()
        """Events that can't be read; what the store knows of them is all that is known."""
        self._base = BEGINNING
        """The sequence of the snapshot that stands for removed events."""

    async def findings(self) -> AsyncGenerator[Finding | None, None]:
        """The differences; None where there is only progress to report."""
        if self._recovery is not None:
            unrecorded = await self._recovery.find_unrecorded(self._project)
            if unrecorded is not None and (unrecorded.records or self._set_aside):
                yield await self._unrecorded_segments(self._recovery, unrecorded)
            if unrecorded is not None and unrecorded.refused is not None:
                yield Finding(FindingKind.SEGMENT, *unrecorded.refused)
        readable = True
        if self._storage.archive is not None:
            async for finding in self._segments(self._storage.archive):
                readable = False
                yield finding
        bounds = await self._storage.raw.bounds(self._project)
        self.summary.as_of_sequence = str(bounds.tail)
        if not readable:
            return
        async for progress in self._events():
            yield progress
        for finding in await self._current_state(complete=not bounds.trimmed):
            yield finding
        for finding in await self._vectors():
            yield finding
        for finding in await self._settings():
            yield finding
        judged = self._deliveries.verify(self._project, everything=self._all_deliveries)
        async with aclosing(judged):
            async for step in judged:
                self.summary.delivery_count = step.deliveries
                found = step.finding
                yield None if found is None else Finding(FindingKind.DELIVERY, *found)

    async def _unrecorded_segments(
        self, recovery: Recovery, unrecorded: UnrecordedSegments
    ) -> Finding:
        """Segments of the archive that the store does not know of."""
        records, place = unrecorded.records, unrecorded.directory
        many = f"{len(records)} segments up to {records[-1].last}" if records else "segments"
        detail = f"{many} are unknown to the store"
        if not unrecorded.continues:
            detail += ", which has other events in their place: set them aside"
        repaired = self._set_aside or (self._repair and unrecorded.continues)
        if self._set_aside:
            detail += "; they are kept, and are no part of the project any more"
            await recovery.set_aside(self._project, unrecorded)
        elif repaired:
            await recovery.recover(self._project, unrecorded)
        return Finding(FindingKind.ARCHIVE_AHEAD, place, detail, unrecorded.continues, repaired)

    async def _segments(self, archive: Archive) -> AsyncGenerator[Finding, None]:
        """Checks that every object is present, unchanged and in its place."""
        directory = await archive.directory(self._project)
        before: SegmentRecord | None = None
        digests: set[str] = set()
        """What the next segment may name as the one before; empty if unknown."""
        for record in directory.records:
            self.summary.segment_count += 1
            problem = ""
            try:
                data = await archive.objects.get(record.name)
                index = await asyncio.to_thread(check, data)
            except (ObjectMissing, SegmentDamaged) as error:
                digests = set()
                missing = isinstance(error, ObjectMissing)
                problem = "the object is missing" if missing else str(error)
            else:
                content = (index.ordinal, index.first, index.last, index.events)
                if content != (record.ordinal, record.first, record.last, record.events):
                    problem = "it is not the segment that was recorded"
                elif before is not None and (
                    (digests and index.previous not in digests)
                    or record.ordinal != before.ordinal + 1
                    or record.first <= before.last
                ):
                    problem = "it does not follow the segment before"
                digests = {record.digest, *index.replaces}
            if problem:
                yield Finding(FindingKind.SEGMENT, record.name, problem)
            before = record

    async def _events(self) -> AsyncGenerator[Finding | None, None]:
        """Folds the log up to its current end, and checks it and its snapshots."""
        project, summary = self._project, self.summary
        bounds = await self._storage.raw.bounds(project)
        self.total = bounds.length
        snapshots = await self._storage.snapshots.after(project, BEGINNING, _SNAPSHOTS)
        if bounds.trimmed and snapshots:
            first = await self._snapshot(snapshots[0].sequence)
            if first is not None:
                self._state.update(await asyncio.to_thread(first.states))
                self._base = snapshots[0].sequence
        last, pending = self._base, snapshots[::-1]
        source = pages(self._log, project, Range(self._base, bounds.tail), max_events=_PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                async for entry in sliced(page.entries):
                    sequence = entry.sequence
                    while pending and pending[-1].sequence < sequence:
                        yield await self._check_snapshot(pending.pop())
                    if sequence <= last:
                        yield Finding(FindingKind.EVENT, str(sequence), f"it stands after {last}")
                    last = sequence
                    summary.event_count += 1
                    finding = self._apply(entry, bounds)
                    if finding is not None:
                        yield finding
                yield None
        for info in reversed(pending):
            if info.sequence <= bounds.tail:
                yield await self._check_snapshot(info)
        if self._base == BEGINNING and summary.event_count != bounds.length:
            detail = f"{summary.event_count} events can be read, but {bounds.length} are counted"
            yield Finding(FindingKind.COUNTER, "event_count", detail)

    def _apply(self, entry: Entry, bounds: Bounds) -> Finding | None:
        """Updates the state; returns what is wrong with the revision of the event."""
        event = event_codec.decode(entry)
        key = event.data_key
        damage = None
        if event_codec.is_damaged(event):
            self._damaged.add(event.sequence)
            damage = Finding(FindingKind.EVENT, str(event.sequence), "it can't be read")
        elif event.event_type in SERVICE_TYPES and event.erased is None:
            try:
                check_service_event(event.event_type, event.payload)
            except ContexError as error:
                damage = Finding(FindingKind.EVENT, str(event.sequence), error.message)
        if not key:
            return damage
        before = self._state.get(key)
        revision, previous = (before.revision, before.sequence) if before else (0, None)
        self._state[key] = key_state_of(event)
        self._valid_until[key] = event.valid_until_ms
        unlinked = event.previous_sequence != previous and not bounds.trimmed
        if event.revision == revision + 1 and not unlinked:
            return damage
        detail = f"revision {event.revision} of {key} after {revision}"
        return Finding(FindingKind.EVENT, str(event.sequence), detail)

    async def _snapshot(self, sequence: Sequence) -> Snapshot | None:
        data = await self._storage.snapshots.get(self._project, sequence)
        try:
            return None if data is None else await asyncio.to_thread(decode_snapshot, data)
        except SnapshotDamaged:
            return None

    async def _check_snapshot(self, info: SnapshotInfo) -> Finding | None:
        """Compares a snapshot with the state at its sequence."""
        self.summary.snapshot_count += 1
        sequence = info.sequence
        if sequence == self._base:
            return None
        snapshot = await self._snapshot(sequence)
        if snapshot is not None and self._damaged:
            return None  # It may know what the log has lost.
        if snapshot is not None and await asyncio.to_thread(_is_of, snapshot, self._state):
            return None
        in_store = await self._store.snapshots.get(self._project, sequence) is not None
        if self._repair and in_store:
            await self._store.snapshots.drop(self._project, sequence)
        detail = "it can't be read" if snapshot is None else "it is not the state at its sequence"
        repaired = self._repair and in_store
        return Finding(FindingKind.SNAPSHOT, str(sequence), detail, in_store, repaired)

    async def _current_state(self, *, complete: bool) -> list[Finding]:
        """Compares the state that the store keeps with the events, while more may come; `complete`
        says whether all events that there ever were are in the log."""
        project, summary, state = self._project, self.summary, self._state
        for _ in range(_STATE_ATTEMPTS):
            sequence, stored = await read_current_state(self._log, self._store.state, project)
            as_of = Sequence.parse(summary.as_of_sequence)
            span = Range(as_of, sequence)
            async for page in pages(self._log, project, span, max_events=_PAGE_EVENTS):
                summary.event_count += len(page.entries)
                fold_entries(state, page.entries)
                for link in map(event_codec.links, page.entries):
                    if link.data_key:
                        self._valid_until[link.data_key] = link.valid_until_ms
            for key, latest in stored.items():
                if latest.sequence in self._damaged:
                    state[key] = latest
                    self._valid_until.pop(key, None)
            summary.as_of_sequence, summary.data_key_count = str(sequence), len(state)
            wrong = await asyncio.to_thread(_differences, state, stored)
            if not complete:
                wrong = {key: expected for key, expected in wrong.items() if key in state}
            counters = await self._store.projects.counters(project)
            deleted = await asyncio.to_thread(_count_deleted, state)
            miscounted = complete and counters.deleted != deleted
            times = await self._store.expiry.times(project)
            untimely = await asyncio.to_thread(self._untimely, times)
            if (await self._store.events.bounds(project)).tail != sequence:
                continue  # Something was published in between.
            repaired = False
            if self._repair and (wrong or miscounted or untimely):
                repaired = await self._store.state.repair_state(
                    project, sequence, wrong, deleted if complete else None
                ) and await self._store.expiry.repair(project, sequence, untimely)
                if not repaired:
                    continue
            findings = []
            for key, expected in sorted(wrong.items()):
                detail = f"the store has {_text(stored.get(key))}, the log {_text(expected)}"
                findings.append(Finding(FindingKind.STATE, key, detail, True, repaired))
            for (key, _), unix_ms in sorted(untimely.items()):
                when = "lasts" if unix_ms is None else f"expires at {rfc3339(unix_ms)}"
                detail = f"by the log it {when}, by the store not"
                findings.append(Finding(FindingKind.STATE, key, detail, True, repaired))
            if miscounted:
                detail = f"{counters.deleted} are counted, but there are {deleted}"
                findings.append(
                    Finding(FindingKind.COUNTER, "deleted_key_count", detail, True, repaired)
                )
            return findings
        return []

    def _untimely(self, stored: dict[Revision, int]) -> dict[Revision, int | None]:
        """When the latest revisions expire, of those of which the store has another time."""
        return {
            (key, state.sequence): unix_ms
            for key, unix_ms in self._valid_until.items()
            if (state := self._state[key]).deleted is False
            and stored.get((key, state.sequence)) != unix_ms
        }

    async def _vectors(self) -> list[Finding]:
        """Checks that the vectors of the data are present."""
        project, vectors = self._project, self._store.match
        model = await self._embeddings.scoring_model_of(project)
        states = await asyncio.to_thread(_by_digest, self._state)
        digests = list(states)
        missing, damaged = set[bytes](), set[bytes]()
        for start in range(0, len(digests), _BATCH):
            batch = digests[start : start + _BATCH]
            packed = await vectors.vectors(project, model, batch)
            damaged |= await asyncio.to_thread(_damaged, packed)
            missing |= set(batch) - packed.keys()
        missing |= damaged
        if missing and self._repair:
            await vectors.drop_vectors(project, model, damaged)
            self._embeddings.forget(project)
            sequences = [states[digest].sequence for digest in missing]
            for start in range(0, len(sequences), _READ):
                entries = await self._log.get(project, sequences[start : start + _READ])
                events = [event_codec.decode(entry) for entry in entries if entry is not None]
                await self._embeddings.of_events(project, model, events)
        return [
            Finding(
                FindingKind.VECTOR,
                states[digest].data_key,
                f"its vector is {'damaged' if digest in damaged else 'missing'}",
                True,
                self._repair,
            )
            for digest in sorted(missing)
        ]

    async def _settings(self) -> list[Finding]:
        """Checks that registrations and retention can be read; what can't be is set aside."""
        project, findings = self._project, list[Finding]()
        after = ""
        while page := await self._store.agents.agents(project, after, _BATCH):
            after = page[-1].agent_id
            for stored in page:
                try:
                    decode_agent(stored.record)
                except AgentDamaged as error:
                    findings.append(
                        Finding(FindingKind.STATE, f"agent {stored.agent_id}", str(error))
                    )
        try:
            Retention.decode(await self._store.projects.retention(project))
        except ValueError as error:
            findings.append(Finding(FindingKind.STATE, "retention", str(error)))
        return findings


def _damaged(packed: Mapping[bytes, bytes]) -> set[bytes]:
    """The digests of encodings that can't be used."""
    damaged = set()
    for digest, encoding in packed.items():
        try:
            unpack_finite(encoding)
        except ValueError:
            damaged.add(digest)
    return damaged


def _is_of(snapshot: Snapshot, state: dict[str, KeyState]) -> bool:
    """Whether a snapshot is of a state."""
    same_size = len(snapshot) == len(state)
    return same_size and all(_is_same(snapshot.get(key), each) for key, each in state.items())


def _differences(
    expected: dict[str, KeyState], stored: dict[str, KeyState]
) -> dict[str, KeyState | None]:
    """What is expected of each key of which the store has something else."""
    return {
        key: expected.get(key)
        for key in expected.keys() | stored.keys()
        if expected.get(key) != stored.get(key)
    }


def _count_deleted(state: dict[str, KeyState]) -> int:
    return sum(each.deleted for each in state.values())


def _by_digest(state: dict[str, KeyState]) -> dict[bytes, KeyState]:
    """A datum of each text."""
    return {each.digest: each for each in state.values() if each.digest and not each.deleted}


def _is_same(one: KeyState | None, other: KeyState) -> bool:
    """Whether two states are the same; a digest may have been erased since."""
    return one is not None and one._replace(digest=other.digest) == other


def _text(state: KeyState | None) -> str:
    if state is None:
        return "nothing"
    return f"revision {state.revision} at {state.sequence}" + (", deleted" if state.deleted else "")

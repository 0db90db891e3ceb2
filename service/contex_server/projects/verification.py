"""Reading a project end to end, and comparing what is kept of it in several places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import structlog

from contex_server.kernel import event_codec
from contex_server.kernel.model import BEGINNING, KeyState, Sequence
from contex_server.log.pages import pages
from contex_server.log.store import Store
from contex_server.matching.embeddings import Embeddings
from contex_server.projects.recovery import Recovery
from contex_server.state.current_state import read_current_state
from contex_server.state.snapshot import Snapshot
from contex_server.state.snapshot_format import SnapshotDamaged, decode
from contex_server.tiers.archive import Archive
from contex_server.tiers.objects import ObjectMissing
from contex_server.tiers.segment import SegmentDamaged, check
from contex_server.tiers.tiers import Tiers

log = structlog.get_logger(__name__)

_PAGE_EVENTS = 2_000
_SNAPSHOTS = 100_000
_TOGETHER = 500


class FindingKind(IntEnum):
    """The numbers are those of `contex.v1.FindingKind`."""

    SEGMENT = 1
    ARCHIVE_AHEAD = 2
    EVENT = 3
    STATE = 4
    SNAPSHOT = 5
    COUNTER = 6
    VECTOR = 7


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

    as_of: str = ""
    events: int = 0
    segments: int = 0
    snapshots: int = 0
    keys: int = 0
    findings: int = 0
    repaired: int = 0


class VerifyProgress(NamedTuple):
    """How far a verification is."""

    events: int
    total: int
    finding: Finding | None = None
    summary: Summary | None = None


class Verification:
    """Verifies projects.

    Args:
        store: The store, without the archive.
        tiers: Store and archive.
        embeddings: Makes vectors that are missing.
        archive: Where old events are; None where there is no archive.
        recovery: Takes over what only the archive has; None likewise.
    """

    def __init__(
        self,
        store: Store,
        tiers: Tiers,
        embeddings: Embeddings,
        archive: Archive | None,
        recovery: Recovery | None,
    ) -> None:
        self._store = store
        self._raw = tiers.raw
        self._seen = tiers.log
        self._snapshots = tiers.snapshots
        self._embeddings = embeddings
        self._archive = archive
        self._recovery = recovery

    async def verify(self, project: str, *, repair: bool) -> AsyncGenerator[VerifyProgress, None]:
        """Reads everything, and tells what differs as it is found.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        summary = Summary()
        events = total = 0
        steps = self._steps(project, repair, summary)
        async with aclosing(steps):
            async for step in steps:
                events, total = step.events, step.total
                if step.finding is not None:
                    summary.findings += 1
                    summary.repaired += step.finding.repaired
                yield step
        yield VerifyProgress(events, total, summary=summary)

    async def _steps(
        self, project: str, repair: bool, summary: Summary
    ) -> AsyncGenerator[VerifyProgress, None]:
        async for finding in self._ahead(project, repair):
            yield VerifyProgress(0, 0, finding)
        whole = True
        async for finding in self._segments(project, summary):
            whole = False
            yield VerifyProgress(0, 0, finding)
        bounds = await self._raw.bounds(project)
        summary.as_of = str(bounds.tail)
        if not whole:
            return
        state: dict[str, KeyState] = {}
        async for step in self._events(project, repair, state, summary):
            yield step
        for finding in await self._state(project, repair, state, summary, whole=not bounds.trimmed):
            yield VerifyProgress(summary.events, bounds.length, finding)
        for finding in await self._vectors(project, repair, state):
            yield VerifyProgress(summary.events, bounds.length, finding)

    # -- the archive -----------------------------------------------------------------

    async def _ahead(self, project: str, repair: bool) -> AsyncGenerator[Finding, None]:
        """What the archive has and the store does not know of."""
        if self._recovery is None:
            return
        ahead = await self._recovery.find_unrecorded(project)
        if ahead is None:
            return
        finding = Finding(
            FindingKind.ARCHIVE_AHEAD,
            ahead.directory,
            f"{len(ahead.records)} segments up to {ahead.records[-1].last} are not known here",
            repairable=ahead.takeable,
        )
        if repair and ahead.takeable:
            await self._recovery.recover(project, ahead)
            finding = Finding(finding.kind, finding.place, finding.detail, True, True)
        yield finding

    async def _segments(self, project: str, summary: Summary) -> AsyncGenerator[Finding, None]:
        """Every object is there, as it was written, and in its place."""
        if self._archive is None:
            return
        directory = await self._archive.directory(project)
        before = None
        names: set[str] = set()
        """By which the segment that follows may name the one before; none known: by any."""
        for record in directory.records:
            summary.segments += 1
            problem = ""
            try:
                data = await self._archive.objects.get(record.name)
                index = await asyncio.to_thread(check, data)
            except ObjectMissing:
                names = set()
                problem = "the object is missing"
            except SegmentDamaged as error:
                names = set()
                problem = str(error)
            else:
                said = (index.ordinal, index.first, index.last, index.events)
                if said != (record.ordinal, record.first, record.last, record.events):
                    problem = "it is another segment than was recorded"
                elif before is not None and (
                    (names and index.previous not in names)
                    or record.ordinal != before.ordinal + 1
                    or record.first <= before.last
                ):
                    problem = "it does not follow the segment before"
                names = {record.digest, *index.replaces}
            if problem:
                yield Finding(FindingKind.SEGMENT, record.name, problem)
            before = record

    # -- the log ---------------------------------------------------------------------

    async def _events(
        self, project: str, repair: bool, state: dict[str, KeyState], summary: Summary
    ) -> AsyncGenerator[VerifyProgress, None]:
        """Folds the log into `state`, up to its end as it is when that is reached."""
        bounds = await self._raw.bounds(project)
        snapshots = await self._snapshots.after(project, BEGINNING, _SNAPSHOTS)
        base = BEGINNING
        if bounds.trimmed and snapshots:
            first = await self._snapshot(project, snapshots[0].sequence)
            if first is not None:
                state.update({key: first.at(i) for i, key in enumerate(first.keys)})
                base = snapshots[0].sequence
        last, at = base, 0
        source = pages(self._seen, project, base, bounds.tail, max_events=_PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                for entry in page.entries:
                    sequence = entry.sequence
                    while at < len(snapshots) and snapshots[at].sequence < sequence:
                        summary.snapshots += 1
                        finding = await self._compared(
                            project, repair, snapshots[at].sequence, state, base
                        )
                        if finding is not None:
                            yield VerifyProgress(summary.events, bounds.length, finding)
                        at += 1
                    if sequence <= last:
                        detail = f"it stands after {last}"
                        yield VerifyProgress(
                            summary.events,
                            bounds.length,
                            Finding(FindingKind.EVENT, str(sequence), detail),
                        )
                    last = sequence
                    summary.events += 1
                    event = event_codec.decode(entry)
                    if event.data_key:
                        before = state.get(event.data_key)
                        revision, previous = (
                            (before.revision, before.sequence) if before else (0, None)
                        )
                        unlinked = event.previous_sequence != previous
                        if event.revision != revision + 1 or (unlinked and not bounds.trimmed):
                            detail = (
                                f"revision {event.revision} of {event.data_key} after {revision}"
                            )
                            yield VerifyProgress(
                                summary.events,
                                bounds.length,
                                Finding(FindingKind.EVENT, str(sequence), detail),
                            )
                        latest = event_codec.key_state(entry)
                        assert latest is not None
                        state[event.data_key] = latest
                yield VerifyProgress(summary.events, bounds.length)
        for info in snapshots[at:]:
            if info.sequence <= bounds.tail:
                summary.snapshots += 1
                finding = await self._compared(project, repair, info.sequence, state, base)
                if finding is not None:
                    yield VerifyProgress(summary.events, bounds.length, finding)
        expected = bounds.length
        if base == BEGINNING and summary.events != expected:
            detail = f"{summary.events} events can be read, and there should be {expected}"
            yield VerifyProgress(
                summary.events, expected, Finding(FindingKind.COUNTER, "event_count", detail)
            )

    async def _snapshot(self, project: str, sequence: Sequence) -> Snapshot | None:
        data = await self._snapshots.get(project, sequence)
        try:
            return None if data is None else await asyncio.to_thread(decode, data)
        except SnapshotDamaged:
            return None

    async def _compared(
        self,
        project: str,
        repair: bool,
        sequence: Sequence,
        state: dict[str, KeyState],
        base: Sequence,
    ) -> Finding | None:
        """Compares a snapshot with what the events up to it come to."""
        if sequence == base:
            return None
        snapshot = await self._snapshot(project, sequence)
        same = snapshot is not None and len(snapshot) == len(state)
        if snapshot is not None and same:
            same = all(_alike(snapshot.get(key), found) for key, found in state.items())
        if same:
            return None
        in_store = await self._store.snapshots.get(project, sequence) is not None
        if repair and in_store:
            await self._store.snapshots.drop(project, sequence)
        detail = "it can't be read" if snapshot is None else "it is not the state at its sequence"
        return Finding(FindingKind.SNAPSHOT, str(sequence), detail, in_store, repair and in_store)

    # -- what is derived -------------------------------------------------------------

    async def _state(
        self,
        project: str,
        repair: bool,
        state: dict[str, KeyState],
        summary: Summary,
        *,
        whole: bool,
    ) -> list[Finding]:
        """Compares the state that the store keeps with the fold, which goes on meanwhile."""
        for _ in range(5):
            sequence, kept = await read_current_state(self._seen, self._store.state, project)
            async for page in pages(
                self._seen,
                project,
                Sequence.parse(summary.as_of),
                sequence,
                max_events=_PAGE_EVENTS,
            ):
                for entry in page.entries:
                    latest = event_codec.key_state(entry)
                    summary.events += 1
                    if latest is not None:
                        state[latest.data_key] = latest
            summary.as_of, summary.keys = str(sequence), len(state)
            wrong = {
                key: state.get(key)
                for key in state.keys() | kept.keys()
                if state.get(key) != kept.get(key) and (whole or key in state)
            }
            counters = await self._store.projects.counters(project)
            deleted = sum(found.deleted for found in state.values())
            counted = counters.deleted == deleted or not whole
            if (await self._store.events.bounds(project)).tail != sequence:
                continue  # something was published in between: once more
            repaired = False
            if repair and (wrong or not counted):
                right = deleted if whole else None
                repaired = await self._store.state.repair_state(project, sequence, wrong, right)
                if not repaired:
                    continue
            findings = [
                Finding(
                    FindingKind.STATE,
                    key,
                    f"the store has {_text(kept.get(key))}, the log comes to {_text(found)}",
                    True,
                    repaired,
                )
                for key, found in sorted(wrong.items())
            ]
            if not counted:
                detail = f"{counters.deleted} are counted, and {deleted} there are"
                findings.append(
                    Finding(FindingKind.COUNTER, "deleted_key_count", detail, True, repaired)
                )
            return findings
        return []

    async def _vectors(
        self, project: str, repair: bool, state: dict[str, KeyState]
    ) -> list[Finding]:
        """The vectors of the data are there."""
        model = await self._embeddings.model_of(project)
        of = {found.digest: found for found in state.values() if found.digest and not found.deleted}
        digests = list(of)
        missing: set[bytes] = set()
        for start in range(0, len(digests), _TOGETHER):
            some = digests[start : start + _TOGETHER]
            missing |= await self._store.match.missing_vectors(project, model, some)
        if missing and repair:
            self._embeddings.forget(project)
            entries = await self._seen.get(project, [of[digest].sequence for digest in missing])
            events = [event_codec.decode(entry) for entry in entries if entry is not None]
            await self._embeddings.of_events(project, model, events)
        return [
            Finding(FindingKind.VECTOR, of[digest].data_key, "its vector is missing", True, repair)
            for digest in sorted(missing)
        ]


def _alike(one: KeyState | None, other: KeyState) -> bool:
    """Whether two states agree; a digest may have been erased since."""
    return one is not None and (one.revision, one.sequence, one.deleted) == (
        other.revision,
        other.sequence,
        other.deleted,
    )


def _text(state: KeyState | None) -> str:
    if state is None:
        return "nothing"
    return f"revision {state.revision} at {state.sequence}" + (", deleted" if state.deleted else "")

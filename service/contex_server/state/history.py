"""The history of a datum: its events, newest first, along the links between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import takewhile, zip_longest
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, Entry, Event, KeyState, Sequence
from contex_server.kernel.scope import Scope
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.state.blame import Blame, BlamedPart, blame
from contex_server.state.patch import Patch, PatchOmitted, patch
from contex_server.state.snapshot_cache import SnapshotCache

_STEP_EVENTS = 1_000
_STEP_BYTES = 1024 * 1024
"""Approximate size of one step of a walk."""
_PAGE_BYTES = 8 * 1024 * 1024
"""Approximate size of what is read for a page, even if it holds no payloads."""
_BLAME_EVENTS = 10_000
_BLAME_BYTES = 64 * 1024 * 1024
_BLAME_S = 10.0
_WALK_REVISIONS = 64
"""A revision this close to a known one is walked to; others are searched by snapshots."""
_CHUNK = 50
_REVISION_BYTES = 64
"""What a revision takes besides event and patch."""
_INLINE_BYTES = 64 * 1024
"""Up to this size revisions are compared on the event loop, in less than 1 ms."""


class Revision(NamedTuple):
    """An event of a data key, stored and decoded, and its patch from the one before.

    Attributes:
        patch: None if not requested, for the first event, and next to a deletion.
    """

    entry: Entry
    event: Event
    patch: Patch | None = None

    @property
    def patch_bytes(self) -> int:
        """Size of its patch."""
        return self.patch.nbytes if self.patch else 0


class HistoryPage(NamedTuple):
    """Some revisions, newest first.

    Attributes:
        next: The next revision; None if there is none that can be read.
        trimmed: Whether there were older ones that can no longer be read.
    """

    revisions: list[Revision]
    next: Sequence | None
    trimmed: bool


class BlameResult(NamedTuple):
    """A datum's latest event, and which event set each part of it.

    Attributes:
        parts: Written out as they are taken, once.
        truncated: Whether a part may have been set earlier, or parts are left out.
    """

    newest: Revision
    parts: Iterator[BlamedPart]
    truncated: bool


@dataclass(frozen=True, slots=True)
class HistoryReader:
    """Reads the histories of data keys."""

    log: EventLog
    store: StateStore
    snapshots: SnapshotCache

    async def walk(
        self, project: str, start: Sequence, *, max_part: int = _STEP_EVENTS
    ) -> AsyncGenerator[list[Revision], None]:
        """The event at a sequence and the earlier ones of its key, newest first, in parts.

        Ends at the key's first event, or where the next one can no longer be read.
        """
        at: Sequence | None = start
        while at is not None:
            entries = await self.log.history(project, at, min(max_part, _STEP_EVENTS), _STEP_BYTES)
            if not entries:
                return
            part = [Revision(entry, event_codec.decode(entry)) for entry in entries]
            at = part[-1].event.previous_sequence
            yield part

    async def is_of(self, project: str, data_key: str, at: Sequence, scope: Scope) -> bool:
        """Whether a history can go on at a sequence: the caller may see everything, or the key that
        the event there has."""
        if scope.is_open:
            return True
        (entry,) = await self.log.get(project, [at])
        return scope.admits(data_key) and (
            entry is None or event_codec.decode(entry).data_key == data_key
        )

    async def page(
        self,
        project: str,
        start: Sequence,
        count: int,
        *,
        patches: bool,
        payloads: bool,
        max_bytes: int,
    ) -> HistoryPage:
        """A page of revisions, from the one at a sequence backwards.

        Args:
            patches: Whether to compare each with the one before.
            payloads: Whether payloads count for `max_bytes`; they are returned in any case.
            max_bytes: Total size of events and patches; a single revision may exceed it.
        """
        room = max_bytes if payloads else _PAGE_BYTES
        async with self.log.reading.held_for(room, project):
            return await self._page(project, start, count, room, patches, payloads, max_bytes)

    async def _page(
        self,
        project: str,
        start: Sequence,
        count: int,
        room: int,
        patches: bool,
        payloads: bool,
        max_bytes: int,
    ) -> HistoryPage:
        chain: list[Revision] = []
        size, cut = 0, False
        async for part in self.walk(project, start, max_part=count + 1):
            chain += part
            size += sum(len(link.entry.body) for link in part)
            cut = len(chain) > count or (size > room and len(chain) > 1)
            if cut:
                break
        del chain[count + 1 :]
        # The last one is only there for comparison, unless it is the end of the chain.
        page = chain[:-1] if cut else chain
        revisions: list[Revision] = []
        total = 0
        for begin in range(0, len(page), _CHUNK):
            compared = await _compared(chain[begin : begin + _CHUNK + 1], patches=patches)
            for revision in compared[: min(_CHUNK, len(page) - begin)]:
                total += revision.patch_bytes + len(revision.entry.body) + _REVISION_BYTES
                total -= 0 if payloads else len(revision.event.payload)
                if revisions and total > max_bytes:
                    return HistoryPage(revisions, revision.event.sequence, trimmed=False)
                revisions.append(revision)
        if cut:
            return HistoryPage(revisions, chain[-1].event.sequence, trimmed=False)
        gone = not chain or chain[-1].event.previous_sequence is not None
        return HistoryPage(revisions, None, trimmed=gone)

    async def revision(self, project: str, data_key: str, revision: int, scope: Scope) -> Revision:
        """One revision of a data key, with its patch from the one before.

        Raises:
            ContexError: DATA_KEY_NOT_FOUND, also if the caller may not see the key;
                REVISION_NOT_FOUND; SEQUENCE_TRIMMED if it can no longer be read.
        """
        latest = (await self.store.latest(project, [data_key])).get(data_key)
        if latest is None or not scope.admits(data_key):
            raise data_key_not_found(project, data_key, None)
        if not 1 <= revision <= latest.revision:
            raise ContexError(
                Reason.REVISION_NOT_FOUND,
                f"{data_key!r} has the revisions 1 to {latest.revision}, not {revision}",
                metadata={
                    "data_key": data_key,
                    "revision": str(revision),
                    "actual_revision": str(latest.revision),
                },
            )
        known = await self._nearest(project, latest, revision)
        steps = known.revision - revision
        async for part in self.walk(project, known.sequence, max_part=steps + 2):
            if steps < len(part):
                link = part[steps]
                chain = part[steps : steps + 2]
                before = link.event.previous_sequence
                if len(chain) == 1 and before is not None:
                    async for older in self.walk(project, before, max_part=1):
                        chain += older
                        break
                return (await _compared(chain, patches=True))[0]
            steps -= len(part)
        raise await self._gone(project, f"revision {revision} of {data_key!r}")

    async def _gone(self, project: str, what: str) -> ContexError:
        bounds = await self.log.bounds(project)
        earliest = bounds.first or bounds.tail
        return ContexError(
            Reason.SEQUENCE_TRIMMED,
            f"{what} can no longer be read; the earliest event is {earliest}",
            metadata={"earliest_sequence": str(earliest)},
        )

    async def blame(self, project: str, start: Sequence) -> BlameResult:
        """Which events set the parts of a datum, whose latest event is at a sequence.

        Reads at most 10,000 revisions and 64 MiB, for at most 10 seconds, and nothing from before
        an erased payload.

        Raises:
            ContexError: SEQUENCE_TRIMMED if even that event can no longer be read.
        """
        deadline = time.monotonic() + _BLAME_S
        newest: Revision | None = None
        blamed: Blame | None = None
        seen = size = 0
        reached = False
        async for part in self.walk(project, start, max_part=_CHUNK):
            seen += len(part)
            size += sum(len(link.entry.body) for link in part)
            ended = part[-1].event.previous_sequence is None
            if blamed is None:
                newest, *part = part
                blamed = await asyncio.to_thread(blame, newest.event)
            readable = list(takewhile(_has_payload, part))
            cut = len(readable) < len(part)
            await asyncio.to_thread(_add_all, blamed, readable, deadline)
            reached = not blamed.open or (ended and not cut and time.monotonic() < deadline)
            if (
                reached
                or cut
                or seen >= _BLAME_EVENTS
                or size >= _BLAME_BYTES
                or time.monotonic() >= deadline
            ):
                break
        if newest is None or blamed is None:
            raise await self._gone(project, f"event {start}")
        return BlameResult(newest, blamed.parts(), truncated=not (reached and blamed.complete))

    async def _nearest(self, project: str, latest: KeyState, revision: int) -> KeyState:
        """The state of a key in the snapshot nearest after a revision: a binary search."""
        low, high, known = BEGINNING, latest.sequence, latest
        while known.revision - revision > _WALK_REVISIONS:
            middle = _between(low, high)
            info = next(iter(await self.snapshots.stored.after(project, middle, 1)), None)
            if info is None or info.sequence >= high:
                # There is none in the upper half: take the last one in the lower half.
                high = middle
                info = await self.snapshots.stored.before(project, middle)
                if info is None or info.sequence <= low:
                    break
            snapshot = await self.snapshots.read(project, info.sequence)
            state = snapshot.get(latest.data_key) if snapshot is not None else None
            if state is not None and state.revision >= revision:
                known, high = state, info.sequence
            else:
                low = info.sequence
        return known


def _has_payload(link: Revision) -> bool:
    event = link.event
    return event.erased is None or event.deletes


def _add_all(blamed: Blame, older: list[Revision], deadline: float) -> None:
    for link in older:
        if not blamed.open or time.monotonic() >= deadline:
            return
        blamed.add(link.event)


def data_key_not_found(project: str, data_key: str, at: Sequence | None) -> ContexError:
    """The refusal if a key has no event, or is deleted, as of a sequence."""
    when = "" if at is None else f" as of {at}"
    return ContexError(
        Reason.DATA_KEY_NOT_FOUND,
        f"no datum {data_key!r} in project {project!r}{when}",
        metadata={"data_key": data_key},
    )


async def _compared(chain: list[Revision], *, patches: bool) -> list[Revision]:
    """Consecutive events of a key, newest first, each with its patch from the next in the list."""
    if not patches:
        return chain
    if sum(len(link.entry.body) for link in chain) <= _INLINE_BYTES:
        await asyncio.sleep(0)
        return _compare(chain)
    return await asyncio.to_thread(_compare, chain)


def _compare(chain: list[Revision]) -> list[Revision]:
    revisions = []
    for after, before in zip_longest(chain, chain[1:]):
        compared = None
        if after.event.deletes or after.event.previous_sequence is None:
            pass
        elif before is None:
            compared = Patch(omitted=PatchOmitted.TRIMMED)
        elif not before.event.deletes:
            compared = patch(before.event, after.event)
        revisions.append(after._replace(patch=compared))
    return revisions


def _between(low: Sequence, high: Sequence) -> Sequence:
    middle = ((low.ms << 64 | low.n) + (high.ms << 64 | high.n)) // 2
    return Sequence(middle >> 64, middle & (2**64 - 1))

"""Moves old events from the store to the archive, in the background.

A segment is built, stored and read back before it is recorded, and recorded before its events
are removed from the store. Whatever stops halfway leaves at worst an object that nobody
knows, and the next to take up the task deletes it.

One process in the whole deployment does it for a project. Who has lost the task without
noticing can do no harm: the store refuses what it records.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NamedTuple
from uuid import uuid4
from weakref import WeakValueDictionary

import structlog

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import SEALED_TAG, Entry, Sequence
from contex_server.log.archive import Archived, SegmentRecord
from contex_server.log.buckets import target_project
from contex_server.log.pages import pages
from contex_server.log.port import Bounds
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.log.tasks import HOLD_MS, Claims
from contex_server.projects.pace import Pace
from contex_server.projects.policy import Retention, Retentions, is_over
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_keys import ArchivedKeys
from contex_server.tiers.objects import archive_unavailable
from contex_server.tiers.sealer import key_id_of
from contex_server.tiers.segment import SegmentBuilder, SegmentDamaged

log = structlog.get_logger(__name__)

_SEALED = bytes([SEALED_TAG])
TASK = "archive"
STAGED = "staged"
"""An object of this name marks a directory whose events belong to no project yet."""
_LOOK_S = 1.0
_LOOK_AT_ALL_S = 60.0
_PAGE_EVENTS = (250, 5_000)
"""The store and the event loop have a page of the fewest in less than a millisecond."""
_PAGES_PER_S = 16
"""So many pages a second, where they may be so large."""
_SLACK = 1.25
"""By so much may events exceed their age in the store: then fewer, larger segments are made."""
SNAPSHOT_EVENTS = 5_000
"""How far apart the snapshots in a segment are, at least."""
_SNAPSHOTS = 10_000
_BACKOFF_S = (1.0, 60.0)
_TROUBLE_MS = 180_000
_OUT_OF_REACH = (Reason.STORE_UNAVAILABLE, Reason.ARCHIVE_UNAVAILABLE)
_WAIT_S = HOLD_MS / 1000 + 10.0
_WAIT_LOOK_S = 0.1
_SWEEP_S = 3600.0


class Due(NamedTuple):
    """What has to leave the store.

    Attributes:
        events: So many of the oldest events, ...
        bytes: ... and more, until they have so many bytes, ...
        before_ms: ... and all that are older than this; unix milliseconds.
        at_once: Whether they go even where they don't fill a segment.
        over: Whether there are far more than the store should have.
        speed: So many events a second, at most: whoever publishes meanwhile matters more.
    """

    events: int
    bytes: int
    before_ms: int
    at_once: bool
    over: bool = False
    speed: float = math.inf


class NewSegment:
    """The segment that follows what a project has archived, in the making.

    Attributes:
        archived: What that is.
        builder: Has its events.
        subjects: An event for each key that some are sealed with.
    """

    def __init__(self, project: str, archived: Archived) -> None:
        self.archived = archived
        self.builder = SegmentBuilder(target_project(project), archived.segments, archived.digest)
        self.subjects: dict[bytes, Entry] = {}

    def add(self, entries: list[Entry], contents: list[tuple[str, str]]) -> None:
        """Takes events, each with its `EventCodec.contents`."""
        for entry in [entry for entry in entries if entry.body[:1] == _SEALED]:
            self.subjects.setdefault(key_id_of(entry), entry)
        self.builder.add(entries, contents)


class Archiver:
    """Looks at the projects that grow, and once a minute at all.

    Args:
        store: The store, without the archive.
        archive: Where segments go.
        keys: Where the keys of what is sealed go.
        retentions: What is kept where.
        events: A segment is full with so many events, ...
        size: ... or with so many bytes of them.
        expire: Removes from the archive of a project what is too old, with the retention
            that holds, as the owner of the task.
        pace: Is told how fast it goes.
        look_s: How long it waits, where a project grows, until it looks.
    """

    def __init__(
        self,
        store: Store,
        archive: Archive,
        keys: ArchivedKeys,
        retentions: Retentions,
        *,
        events: int,
        size: int,
        expire: Callable[[str, Retention, Claims], Awaitable[None]],
        pace: Pace,
        look_s: float = _LOOK_S,
    ) -> None:
        self._store = store
        self._archive = archive
        self._keys = keys
        self._retentions = retentions
        self.events = events
        self.bytes = size
        self._expire = expire
        self._pace = pace
        self._look_s = look_s
        self.claims = Claims(store.tasks, TASK)
        self._grown: set[str] = set()
        self._waiting: set[str] = set()
        """Those that are yet to be looked at in this round."""
        self._unfinished = False
        """Whether one had to let others have their turn."""
        self._behind: set[str] = set()
        """Those that had something to be archived when they were looked at."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._swept: dict[str, float] = {}
        self._resting: dict[str, float] = {}
        """Until when a project is let alone, since something was wrong with it."""
        self._troubled: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._run(), name="contex-archiver")

    async def close(self) -> None:
        """Stops, also halfway through a segment; nothing was changed then."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.claims.give_all_back()

    def appended(self, project: str) -> None:
        """Notes that a project has grown."""
        self._grown.add(project)

    async def _run(self) -> None:
        all_at, delay = 0.0, _BACKOFF_S[0]
        while True:
            await asyncio.sleep(0.0 if self._unfinished else self._look_s)
            self._unfinished = False
            projects = self._waiting = self._grown
            self._grown = set()
            try:
                if time.monotonic() >= all_at:
                    projects.update(await self._store.projects.projects())
                    all_at = time.monotonic() + _LOOK_AT_ALL_S
                while projects:
                    await self._look_at(projects.pop())
                delay = _BACKOFF_S[0]
            except ContexError as error:
                self._grown |= projects
                projects.clear()
                log.warning("archiving_interrupted", error=error.message, retry_s=delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _BACKOFF_S[1])
            except Exception:
                log.exception("archiving_failed")
                await asyncio.sleep(_BACKOFF_S[1])

    async def _look_at(self, project: str) -> None:
        """Looks at a project; what is wrong with it alone keeps no other from being archived.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        if time.monotonic() < self._resting.get(project, 0.0):
            return
        try:
            await self.look(project)
        except Exception as error:
            refusal = error if isinstance(error, ContexError) else None
            self._troubled.add(project)
            self._behind.discard(project)
            with suppress(ContexError):
                said = refusal.message if refusal else "an internal error, see the server's log"
                await self._store.projects.put_trouble(project, said, _TROUBLE_MS)
            if refusal is not None and refusal.reason in _OUT_OF_REACH:
                self._grown.add(project)
                raise
            self._resting[project] = time.monotonic() + _BACKOFF_S[1]
            log.exception("archiving_failed", project=project, retry_s=_BACKOFF_S[1])
        else:
            self._resting.pop(project, None)
            if project in self._troubled:
                await self._store.projects.put_trouble(project, "", _TROUBLE_MS)
                self._troubled.discard(project)

    async def look(self, project: str) -> int:
        """Archives what is due, unless somebody else is at it.

        Returns:
            How many segments were made.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        lock = self._lock(project)
        if lock.locked():
            self._grown.add(project)
            return 0
        async with lock:
            try:
                return await self._look(project)
            finally:
                await self.claims.give_back(project)

    async def _look(self, project: str) -> int:
        made = 0
        retention = await self._retentions.of(project)
        while True:
            archived = await self._store.archive.archived(project)
            bounds = await self._store.events.bounds(project)
            if bounds.first is not None and bounds.first <= archived.last:
                # Whoever recorded them was stopped; see also `_move`.
                await self._finish(project, archived.last)
                continue
            due = await self._due(project, retention, archived, bounds)
            over = due is not None and due.over
            speed = await self._pace.seen(project, archived.events, bounds.length, over=over)
            if due is None:
                self._behind.discard(project)
                break
            self._behind.add(project)
            if not await self.claim(project):
                self._grown.add(project)
                return made
            speed *= len(self._behind)  # They take turns.
            if not await self._move(project, archived, bounds, due._replace(speed=speed)):
                break
            made += 1
            if self._waiting:
                self._grown.add(project)
                self._unfinished = True
                break
        if retention.archive_seconds and not retention.legal_hold and archived.events:
            oldest = archived.first or archived.last
            if oldest.ms < bounds.now_ms - retention.archive_seconds * 1000 and await self.claim(
                project
            ):
                await self._expire(project, retention, self.claims)
        return made

    async def archive_all(self, project: str) -> None:
        """Moves every event that the store holds to the archive.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        async with self.task(project):
            await self.move_all(project)

    async def move_all(self, project: str) -> None:
        """The same for who has the task."""
        everything = Due(0, 0, 1 << 62, at_once=True)
        while True:
            archived = await self._store.archive.archived(project)
            bounds = await self._store.events.bounds(project)
            if bounds.first is None:
                return
            if bounds.first <= archived.last:
                await self._finish(project, archived.last)
            elif not await self.claim(project):
                raise archive_unavailable("another process is working on it")
            else:
                await self._move(project, archived, bounds, everything)

    @asynccontextmanager
    async def task(self, project: str, *, sweep: bool = True) -> AsyncIterator[None]:
        """Holds the task, once nobody else has it.

        Without `sweep`, objects that nobody knows stay.

        Raises:
            ContexError: ARCHIVE_UNAVAILABLE if somebody has it for longer than they can that
                were stopped; STORE_UNAVAILABLE.
        """
        async with self._lock(project):
            deadline = time.monotonic() + _WAIT_S
            if not sweep:
                self._swept[project] = time.monotonic()
            while not await self.claim(project):
                if time.monotonic() > deadline:
                    raise archive_unavailable("another process is working on it")
                await asyncio.sleep(_WAIT_LOOK_S)
            try:
                yield
            finally:
                await self.claims.give_back(project)

    def _lock(self, project: str) -> asyncio.Lock:
        """Within this process, too, one thing is done to a project at a time."""
        return self._locks.setdefault(project, asyncio.Lock())

    async def claim(self, project: str, *, afresh: bool = False) -> bool:
        """Whether the task is this process's; see `Claims.take`."""
        renewed = afresh or not self.claims.sure_of(project)
        if not await self.claims.take(project, afresh=afresh):
            return False
        if renewed and time.monotonic() > self._swept.get(project, -_SWEEP_S) + _SWEEP_S:
            await self._sweep(project)
            self._swept[project] = time.monotonic()
        return True

    async def _due(
        self, project: str, retention: Retention, archived: Archived, bounds: Bounds
    ) -> Due | None:
        """What has to go, if it is enough for a segment, or too old to wait for that."""
        if bounds.first is None:
            return None
        counters = await self._store.projects.counters(project)
        most, room = retention.store_events or 0, retention.store_bytes or 0
        events = bounds.length - most if most else 0
        held = counters.bytes - archived.moved
        size = held - room if room and not counters.counted_since.ms else 0
        over = bool(most) and is_over(bounds.length, most, self.events)
        over = over or (size > 0 and is_over(held, room, self.bytes))
        before_ms, late = 0, False
        if retention.store_seconds:
            age_ms = retention.store_seconds * 1000
            before_ms = bounds.now_ms - age_ms
            late = bounds.first.ms < bounds.now_ms - _SLACK * age_ms
        if late or events >= self.events or size >= self.bytes:
            return Due(max(0, events), max(0, size), before_ms, late, over)
        return None

    async def _move(self, project: str, archived: Archived, bounds: Bounds, due: Due) -> bool:
        """Makes a segment of the oldest events; returns whether it did."""
        new = NewSegment(project, archived)
        if not await self._fill(project, new, bounds, due):
            return False
        record = await self.add(project, new)
        if record is None:
            return False
        await self._finish(project, record.last)
        log.info(
            "archived",
            project=project,
            segment=record.ordinal,
            events=record.events,
            last=str(record.last),
            size_bytes=record.size,
        )
        return True

    async def add(self, project: str, new: NewSegment) -> SegmentRecord | None:
        """Stores a segment and records it, for who has the task.

        Returns:
            The record; None if another process has the task by now, and does the same.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE, ARCHIVE_DAMAGED.
        """
        archived = new.archived
        sealed = await asyncio.to_thread(new.builder.seal)
        # Said before anything is stored, so that whoever goes on finds what was left.
        directory = archived.directory or await self._new_directory(project)
        await self._keys.keep(project, directory, new.subjects)
        name = f"{directory}/{archived.segments:08d}-{uuid4().hex[:8]}.seg"
        record = await self._archive.store(sealed, name)
        reached("archive-recording")
        mine = await self.claim(project, afresh=True)
        if not mine or not await self._store.archive.add_segment(
            project, self.claims.owner, directory, record
        ):
            self.claims.lost(project)
            await self._archive.objects.delete(name)
            return None
        reached("archive-recorded")
        return record

    async def _new_directory(self, project: str) -> str:
        """Where the objects of a project go: another one each time that it begins anew."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        proposed = f"{target_project(project)}/{stamp}-{uuid4().hex[:6]}"
        if project != target_project(project):
            await self._archive.objects.put(f"{proposed}/{STAGED}", b"")
        return await self._store.archive.archive_directory(project, proposed)

    async def mark_staged(self, project: str, *, staged: bool) -> None:
        """Says whether the objects of a staged project belong to no project yet; nobody who
        recovers one takes them for its own then.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        directory = (await self._store.archive.archived(project)).directory
        if directory and staged:
            await self._archive.objects.put(f"{directory}/{STAGED}", b"")
        elif directory:
            await self._archive.objects.delete(f"{directory}/{STAGED}")

    async def drop_staged(self, project: str) -> None:
        """Deletes the objects of a staged project that is given up.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        directory = (await self._store.archive.archived(project)).directory
        if not directory:
            return
        mark = f"{directory}/{STAGED}"
        names = await self._archive.objects.list(f"{directory}/")
        for name in [*(names.keys() - {mark}), mark]:
            await self._archive.objects.delete(name)

    async def _finish(self, project: str, last: Sequence) -> None:
        """Lets go of what is archived."""
        await self._store.archive.trim(project, last)
        reached("archive-trimmed")
        await self._store.snapshots.drop_until(project, last)

    async def _fill(self, project: str, new: NewSegment, bounds: Bounds, due: Due) -> bool:
        """Puts in what is due, up to a segment; returns whether that is enough."""
        builder, after = new.builder, new.archived.last
        least, most = _PAGE_EVENTS
        most = int(min(most, max(least, due.speed / _PAGES_PER_S)))
        source = pages(self._store.events, project, after, bounds.tail, max_events=most)
        async with aclosing(source):
            async for page in source:
                began = time.monotonic()
                # In a thread: a busy event loop would give a page its turn too seldom.
                if not await asyncio.to_thread(self._file, new, page.entries, due):
                    break
                if not await self.claim(project):
                    return False
                spare = len(page.entries) / due.speed - (time.monotonic() - began)
                if spare > 0:
                    await asyncio.sleep(spare)
        if not builder.events:
            return False
        await asyncio.to_thread(builder.pack)
        assert builder.last is not None
        for info in await self._snapshots(project, after, builder.last):
            data = await self._store.snapshots.get(project, info.sequence)
            if data is not None:
                builder.add_snapshot(info, data)
        full = builder.events >= self.events or builder.body_bytes >= self.bytes
        return full or due.at_once

    def _file(self, new: NewSegment, entries: list[Entry], due: Due) -> bool:
        """Puts in the events of a page that go; returns whether all of them did."""
        events, size = new.builder.events, new.builder.body_bytes
        end = 0
        for entry in entries:
            if events >= self.events or size >= self.bytes:
                break
            if events >= due.events and size >= due.bytes and entry.sequence.ms >= due.before_ms:
                break
            events, size, end = events + 1, size + len(entry.body), end + 1
        going = entries[:end]
        new.add(going, list(map(event_codec.contents, going)))
        return end == len(entries)

    async def _sweep(self, project: str) -> None:
        """Deletes objects that nobody knows: what was stored and never recorded.

        What holds events that the store has not is no such thing: the store was brought back
        from an older copy of itself. Nothing is archived then until it was repaired.
        """
        archived = await self._store.archive.archived(project)
        if not archived.directory:
            return
        objects = self._archive.objects
        names = await objects.list(f"{archived.directory}/")
        directory = await self._archive.directory(project)
        known = {record.name for record in directory.records}
        if directory.archived.remains is not None:
            known.add(directory.archived.remains.name)
        tail = (await self._store.events.bounds(project)).tail
        for name in sorted(names.keys() - known):
            if not name.endswith(".seg"):
                continue
            try:
                ahead = (await self._archive.describe(name, names[name]))[0].last > tail
            except SegmentDamaged:
                ahead = False
            if ahead:
                raise ContexError(
                    Reason.ARCHIVE_DAMAGED,
                    "the archive has events that the store has not: verify the project, with "
                    "repair",
                    metadata={"object": name},
                )
            log.info("archive_swept", project=project, object=name)
            await objects.delete(name)

    async def _snapshots(
        self, project: str, after: Sequence, until: Sequence
    ) -> list[SnapshotInfo]:
        """The snapshots that go with the events in (after, until]: not all, but the newest."""
        infos = await self._store.snapshots.after(project, after, _SNAPSHOTS)
        kept: list[SnapshotInfo] = []
        for info in reversed([info for info in infos if info.sequence <= until]):
            if not kept or kept[-1].events - info.events >= SNAPSHOT_EVENTS:
                kept.append(info)
        return kept[::-1]

"""Moves old events from the store to the archive, in the background.

Events are removed from the store only after their segment is recorded; see `segment_writer`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import NamedTuple

import structlog

from contex_server.kernel import event_codec
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError
from contex_server.kernel.failpoints import reached
from contex_server.kernel.failures import AWAY, Failures
from contex_server.kernel.model import Entry, Range, Sequence
from contex_server.log.archive import Archived
from contex_server.log.pages import pages
from contex_server.log.port import Bounds
from contex_server.log.projects import REMAINS
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.log.tasks import Claims
from contex_server.projects.archive_task import ArchiveTask
from contex_server.projects.compaction import Compactor, next_pass
from contex_server.projects.pace import Pace
from contex_server.projects.retention import Retention, RetentionStore, is_over
from contex_server.projects.segment_writer import SNAPSHOT_EVENTS, NewSegment, SegmentWriter
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_keys import ArchivedKeys
from contex_server.tiers.objects import archive_unavailable

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_POLL_ALL_S = 60.0
_PAGE_EVENTS = (250, 5_000)
"""A page of the minimum occupies the store and the event loop for less than a millisecond."""
_PAGES_PER_S = 16
"""Larger pages are read if it takes more than this to keep up."""
_SLACK = 1.25
"""Events may stay in the store for this multiple of their age, for fewer, larger segments."""
_SNAPSHOTS = 10_000
_BACKOFF_S = (1.0, 60.0)
_TROUBLE_MS = 180_000


class Due(NamedTuple):
    """What has to leave the store.

    Attributes:
        events: This number of the oldest events, ...
        bytes: ... more until this number of bytes is reached, ...
        before_ms: ... and all that are older than this; unix milliseconds.
        at_once: Whether to move them even if they do not fill a segment.
        over: Whether the store holds far more than it should.
        speed: Maximum number of events a second, so that publishers are not disturbed.
    """

    events: int
    bytes: int
    before_ms: int
    at_once: bool
    over: bool = False
    speed: float = math.inf


_EVERYTHING = Due(0, 0, 1 << 62, at_once=True)


class Archiver:
    """Archives what is due: soon in projects that grow, within a minute in all others.

    Every method may raise `ContexError` with STORE_UNAVAILABLE or ARCHIVE_UNAVAILABLE.

    Args:
        events, size: See `SegmentWriter`.
        expire: Removes events from the archive that are too old, given the retention and the
            claims of the `ArchiveTask`.
        pace: Told how fast archiving goes; says how fast it should.
        poll_s: Seconds between checks of the projects that grow.
    """

    def __init__(
        self,
        store: Store,
        archive: Archive,
        keys: ArchivedKeys,
        retentions: RetentionStore,
        *,
        events: int,
        size: int,
        expire: Callable[[str, Retention, Claims], Awaitable[None]],
        pace: Pace,
        poll_s: float = _POLL_S,
    ) -> None:
        self._store = store
        self._retentions = retentions
        self._expire = expire
        self._pace = pace
        self._poll_s = poll_s
        self.task = ArchiveTask(store, archive)
        self.segments = SegmentWriter(store.archive, archive, keys, self.task, events, size)
        self._compactor = Compactor(store, retentions, self.segments)
        self._grown: set[str] = set()
        self._queue: set[str] = set()
        """Projects still to be visited in this round."""
        self._unfinished = False
        """Whether a project has stopped to let others have their turn."""
        self._behind: set[str] = set()
        """Projects in which something was due at the last visit."""
        self._paused: dict[str, float] = {}
        """When a project that failed is visited again."""
        self._failing: set[str] = set()
        self._failures = Failures("archiving_failed")
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts archiving in the background."""
        self._loop = asyncio.create_task(self._run(), name="contex-archiver")

    async def close(self) -> None:
        """Stops, even halfway through a segment; nothing is changed then."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self.task.claims.give_all_back()

    def appended(self, project: str) -> None:
        """Notes that a project has grown."""
        self._grown.add(project)

    async def _run(self) -> None:
        all_at, backoff = 0.0, Backoff(*_BACKOFF_S)
        while True:
            await asyncio.sleep(0.0 if self._unfinished else self._poll_s)
            self._unfinished = False
            queue = self._queue = self._grown
            self._grown = set()
            try:
                if time.monotonic() >= all_at:
                    projects = await self._store.projects.projects()
                    queue.update(name for name in projects if REMAINS not in name)
                    all_at = time.monotonic() + _POLL_ALL_S
                while queue:
                    await self._visit(queue.pop())
                backoff.reset()
            except ContexError as error:
                self._grown |= queue
                queue.clear()
                delay = backoff.next_s()
                log.warning("archiving_interrupted", error=error.message, retry_s=delay)
                await asyncio.sleep(delay)
            except Exception:
                log.exception("archiving_failed")
                await asyncio.sleep(_BACKOFF_S[1])

    async def _visit(self, project: str) -> None:
        """Archives what is due in a project; its own failures do not stop the others."""
        if time.monotonic() < self._paused.get(project, 0.0):
            return
        projects = self._store.projects
        try:
            await self.archive_due(project)
        except Exception as error:
            refusal = error if isinstance(error, ContexError) else None
            self._failing.add(project)
            self._behind.discard(project)
            with suppress(ContexError):
                problem = refusal.message if refusal else "an internal error, see the server's log"
                await projects.put_trouble(project, problem, _TROUBLE_MS)
            if refusal is not None and refusal.reason in AWAY:
                self._grown.add(project)
                raise
            self._paused[project] = time.monotonic() + _BACKOFF_S[1]
            self._failures.failed(project, error)
        else:
            self._paused.pop(project, None)
            with self._failures.isolated(project):
                if project in self._failing:
                    await projects.put_trouble(project, "", _TROUBLE_MS)
                    self._failing.discard(project)

    async def archive_due(self, project: str) -> int:
        """Archives what is due, unless somebody else is working on the project; returns how many
        segments were made."""
        lock = self.task.lock(project)
        if lock.locked():
            self._grown.add(project)
            return 0
        async with lock:
            try:
                return await self._archive_due(project)
            finally:
                await self.task.claims.give_back(project)

    async def _archive_due(self, project: str) -> int:
        made = 0
        retention = await self._retentions.of(project)
        while True:
            archived, bounds = await self._progress(project)
            due = await self._due(project, retention, archived, bounds)
            over = due is not None and due.over
            speed = await self._pace.observe(project, archived.events, bounds.length, over=over)
            if due is None:
                self._behind.discard(project)
                break
            self._behind.add(project)
            if not await self.task.claim(project):
                self._grown.add(project)
                return made
            speed *= len(self._behind)  # They take turns.
            if not await self._move(project, archived, bounds, due._replace(speed=speed)):
                break
            made += 1
            if self._queue:
                self._grown.add(project)
                self._unfinished = True
                break
        if retention.archive_seconds and not retention.legal_hold and archived.events:
            oldest = archived.first or archived.last
            expired = oldest.ms < bounds.now_ms - retention.archive_seconds * 1000
            if expired and await self.task.claim(project):
                await self._expire(project, retention, self.task.claims)
        if next_pass(archived, retention) is not None:
            await self._compact(project)
        return made

    async def _compact(self, project: str) -> None:
        """Compacts one segment; the next at the next visit, so that others have their turn."""
        if not await self.task.claim(project):
            self._grown.add(project)
        elif await self._compactor.compact(project):
            self._grown.add(project)
            self._unfinished = True

    async def archive_all(self, project: str) -> None:
        """Moves every event that the store holds to the archive."""
        async with self.task.exclusive(project):
            await self.move_all(project)

    async def move_all(self, project: str) -> None:
        """As `archive_all`, for a caller that holds the task."""
        while True:
            archived, bounds = await self._progress(project)
            if bounds.first is None:
                return
            if not await self.task.claim(project):
                raise archive_unavailable("another process is working on it")
            await self._move(project, archived, bounds, _EVERYTHING)

    async def _progress(self, project: str) -> tuple[Archived, Bounds]:
        """What is archived, and what is not; first removes archived events from the store if
        whoever recorded their segment was stopped before that."""
        while True:
            archived = await self._store.archive.archived(project)
            bounds = await self._store.events.bounds(project)
            if bounds.first is None or bounds.first > archived.last:
                return archived, bounds
            await self._trim(project, archived.last)

    async def _due(
        self, project: str, retention: Retention, archived: Archived, bounds: Bounds
    ) -> Due | None:
        """What has to go, if it fills a segment or is too old to wait for that."""
        if bounds.first is None:
            return None
        counters = await self._store.projects.counters(project)
        max_events, max_bytes = retention.store_events or 0, retention.store_bytes or 0
        events = bounds.length - max_events if max_events else 0
        stored = counters.bytes - archived.moved
        size = stored - max_bytes if max_bytes and not counters.counted_since.ms else 0
        over = bool(max_events) and is_over(bounds.length, max_events, self.segments.events)
        over = over or (size > 0 and is_over(stored, max_bytes, self.segments.size))
        before_ms, late = 0, False
        if retention.store_seconds:
            age_ms = retention.store_seconds * 1000
            before_ms = bounds.now_ms - age_ms
            late = bounds.first.ms < bounds.now_ms - _SLACK * age_ms
        if late or self.segments.is_full(events, size):
            return Due(max(0, events), max(0, size), before_ms, late, over)
        return None

    async def _move(self, project: str, archived: Archived, bounds: Bounds, due: Due) -> bool:
        """Makes a segment of the oldest events; returns whether it did."""
        new = NewSegment(project, archived)
        if not await self._fill(project, new, bounds, due):
            return False
        record = await self.segments.write(project, new)
        if record is None:
            return False
        await self._trim(project, record.last)
        log.info(
            "archived",
            project=project,
            segment=record.ordinal,
            events=record.events,
            last=str(record.last),
            size_bytes=record.size,
        )
        return True

    async def _trim(self, project: str, last: Sequence) -> None:
        """Removes archived events from the store."""
        await self._store.archive.trim(project, last)
        reached("archive-trimmed")
        await self._store.snapshots.drop_until(project, last)

    async def _fill(self, project: str, new: NewSegment, bounds: Bounds, due: Due) -> bool:
        """Adds what is due, up to a full segment; returns whether that is enough for one."""
        builder, after = new.builder, new.archived.last
        smallest, largest = _PAGE_EVENTS
        page_events = int(min(largest, max(smallest, due.speed / _PAGES_PER_S)))
        span = Range(after, bounds.tail)
        source = pages(self._store.events, project, span, max_events=page_events)
        async with aclosing(source):
            async for page in source:
                began = time.monotonic()
                # In a thread: a busy event loop would rarely get to a page.
                if not await asyncio.to_thread(self._add_due, new, page.entries, due):
                    break
                if not await self.task.claim(project):
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
        return due.at_once or self.segments.is_full(builder.events, builder.body_bytes)

    def _add_due(self, new: NewSegment, entries: list[Entry], due: Due) -> bool:
        """Adds the events of a page that are due; returns whether all of them are."""
        events, size = new.builder.events, new.builder.body_bytes
        end = 0
        for entry in entries:
            if self.segments.is_full(events, size):
                break
            if events >= due.events and size >= due.bytes and entry.sequence.ms >= due.before_ms:
                break
            events, size, end = events + 1, size + len(entry.body), end + 1
        moved = entries[:end]
        new.add(moved, list(map(event_codec.contents, moved)))
        return end == len(entries)

    async def _snapshots(
        self, project: str, after: Sequence, until: Sequence
    ) -> list[SnapshotInfo]:
        """The snapshots that go with the events in (after, until]: from the newest back, at
        least `SNAPSHOT_EVENTS` apart."""
        infos = await self._store.snapshots.after(project, after, _SNAPSHOTS)
        kept: list[SnapshotInfo] = []
        for info in reversed([info for info in infos if info.sequence <= until]):
            if not kept or kept[-1].events - info.events >= SNAPSHOT_EVENTS:
                kept.append(info)
        return kept[::-1]

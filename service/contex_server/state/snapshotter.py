"""Takes snapshots in the background, so that no moment is far from one.

For each project, one of the processes that append to it does so: the first to claim the task.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import structlog

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import BEGINNING, END_OF_TIME, KeyState, Range, Sequence
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.projects import Counters
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.log.tasks import Claims
from contex_server.state.fold import PAGE_EVENTS, fold_entries, read_current_state
from contex_server.state.snapshot import encode_snapshot
from contex_server.state.snapshot_cache import NO_SNAPSHOT, SnapshotCache

log = structlog.get_logger(__name__)

_TASK = "snapshot"
_LOOK_S = 1.0
_MIN_LOOK_S = 0.02
_PROJECTS = 4
"""Number of projects worked on at once."""
_CATCH_UP = 12
"""From this many intervals behind, snapshots are taken of the past, too, one at each interval.
Below, one of the present is enough: it costs a scan of the keys, and decodes no event."""


class Snapshotter:
    """Watches the projects that this process appends to; takes a snapshot when one is due.

    Args:
        events: Number of events after which a snapshot is due, ...
        size: ... or their bytes. In any case not before half as many events as the project has
            keys, so that the cost per event is the same however many keys there are.
        look_s: Longest time between two looks at a project that grows.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: Store,
        snapshots: SnapshotCache,
        *,
        events: int,
        size: int,
        look_s: float = _LOOK_S,
    ) -> None:
        self._log = event_log
        self._store = store
        self._snapshots = snapshots
        self._events = events
        self._bytes = size
        self._look_s = look_s
        self.claims = Claims(store.tasks, _TASK)
        self._appended: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._newest: dict[str, SnapshotInfo] = {}
        """The newest snapshot of each project whose task this process holds."""
        self._rolled_up: dict[str, int] = {}
        """The hour when each project's counts were last rolled up."""
        self._slots = asyncio.Semaphore(_PROJECTS)
        self._failures = Failures("snapshot_failed")
        self._interruptions = Failures("snapshot_interrupted")

    async def close(self) -> None:
        """Stops, even halfway through a snapshot; existing ones stay valid."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # So that another process can take over at once.
        await self.claims.give_all_back()

    def appended(self, project: str) -> None:
        """A project has grown, or its snapshots turned out to be far apart."""
        self._appended.add(project)
        if project not in self._tasks:
            task = asyncio.create_task(self._look_on(project), name=f"contex-snapshot-{project}")
            self._tasks[project] = task
            task.add_done_callback(lambda _: self._tasks.pop(project))

    def deleted(self, project: str, _last: Sequence) -> None:
        """A project was deleted, and its snapshots with it."""
        self._newest.pop(project, None)
        self.claims.lost(project)

    async def _look_on(self, project: str) -> None:
        """Looks at a project while it grows, more often the faster it grows."""
        delay = min(_MIN_LOOK_S, self._look_s)
        while project in self._appended:
            await asyncio.sleep(delay)
            self._appended.discard(project)
            async with self._slots:
                try:
                    await self._roll_up(project)
                    grown = await self.look(project)
                    next_due = delay * self._events / max(grown, 1)
                    delay = min(max(next_due, _MIN_LOOK_S), self._look_s)
                    self._failures.worked(project)
                    self._interruptions.worked(project)
                except ContexError as error:
                    self._appended.add(project)
                    self._interruptions.failed(project, error)
                except Exception as error:
                    self._failures.failed(project, error)
        self._newest.pop(project, None)
        await self.claims.give_back(project)

    async def _roll_up(self, project: str) -> None:
        """Rolls up the counts of past hours; harmless if another process does it too."""
        hour = int(time.time()) // 3600
        if self._rolled_up.get(project) != hour:
            await self._store.projects.roll_up(project)
            self._rolled_up[project] = hour

    async def look(self, project: str) -> int:
        """Takes the snapshots that are due, unless another process holds the task.

        Returns:
            The number of events after the newest snapshot.

        Raises:
            ContexError: STORE_UNAVAILABLE, STORE_FULL.
        """
        counters = await self._store.projects.counters(project)
        # Cached: nobody else takes snapshots while this process holds the task.
        newest = self._newest.get(project)
        if newest is None:
            newest = await self._snapshots.stored.before(project, END_OF_TIME) or NO_SNAPSHOT
        grown = counters.events - newest.events
        if not await self._is_due(project, counters, newest):
            return grown
        if await self._has_task(project):
            await self._take(project, counters, newest)
        else:
            self._appended.add(project)
        return grown

    async def _has_task(self, project: str) -> bool:
        """Whether this process holds the task, which it keeps while the project grows."""
        if not self.claims.sure_of(project):
            self._newest.pop(project, None)
        return await self.claims.take(project)

    async def _is_due(self, project: str, now: Counters, newest: SnapshotInfo) -> bool:
        events, size = now.events - newest.events, now.bytes - newest.bytes
        if newest is NO_SNAPSHOT and now.counted_since > BEGINNING:
            # The log is older than its counters.
            events, size = (await self._log.bounds(project)).length, 0
        enough = events >= self._events or size >= self._bytes
        return enough and events >= now.keys // 2

    async def _take(self, project: str, counters: Counters, newest: SnapshotInfo) -> None:
        """Brings the snapshots up to the end of the log."""
        behind = counters.events - newest.events
        older = newest is NO_SNAPSHOT and counters.counted_since > BEGINNING
        if older or behind >= _CATCH_UP * max(self._events, counters.keys // 2):
            try:
                await self._take_past(project, counters)
                return
            except ContexError as error:
                if error.reason is not Reason.SEQUENCE_TRIMMED:
                    raise
        sequence, state = await read_current_state(self._log, self._store.state, project)
        await self._put(project, sequence, state, counters.events, counters.bytes)

    async def _take_past(self, project: str, counters: Counters) -> None:
        """Folds the log from the newest snapshot on, and takes another at each interval.

        Raises:
            ContexError: SEQUENCE_TRIMMED if events after the newest snapshot are gone.
        """
        start = await self._snapshots.before(project, END_OF_TIME)
        bounds = await self._log.bounds(project)
        if start.info is NO_SNAPSHOT and bounds.trimmed:
            raise ContexError(Reason.SEQUENCE_TRIMMED, "the beginning of the log is gone")
        state = await asyncio.to_thread(start.snapshot.states)
        events, size = start.info.events, start.info.bytes
        fresh = fresh_bytes = 0
        source = pages(
            self._log,
            project,
            Range(start.info.sequence, bounds.tail),
            resumed=start.info is not NO_SNAPSHOT,
            max_events=min(PAGE_EVENTS, self._events),
        )
        async with aclosing(source):
            async for page in source:
                if not page.entries:
                    break
                fold_entries(state, page.entries)
                for sequence, body in page.entries:
                    fresh += 1
                    fresh_bytes += len(body)
                    if counters.counted_since <= Sequence.parse(sequence.decode()):
                        events += 1
                        size += len(body)
                due = fresh >= self._events or fresh_bytes >= self._bytes
                if due and fresh >= len(state) // 2:
                    if not await self._has_task(project):
                        return
                    await self._put(project, page.entries[-1].sequence, state, events, size)
                    fresh = fresh_bytes = 0

    async def _put(
        self, project: str, sequence: Sequence, state: dict[str, KeyState], events: int, size: int
    ) -> None:
        data = await asyncio.to_thread(encode_snapshot, state)
        info = SnapshotInfo(sequence, events, size, len(state), len(data))
        if await self._store.snapshots.put(project, info, data):
            self._newest[project] = info
            log.debug(
                "snapshot",
                project=project,
                sequence=str(sequence),
                keys=info.keys,
                size_bytes=info.size,
            )

"""Takes snapshots in the background, so that no moment is far from one.

One process in the whole deployment does it for a project, whoever of those that append to it
takes the task first.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from functools import partial

import structlog

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, END_OF_TIME, KeyState, Sequence
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.projects import Counters
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.log.tasks import Claims
from contex_server.state.current import live
from contex_server.state.fold import PAGE_EVENTS, take
from contex_server.state.snapshot_format import encode
from contex_server.state.snapshots import Snapshots, Taken

log = structlog.get_logger(__name__)

_TASK = "snapshot"
_LOOK_S = 1.0
_LEAST_LOOK_S = 0.02
_PROJECTS = 4
"""How many are worked on at once."""
_CATCH_UP = 12
"""So many intervals behind, snapshots are taken of the past, one at each interval. Up to
there the present is enough: it costs a scan of the keys, and no event is decoded."""


class Snapshotter:
    """Looks at the projects that this process appends to, and takes a snapshot when one is due.

    Args:
        event_log: The log.
        store: Keeps snapshots and counts.
        snapshots: Reads the snapshots that there are.
        events: Events after which one is due, ...
        size: ... or bytes of events. At least half as many events as there are keys must
            have come, so that a snapshot costs every event the same, however many keys.
        look_s: How long it waits at most, where a project grows, until it looks.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: Store,
        snapshots: Snapshots,
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
        """The newest snapshot of each project whose task this process has."""
        self._rolled_up: dict[str, int] = {}
        """The hour in which each project's counts were last added up."""
        self._slots = asyncio.Semaphore(_PROJECTS)

    async def close(self) -> None:
        """Stops, also halfway through a snapshot; what there was stays valid."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Who takes over need not wait.
        await self.claims.give_all_back()

    def appended(self, project: str) -> None:
        """Notes that a project has grown, or that its snapshots are far apart."""
        self._appended.add(project)
        if project not in self._tasks:
            task = asyncio.create_task(self._look_on(project), name=f"contex-snapshot-{project}")
            self._tasks[project] = task
            task.add_done_callback(partial(self._looked, project))

    def _looked(self, project: str, _task: asyncio.Task[None]) -> None:
        del self._tasks[project]

    async def _look_on(self, project: str) -> None:
        """Looks at a project for as long as it grows, more often the faster that is."""
        delay = min(_LEAST_LOOK_S, self._look_s)
        while project in self._appended:
            await asyncio.sleep(delay)
            self._appended.discard(project)
            async with self._slots:
                try:
                    await self._roll_up(project)
                    grown = await self.look(project)
                    wanted = delay * self._events / max(grown, 1)
                    delay = min(max(wanted, _LEAST_LOOK_S), self._look_s)
                except ContexError as error:
                    self._appended.add(project)
                    log.warning("snapshot_interrupted", project=project, error=error.message)
                except Exception:
                    log.exception("snapshot_failed", project=project)
        self._newest.pop(project, None)
        await self.claims.give_back(project)

    async def _roll_up(self, project: str) -> None:
        """Adds up the counts of the hours that are over. Whoever else does it does no harm."""
        hour = int(time.time()) // 3600
        if self._rolled_up.get(project) != hour:
            await self._store.projects.roll_up(project)
            self._rolled_up[project] = hour

    async def look(self, project: str) -> int:
        """Takes the snapshots that are due, unless another process is at it.

        Returns:
            How many events there were after the newest snapshot.

        Raises:
            ContexError: STORE_UNAVAILABLE, STORE_FULL.
        """
        counters = await self._store.projects.counters(project)
        # Nobody else takes snapshots while the task is this process's.
        newest = self._newest.get(project)
        if newest is None:
            newest = await self._snapshots.stored.before(project, END_OF_TIME)
        grown = counters.events - (newest.events if newest else 0)
        if not await self._is_due(project, counters, newest):
            return grown
        if await self._has_task(project):
            await self._take(project, counters, newest)
        else:
            self._appended.add(project)
        return grown

    async def _has_task(self, project: str) -> bool:
        """Whether the task is this process's; it is kept for as long as the project grows."""
        if not self.claims.sure_of(project):
            self._newest.pop(project, None)
        return await self.claims.take(project)

    async def _is_due(self, project: str, now: Counters, newest: SnapshotInfo | None) -> bool:
        if newest is None and now.counted_since > BEGINNING:
            # The log is older than its counters.
            events, size = (await self._log.bounds(project)).length, 0
        else:
            events = now.events - (newest.events if newest else 0)
            size = now.bytes - (newest.bytes if newest else 0)
        enough = events >= self._events or size >= self._bytes
        return enough and events >= now.keys // 2

    async def _take(self, project: str, counters: Counters, newest: SnapshotInfo | None) -> None:
        """Brings the snapshots up to the end of the log."""
        behind = counters.events - (newest.events if newest else 0)
        older = newest is None and counters.counted_since > BEGINNING
        if older or behind >= _CATCH_UP * max(self._events, counters.keys // 2):
            try:
                taken = await self._snapshots.before(project, END_OF_TIME)
                await self._take_of_the_past(project, taken, counters)
            except ContexError as error:
                if error.reason is not Reason.SEQUENCE_TRIMMED:
                    raise
            else:
                return
        await self._take_now(project, counters)

    async def _take_now(self, project: str, counters: Counters) -> None:
        sequence, state = await live(self._log, self._store.state, project)
        await self._put(project, sequence, state, counters.events, counters.bytes)

    async def _take_of_the_past(self, project: str, taken: Taken, counters: Counters) -> None:
        """Folds the log from the newest snapshot on, and leaves one at each interval.

        What remains is less than an interval.

        Raises:
            ContexError: SEQUENCE_TRIMMED if events after the newest snapshot are gone.
        """
        bounds = await self._log.bounds(project)
        if taken.info is None and bounds.trimmed:
            raise ContexError(Reason.SEQUENCE_TRIMMED, "the log's beginning is gone")
        state = await asyncio.to_thread(_unpacked, taken)
        events, size = (taken.info.events, taken.info.bytes) if taken.info else (0, 0)
        fresh = fresh_bytes = 0
        source = pages(
            self._log,
            project,
            taken.sequence,
            bounds.tail,
            resumed=taken.info is not None,
            max_events=min(PAGE_EVENTS, self._events),
        )
        async with aclosing(source):
            async for page in source:
                if not page.entries:
                    break
                take(state, page.entries)
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
        data = await asyncio.to_thread(encode, state)
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


def _unpacked(taken: Taken) -> dict[str, KeyState]:
    return {key: taken.snapshot.at(i) for i, key in enumerate(taken.snapshot.keys)}

"""Reads the state of a project at any moment: the nearest snapshot, and the events after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from cachetools import LRUCache

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, Entry, KeyState, Range, Sequence
from contex_server.kernel.scope import Scope
from contex_server.kernel.work import looked_at
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.state.fold import PAGE_EVENTS, RecentEntries, fold_entries, read_current_state
from contex_server.state.moments import Moment, MomentQuery, resolve_moment
from contex_server.state.snapshot import EMPTY
from contex_server.state.snapshot_cache import NO_SNAPSHOT, SnapshotCache, StoredSnapshot
from contex_server.state.state import State

LONG_FOLD_EVENTS = 4_000
INLINE_KEYS = 1_000
"""Searching a larger state takes over 10 ms and is done in a thread."""


class StateReader:
    """Reads states.

    Args:
        cache_bytes: Approximate size of the cache of states.
        on_long_fold: Called with a project if a state took more than `LONG_FOLD_EVENTS`: its
            snapshots are too far apart.
    """

    def __init__(
        self,
        log: EventLog,
        store: StateStore,
        snapshots: SnapshotCache,
        *,
        cache_bytes: int,
        on_long_fold: Callable[[str], None] = lambda _project: None,
    ) -> None:
        self._log = log
        self._store = store
        self._snapshots = snapshots
        self._on_long_fold = on_long_fold
        self._cache: LRUCache[tuple[str, Sequence], State] = LRUCache(
            cache_bytes, getsizeof=lambda state: state.nbytes
        )

    async def read(
        self, project: str, query: MomentQuery, recent: RecentEntries | None = None
    ) -> tuple[Moment, State]:
        """The state as of a moment; `recent` collects the entries that are read for it.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, TIME_IN_FUTURE.
        """
        moment = await resolve_moment(self._log, project, query)
        try:
            return moment, await self.at(project, moment.sequence, recent)
        except ContexError as error:
            if error.reason is not Reason.SEQUENCE_TRIMMED or query is not None:
                raise
        sequence, state = await read_current_state(self._log, self._store, project)
        prepared = await _prepared(State(sequence, EMPTY, state))
        return Moment(sequence, moment.unix_ms), prepared

    async def at(self, project: str, until: Sequence, recent: RecentEntries | None = None) -> State:
        """The state as of a sequence, which is not beyond the end of the log.

        Raises:
            ContexError: SEQUENCE_TRIMMED if too much of the log is gone.
        """
        cached = self._cache.get((project, until))
        if cached is not None:
            return cached
        snapshot = await self._snapshots.before(project, until)
        changes: dict[str, KeyState] = {}
        try:
            await self._fold(
                project, snapshot, until, partial(fold_entries, changes, recent=recent)
            )
        except ContexError as error:
            if error.reason is not Reason.SEQUENCE_TRIMMED:
                raise
            # The end of the log needs no events: the store has every key's latest one.
            sequence, changes = await read_current_state(self._log, self._store, project)
            if sequence != until:
                raise await self._trimmed(project, until) from None
            snapshot = StoredSnapshot(NO_SNAPSHOT, EMPTY)
        state = await _prepared(State(until, snapshot.snapshot, changes))
        if state.nbytes <= self._cache.maxsize:
            self._cache[project, until] = state
        return state

    def forget(self, project: str, _last: Sequence) -> None:
        """A project was deleted: what is cached of it goes."""
        for place in [place for place in self._cache if place[0] == project]:
            self._cache.pop(place, None)
        self._snapshots.forget(project)

    async def key_at(
        self, project: str, data_key: str, until: Sequence, scope: Scope
    ) -> KeyState | None:
        """The state of one key as of a sequence; None if it had no event that the caller may see.

        Raises:
            ContexError: SEQUENCE_TRIMMED if too much of the log is gone.
        """
        if not scope.admits(data_key):
            return None
        latest = (await self._store.latest(project, [data_key])).get(data_key)
        if latest is None or latest.sequence <= until:
            return latest
        cached = self._cache.get((project, until))
        if cached is not None:
            return cached.get(data_key)
        snapshot = await self._snapshots.before(project, until)
        changes: dict[str, KeyState] = {}
        name = data_key.encode()

        def fold_key(entries: list[Entry]) -> None:
            fold_entries(changes, [entry for entry in entries if name in entry.body])

        try:
            await self._fold(project, snapshot, until, fold_key)
        except ContexError as error:
            if error.reason is not Reason.SEQUENCE_TRIMMED:
                raise
            raise await self._trimmed(project, until) from None
        return changes.get(data_key) or snapshot.snapshot.get(data_key)

    async def _fold(
        self,
        project: str,
        snapshot: StoredSnapshot,
        until: Sequence,
        fold: Callable[[list[Entry]], None],
    ) -> None:
        """Folds the entries after a snapshot, page by page."""
        start = snapshot.info.sequence
        if until == start:
            return
        count = 0
        source = pages(
            self._log,
            project,
            Range(start, until),
            resumed=start > BEGINNING,
            max_events=PAGE_EVENTS,
        )
        async with aclosing(source):
            async for page in source:
                count += len(page.entries)
                fold(page.entries)
        if start == BEGINNING and (await self._log.bounds(project)).trimmed:
            raise ContexError(Reason.SEQUENCE_TRIMMED, "the beginning of the log is gone")
        if count > LONG_FOLD_EVENTS:
            self._on_long_fold(project)

    async def _trimmed(self, project: str, until: Sequence) -> ContexError:
        """The refusal of a state whose events are gone, with the earliest one there is."""
        bounds = await self._log.bounds(project)
        earliest = bounds.tail
        oldest = bounds.first or bounds.tail
        for info in await self._snapshots.stored.after(project, oldest.prev(), 1):
            earliest = info.sequence
        return ContexError(
            Reason.SEQUENCE_TRIMMED,
            f"the state as of {until} can no longer be read; the earliest is as of {earliest}",
            metadata={"earliest_sequence": str(earliest)},
        )


async def _prepared(state: State) -> State:
    looked_at(state.most_keys)
    if state.most_keys > INLINE_KEYS:
        await asyncio.to_thread(state.prepare)
    return state

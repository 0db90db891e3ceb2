"""The state of a project at any moment: the nearest snapshot, and the events after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from cachetools import LRUCache

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, KeyState, Sequence
from contex_server.kernel.scope import Scope
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.state import StateStore
from contex_server.state.current import live
from contex_server.state.fold import PAGE_EVENTS, take
from contex_server.state.moments import Asked, Moment, resolve
from contex_server.state.snapshots import Snapshots, Taken
from contex_server.state.state import EMPTY, State

LONG_FOLD_EVENTS = 4_000


class States:
    """Reads states.

    Args:
        log: The log.
        store: The latest event of each key.
        snapshots: The snapshots.
        cache_bytes: What is kept of states that were asked for, about.
        far: Told of a project whose snapshots are so far apart that a state took more than
            `LONG_FOLD_EVENTS`.
    """

    def __init__(
        self,
        log: EventLog,
        store: StateStore,
        snapshots: Snapshots,
        *,
        cache_bytes: int,
        far: Callable[[str], None] = lambda _project: None,
    ) -> None:
        self._log = log
        self._store = store
        self._snapshots = snapshots
        self._far = far
        self._cache: LRUCache[tuple[str, Sequence], State] = LRUCache(
            cache_bytes, getsizeof=lambda state: state.nbytes
        )

    async def read(self, project: str, asked: Asked) -> tuple[Moment, State]:
        """The state as of a moment.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, TIME_IN_FUTURE,
                STORE_UNAVAILABLE.
        """
        moment = await resolve(self._log, project, asked)
        try:
            return moment, await self.at(project, moment.sequence)
        except ContexError as error:
            if error.reason is not Reason.SEQUENCE_TRIMMED or asked is not None:
                raise
        sequence, state = await live(self._log, self._store, project)
        return Moment(sequence, moment.unix_ms), State(sequence, EMPTY, state)

    async def at(self, project: str, until: Sequence) -> State:
        """The state as of a sequence, which is not beyond the end of the log.

        Raises:
            ContexError: SEQUENCE_TRIMMED if it can't be told any more; STORE_UNAVAILABLE.
        """
        held = self._cache.get((project, until))
        if held is not None:
            return held
        taken = await self._snapshots.before(project, until)
        changes: dict[str, KeyState] = {}
        try:
            await self._fold(project, taken, until, changes)
        except ContexError as error:
            if error.reason is not Reason.SEQUENCE_TRIMMED:
                raise
            # The end of the log needs no events: the store knows every key's latest.
            sequence, changes = await live(self._log, self._store, project)
            if sequence != until:
                raise await self._trimmed(project, until) from None
            taken = Taken(BEGINNING, EMPTY)
        state = State(until, taken.snapshot, changes)
        if state.nbytes <= self._cache.maxsize:
            self._cache[project, until] = state
        return state

    async def key_at(
        self, project: str, data_key: str, until: Sequence, scope: Scope
    ) -> KeyState | None:
        """The state of one key as of a sequence; None if it had no event by then, or none that
        the reader may see.

        Raises:
            ContexError: SEQUENCE_TRIMMED if it can't be told any more; STORE_UNAVAILABLE.
        """
        if not scope.admits(data_key):
            return None
        latest = (await self._store.latest(project, [data_key])).get(data_key)
        if latest is None or latest.sequence <= until:
            return latest
        held = self._cache.get((project, until))
        if held is not None:
            return held.get(data_key)
        taken = await self._snapshots.before(project, until)
        changes: dict[str, KeyState] = {}
        try:
            await self._fold(project, taken, until, changes, only=data_key.encode())
        except ContexError as error:
            if error.reason is not Reason.SEQUENCE_TRIMMED:
                raise
            raise await self._trimmed(project, until) from None
        return changes.get(data_key) or taken.snapshot.get(data_key)

    async def _fold(
        self,
        project: str,
        taken: Taken,
        until: Sequence,
        changes: dict[str, KeyState],
        *,
        only: bytes = b"",
    ) -> None:
        """Takes in the events after a snapshot; with `only`, at least those of a key."""
        if until == taken.sequence:
            return
        read = 0
        source = pages(
            self._log,
            project,
            taken.sequence,
            until,
            resumed=taken.info is not None,
            max_events=PAGE_EVENTS,
        )
        async with aclosing(source):
            async for page in source:
                entries = page.entries
                read += len(entries)
                if only:
                    entries = [entry for entry in entries if only in entry.body]
                take(changes, entries)
        if taken.info is None and (await self._log.bounds(project)).trimmed:
            raise ContexError(Reason.SEQUENCE_TRIMMED, "the beginning of the log is gone")
        if read > LONG_FOLD_EVENTS:
            self._far(project)

    async def _trimmed(self, project: str, until: Sequence) -> ContexError:
        """The refusal of a state whose events are gone; it tells the earliest one there is."""
        bounds = await self._log.bounds(project)
        earliest = bounds.tail
        for info in await self._snapshots.stored.after(
            project, (bounds.first or bounds.tail).prev(), 1
        ):
            earliest = info.sequence
        return ContexError(
            Reason.SEQUENCE_TRIMMED,
            f"the state as of {until} can no longer be told; the earliest is as of {earliest}",
            metadata={"earliest_sequence": str(earliest)},
        )

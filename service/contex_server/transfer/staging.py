"""Where the events of an import lie until it is complete: a project that nobody can name.

What the store would not keep goes straight into segments of the archive, with the snapshots that
make its past readable; the rest, which is the newest, into the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    SUBJECT,
    Entry,
    KeyState,
)
from contex_server.log.buckets import target_project
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.log.tasks import HOLD_MS, Claims
from contex_server.log.transfer import Restored
from contex_server.projects.archiver import SNAPSHOT_EVENTS, Archiver, NewSegment
from contex_server.projects.policy import Retention
from contex_server.projects.recovery import Recovery
from contex_server.state.snapshot_format import encode
from contex_server.tiers.sealer import Sealer

_SUBJECT = bytes([len(SUBJECT)]) + SUBJECT.encode()
"""How the name of the metadatum lies in an event."""
_TASK = "import"
_entry = tuple.__new__
_COUNTED_KEYS = 2_000
"""Archived events of so many keys are counted with one call: more would keep the store from
others for too long."""


class Staging:
    """The staged project of one import.

    Args:
        project: Its name; see `TransferLog`.
        store: Where it is.
        sealer: Seals those that name a subject.
        archiver: Makes segments; None where there is no archive.
        recovery: Counts what is in segments; None likewise.

    Attributes:
        project: Its name.
        tail: The end of what is staged.
        offset: The file is staged up to here.
    """

    def __init__(
        self,
        project: str,
        store: Store,
        sealer: Sealer,
        archiver: Archiver | None,
        recovery: Recovery | None,
    ) -> None:
        self.project = project
        self.tail = BEGINNING
        self.offset = 0
        self._store = store
        self._sealer = sealer
        self._archiver = archiver
        self._recovery = recovery
        self._claims = Claims(store.tasks, _TASK)
        self._straight = 0
        """So many events go into the archive, ..."""
        self._taken = 0
        """... of so many that were put."""
        self._held: list[Restored] = []
        """Events of a segment that is not full yet."""
        self._held_bytes = 0
        self._events = self._bytes = 0
        """What is archived."""
        self._states: dict[str, KeyState] = {}
        self._last: asyncio.Task[None] | None = None
        """Stages what was put before, while the next is read."""

    # -- beginning and ending --------------------------------------------------------

    async def claim(self) -> None:
        """Makes the import this one's, or sees to it that it stays so.

        Raises:
            ContexError: IMPORT_IN_PROGRESS, STORE_UNAVAILABLE.
        """
        if not await self._claims.take(self.project):
            raise self._in_progress()

    async def take_up(self) -> None:
        """Finds out what is staged already.

        Raises:
            ContexError: ARCHIVE_DAMAGED, ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        self.tail = (await self._store.events.bounds(self.project)).tail
        if self._recovery is not None:
            # It was stopped after a segment was recorded, and before all in it was counted.
            for record in await self._store.archive.segments(self.project, self.tail, 1):
                await self._recovery.take_in(self.project, record, archived=True)
                self.tail = record.last
        counters = await self._store.projects.counters(self.project)
        self._events, self._bytes = counters.events, counters.bytes
        self._taken = self._events
        async for chunk in self._store.state.state(self.project):
            self._states.update({state.data_key: state for state in chunk})

    def expect(self, events: int, size: int, retention: Retention) -> None:
        """Says how many events there will be, and their bytes: those of them that the store
        would not keep go straight into the archive."""
        if self._archiver is None or not events:
            return
        kept = retention.store_events or events
        if retention.store_bytes and size:
            kept = min(kept, retention.store_bytes * events // size)
        self._straight = events - kept

    async def commit(self, models: Iterable[str], action: bytes) -> bool:
        """Lets it take the place of the project that it is for; see `TransferLog.commit_import`.

        Raises:
            ContexError: ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        project = target_project(self.project)
        if self._archiver is None:
            return await self._store.transfer.commit_import(project, self.project, models, action)
        async with self._archiver.task(self.project, sweep=False):
            await self._archiver.mark_staged(self.project, staged=False)
            if await self._store.transfer.commit_import(project, self.project, models, action):
                return True
            await self._archiver.mark_staged(self.project, staged=True)
            return False

    async def drop(self, models: Iterable[str]) -> None:
        """Removes what is staged.

        Raises:
            ContexError: ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        if self._archiver is not None:
            await self._archiver.drop_staged(self.project)
        await self._store.transfer.drop_import(self.project, models)

    async def release(self) -> None:
        """Lets others go on with it."""
        await self._claims.give_back(self.project)

    # -- events ----------------------------------------------------------------------

    async def put(
        self, batch: list[Restored], note: bytes = b"", offset: int = 0, *, last: bool = False
    ) -> None:
        """Stages events that follow, in the background: until the next call, or `settled`.

        Args:
            batch: The events.
            note: What is kept with them, or with those that follow; b"" is nothing new.
            offset: How far the file was read by then.
            last: Nothing follows.

        Raises:
            ContexError: Also of what was put before: IMPORT_IN_PROGRESS, STORE_FULL,
                MASTER_KEY_MISSING, ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        # Looked for in all together: in one after the other it takes five times as long.
        if _SUBJECT in b"".join([event.body for event in batch]):
            batch = [await self.sealed(self.project, event) for event in batch]
        room = self._straight - self._taken
        if 0 < room < len(batch):
            await self._put(batch[:room], b"", 0, last=False)
            batch = batch[room:]
        await self._put(batch, note, offset, last=last)

    async def _put(self, batch: list[Restored], note: bytes, offset: int, *, last: bool) -> None:
        straight = self._taken < self._straight
        self._taken += len(batch)
        if straight:
            self._held += batch
            self._held_bytes += sum([len(event.body) for event in batch])
            if not (last or self._is_full() or self._taken >= self._straight):
                return
            batch, self._held, self._held_bytes = self._held, [], 0
        await self.settled()
        work = self._archive(batch, note) if straight else self._keep(batch, note)
        self._last = asyncio.create_task(self._do(work, offset))
        if last:
            await self.settled()

    async def settled(self) -> None:
        """Waits for what was put before; raises as `put`."""
        if self._last is not None:
            task, self._last = self._last, None
            await task

    async def sealed(self, project: str, event: Restored) -> Restored:
        """An event as it is kept in a project: sealed, if it names a subject.

        Raises:
            ContexError: MASTER_KEY_MISSING, KEY_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        if _SUBJECT not in event.body:
            return event
        record = event_codec.record(Entry(event.id, event.body))
        subject = record.metadata.get(SUBJECT, "")
        if not subject or record.erased is not None:
            return event
        return event._replace(body=await self._sealer.seal(project, subject, event.body))

    def _is_full(self) -> bool:
        assert self._archiver is not None
        full = len(self._held) >= self._archiver.events
        return full or self._held_bytes >= self._archiver.bytes

    async def _do(self, work: Coroutine[Any, Any, None], offset: int) -> None:
        reached("import-staging")
        await work
        if offset:
            self.offset = offset
        reached("import-staged")

    async def _keep(self, events: list[Restored], note: bytes) -> None:
        """Puts events into the store."""
        if events:
            await self._restore(events, note, archived=False)
        elif note:
            await self._store.transfer.put_import_note(self.project, note)

    async def _archive(self, events: list[Restored], note: bytes) -> None:
        """Puts events into the archive, and counts them in the store."""
        if not events:
            await self._keep([], note)
            return
        assert self._archiver is not None
        async with self._archiver.task(self.project, sweep=False):
            archived = await self._store.archive.archived(self.project)
            new = NewSegment(self.project, archived)
            await asyncio.to_thread(self._fill, new, events)
            if await self._archiver.add(self.project, new) is None:
                raise self._in_progress()
            reached("import-archived")
            for some in _parts(events):
                said = note if some[-1] is events[-1] else b""
                await self._restore(some, said, archived=True)
        self._events += new.builder.events
        self._bytes += new.builder.body_bytes

    def _fill(self, new: NewSegment, events: list[Restored]) -> None:
        """Puts events in, and snapshots of the states that they come to."""
        builder, start = new.builder, 0
        while start < len(events):
            step = max(SNAPSHOT_EVENTS, len(self._states) // 2)
            some = events[start : start + step]
            new.add(
                [_entry(Entry, event[:2]) for event in some],
                [(event.data_key, event.event_type) for event in some],
            )
            self._take_in(some)
            start += step
            if len(some) == step:
                data = encode(self._states)
                count, size = self._events + builder.events, self._bytes + builder.body_bytes
                last = Entry(some[-1].id, b"").sequence
                info = SnapshotInfo(last, count, size, len(self._states), len(data))
                builder.add_snapshot(info, data)

    def _take_in(self, events: list[Restored]) -> None:
        for key, event in {event.data_key: event for event in events}.items():
            if key:
                sequence = Entry(event.id, b"").sequence
                deleted = event.event_type == DATA_DELETED
                self._states[key] = KeyState(key, event.revision, sequence, deleted, event.digest)

    async def _restore(self, events: list[Restored], note: bytes, *, archived: bool) -> None:
        done = await self._store.transfer.restore(
            self.project, self.tail, events, note, archived=archived
        )
        if not done:
            raise self._in_progress()
        self.tail = Entry(events[-1].id, b"").sequence

    def _in_progress(self) -> ContexError:
        return ContexError(
            Reason.IMPORT_IN_PROGRESS,
            f"this import into {target_project(self.project)!r} is under way elsewhere",
            retry_after_ms=HOLD_MS,
            field="start.import_id",
        )


def _parts(events: list[Restored]) -> Iterator[list[Restored]]:
    """Runs of events of not too many keys."""
    if len({event.data_key for event in events}) <= _COUNTED_KEYS:
        yield events
        return
    start, keys = 0, set[str]()
    for at, event in enumerate(events):
        keys.add(event.data_key)
        if len(keys) > _COUNTED_KEYS:
            yield events[start:at]
            start, keys = at, {event.data_key}
    yield events[start:]

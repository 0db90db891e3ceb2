"""Holds the events of an import until it is complete: in a project that nobody can name.

The oldest events, those that the store would not keep, go directly into segments of the archive,
with the snapshots that make past states readable; the rest goes into the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import BEGINNING, DELETIONS, SUBJECT, Entry, KeyState, Sequence
from contex_server.log.buckets import target_project
from contex_server.log.state import SnapshotInfo
from contex_server.log.tasks import HOLD_MS, Claims
from contex_server.log.transfer import Restored
from contex_server.projects.retention import Retention
from contex_server.projects.room import ProjectsRoom
from contex_server.projects.segment_writer import SNAPSHOT_EVENTS, NewSegment
from contex_server.state.snapshot import encode_snapshot
from contex_server.tiers.storage import Storage

_SUBJECT = bytes([len(SUBJECT)]) + SUBJECT.encode()
"""The name of the metadata entry, as encoded in an event."""
_TASK = "import"
_entry = tuple.__new__
_PART_EVENTS = 500
"""Events that the store restores in one call, in some 15 ms."""
_COUNTED_KEYS = 2_000
"""Keys whose archived events are counted in one call: more would block the store for too long."""


class Staging:
    """The staged project of one import.

    Every method may raise `ContexError` with IMPORT_IN_PROGRESS, STORE_FULL, STORE_UNAVAILABLE,
    MASTER_KEY_MISSING, KEY_UNAVAILABLE, ARCHIVE_DAMAGED or ARCHIVE_UNAVAILABLE; `put` also
    about the events put before.

    Attributes:
        project: Its name; see `TransferStore`.
        tail: The end of what is staged.
        offset: The file is staged up to this byte.
    """

    def __init__(self, project: str, storage: Storage, projects: ProjectsRoom) -> None:
        self.project = project
        self.tail = BEGINNING
        self.offset = 0
        self._store = store = storage.store
        self._sealer = storage.sealer
        self._encryption = storage.encryption
        self._archiver = projects.archiver
        self._recovery = projects.recovery
        self._claims = Claims(store.tasks, _TASK)
        self._to_archive = 0
        """The number of events, from the first, that go into the archive."""
        self._put_events = 0
        self._segment: list[Restored] = []
        """Events of a segment that is not full yet."""
        self._segment_bytes = 0
        self._archived_events = self._archived_bytes = 0
        self._states: dict[str, KeyState] = {}
        self._task: asyncio.Task[None] | None = None
        """Stages the batch before, while the next one is read."""

    async def claim(self) -> None:
        """Claims the import for this process, or renews the claim."""
        if not await self._claims.take(self.project):
            raise self._in_progress()

    async def load(self) -> None:
        """Loads what is staged already."""
        self.tail = (await self._store.events.bounds(self.project)).tail
        if self._recovery is not None:
            # The import may have stopped between recording a segment and counting its events.
            for record in await self._store.archive.segments(self.project, self.tail, 1):
                await self._recovery.restore_segment(self.project, record, archived=True)
                self.tail = record.last
        counters = await self._store.projects.counters(self.project)
        self._archived_events, self._archived_bytes = counters.events, counters.bytes
        self._put_events = counters.events
        async for chunk in self._store.state.state(self.project):
            self._states.update({state.data_key: state for state in chunk})

    def plan(self, events: int, size: int, retention: Retention) -> None:
        """Plans how many events go directly into the archive: those that the store would not
        keep. The number of events and their size in bytes are 0 if unknown."""
        if self._archiver is None or not events:
            return
        kept = retention.store_events or events
        if retention.store_bytes and size:
            kept = min(kept, retention.store_bytes * events // size)
        self._to_archive = events - kept

    async def commit(self, models: Iterable[str], action: bytes) -> bool:
        """Replaces the project that it is for; see `TransferStore.commit_import`."""
        project = target_project(self.project)
        if self._archiver is None:
            return await self._store.transfer.commit_import(project, self.project, models, action)
        async with self._archiver.task.exclusive(self.project, sweep=False):
            if not await self._store.transfer.commit_import(project, self.project, models, action):
                return False
            # Afterwards: until then it would pass for a directory that the store has lost.
            await self._archiver.segments.unmark_staged(project)
            return True

    async def drop(self, models: Iterable[str]) -> None:
        """Removes what is staged."""
        if self._archiver is not None:
            await self._archiver.segments.drop_staged(self.project)
        await self._store.transfer.drop_import(self.project, models)

    async def release(self) -> None:
        """Releases the claim."""
        await self._claims.give_back(self.project)

    async def put(
        self, batch: list[Restored], note: bytes = b"", offset: int = 0, *, last: bool = False
    ) -> None:
        """Stages the next events, in the background until the next call or `drain`.

        Args:
            batch: The events.
            note: Stored with them, or with the next ones if they are buffered; b"" stores
                nothing new.
            offset: How far the file was read by then.
            last: Whether nothing follows.
        """
        # One search through all of them takes a fifth of the time of one in each.
        encrypted = await self._encryption.holds(target_project(self.project))
        if encrypted or _SUBJECT in b"".join([event.body for event in batch]):
            batch = [await self.seal(self.project, event, encrypted) for event in batch]
        room = self._to_archive - self._put_events
        if 0 < room < len(batch):
            await self._put(batch[:room], b"", 0, last=False)
            batch = batch[room:]
        await self._put(batch, note, offset, last=last)

    async def _put(self, batch: list[Restored], note: bytes, offset: int, *, last: bool) -> None:
        to_archive = self._put_events < self._to_archive
        self._put_events += len(batch)
        if to_archive:
            self._segment += batch
            self._segment_bytes += sum([len(event.body) for event in batch])
            assert self._archiver is not None
            full = self._archiver.segments.is_full(len(self._segment), self._segment_bytes)
            if not (last or full or self._put_events >= self._to_archive):
                return
            batch, self._segment, self._segment_bytes = self._segment, [], 0
        await self.drain()
        self._task = asyncio.create_task(self._stage(batch, note, offset, archive=to_archive))
        if last:
            await self.drain()

    async def drain(self) -> None:
        """Waits until everything put before is staged; raises as `put`."""
        if self._task is not None:
            task, self._task = self._task, None
            await task

    async def seal(self, project: str, event: Restored, encrypted: bool) -> Restored:
        """An event as it is stored in a project: sealed if it names a subject, or all are."""
        if not encrypted and _SUBJECT not in event.body:
            return event
        record = event_codec.decode(Entry(event.id, event.body))
        subject = record.metadata.get(SUBJECT, "")
        if record.erased is not None or not (subject or encrypted):
            return event
        if not subject:
            lock = await self._sealer.lock_of(project, 1)
            return event._replace(body=event_codec.seal(event.body, lock))
        return event._replace(body=await self._sealer.seal(project, subject, event.body))

    async def _stage(
        self, events: list[Restored], note: bytes, offset: int, *, archive: bool
    ) -> None:
        reached("import-staging")
        if events and archive:
            await self._archive(events, note)
        elif events:
            await self._restore(events, note, archived=False)
        elif note:
            await self._store.transfer.put_import_note(self.project, note)
        if offset:
            self.offset = offset
        reached("import-staged")

    async def _archive(self, events: list[Restored], note: bytes) -> None:
        """Archives events, and counts them in the store."""
        assert self._archiver is not None
        async with self._archiver.task.exclusive(self.project, sweep=False):
            archived = await self._store.archive.archived(self.project)
            new = NewSegment(self.project, archived)
            await asyncio.to_thread(self._fill, new, events)
            if await self._archiver.segments.write(self.project, new) is None:
                raise self._in_progress()
            reached("import-archived")
            for chunk in _split_by_keys(events):
                last = chunk[-1] is events[-1]
                await self._restore(chunk, note if last else b"", archived=True)
        self._archived_events += new.builder.events
        self._archived_bytes += new.builder.body_bytes

    def _fill(self, new: NewSegment, events: list[Restored]) -> None:
        """Adds events to a segment, with snapshots of the states that they lead to."""
        builder, start = new.builder, 0
        while start < len(events):
            step = max(SNAPSHOT_EVENTS, len(self._states) // 2)
            chunk = events[start : start + step]
            new.add(
                [_entry(Entry, event[:2]) for event in chunk],
                [(event.data_key, event.event_type) for event in chunk],
            )
            self._apply(chunk)
            start += step
            if len(chunk) == step:
                data = encode_snapshot(self._states)
                info = SnapshotInfo(
                    Entry(chunk[-1].id, b"").sequence,
                    self._archived_events + builder.events,
                    self._archived_bytes + builder.body_bytes,
                    len(self._states),
                    len(data),
                )
                builder.add_snapshot(info, data)

    def _apply(self, events: list[Restored]) -> None:
        """Updates the states."""
        for key, event in {event.data_key: event for event in events}.items():
            if key:
                sequence = Entry(event.id, b"").sequence
                deleted = event.event_type in DELETIONS
                self._states[key] = KeyState(key, event.revision, sequence, deleted, event.digest)

    async def _restore(self, events: list[Restored], note: bytes, *, archived: bool) -> None:
        """Restores events in parts that the store doesn't take long for; the note is put with the
        last one. Those that an import which stopped in between has restored already are left out.
        """
        part = len(events) if archived else _PART_EVENTS
        for start in range(0, len(events), part):
            last = start + part >= len(events)
            rest = events[start : start + part]
            if _sequence(rest[0]) <= self.tail:
                rest = [event for event in rest if _sequence(event) > self.tail]
            if rest:
                done = await self._store.transfer.restore(
                    self.project, self.tail, rest, note if last else b"", archived=archived
                )
                if not done:
                    raise self._in_progress()
                self.tail = _sequence(rest[-1])
                reached("import-part-staged")
            elif last and note:
                await self._store.transfer.put_import_note(self.project, note)

    def _in_progress(self) -> ContexError:
        return ContexError(
            Reason.IMPORT_IN_PROGRESS,
            f"this import into {target_project(self.project)!r} is running in another process, or "
            f"was until one ended without a word: it can go on within {HOLD_MS // 1000} s",
            retry_after_ms=HOLD_MS,
            field="start.import_id",
        )


def _sequence(event: Restored) -> Sequence:
    return Entry(event.id, b"").sequence


def _split_by_keys(events: list[Restored]) -> Iterator[list[Restored]]:
    """Splits events into runs of at most `_COUNTED_KEYS` keys."""
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

"""Reading archived events: which segment, which block, and as few bytes as that takes."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from cachetools import LRUCache

from contex_server.kernel import event_codec
from contex_server.kernel.blocks import BlockDamaged, decode_block
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import Entry, EventFilter, Range, Sequence
from contex_server.log.archive import Archived, ArchiveStore, SegmentRecord
from contex_server.log.state import SnapshotInfo
from contex_server.tiers.objects import ObjectMissing, Objects
from contex_server.tiers.segment import (
    FOOTER_BYTES,
    Sealed,
    SegmentDamaged,
    SegmentIndex,
    decode_index,
    read_footer,
)

T = TypeVar("T")

_RUN_BYTES = 1024 * 1024
"""What is fetched at once where a segment is read from one end to the other."""
_INLINE_BYTES = 256 * 1024
"""Largest block that is unpacked on the event loop, in less than a millisecond."""
_RECORDS = 1_000
_NARROW_BLOCKS = 8
"""Maximum number of consecutive blocks in one part of a filtered read."""
_EVENT_BYTES = 150
"""What an event of an unpacked block takes besides its bytes."""


@dataclass
class Directory:
    """The segments of a project.

    Attributes:
        archived: What the store said when it was read.
    """

    archived: Archived = field(default_factory=Archived)
    records: list[SegmentRecord] = field(default_factory=list)
    lasts: list[Sequence] = field(default_factory=list)

    @property
    def remains(self) -> list[SegmentRecord]:
        """The segment of what is kept of removed events, if there is one."""
        return [] if self.archived.remains is None else [self.archived.remains]

    def add(self, record: SegmentRecord) -> None:
        """Takes a segment that follows."""
        self.records.append(record)
        self.lasts.append(record.last)

    def touched_by(self, span: Range) -> Iterator[SegmentRecord]:
        """The segments that may have events of a range, in its direction."""
        start, end = bisect_right(self.lasts, span.after), bisect_left(self.lasts, span.until) + 1
        places = range(start, min(end, len(self.lasts)))
        for at in reversed(places) if span.backwards else places:
            yield self.records[at]

    def holding(self, sequence: Sequence) -> SegmentRecord | None:
        """The segment that has the event, if one has it."""
        archived = self.archived
        if archived.first is None or sequence < archived.first:
            return archived.remains
        index = bisect_left(self.lasts, sequence)
        return self.records[index] if index < len(self.records) else None


_NOTHING = Directory()


class Archive:
    """The archived events of all projects. What takes a directory is called through `look`.

    Every method may raise `ContexError` with ARCHIVE_UNAVAILABLE, ARCHIVE_DAMAGED or
    STORE_UNAVAILABLE.

    Args:
        store: Says which segments there are.
        objects: Where they are.
        cache_bytes: What is kept at hand, about.
    """

    def __init__(self, store: ArchiveStore, objects: Objects, *, cache_bytes: int) -> None:
        self.objects = objects
        self._store = store
        self._directories: LRUCache[str, Directory] = LRUCache(1_000)
        self._indexes: LRUCache[str, SegmentIndex] = LRUCache(
            cache_bytes // 4, getsizeof=lambda index: index.nbytes
        )
        self._packed: LRUCache[tuple[str, int], bytes] = LRUCache(cache_bytes // 4, getsizeof=len)
        self._blocks: LRUCache[tuple[str, int], list[Entry]] = LRUCache(
            cache_bytes // 2, getsizeof=_block_bytes
        )
        self._passing: LRUCache[tuple[str, EventFilter], SequenceOf[int]] = LRUCache(1_000)
        self._fetches: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Ends what is fetched ahead."""
        tasks = list(self._fetches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def directory(self, project: str) -> Directory:
        """The segments of a project, as they are now."""
        archived = await self._store.archived(project)
        known = self._directories.get(project, Directory())
        before = known.archived
        if archived == before:
            return known
        same = (archived.directory, archived.first, archived.rewrites)
        if same != (before.directory, before.first, before.rewrites):
            known = Directory()
        fresh = Directory(archived, list(known.records), list(known.lasts))
        while not fresh.lasts or fresh.lasts[-1] < archived.last:
            after = fresh.lasts[-1] if fresh.lasts else Sequence(0, 0)
            records = await self._store.segments(project, after, _RECORDS)
            if not records:
                break
            for record in records:
                if record.last <= archived.last:
                    fresh.add(record)
            if records[-1].last >= archived.last:
                break
        self._directories[project] = fresh
        return fresh

    def known(self, project: str) -> Sequence:
        """Everything up to here is archived: what was known at the last look, so without a call."""
        return self._directories.get(project, _NOTHING).archived.last

    async def look(self, project: str, read: Callable[[Directory], Awaitable[T]]) -> T:
        """Reads in the directory of a project; once more if objects were replaced meanwhile."""
        directory = await self.directory(project)
        while True:
            try:
                return await read(directory)
            except _Gone as gone:
                before, directory = directory, await self.directory(project)
                if directory is before:
                    raise _damaged(gone.record, "the object is missing") from gone

    async def read(self, directory: Directory, span: Range, count: int) -> list[Entry]:
        """See `EventLog.read`."""
        result: list[Entry] = []
        after, until, backwards = span
        for record in directory.touched_by(span):
            index = await self.index(record)
            blocks = _blocks_of(index, span)
            for block in reversed(blocks) if backwards else blocks:
                ahead = not backwards and _end(record, index, block) < until
                entries = await self._block(record, index, block, ahead=ahead)
                low = bisect_right(entries, after, key=_sequence)
                high = bisect_right(entries, until, key=_sequence)
                room = count - len(result)
                if backwards:
                    result += reversed(entries[max(low, high - room) : high])
                else:
                    result += entries[low : min(high, low + room)]
                if len(result) == count:
                    return result
            if not backwards and record.last < until:
                self._run_ahead(directory, record)
        return result

    async def narrow(self, directory: Directory, span: Range, event_filter: EventFilter) -> Range:
        """See `EventLog.narrow`."""
        after, until, backwards = span
        archived = min(directory.archived.last, until)
        if backwards and until > archived:
            return span._replace(after=max(after, archived))
        for record in directory.touched_by(span):
            index = await self.index(record)
            within = _blocks_of(index, span)
            blocks = self._blocks_with(record, index, event_filter)
            blocks = blocks[bisect_left(blocks, within.start) : bisect_left(blocks, within.stop)]
            if blocks:
                blocks = blocks[::-1] if backwards else blocks
                first = last = blocks[0]
                for block in blocks[1:_NARROW_BLOCKS]:
                    if abs(block - last) > 1:
                        break
                    last = block
                starts = index.firsts[min(first, last)].prev()
                ends = _end(record, index, max(first, last))
                return Range(max(after, starts), min(until, ends), backwards)
        return Range(after, after, backwards) if backwards else Range(max(after, archived), until)

    def _blocks_with(
        self, record: SegmentRecord, index: SegmentIndex, event_filter: EventFilter
    ) -> SequenceOf[int]:
        """The blocks of a segment that may hold events that pass a filter."""
        blocks = self._passing.get((record.name, event_filter))
        if blocks is None:
            blocks = self._passing[record.name, event_filter] = index.blocks_with(event_filter)
        return blocks

    async def get(
        self, directory: Directory, sequences: Iterable[Sequence]
    ) -> dict[Sequence, Entry]:
        """The archived ones of some events."""
        result: dict[Sequence, Entry] = {}

        async def look(
            record: SegmentRecord, index: SegmentIndex, block: int, group: list[Sequence]
        ) -> None:
            entries = await self._block(record, index, block)
            if len(group) == 1:
                at = bisect_left(entries, group[0], key=_sequence)
                entries = entries[at : at + 1]
            by_id = {entry.id: entry for entry in entries}
            for sequence in group:
                entry = by_id.get(b"%d-%d" % sequence)
                if entry is not None:
                    result[sequence] = entry

        # A few at a time: what is far away is waited for together.
        pending = [place async for place in self._places(directory, sequences)]
        for start in range(0, len(pending), 16):
            await asyncio.gather(*(look(*place) for place in pending[start : start + 16]))
        return result

    async def _places(
        self, directory: Directory, sequences: Iterable[Sequence]
    ) -> AsyncGenerator[tuple[SegmentRecord, SegmentIndex, int, list[Sequence]], None]:
        """The blocks that some events are in if they are archived, each with those events."""
        remaining = deque(sorted(set(sequences)))
        while remaining:
            first = remaining.popleft()
            record = directory.holding(first)
            if record is None or first > record.last:
                continue
            index = await self.index(record)
            block = bisect_right(index.firsts, first) - 1
            end = _end(record, index, block)
            group = [first]
            while remaining and remaining[0] <= end:
                group.append(remaining.popleft())
            if block >= 0:
                yield record, index, block, group

    async def history(
        self, directory: Directory, sequence: Sequence | None, count: int, max_bytes: int
    ) -> list[Entry]:
        """The event at a sequence and those before it of the same key; see
        `EventLog.history`."""
        entries: list[Entry] = []
        while sequence is not None and len(entries) < count and max_bytes > 0:
            record = directory.holding(sequence)
            first = (await self.get(directory, [sequence])).get(sequence)
            if record is None or first is None:
                break
            index = await self.index(record)
            event = event_codec.decode(first)
            places = index.places_of(event.data_key)
            block = bisect_right(index.firsts, sequence) - 1
            inside = bisect_left(await self._block(record, index, block), sequence, key=_sequence)
            upto = bisect_right(places, index.starts[block] + inside)
            for place in reversed(places[:upto]):
                entry = await self._at(record, index, place)
                entries.append(entry)
                max_bytes -= len(entry.body)
                if len(entries) == count or max_bytes <= 0:
                    return entries
            sequence = event_codec.decode(entries[-1]).previous_sequence
        return entries

    async def entries(self, record: SegmentRecord) -> AsyncGenerator[list[Entry], None]:
        """All events of a segment, a block after the other.

        To be called through `look`, or where nobody else replaces segments.
        """
        index = await self.index(record)
        for block in range(len(index.counts)):
            yield await self._block(record, index, block)

    # -- snapshots ---------------------------------------------------------------

    async def snapshot_before(self, directory: Directory, until: Sequence) -> SnapshotInfo | None:
        """The newest archived snapshot at or before a sequence."""
        records = directory.touched_by(Range(until=until, backwards=True))
        for record in (*records, *directory.remains):
            for info, _ in reversed((await self.index(record)).snapshots):
                if info.sequence <= until:
                    return info
        return None

    async def snapshots(
        self, directory: Directory, after: Sequence, count: int
    ) -> list[SnapshotInfo]:
        """The first `count` archived snapshots after a sequence, in order."""
        infos: list[SnapshotInfo] = []
        for record in (*directory.remains, *directory.touched_by(Range(after))):
            index = await self.index(record)
            infos += (info for info, _ in index.snapshots if info.sequence > after)
            if len(infos) >= count:
                break
        return infos[:count]

    async def snapshot(self, directory: Directory, sequence: Sequence) -> bytes | None:
        """An archived snapshot, as it was stored."""
        for record in (directory.holding(sequence), directory.archived.remains):
            if record is None:
                continue
            for info, start in (await self.index(record)).snapshots:
                if info.sequence == sequence:
                    return await self._guard(
                        record, self.objects.get_range(record.name, start, start + info.size)
                    )
        return None

    # -- objects -----------------------------------------------------------------

    async def store(self, sealed: Sealed, name: str) -> SegmentRecord:
        """Stores a segment, and reads it back; it is to be recorded then.

        Raises:
            ContexError: ARCHIVE_UNAVAILABLE; ARCHIVE_DAMAGED if what is read is not what was
                written.
        """
        reached("archive-storing")
        await self.objects.put(name, sealed.data)
        reached("archive-stored")
        if await self.objects.get(name) != sealed.data:
            raise ContexError(
                Reason.ARCHIVE_DAMAGED,
                "the archive's storage gave back other bytes than it was given",
                metadata={"object": name},
            )
        size = len(sealed.data)
        return _recorded(sealed.summary, size, sealed.index_offset, sealed.digest, name)

    async def describe(self, name: str, size: int) -> tuple[SegmentIndex, SegmentRecord]:
        """What an object of a size holds, and how it is recorded.

        Raises:
            SegmentDamaged: It is no segment.
            ContexError: ARCHIVE_UNAVAILABLE.
        """
        footer = await self.objects.get_range(name, max(0, size - FOOTER_BYTES), size)
        offset, length, digest = read_footer(footer)
        if offset + length + FOOTER_BYTES != size:
            raise SegmentDamaged("its index is not where it says")
        data = await self.objects.get_range(name, offset, offset + length)
        index = await asyncio.to_thread(decode_index, data)
        return index, _recorded(index, size, offset, digest, name)

    async def index(self, record: SegmentRecord) -> SegmentIndex:
        """What a segment holds."""
        cached = self._indexes.get(record.name)
        if cached is not None:
            return cached
        start, end = record.index_offset, record.size
        data = await self._guard(record, self.objects.get_range(record.name, start, end))
        try:
            index = await asyncio.to_thread(decode_index, data[:-FOOTER_BYTES])
        except SegmentDamaged as error:
            raise _damaged(record, error) from error
        if index.nbytes <= self._indexes.maxsize:
            self._indexes[record.name] = index
        return index

    async def _at(self, record: SegmentRecord, index: SegmentIndex, place: int) -> Entry:
        block = bisect_right(index.starts, place) - 1
        return (await self._block(record, index, block))[place - index.starts[block]]

    async def _block(
        self, record: SegmentRecord, index: SegmentIndex, block: int, *, ahead: bool = False
    ) -> list[Entry]:
        """The events of a block; with `ahead`, those that follow are fetched meanwhile."""
        place = (record.name, block)
        entries = self._blocks.get(place)
        if entries is None:
            packed = await self._packed_block(record, index, block, ahead=ahead)
            try:
                if len(packed) <= _INLINE_BYTES:
                    entries = decode_block(packed)
                else:
                    entries = await asyncio.to_thread(decode_block, packed)
            except BlockDamaged as error:
                self._packed.pop(place, None)
                raise _damaged(record, error) from error
            count, first = index.counts.item(block), index.firsts[block]
            if len(entries) != count or entries[0].sequence != first:
                raise _damaged(record, "a block holds other events than the index says")
            with suppress(ValueError):  # It is larger than all that is kept.
                self._blocks[place] = entries
            self._packed.pop(place, None)
        if ahead:
            following = self._run(index, block)
            if following < len(index.counts):
                self._fetch(record, index, following, self._run(index, following))
        return entries

    async def _packed_block(
        self, record: SegmentRecord, index: SegmentIndex, block: int, *, ahead: bool
    ) -> bytes:
        place = (record.name, block)
        for _ in range(2):
            packed = self._packed.get(place)
            if packed is not None:
                return packed
            if place not in self._fetches and not ahead:
                break
            # Whoever waits may be cancelled; the fetch serves others too.
            task = self._fetch(record, index, block, self._run(index, block))
            if task is not None:
                await asyncio.shield(task)
        start, end = index.offsets.item(block), index.offsets.item(block + 1)
        return await self._guard(record, self.objects.get_range(record.name, start, end))

    def _run(self, index: SegmentIndex, block: int) -> int:
        """Where the run of blocks that begins with one ends."""
        limit = index.offsets.item(block) + _RUN_BYTES
        end = int(bisect_right(index.offsets, limit)) - 1
        return min(max(end, block + 1), len(index.counts))

    def _fetch(
        self, record: SegmentRecord, index: SegmentIndex, start: int, end: int
    ) -> asyncio.Task[None] | None:
        """Fetches blocks [start, end), unless the first is there or on its way."""
        place = (record.name, start)
        if place in self._fetches:
            return self._fetches[place]
        if place in self._packed or place in self._blocks:
            return None
        task = asyncio.create_task(self._fetch_run(record, index, start, end))
        places = [(record.name, block) for block in range(start, end)]
        for each in places:
            self._fetches.setdefault(each, task)
        task.add_done_callback(partial(self._fetched, places))
        return task

    def _fetched(self, places: list[tuple[str, int]], task: asyncio.Task[None]) -> None:
        for place in places:
            if self._fetches.get(place) is task:
                del self._fetches[place]
        if not task.cancelled():
            task.exception()  # whoever needs the blocks asks again, and gets the error

    async def _fetch_run(
        self, record: SegmentRecord, index: SegmentIndex, start: int, end: int
    ) -> None:
        first, last = index.offsets.item(start), index.offsets.item(end)
        data = await self._guard(record, self.objects.get_range(record.name, first, last))
        for block in range(start, end):
            low, high = index.offsets.item(block) - first, index.offsets.item(block + 1) - first
            if high - low <= self._packed.maxsize:
                self._packed[record.name, block] = data[low:high]

    def _run_ahead(self, directory: Directory, record: SegmentRecord) -> None:
        """Fetches the beginning of the segment after one, if its index is at hand."""
        at = bisect_right(directory.lasts, record.last)
        for following in directory.records[at : at + 1]:
            if (index := self._indexes.get(following.name)) is not None:
                self._fetch(following, index, 0, self._run(index, 0))

    async def _guard(self, record: SegmentRecord, call: Awaitable[T]) -> T:
        try:
            return await call
        except ObjectMissing as error:
            raise _Gone(record) from error


def _recorded(
    index: SegmentIndex, size: int, index_offset: int, digest: str, name: str
) -> SegmentRecord:
    held = (index.ordinal, index.first, index.last, index.events, index.bytes)
    return SegmentRecord(*held, size, index_offset, digest, name)


class _Gone(Exception):
    """An object is not there."""

    def __init__(self, record: SegmentRecord) -> None:
        super().__init__(record.name)
        self.record = record


def _damaged(record: SegmentRecord, cause: object) -> ContexError:
    return ContexError(
        Reason.ARCHIVE_DAMAGED,
        f"segment {record.ordinal} of the archive is damaged: {cause}",
        metadata={
            "object": record.name,
            "first_sequence": str(record.first),
            "last_sequence": str(record.last),
        },
    )


def _sequence(entry: Entry) -> Sequence:
    return entry.sequence


def _block_bytes(entries: list[Entry]) -> int:
    return sum([len(entry.body) for entry in entries]) + _EVENT_BYTES * len(entries)


def _blocks_of(index: SegmentIndex, span: Range) -> range:
    """The blocks of a segment that may have events of a range."""
    start = max(0, bisect_right(index.firsts, span.after.next()) - 1)
    return range(start, bisect_right(index.firsts, span.until))


def _end(record: SegmentRecord, index: SegmentIndex, block: int) -> Sequence:
    """A sequence that no event of a block is after, and all of the next are."""
    following = index.firsts[block + 1 : block + 2]
    return following[0].prev() if following else record.last

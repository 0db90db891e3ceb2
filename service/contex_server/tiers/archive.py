"""Reading archived events: which segment, which block, and as few bytes as that takes."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from cachetools import LRUCache

from contex_server.kernel import event_codec
from contex_server.kernel.blocks import BlockDamaged, decode_block
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import BEGINNING, Entry, EventFilter, Range, Sequence, body_bytes
from contex_server.log.archive import Archived, ArchiveStore, SegmentRecord
from contex_server.log.port import Part
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

P = ParamSpec("P")
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


@dataclass(frozen=True)
class Directory:
    """The segments of a project.

    Attributes:
        archived: What the store said when it was read.
    """

    archived: Archived = field(default_factory=Archived)
    records: list[SegmentRecord] = field(default_factory=list)

    @cached_property
    def lasts(self) -> list[Sequence]:
        """The last sequence of each segment."""
        return [record.last for record in self.records]

    @property
    def remains(self) -> list[SegmentRecord]:
        """The segment of what is kept of removed events, if there is one."""
        return [] if self.archived.remains is None else [self.archived.remains]

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


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment with its index."""

    record: SegmentRecord
    index: SegmentIndex


def _in_directory(
    read: Callable[Concatenate[Archive, Directory, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Archive, str, P], Coroutine[Any, Any, T]]:
    """Reads in the directory of a project; once more if objects were replaced meanwhile."""

    @wraps(read)
    async def look(self: Archive, project: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        directory = await self.directory(project)
        while True:
            try:
                return await read(self, directory, *args, **kwargs)
            except _Gone as gone:
                before, directory = directory, await self.directory(project)
                if directory is before:
                    raise _damaged(gone.record, "the object is missing") from gone

    return look


class Archive:
    """The archived events of all projects.

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
        known = self._directories.get(project, _NOTHING)
        before = known.archived
        if archived == before:
            return known
        same = (archived.directory, archived.first, archived.rewrites)
        kept = same == (before.directory, before.first, before.rewrites)
        records = list(known.records) if kept else []
        while (after := records[-1].last if records else BEGINNING) < archived.last:
            page = await self._store.segments(project, after, _RECORDS)
            records += [record for record in page if record.last <= archived.last]
            if not page or page[-1].last >= archived.last:
                break
        fresh = self._directories[project] = Directory(archived, records)
        return fresh

    def known(self, project: str) -> Sequence:
        """Everything up to here is archived: what was known at the last look, so without a call."""
        return self._directories.get(project, _NOTHING).archived.last

    @_in_directory
    async def read_part(
        self, directory: Directory, span: Range, count: int, max_bytes: int
    ) -> Part:
        """See `EventLog.read_part`."""
        result: list[Entry] = []
        after, until, backwards = span
        for record in directory.touched_by(span):
            segment = await self._segment(record)
            blocks = segment.index.blocks_in(span)
            for block in reversed(blocks) if backwards else blocks:
                ahead = not backwards and segment.index.end_of(block) < until
                entries = await self._block(segment, block, ahead=ahead)
                low = bisect_right(entries, after, key=_sequence)
                high = bisect_right(entries, until, key=_sequence)
                room = count - len(result)
                if backwards:
                    some = Part(entries[max(low, high - room) : high][::-1], ended=True)
                else:
                    some = Part(entries[low : min(high, low + room)], ended=True)
                some = some.within(max_bytes)
                result += some.entries
                max_bytes -= some.size
                if result and (len(result) == count or max_bytes <= 0):
                    return Part(result, ended=False)
            if not backwards and record.last < until:
                self._run_ahead(directory, record)
        return Part(result, ended=True)

    @_in_directory
    async def narrow(self, directory: Directory, span: Range, event_filter: EventFilter) -> Range:
        """See `EventLog.narrow`."""
        after, until, backwards = span
        archived = min(directory.archived.last, until)
        if backwards and until > archived:
            return span._replace(after=max(after, archived))
        for record in directory.touched_by(span):
            index = await self.index(record)
            within = index.blocks_in(span)
            passing = (record.name, event_filter)
            blocks = self._passing.get(passing)
            if blocks is None:
                blocks = self._passing[passing] = index.blocks_with(event_filter)
            blocks = blocks[bisect_left(blocks, within.start) : bisect_left(blocks, within.stop)]
            if blocks:
                blocks = blocks[::-1] if backwards else blocks
                first = last = blocks[0]
                for block in blocks[1:_NARROW_BLOCKS]:
                    if abs(block - last) > 1:
                        break
                    last = block
                starts = index.firsts[min(first, last)].prev()
                ends = index.end_of(max(first, last))
                return Range(max(after, starts), min(until, ends), backwards)
        return Range(after, after, backwards) if backwards else Range(max(after, archived), until)

    @_in_directory
    async def get(
        self, directory: Directory, sequences: Iterable[Sequence]
    ) -> dict[Sequence, Entry]:
        """The archived ones of some events."""
        result: dict[Sequence, Entry] = {}

        async def look(segment: Segment, block: int, group: list[Sequence]) -> None:
            entries = await self._block(segment, block)
            if len(group) == 1:
                at = bisect_left(entries, group[0], key=_sequence)
                entries = entries[at : at + 1]
            by_id = {entry.id: entry for entry in entries}
            for sequence in group:
                entry = by_id.get(b"%d-%d" % sequence)
                if entry is not None:
                    result[sequence] = entry

        groups: list[tuple[Segment, int, list[Sequence]]] = []
        ordered = sorted(set(sequences))
        start = 0
        while start < len(ordered):
            record = directory.holding(ordered[start])
            if record is None or ordered[start] > record.last:
                start += 1
                continue
            segment = await self._segment(record)
            block = segment.index.block_of(ordered[start])
            end = bisect_right(ordered, segment.index.end_of(block), start + 1)
            if block >= 0:
                groups.append((segment, block, ordered[start:end]))
            start = end
        # A few at a time: what is far away is waited for together.
        for start in range(0, len(groups), 16):
            await asyncio.gather(*(look(*group) for group in groups[start : start + 16]))
        return result

    @_in_directory
    async def history(
        self, directory: Directory, sequence: Sequence | None, count: int, max_bytes: int
    ) -> list[Entry]:
        """The event at a sequence and those before it of the same key; see
        `EventLog.history`."""
        entries: list[Entry] = []
        while sequence is not None and len(entries) < count and max_bytes > 0:
            record = directory.holding(sequence)
            if record is None:
                break
            segment = await self._segment(record)
            index = segment.index
            block = index.block_of(sequence)
            within = await self._block(segment, block) if block >= 0 else []
            at = bisect_left(within, sequence, key=_sequence)
            if at == len(within) or within[at].sequence != sequence:
                break
            places = index.places_of(event_codec.decode(within[at]).data_key)
            upto = bisect_right(places, index.starts[block] + at)
            for place in reversed(places[:upto]):
                block = bisect_right(index.starts, place) - 1
                entry = (await self._block(segment, block))[place - index.starts[block]]
                entries.append(entry)
                max_bytes -= len(entry.body)
                if len(entries) == count or max_bytes <= 0:
                    return entries
            sequence = event_codec.decode(entries[-1]).previous_sequence
        return entries

    async def entries(self, record: SegmentRecord) -> AsyncGenerator[list[Entry], None]:
        """All events of a segment, a block after the other; only where nobody else replaces
        segments."""
        segment = await self._segment(record)
        for block in range(len(segment.index.counts)):
            yield await self._block(segment, block)

    @_in_directory
    async def snapshot_before(self, directory: Directory, until: Sequence) -> SnapshotInfo | None:
        """The newest archived snapshot at or before a sequence."""
        records = directory.touched_by(Range(until=until, backwards=True))
        for record in (*records, *directory.remains):
            for info, _ in reversed((await self.index(record)).snapshots):
                if info.sequence <= until:
                    return info
        return None

    @_in_directory
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

    @_in_directory
    async def snapshot(self, directory: Directory, sequence: Sequence) -> bytes | None:
        """An archived snapshot, as it was stored."""
        for record in (directory.holding(sequence), directory.archived.remains):
            if record is None:
                continue
            for info, start in (await self.index(record)).snapshots:
                if info.sequence == sequence:
                    return await self._range(record, start, start + info.size)
        return None

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
        offset, _, digest = read_footer(sealed.data)
        return _recorded(sealed.summary, len(sealed.data), offset, digest, name)

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
        data = await self._range(record, record.index_offset, record.size)
        try:
            index = await asyncio.to_thread(decode_index, data[:-FOOTER_BYTES])
        except SegmentDamaged as error:
            raise _damaged(record, error) from error
        if index.nbytes <= self._indexes.maxsize:
            self._indexes[record.name] = index
        return index

    async def _segment(self, record: SegmentRecord) -> Segment:
        return Segment(record, await self.index(record))

    async def _block(self, segment: Segment, block: int, *, ahead: bool = False) -> list[Entry]:
        """The events of a block; with `ahead`, those that follow are fetched meanwhile."""
        record, index = segment.record, segment.index
        place = (record.name, block)
        entries = self._blocks.get(place)
        if entries is None:
            packed = await self._packed_block(segment, block, ahead=ahead)
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
            following = _run_end(index, block)
            if following < len(index.counts):
                self._fetch(segment, following)
        return entries

    async def _packed_block(self, segment: Segment, block: int, *, ahead: bool) -> bytes:
        place = (segment.record.name, block)
        for _ in range(2):
            packed = self._packed.get(place)
            if packed is not None:
                return packed
            if place not in self._fetches and not ahead:
                break
            # Whoever waits may be cancelled; the fetch serves others too.
            task = self._fetch(segment, block)
            if task is not None:
                await asyncio.shield(task)
        return await self._packed_blocks(segment, block, block + 1)

    async def _packed_blocks(self, segment: Segment, start: int, end: int) -> bytes:
        record, offsets = segment.record, segment.index.offsets
        return await self._range(record, offsets.item(start), offsets.item(end))

    def _fetch(self, segment: Segment, start: int) -> asyncio.Task[None] | None:
        """Fetches the run of blocks that begins with one, unless that is there or on its way."""
        name = segment.record.name
        if (name, start) in self._fetches:
            return self._fetches[name, start]
        if (name, start) in self._packed or (name, start) in self._blocks:
            return None
        blocks = range(start, _run_end(segment.index, start))
        task = asyncio.create_task(self._fetch_run(segment, blocks))
        places = [(name, block) for block in blocks]
        for place in places:
            self._fetches.setdefault(place, task)
        task.add_done_callback(partial(self._fetched, places))
        return task

    def _fetched(self, places: list[tuple[str, int]], task: asyncio.Task[None]) -> None:
        for place in places:
            if self._fetches.get(place) is task:
                del self._fetches[place]
        if not task.cancelled():
            task.exception()  # whoever needs the blocks asks again, and gets the error

    async def _fetch_run(self, segment: Segment, blocks: range) -> None:
        data = await self._packed_blocks(segment, blocks.start, blocks.stop)
        offsets = segment.index.offsets
        first = offsets.item(blocks.start)
        for block in blocks:
            low, high = offsets.item(block) - first, offsets.item(block + 1) - first
            if high - low <= self._packed.maxsize:
                self._packed[segment.record.name, block] = data[low:high]

    def _run_ahead(self, directory: Directory, record: SegmentRecord) -> None:
        """Fetches the beginning of the segment after one, if its index is at hand."""
        at = bisect_right(directory.lasts, record.last)
        for following in directory.records[at : at + 1]:
            if (index := self._indexes.get(following.name)) is not None:
                self._fetch(Segment(following, index), 0)

    async def _range(self, record: SegmentRecord, start: int, end: int) -> bytes:
        """The bytes [start, end) of a segment."""
        try:
            return await self.objects.get_range(record.name, start, end)
        except ObjectMissing as error:
            raise _Gone(record) from error


def _recorded(
    index: SegmentIndex, size: int, index_offset: int, digest: str, name: str
) -> SegmentRecord:
    events = (index.ordinal, index.first, index.last, index.events, index.bytes)
    return SegmentRecord(*events, size, index_offset, digest, name)


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
    return body_bytes(entries) + _EVENT_BYTES * len(entries)


def _run_end(index: SegmentIndex, block: int) -> int:
    """Where the run of blocks that begins with one ends."""
    limit = index.offsets.item(block) + _RUN_BYTES
    end = int(bisect_right(index.offsets, limit)) - 1
    return min(max(end, block + 1), len(index.counts))

"""The directory of the archive, on Redis or Valkey.

archive   hash: how far the project is archived, see functions/archive.lua
segments  stream: the segments, by the sequences of their last events
"""

from __future__ import annotations

from contex_server.kernel.model import Range, Sequence
from contex_server.log.archive import Archived, ArchiveStore, Compaction, SegmentRecord, is_remains
from contex_server.log.port import Part
from contex_server.log.redis.client import Client, Facet
from contex_server.log.redis.key_names import key, parse_sequence
from contex_server.log.redis.parts import PartReader

_NUMBERS = ("segments", "events", "bytes", "size", "moved", "removed", "rewrites", "compacted")
_KINDS = ("task:archive", "archive", "segments")
_TRIMMED = 5_000
"""Events removed by one call, in half a millisecond."""


class RedisArchive(Facet, ArchiveStore):
    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._parts = PartReader(client)

    async def read_tail(
        self, project: str, span: Range, count: int, max_bytes: int
    ) -> tuple[Part, Sequence]:
        asked = ("HGET", key(project, "archive"), "last")
        part, (last,) = await self._parts.read(project, span, count, max_bytes, asked)
        return part, parse_sequence(last)

    async def archived(self, project: str) -> Archived:
        values = await self._client.command(project, "HMGET", "archive", *Archived._fields)
        stored = dict(zip(Archived._fields, values, strict=True))
        numbers = {kind: int(stored[kind] or 0) for kind in _NUMBERS}
        first, last, remains = stored["first"], stored["last"], stored["remains"]
        return Archived(
            **numbers,
            first=parse_sequence(first) if first and numbers["events"] else None,
            last=parse_sequence(last),
            digest=(stored["digest"] or b"").decode(),
            directory=(stored["directory"] or b"").decode(),
            remains=_record(*remains.split(b" ", 1)) if remains else None,
            compaction=_compaction(stored["compaction"]),
        )

    async def segments(self, project: str, after: Sequence, count: int) -> list[SegmentRecord]:
        rows = await self._client.read(project, "segments", Range(after), count)
        return [_record(last, fields[1]) for last, fields in rows]

    async def archive_directory(self, project: str, proposed: str) -> str:
        _, directory = await self._client.commands(
            project, ("HSETNX", "archive", "directory", proposed), ("HGET", "archive", "directory")
        )
        return str(directory.decode())

    async def add_segment(
        self,
        project: str,
        owner: str,
        directory: str,
        record: SegmentRecord,
        *,
        removed: int | None = None,
    ) -> bool:
        return await self._client.attempt(
            project,
            "contex1_add_segment",
            (*_KINDS, "events"),
            owner,
            record.ordinal,
            directory,
            str(record.last),
            str(record.first),
            record.events,
            record.bytes,
            record.size,
            record.digest,
            _line(record),
            "" if removed is None else removed,
        )

    async def replace_segment(self, project: str, owner: str, record: SegmentRecord) -> bool:
        return await self._client.attempt(
            project,
            "contex1_replace_segment",
            (*_KINDS, "segments-anew"),
            owner,
            str(record.last),
            record.bytes,
            record.size,
            record.digest,
            _line(record),
        )

    async def replace_remains(self, project: str, owner: str, record: SegmentRecord) -> bool:
        return await self._client.attempt(
            project,
            "contex1_replace_remains",
            ("task:archive", "archive"),
            owner,
            f"{record.last} {_line(record)}",
        )

    async def compact(
        self,
        project: str,
        owner: str,
        retention: bytes,
        compaction: Compaction,
        replacement: tuple[SegmentRecord, SegmentRecord] | None,
        events: int,
        action: bytes,
    ) -> bool:
        return await self._client.attempt(
            project,
            "contex1_compact",
            (*_KINDS, "segments-anew", "retention", "audit"),
            owner,
            retention,
            " ".join(map(str, compaction)),
            events,
            action,
            self._settings.audit_retention_ms,
            *(() if replacement is None else _replacement(*replacement)),
        )

    async def remove_segments(
        self,
        project: str,
        owner: str,
        first: Sequence,
        remains: SegmentRecord,
        since: Sequence,
        action: bytes,
    ) -> bool:
        return await self._client.attempt(
            project,
            "contex1_remove_segments",
            (*_KINDS, "audit"),
            owner,
            str(first),
            f"{remains.last} {_line(remains)}",
            str(since),
            action,
            self._settings.audit_retention_ms,
        )

    async def trim(self, project: str, until: Sequence) -> int:
        kinds = ("archive", "events")

        async def remove(at_most: int | str) -> int:
            return int(
                await self._client.call(
                    project, "contex1_trim", kinds, str(until), str(until.next()), at_most
                )
            )

        total = 0
        while removed := await remove(_TRIMMED):
            total += removed
        return total + await remove("")


def _replacement(before: SegmentRecord, after: SegmentRecord) -> tuple[str | int, ...]:
    """The arguments by which the store's functions replace a segment or the remains."""
    if is_remains(after):
        return ("remains", f"{before.last} {_line(before)}", f"{after.last} {_line(after)}")
    numbers = (after.bytes, after.size, after.digest)
    return ("segment", _line(before), str(after.last), *numbers, _line(after))


def _compaction(stored: bytes | None) -> Compaction | None:
    if stored is None:
        return None
    keep, segments, looked, last = stored.decode().split()
    return Compaction(int(keep), int(segments), int(looked), Sequence.parse(last))


def _line(record: SegmentRecord) -> str:
    numbers = (record.events, record.bytes, record.size, record.index_offset)
    first = (record.ordinal, record.first)
    return " ".join(map(str, (*first, *numbers, record.digest, record.name)))


def _record(last: bytes, line: bytes) -> SegmentRecord:
    ordinal, first, *numbers, digest, name = line.decode().split(" ", 7)
    events, size, stored, offset = map(int, numbers)
    span = (Sequence.parse(first), parse_sequence(last))
    return SegmentRecord(int(ordinal), *span, events, size, stored, offset, digest, name)

"""The directory of the archive, on Redis or Valkey.

archive   hash: how far the project is archived, see functions/archive.lua
segments  stream: the segments, by the sequences of their last events
"""

from __future__ import annotations

from contex_server.kernel.model import BEGINNING, Entry, Sequence
from contex_server.log.archive import Archived, ArchiveStore, SegmentRecord
from contex_server.log.redis.client import Client
from contex_server.log.redis.key_names import key, parse_sequence

_FIELDS = (
    "segments",
    "first",
    "last",
    "events",
    "bytes",
    "size",
    "moved",
    "removed",
    "digest",
    "directory",
    "remains",
    "rewrites",
)
_TRIMMED = 5_000
"""Events removed by one call, in half a millisecond."""
_entry = tuple.__new__


class RedisArchive(ArchiveStore):
    """`ArchiveStore` on Redis or Valkey."""

    def __init__(self, client: Client, *, audit_retention_ms: int) -> None:
        self._client = client
        self._audit_retention_ms = audit_retention_ms

    async def read_tail(
        self, project: str, after: Sequence, until: Sequence, count: int
    ) -> tuple[list[Entry], Sequence]:
        rows, last = await self._client.commands(
            project,
            ("XRANGE", key(project, "events"), f"({after}", str(until), "COUNT", count),
            ("HGET", key(project, "archive"), "last"),
        )
        entries = [_entry(Entry, (sequence, fields[1])) for sequence, fields in rows]
        return entries, parse_sequence(last) if last else BEGINNING

    async def archived(self, project: str) -> Archived:
        values = await self._client.command(project, "HMGET", key(project, "archive"), *_FIELDS)
        segments, first, last, events, size, stored, moved, removed = values[:8]
        digest, directory, remains, rewrites = values[8:]
        return Archived(
            int(segments or 0),
            parse_sequence(first) if first and int(events) else None,
            parse_sequence(last) if last else BEGINNING,
            int(events or 0),
            int(size or 0),
            int(stored or 0),
            int(moved or 0),
            int(removed or 0),
            (digest or b"").decode(),
            (directory or b"").decode(),
            _record(*remains.split(b" ", 1)) if remains else None,
            int(rewrites or 0),
        )

    async def segments(self, project: str, after: Sequence, count: int) -> list[SegmentRecord]:
        rows = await self._client.command(
            project, "XRANGE", key(project, "segments"), f"({after}", "+", "COUNT", count
        )
        return [_record(last, fields[1]) for last, fields in rows]

    async def archive_directory(self, project: str, proposed: str) -> str:
        name = key(project, "archive")
        _, found = await self._client.commands(
            project, ("HSETNX", name, "directory", proposed), ("HGET", name, "directory")
        )
        return str(found.decode())

    async def add_segment(
        self,
        project: str,
        owner: str,
        directory: str,
        record: SegmentRecord,
        *,
        removed: int | None = None,
    ) -> bool:
        reply = await self._client.call(
            project,
            "contex1_add_segment",
            (*_archive_keys(project), key(project, "events")),
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
        return bool(reply)

    async def replace_segment(self, project: str, owner: str, record: SegmentRecord) -> bool:
        reply = await self._client.call(
            project,
            "contex1_replace_segment",
            (*_archive_keys(project), key(project, "segments-anew")),
            owner,
            str(record.last),
            record.bytes,
            record.size,
            record.digest,
            _line(record),
        )
        return bool(reply)

    async def replace_remains(self, project: str, owner: str, record: SegmentRecord) -> bool:
        reply = await self._client.call(
            project,
            "contex1_replace_remains",
            (key(project, "task:archive"), key(project, "archive")),
            owner,
            f"{record.last} {_line(record)}",
        )
        return bool(reply)

    async def remove_segments(
        self,
        project: str,
        owner: str,
        first: Sequence,
        remains: SegmentRecord,
        since: Sequence,
        action: bytes,
    ) -> bool:
        reply = await self._client.call(
            project,
            "contex1_remove_segments",
            (*_archive_keys(project), key(project, "audit")),
            owner,
            str(first),
            f"{remains.last} {_line(remains)}",
            str(since),
            action,
            self._audit_retention_ms,
        )
        return bool(reply)

    async def trim(self, project: str, until: Sequence) -> int:
        keys = (key(project, "archive"), key(project, "events"))

        async def remove(at_most: int | str) -> int:
            return int(
                await self._client.call(
                    project, "contex1_trim", keys, str(until), str(until.next()), at_most
                )
            )

        total = 0
        while removed := await remove(_TRIMMED):
            total += removed
        return total + await remove("")


def _archive_keys(project: str) -> tuple[str, ...]:
    return (key(project, "task:archive"), key(project, "archive"), key(project, "segments"))


def _line(record: SegmentRecord) -> str:
    numbers = (record.events, record.bytes, record.size, record.index_offset)
    first = (record.ordinal, record.first)
    return " ".join(map(str, (*first, *numbers, record.digest, record.name)))


def _record(last: bytes, line: bytes) -> SegmentRecord:
    ordinal, first, events, size, stored, offset, digest, name = line.decode().split(" ", 7)
    return SegmentRecord(
        int(ordinal),
        Sequence.parse(first),
        parse_sequence(last),
        int(events),
        int(size),
        int(stored),
        int(offset),
        digest,
        name,
    )

"""Where old events went, on Redis or Valkey.

ctx:{b}:projects               set: the projects of a bucket
ctx:{b}:p:<project>:archive    hash: how far the project is archived, see functions/archive.lua
ctx:{b}:p:<project>:segments   stream: the segments, by the sequence of their last events
ctx:{b}:p:<project>:retention  string: how long the project is kept
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contex_server.kernel.model import BEGINNING, Entry, Sequence
from contex_server.log.archive import Archived, SegmentRecord
from contex_server.log.redis.connections import Command, Connections
from contex_server.log.redis.keys import BUCKETS, key, parse_sequence, projects_key

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
"""So many events are removed at once, in half a millisecond."""
_entry = tuple.__new__


class RedisArchive:
    """The part of `StoreLog` that is about the archive."""

    _audit_retention_ms: int
    _connections: Connections

    async def _command(self, project: str, *command: Any) -> Any:
        raise NotImplementedError

    async def _commands(self, project: str, *commands: Command) -> list[Any]:
        raise NotImplementedError

    async def _commands_of(self, bucket: int, *commands: Command) -> list[Any]:
        raise NotImplementedError

    async def read_tail(
        self, project: str, after: Sequence, until: Sequence, count: int
    ) -> tuple[list[Entry], Sequence]:
        """See `StoreLog.read_tail`."""
        rows, last = await self._commands(
            project,
            ("XRANGE", key(project, "events"), f"({after}", str(until), "COUNT", count),
            ("HGET", key(project, "archive"), "last"),
        )
        entries = [_entry(Entry, (sequence, fields[1])) for sequence, fields in rows]
        return entries, parse_sequence(last) if last else BEGINNING

    async def archived(self, project: str) -> Archived:
        """See `StoreLog.archived`."""
        values = await self._command(project, "HMGET", key(project, "archive"), *_FIELDS)
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
        """See `StoreLog.segments`."""
        rows = await self._command(
            project, "XRANGE", key(project, "segments"), f"({after}", "+", "COUNT", count
        )
        return [_record(last, fields[1]) for last, fields in rows]

    async def archive_directory(self, project: str, proposed: str) -> str:
        """See `StoreLog.archive_directory`."""
        name = key(project, "archive")
        _, found = await self._commands(
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
        """See `StoreLog.add_segment`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_add_segment",
            4,
            *self._archive_keys(project),
            key(project, "events"),
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
        """See `StoreLog.replace_segment`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_replace_segment",
            4,
            *self._archive_keys(project),
            key(project, "segments-anew"),
            owner,
            str(record.last),
            record.bytes,
            record.size,
            record.digest,
            _line(record),
        )
        return bool(reply)

    async def replace_remains(self, project: str, owner: str, record: SegmentRecord) -> bool:
        """See `StoreLog.replace_remains`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_replace_remains",
            2,
            key(project, "task:archive"),
            key(project, "archive"),
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
        """See `StoreLog.remove_segments`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_remove_segments",
            4,
            *self._archive_keys(project),
            key(project, "audit"),
            owner,
            str(first),
            f"{remains.last} {_line(remains)}",
            str(since),
            action,
            self._audit_retention_ms,
        )
        return bool(reply)

    async def trim(self, project: str, until: Sequence) -> int:
        """See `StoreLog.trim`."""
        keys = (key(project, "archive"), key(project, "events"))
        function = ("FCALL", "contex1_trim", 2, *keys, str(until), str(until.next()))
        total = 0
        while removed := int(await self._command(project, *function, _TRIMMED)):
            total += removed
        return total + int(await self._command(project, *function, ""))

    async def drop_snapshots(self, project: str, until: Sequence) -> int:
        """See `StoreLog.drop_snapshots`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_drop_snapshots",
            2,
            key(project, "snapshots"),
            key(project, "snapshot-data"),
            str(until),
        )
        return int(reply)

    async def retention(self, project: str) -> bytes:
        """See `StoreLog.retention`."""
        found: bytes | None = await self._command(project, "GET", key(project, "retention"))
        return found or b""

    async def put_retention(self, project: str, retention: bytes, action: bytes) -> None:
        """See `StoreLog.put_retention`."""
        await self._command(
            project,
            "FCALL",
            "contex1_put_retention",
            2,
            key(project, "retention"),
            key(project, "audit"),
            retention,
            action,
            self._audit_retention_ms,
        )

    async def pace(self, project: str) -> float:
        """See `StoreLog.pace`."""
        return float(await self._command(project, "GET", key(project, "pace")) or 0)

    async def put_pace(self, project: str, rate: float, ttl_ms: int) -> None:
        """See `StoreLog.put_pace`."""
        await self._put_for(project, "pace", f"{rate:.1f}" if rate else "", ttl_ms)

    async def trouble(self, project: str) -> str:
        """See `StoreLog.trouble`."""
        found: bytes | None = await self._command(project, "GET", key(project, "trouble"))
        return (found or b"").decode()

    async def put_trouble(self, project: str, trouble: str, ttl_ms: int) -> None:
        """See `StoreLog.put_trouble`."""
        await self._put_for(project, "trouble", trouble, ttl_ms)

    async def _put_for(self, project: str, kind: str, value: str, ttl_ms: int) -> None:
        """Keeps a value for a while; "" is none."""
        name = key(project, kind)
        command = ("SET", name, value, "PX", ttl_ms) if value else ("DEL", name)
        await self._command(project, *command)

    async def memory(self, project: str) -> tuple[int, int]:
        """See `StoreLog.memory`."""
        info = await self._command(project, "INFO", "memory")
        lines = dict(line.split(b":", 1) for line in bytes(info).splitlines() if b":" in line)
        return int(lines[b"used_memory"]), int(lines[b"maxmemory"])

    async def projects(self) -> list[str]:
        """See `StoreLog.projects`."""
        found: list[str] = []
        nodes: dict[str, list[int]] = {}
        for bucket in range(BUCKETS):
            nodes.setdefault(self._connections.node(bucket), []).append(bucket)
        for buckets in nodes.values():
            commands = [("SMEMBERS", projects_key(bucket)) for bucket in buckets]
            for members in await self._commands_of(buckets[0], *commands):
                found += (member.decode() for member in members)
        return found

    @staticmethod
    def _archive_keys(project: str) -> Iterable[str]:
        return (
            key(project, "task:archive"),
            key(project, "archive"),
            key(project, "segments"),
        )


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

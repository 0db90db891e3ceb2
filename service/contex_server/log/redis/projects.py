"""Counts, retention and pace of projects, on Redis or Valkey.

    stats                  hash: totals of what was appended
    activity:<h>           hash: counts of an hour, see functions/projects.lua
    activity:<d>:<day>     hash: counts of a day, by a dimension
    activity-open          set: the hours that are not rolled up yet
    retention              string: how long the project is kept
    pace, trouble          strings that expire
    deletions              hash: deletions of projects of this name, see functions/projects.lua

and `ctx:{b}:projects`, a set: the projects of a bucket; and `ctx:{0}:deletions`, a stream that
tells every process what was deleted lately.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from heapq import nsmallest
from typing import Any

import orjson

from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.kernel.slices import sliced
from contex_server.log.buckets import bucket_of, target_project
from contex_server.log.inboxes import SHARDS
from contex_server.log.projects import (
    REMAINS,
    Counters,
    Deleting,
    Deletion,
    Dimension,
    ProjectStore,
    RetentionChanged,
    Tier,
)
from contex_server.log.redis.client import Facet, pairs
from contex_server.log.redis.key_names import (
    backgrounds_kind,
    key,
    parse_sequence,
    projects_key,
    vectors_kind,
)

_SCAN_COUNT = 1_000
_LISTED = 16
"""Buckets that are listed at a time."""
_ANNOUNCED = "ctx:{0}:deletions"
_ANNOUNCEMENTS = 10_000
_KINDS = (
    *("events", "stats", "activity-open", "retention", "pace", "trouble"),
    *("state", "snapshots", "snapshot-data", "descriptions", "requests:0", "requests:1"),
    *("matching", "agents", "cursors", "journals", "presence", "subjects", "encryption"),
    "expiring",
    *("contacts", "ttls", "leases"),
    *("archive", "segments", "task:archive"),
    *("deciding", "decided", "decisions", "places"),
    *(f"holders:{shard}" for shard in range(SHARDS)),
)
"""What a project may have that comes into being while its keys are listed."""
_STATS = ("bytes", "deleted", "since", "snapshots", "snapshot_bytes")


class RedisProjects(Facet, ProjectStore):
    async def projects(self) -> list[str]:
        return [name async for listed in self._listed() for name in listed]

    async def names(self, after: str, fits: Callable[[str], bool], count: int) -> list[str]:
        names: list[str] = []
        async for listed in self._listed():
            names += [n for n in listed if n > after and target_project(n) == n and fits(n)]
            names = nsmallest(count, names)
        return names

    async def _listed(self) -> AsyncIterator[list[str]]:
        """All names, of a few buckets at a time: neither store nor event loop is held for long."""
        for buckets in self._client.buckets(_LISTED):
            commands = [("SMEMBERS", projects_key(bucket)) for bucket in buckets]
            replies = await self._client.run_in(buckets[0], *commands)
            yield [member.decode() for members in replies for member in members]

    async def delete(
        self, project: str, request: Deleting, models: Iterable[str]
    ) -> Deletion | None:
        found = [kind async for kinds in self._kinds(project) for kind in kinds]
        of_models = [kind(model) for model in models for kind in (vectors_kind, backgrounds_kind)]
        left_out = ("audit", "refusals", "deletions")
        kinds = [kind for kind in {*_KINDS, *of_models, *found} if kind not in left_out]
        reply = await self._client.call(
            project,
            "contex1_delete_project",
            ("events", "deletions", "retention", "audit"),
            request.request_id,
            request.retention,
            request.action,
            self._settings.audit_retention_ms,
            request.identity,
            request.reason,
            f"{project}{REMAINS}",
            *kinds,
        )
        if reply == 0:
            raise RetentionChanged
        return None if reply is None else _deletion(project, reply)

    async def deletion(self, project: str, request_id: str = "") -> Deletion | None:
        field = f"r:{request_id}" if request_id else "deletion"
        stored = await self._client.command(project, "HGET", "deletions", field)
        return None if stored is None else _deletion(project, stored)

    async def purge(self, remains: str) -> None:
        project, _, last = remains.partition(REMAINS)
        async for kinds in self._kinds(remains):
            await self._client.commands(remains, *(("UNLINK", kind) for kind in kinds))
        async for kinds in self._kinds(project, "receivers:"):
            old = [k for k in kinds if Sequence.parse(k.partition(":")[2]) <= Sequence.parse(last)]
            await self._client.commands(project, *(("UNLINK", kind) for kind in old))
        bucket = bucket_of(remains)
        await self._client.run_in(bucket, ("SREM", projects_key(bucket), remains))

    async def _kinds(self, project: str, start: str = "") -> AsyncIterator[list[str]]:
        """The kinds of all keys of a project that begin so, some perhaps twice; without `start` not
        those of receivers, of which there may be as many as events.

        This goes through all keys of the node, since no list has all kinds.
        """
        own = key(project, start)
        cursor: Any = 0
        while True:
            scan = ("SCAN", cursor, "MATCH", f"{own}*", "COUNT", _SCAN_COUNT)
            ((cursor, names),) = await self._client.run(project, scan)
            kinds = [start + name.decode().removeprefix(own) for name in names]
            yield [kind for kind in kinds if start or not kind.startswith("receivers:")]
            if int(cursor) == 0:
                return

    async def announce(self, project: str, last: Sequence) -> None:
        command = ("XADD", _ANNOUNCED, "MAXLEN", "~", _ANNOUNCEMENTS, "*", "p", project)
        await self._client.run_in(0, (*command, "s", str(last)))

    async def announced(
        self, after: Sequence | None
    ) -> tuple[Sequence, list[tuple[str, Sequence]]]:
        if after is None:
            (rows,) = await self._client.run_in(0, ("XREVRANGE", _ANNOUNCED, "+", "-", "COUNT", 1))
            return parse_sequence(rows[0][0]) if rows else BEGINNING, []
        command = ("XRANGE", _ANNOUNCED, f"({after}", "+", "COUNT", _SCAN_COUNT)
        (rows,) = await self._client.run_in(0, command)
        if rows:
            after = parse_sequence(rows[-1][0])
        return after, [(row[1].decode(), parse_sequence(row[3])) for _, row in rows]

    async def counters(self, project: str) -> Counters:
        stats, keys, agents, info = await self._client.run(
            project,
            ("HMGET", key(project, "stats"), *_STATS),
            ("HLEN", key(project, "state")),
            ("HLEN", key(project, "agents")),
            ("XINFO", "STREAM", key(project, "events")),
        )
        size, deleted, since, snapshots, snapshot_bytes = stats
        return Counters(
            events=int(pairs(info)[b"entries-added"]) if info else 0,
            bytes=int(size or 0),
            keys=keys,
            deleted=int(deleted or 0),
            agents=agents,
            counted_since=parse_sequence(since),
            snapshots=int(snapshots or 0),
            snapshot_bytes=int(snapshot_bytes or 0),
        )

    async def activity(
        self, project: str, dimension: Dimension, tier: Tier, numbers: Iterable[int]
    ) -> list[dict[bytes, bytes]]:
        periods = list(numbers)
        if tier is Tier.MINUTES:
            return await self._hours(project, dimension, periods)
        # The open hours first: one that is rolled up meanwhile is then read twice, which the
        # day's slots show, and never missed.
        open_hours = await self._open_hours(project)
        hours = [hour for hour in open_hours if hour // 24 in set(periods)]
        counts = await self._hours(project, dimension, hours)
        kinds = [f"activity:{dimension}:{day}" for day in periods]
        days = dict(zip(periods, await self._hashes(project, kinds), strict=True))
        for hour, names in zip(hours, counts, strict=True):
            day, slot = days[hour // 24], hour % 24
            async for name, value in sliced(names.items()):
                if not _has_slot(day.get(name, b""), slot):
                    total = sum(int(part.partition(b":")[2]) for part in value.split(b" "))
                    day[name] = b"%d:%d %s" % (slot, total, day.get(name, b""))
        return [
            {name: value.rstrip() async for name, value in sliced(days[day].items())}
            for day in periods
        ]

    async def _open_hours(self, project: str) -> list[int]:
        hours = await self._client.command(project, "SMEMBERS", "activity-open")
        return sorted(map(int, hours))

    async def _hours(
        self, project: str, dimension: Dimension, hours: list[int]
    ) -> list[dict[bytes, bytes]]:
        kinds = [f"activity:{hour}" for hour in hours]
        hashes = await self._hashes(project, kinds, f"{dimension}*")
        return [
            {name[1:]: value async for name, value in sliced(counts.items())} for counts in hashes
        ]

    async def _hashes(
        self, project: str, kinds: list[str], names: str = "*"
    ) -> list[dict[bytes, bytes]]:
        """Whole hashes, side by side, in parts: neither store nor event loop is held for long."""
        hashes: list[dict[bytes, bytes]] = [{} for _ in kinds]
        cursors = dict.fromkeys(range(len(kinds)), b"0")
        while cursors:
            count = max(_SCAN_COUNT // len(cursors), 16)
            commands = [
                ("HSCAN", kinds[place], cursor, "MATCH", names, "COUNT", count)
                for place, cursor in cursors.items()
            ]
            replies = await self._client.commands(project, *commands)
            for place, (cursor, fields) in zip(list(cursors), replies, strict=True):
                hashes[place].update(zip(fields[::2], fields[1::2], strict=True))
                if cursor == b"0":
                    del cursors[place]
                else:
                    cursors[place] = cursor
        return hashes

    async def roll_up(self, project: str) -> int:
        (time,) = await self._client.run(project, ("TIME",))
        now = int(time[0]) // 3600
        over = [hour for hour in await self._open_hours(project) if hour < now]
        for hour in over:
            await self._roll_up(project, hour)
            kinds = ("activity", "activity-open")
            await self._client.call(project, "contex1_rolled_up", kinds, hour)
        return len(over)

    async def _roll_up(self, project: str, hour: int) -> None:
        async for chunk in self._client.scan(project, f"activity:{hour}", _SCAN_COUNT):
            totals: dict[str, list[Any]] = {}
            for name, value in chunk:
                total = sum(int(part.partition(b":")[2]) for part in value.split(b" "))
                totals.setdefault(chr(name[0]), []).extend((name[1:], total))
            for letter, counts in totals.items():
                kinds = (f"activity:{letter}:{hour // 24}",)
                await self._client.call(project, "contex1_roll_up", kinds, hour % 24, *counts)

    async def retention(self, project: str) -> bytes:
        stored: bytes | None = await self._client.command(project, "GET", "retention")
        return stored or b""

    async def put_retention(self, project: str, retention: bytes, action: bytes) -> None:
        await self._client.call(
            project,
            "contex1_put_retention",
            ("retention", "audit"),
            retention,
            action,
            self._settings.audit_retention_ms,
        )

    async def pace(self, project: str) -> float:
        return float(await self._client.command(project, "GET", "pace") or 0)

    async def put_pace(self, project: str, rate: float, ttl_ms: int) -> None:
        await self._put_for(project, "pace", f"{rate:.1f}" if rate else "", ttl_ms)

    async def trouble(self, project: str) -> str:
        stored: bytes | None = await self._client.command(project, "GET", "trouble")
        return (stored or b"").decode()

    async def put_trouble(self, project: str, trouble: str, ttl_ms: int) -> None:
        await self._put_for(project, "trouble", trouble, ttl_ms)

    async def _put_for(self, project: str, kind: str, value: str, ttl_ms: int) -> None:
        """Stores a value for `ttl_ms`; "" removes it."""
        command = ("SET", kind, value, "PX", ttl_ms) if value else ("DEL", kind)
        await self._client.command(project, *command)

    async def memory(self, project: str) -> tuple[int, int]:
        (info,) = await self._client.run(project, ("INFO", "memory"))
        lines = dict(line.split(b":", 1) for line in bytes(info).splitlines() if b":" in line)
        return int(lines[b"used_memory"]), int(lines[b"maxmemory"])


def _deletion(project: str, stored: bytes) -> Deletion:
    """Reads what functions/projects.lua wrote."""
    fields = orjson.loads(stored)
    return Deletion(
        project,
        Sequence.parse(fields["last"]),
        fields["ms"],
        fields["identity"],
        fields["request_id"],
        fields["reason"],
        fields["events"],
    )


def _has_slot(value: bytes, slot: int) -> bool:
    return any(part.partition(b":")[0] == b"%d" % slot for part in value.split(b" "))

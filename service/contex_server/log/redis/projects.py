"""Counts, retention and pace of projects, on Redis or Valkey.

    stats                  hash: totals of what was appended
    activity:<h>           hash: counts of an hour, see functions/projects.lua
    activity:<d>:<day>     hash: counts of a day, by a dimension
    activity-open          set: the hours that are not rolled up yet
    retention              string: how long the project is kept
    pace, trouble          strings that expire

and `ctx:{b}:projects`, a set: the projects of a bucket.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contex_server.log.buckets import BUCKETS
from contex_server.log.projects import Counters, Dimension, ProjectStore, Tier
from contex_server.log.redis.client import Facet, pairs
from contex_server.log.redis.key_names import key, parse_sequence, projects_key

_SCAN_COUNT = 1_000
_STATS = ("bytes", "deleted", "since", "snapshots", "snapshot_bytes")


class RedisProjects(Facet, ProjectStore):
    async def projects(self) -> list[str]:
        names: list[str] = []
        nodes: dict[str, list[int]] = {}
        for bucket in range(BUCKETS):
            nodes.setdefault(self._client.connections.node(bucket), []).append(bucket)
        for buckets in nodes.values():
            commands = [("SMEMBERS", projects_key(bucket)) for bucket in buckets]
            for members in await self._client.run_in(buckets[0], *commands):
                names += (member.decode() for member in members)
        return names

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
        commands = [("HGETALL", f"activity:{dimension}:{day}") for day in periods]
        # The open hours first: one that is rolled up meanwhile is then read twice, which the
        # day's slots show, and never missed.
        open_hours = await self._open_hours(project)
        hours = [hour for hour in open_hours if hour // 24 in set(periods)]
        counts = await self._hours(project, dimension, hours)
        replies = await self._client.commands(project, *commands)
        days = {day: pairs(reply) for day, reply in zip(periods, replies, strict=True)}
        for hour, names in zip(hours, counts, strict=True):
            day, slot = days[hour // 24], hour % 24
            for name, value in names.items():
                if not _has_slot(day.get(name, b""), slot):
                    total = sum(int(part.partition(b":")[2]) for part in value.split(b" "))
                    day[name] = b"%d:%d %s" % (slot, total, day.get(name, b""))
        return [{name: value.rstrip() for name, value in days[day].items()} for day in periods]

    async def _open_hours(self, project: str) -> list[int]:
        hours = await self._client.command(project, "SMEMBERS", "activity-open")
        return sorted(map(int, hours))

    async def _hours(
        self, project: str, dimension: Dimension, hours: list[int]
    ) -> list[dict[bytes, bytes]]:
        commands = [("HGETALL", f"activity:{hour}") for hour in hours]
        replies = await self._client.commands(project, *commands)
        letter = dimension.value.encode()
        return [
            {name[1:]: value for name, value in pairs(reply).items() if name.startswith(letter)}
            for reply in replies
        ]

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


def _has_slot(value: bytes, slot: int) -> bool:
    return any(part.partition(b":")[0] == b"%d" % slot for part in value.split(b" "))

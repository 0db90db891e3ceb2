"""Facts that expire, on Redis or Valkey.

expiring                sorted set: "<sequence> <data key>" of the latest revisions that are valid
                        only up to a time, by that time; see functions/expiry.lua
ctx:{b}:expiring        sorted set: the projects of a bucket that have such, by the first time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contex_server.kernel.model import SERVICE, Sequence
from contex_server.log.expiry import Due, ExpiryStore, Revision
from contex_server.log.redis.client import Client, Facet
from contex_server.log.redis.key_names import COUNTED

_ASKED = 64
"""Buckets that are asked about at a time, in half a millisecond."""
_SCAN_COUNT = 1_000
_PROJECTS = 100
"""Projects of a bucket that are returned at a time."""


class RedisExpiry(Facet, ExpiryStore):
    async def due(self) -> Due:
        return await due_projects(self._client, "expiring")

    async def expire(self, project: str, count: int) -> tuple[int, bool]:
        expired, more = await self._client.call(
            project,
            "contex1_expire",
            (*COUNTED, "state", "descriptions", "expiring"),
            count,
            str(SERVICE),
            self._settings.audit_retention_ms,
        )
        return int(expired), bool(more)

    async def times(self, project: str) -> dict[Revision, int]:
        times: dict[Revision, int] = {}
        async for chunk in self._client.scan(project, "expiring", _SCAN_COUNT, "ZSCAN"):
            for member, score in chunk:
                sequence, _, name = member.decode().partition(" ")
                times[name, Sequence.parse(sequence)] = int(float(score))
        return times

    async def repair(
        self, project: str, expected: Sequence, times: Mapping[Revision, int | None]
    ) -> bool:
        arguments: list[Any] = [str(expected)]
        for (name, sequence), unix_ms in times.items():
            arguments += (f"{sequence} {name}", "" if unix_ms is None else unix_ms)
        return await self._client.attempt(
            project, "contex1_repair_expiring", ("events", "expiring"), *arguments
        )


async def due_projects(client: Client, kind: str) -> Due:
    """The projects with something that is due, as `schedule` of the functions notes them."""
    projects: list[str] = []
    waits: list[int] = []
    for buckets in client.buckets(_ASKED):
        time, *firsts = await client.run_in(
            buckets[0],
            ("TIME",),
            *(("ZRANGE", f"ctx:{{{bucket}}}:{kind}", 0, 0, "WITHSCORES") for bucket in buckets),
        )
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        for bucket, first in zip(buckets, firsts, strict=True):
            if not first:
                continue
            ((_, due_ms),) = first
            waits.append(max(int(due_ms) - now_ms, 0))
            if due_ms <= now_ms:
                due = ("ZRANGE", f"ctx:{{{bucket}}}:{kind}", "-inf", now_ms, "BYSCORE")
                (names,) = await client.run_in(bucket, (*due, "LIMIT", 0, _PROJECTS))
                projects += [name.decode() for name in names]
    return Due(projects, min(waits, default=None))

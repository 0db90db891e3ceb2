"""Counts of tenants, on Redis or Valkey: see functions/quota.lua for their keys."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

from contex_server.log.quota import Ask, Group, Held, Place, QuotaStore, Taken
from contex_server.log.redis.client import Facet, pairs
from contex_server.log.redis.key_names import key

_SLOT_MS = 10_000
_MINUTE_MS = 60_000
_REGISTRATIONS = 500


def quota_project(tenant: str) -> str:
    """The project whose keys those of a tenant are; nobody can name it."""
    return f"~quota:{tenant}"


class RedisQuota(Facet, QuotaStore):
    async def take(self, tenant: str, asks: Sequence[Ask], groups: Sequence[Group]) -> Taken:
        rates = [number for ask in asks for number in (ask.rate, ask.debt, ask.spare)]
        units: list[int] = []
        for group in groups:
            units.append(len(group))
            for index, count in group:
                units += (index + 1, count)
        kinds = [f"rate:{ask.place.project}:{ask.place.limit}" for ask in asks]
        project = quota_project(tenant)
        reply = await self._client.call(project, "contex1_take_rates", kinds, *rates, *units)
        ends = 2 * len(asks)
        return Taken(reply[:ends:2], reply[1:ends:2], [one == 1 for one in reply[ends:]])

    async def add_use(
        self, tenant: str, used: Mapping[Place, int], refused: Mapping[Place, int]
    ) -> None:
        by_project: defaultdict[str, list[str | int]] = defaultdict(list)
        for place, units in used.items():
            by_project[place.project] += (place.limit, units)
        counted = [part for p, n in refused.items() for part in (f"{p.limit}:{p.project}", n)]
        sums = [part for sums in by_project.values() for part in (len(sums) // 2, *sums)]
        kinds = ["refused", *(f"use:{project}" for project in by_project)]
        await self._client.call(
            quota_project(tenant), "contex1_add_quota_use", kinds, len(refused), *counted, *sums
        )

    async def used(self, tenant: str, project: str) -> dict[str, float]:
        name = quota_project(tenant)
        fields, time = await self._client.run(
            name, ("HGETALL", key(name, f"use:{project}")), ("TIME",)
        )
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        begin_ms = now_ms - _MINUTE_MS
        sums: Counter[str] = Counter()
        for field, value in pairs(fields).items():
            limit = field.decode().partition(":")[2]
            slot, units = map(int, value.split())
            end_ms = (slot + 1) * _SLOT_MS
            # Of the slot in which the minute begins, the part that is in it.
            share = min(1.0, max(0.0, (end_ms - begin_ms) / _SLOT_MS))
            sums[limit] += units * share  # type: ignore[assignment]
        return {limit: units / (_MINUTE_MS / 1000) for limit, units in sums.items()}

    async def refused(self, tenant: str, project: str) -> dict[str, int]:
        counts = await self._client.command(quota_project(tenant), "HGETALL", "refused")
        found = {}
        for field, count in pairs(counts).items():
            limit, _, of = field.decode().partition(":")
            if of == project:
                found[limit] = int(count)
        return found

    async def hold_streams(
        self, tenant: str, server: str, ttl_ms: int, held: Sequence[Held]
    ) -> list[tuple[int, int]]:
        arguments = [part for one in held for part in one]
        reply = await self._client.call(
            quota_project(tenant), "contex1_hold_streams", ("streams",), server, ttl_ms, *arguments
        )
        return [*zip(reply[::2], reply[1::2], strict=True)]

    async def open_streams(self, tenant: str) -> dict[str, int]:
        name = quota_project(tenant)
        fields, time = await self._client.run(name, ("HGETALL", key(name, "streams")), ("TIME",))
        now_ms = int(time[0]) * 1000
        sums: Counter[str] = Counter()
        for value in pairs(fields).values():
            until_ms, *projects = value.decode().split(" ")
            if int(until_ms) > now_ms:
                for one in projects:
                    project, _, counts = one.partition("=")
                    sums[project] += int(counts.partition("/")[0])
        return dict(sums)

    async def registrations(self, project: str) -> AsyncIterator[list[bytes]]:
        async for page in self._client.scan(project, "agents", _REGISTRATIONS):
            yield [record for _, record in page]

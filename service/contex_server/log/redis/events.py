"""The event log on Redis or Valkey, current descriptions, and the presence of streams.

events       stream; one field "e" an entry, see functions/events.lua
requests:0|1 hash: request id -> first answer, in alternating windows
descriptions hash: data key -> its description, of the keys that have one and are marked so
presence     hash: what each server process has open
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from cachetools import LRUCache

from contex_server.kernel import event_codec
from contex_server.kernel.byte_budget import ByteBudget
from contex_server.kernel.model import (
    BEGINNING,
    Append,
    Appended,
    Durability,
    Entry,
    EventFilter,
    Range,
    Sequence,
)
from contex_server.log.buckets import BUCKETS, bucket_of
from contex_server.log.port import (
    Bounds,
    DescriptionStore,
    Follower,
    KeyDescription,
    Part,
    PresenceStore,
    StoreLog,
)
from contex_server.log.redis.appender import Appender
from contex_server.log.redis.client import Client, Facet, pairs
from contex_server.log.redis.follower import RedisFollower
from contex_server.log.redis.key_names import PROBE_MS, key, parse_sequence
from contex_server.log.redis.parts import PartReader

_SEEN_PROJECTS = 65_536
_LEND_AFTER_S = 1.0
"""A reader whose client takes nothing for so long does not hold up the others."""


class RedisEventLog(Facet, StoreLog):
    """`StoreLog` on any Redis >= 7.2 or Valkey >= 8."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._appenders: dict[tuple[str, bool], Appender] = {}
        # Who serves a bucket, and whom it is followed with: by the server that held it first.
        self._homes: dict[int, str] = {}
        self._seen: LRUCache[str, Sequence] = LRUCache(_SEEN_PROJECTS)
        self._parts = PartReader(client)
        self._listeners: list[Callable[[str, list[str]], None]] = []
        self._reading = ByteBudget(client.settings.read_bytes, lend_after_s=_LEND_AFTER_S)

    @property
    def reading(self) -> ByteBudget:
        return self._reading

    @property
    def generation(self) -> int:
        return self._client.connections.generation

    async def append(self, append: Append) -> Appended:
        replicated = append.durability is Durability.REPLICATED
        home = self.home(append.project)
        appender = self._appenders.get((home, replicated))
        if appender is None:
            appender = Appender(self._client, self._seen, replicated=replicated)
            self._appenders[home, replicated] = appender
        return await appender.append(append)

    async def read_part(self, project: str, span: Range, count: int, max_bytes: int) -> Part:
        part, _ = await self._parts.read(project, span, count, max_bytes)
        return part

    async def narrow(self, project: str, span: Range, event_filter: EventFilter) -> Range:
        return span  # The store has no index.

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        stream = key(project, "events")
        commands = [("XRANGE", stream, str(s), str(s)) for s in sequences]
        replies = await self._client.run(project, *commands)
        return [Entry(rows[0][0], rows[0][1][1]) if rows else None for rows in replies]

    async def bounds(self, project: str) -> Bounds:
        stream = ("XINFO", "STREAM", key(project, "events"))
        last = ("HGET", key(project, "deletions"), "last")
        time, info, deleted = await self._client.run(project, ("TIME",), stream, last)
        if info is None:
            return Bounds(None, BEGINNING, trimmed=False, now_ms=_ms(time))
        fields = pairs(info)
        first, last = fields[b"first-entry"], fields[b"last-entry"]
        tail = parse_sequence(fields[b"last-generated-id"])
        return Bounds(
            parse_sequence(first[0]) if first else None,
            event_codec.proven(Entry(last[0], last[1][1])) if last else tail,
            trimmed=fields[b"entries-added"] > fields[b"length"],
            length=fields[b"length"],
            now_ms=_ms(time),
            added=fields[b"entries-added"],
            deleted=parse_sequence(deleted),
        )

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        reply = await self._client.call_read_only(
            project, "contex1_history", ("events",), str(sequence), count, max_bytes
        )
        return [Entry(*pair) for pair in zip(reply[::2], reply[1::2], strict=True)]

    def home(self, project: str) -> str:
        bucket = bucket_of(project)
        return self._homes.setdefault(bucket, self._client.connections.node(bucket))

    def follower(self) -> Follower:
        return RedisFollower(self._client, self._seen, self._heard)

    def hear(self, listener: Callable[[str, list[str]], None]) -> None:
        self._listeners.append(listener)

    def _heard(self, project: str, agent_ids: list[str]) -> None:
        for listener in self._listeners:
            listener(project, agent_ids)

    async def probe(self) -> None:
        for bucket, *_ in self._client.buckets(BUCKETS):
            written = ("SET", f"ctx:{{{bucket}}}:probe", "1", "PX", PROBE_MS)
            await self._client.run_in(bucket, written, patient=False)

    async def close(self) -> None:
        await asyncio.gather(*(appender.close() for appender in self._appenders.values()))
        self._appenders.clear()
        await self._client.connections.close()


class RedisDescriptions(Facet, DescriptionStore):
    async def of_keys(self, project: str, data_keys: Iterable[str]) -> dict[str, KeyDescription]:
        keys = list(data_keys)
        states, texts = await self._client.commands(
            project, ("HMGET", "state", *keys), ("HMGET", "descriptions", *keys)
        )
        return {
            name: _key_description(state, text)
            for name, state, text in zip(keys, states, texts, strict=True)
        }


class RedisPresence(Facet, PresenceStore):
    async def put_presence(self, project: str, owner: str, presence: str) -> None:
        if presence:
            await self._client.command(project, "HSET", "presence", owner, presence)
        else:
            await self._client.command(project, "HDEL", "presence", owner)

    async def presence(self, project: str) -> dict[str, str]:
        reports = await self._client.command(project, "HGETALL", "presence")
        return {owner.decode(): report.decode() for owner, report in pairs(reports).items()}


def _key_description(state: bytes | None, text: bytes | None) -> KeyDescription:
    """Reads what functions/events.lua wrote of a key."""
    if state is None:
        return KeyDescription("", None)
    _, sequence, rest = state.split(b" ", 2)
    mark, digest = rest[:1], rest[1:]
    stored: str | None = None
    if mark in (b"D", b"N"):
        stored = ""
    elif mark == b"K" and digest and text is not None:
        stored = text.decode()
    return KeyDescription(stored, parse_sequence(sequence))


def _ms(time: Any) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000

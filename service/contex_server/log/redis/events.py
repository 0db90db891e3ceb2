"""The event log on Redis or Valkey, current descriptions, and the presence of streams.

events       stream; one field "e" an entry, see functions/events.lua
requests:0|1 hash: request id -> first answer, in alternating windows
descriptions hash: data key -> its description, of the keys that have one and are marked so
presence     hash: what each server process has open
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from cachetools import LRUCache
from redis.asyncio.connection import AbstractConnection

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
    KeyDescription,
    Part,
    PresenceStore,
    StoreLog,
    TailFollower,
)
from contex_server.log.redis.appender import Appender
from contex_server.log.redis.client import Client, Facet, entries_of, pairs
from contex_server.log.redis.connections import (
    STORE_ERRORS,
    Command,
    Connections,
    execute,
)
from contex_server.log.redis.key_names import key, parse_sequence
from contex_server.log.redis.parts import PartReader

_BLOCK_MS = 2_000
_FOLLOW_COUNT = 64
"""Events of one poll, of all projects: XREAD takes no bound of bytes, so they may be large."""
_BACKLOG_COUNT = 1_000
"""The same of a poll that follows one that left some behind, ..."""
_BACKLOG_BYTES = 16 * 1024 * 1024
"""... unless they may have more bytes than this."""


_SEEN_PROJECTS = 65_536
_PROBE_MS = 60_000
_LEND_AFTER_S = 1.0
"""A reader whose client takes nothing for so long does not hold up the others."""


class RedisEventLog(Facet, StoreLog):
    """`StoreLog` on any Redis >= 7.2 or Valkey >= 8."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._appenders: dict[tuple[str, bool], Appender] = {}
        # Which of them serves a bucket: by the server that held it first.
        self._homes: dict[int, str] = {}
        self._seen: LRUCache[str, Sequence] = LRUCache(_SEEN_PROJECTS)
        self._parts = PartReader(client)
        self._reading = ByteBudget(client.settings.read_bytes, lend_after_s=_LEND_AFTER_S)

    @property
    def reading(self) -> ByteBudget:
        return self._reading

    @property
    def generation(self) -> int:
        return self._client.connections.generation

    async def append(self, append: Append) -> Appended:
        bucket = bucket_of(append.project)
        replicated = append.durability is Durability.REPLICATED
        home = self._homes.setdefault(bucket, self._client.connections.node(bucket))
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

    def follower(self, bucket: int) -> TailFollower:
        return RedisFollower(self._client.connections, bucket)

    async def probe(self) -> None:
        for bucket, *_ in self._client.buckets(BUCKETS):
            written = ("SET", f"ctx:{{{bucket}}}:probe", "1", "PX", _PROBE_MS)
            await self._client.run_in(bucket, written, patient=False)

    async def close(self) -> None:
        await asyncio.gather(*(appender.close() for appender in self._appenders.values()))
        self._appenders.clear()
        await self._client.connections.close()


class RedisFollower(TailFollower):
    """XREAD BLOCK on a connection of its own, with explicit ids."""

    def __init__(self, connections: Connections, bucket: int) -> None:
        self._connections = connections
        self._bucket = bucket
        self._connection: AbstractConnection | None = None
        self._generation = 0
        self._count = _FOLLOW_COUNT

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, list[Entry]]:
        received, _ = await self._receive(positions)
        return received

    async def poll_tail(
        self, positions: Mapping[str, Sequence]
    ) -> dict[str, tuple[list[Entry], Sequence]]:
        # The store takes these up when XREAD has been answered: what was not archived then
        # had not been trimmed when the events were read.
        commands = [("HGET", key(project, "archive"), "last") for project in positions]
        received, replies = await self._receive(positions, *commands)
        lasts = dict(zip(positions, replies, strict=True))
        return {
            project: (entries, parse_sequence(lasts[project]))
            for project, entries in received.items()
        }

    async def _receive(
        self, positions: Mapping[str, Sequence], *more: Command
    ) -> tuple[dict[str, list[Entry]], list[Any]]:
        """New events by project, and the replies to further commands, run after the read."""
        names: dict[Any, str] = {key(project, "events").encode(): project for project in positions}
        count = max(1, self._count // len(names))
        command = (
            *("XREAD", "BLOCK", _BLOCK_MS, "COUNT", count, "STREAMS"),
            *names,
            *(str(position) for position in positions.values()),
        )
        try:
            if self._generation != self._connections.generation:
                await self.close()
            if self._connection is None:
                self._generation = self._connections.generation
                self._connection = await self._connections.open(self._bucket)
            # It blocks for less than the timeout, so a store that hangs is noticed. Any
            # failure, also a cancellation, closes the connection.
            reply, *replies = await execute(self._connection, command, *more)
            for each in (reply, *replies):
                if isinstance(each, Exception):
                    raise each
            if not reply:
                return {}, replies
            streams = reply.items() if isinstance(reply, dict) else reply
            received = {names[name]: entries_of(rows) for name, rows in streams}
            largest = max(len(body) for entries in received.values() for _, body in entries)
            most = _FOLLOW_COUNT
            if any(len(entries) == count for entries in received.values()):
                stats = [("HGET", key(project, "stats"), "largest") for project in positions]
                sizes = await execute(self._connection, *stats)
                if all(isinstance(size, bytes) for size in sizes):
                    most, largest = _BACKLOG_COUNT, max(map(int, sizes))
            self._count = max(1, min(most, _BACKLOG_BYTES // (largest + 1)))
        except STORE_ERRORS as error:
            await self.close()
            raise await self._connections.translated(error) from error
        return received, replies

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)


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

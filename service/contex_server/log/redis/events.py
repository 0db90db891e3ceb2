"""The event log on Redis or Valkey, and the presence of streams.

events       stream; one field "e" an entry, see functions/events.lua
requests:0|1 hash: request id -> first answer, in alternating windows
presence     hash: what each server process has open
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from enum import StrEnum
from functools import partial
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

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
from contex_server.log.archive import TailFollower
from contex_server.log.buckets import bucket_of
from contex_server.log.port import Bounds, Follower, PresenceStore, StoreLog
from contex_server.log.redis.appender import Appender
from contex_server.log.redis.client import Client, Facet, entries_of, fcall, pairs
from contex_server.log.redis.connections import (
    STORE_ERRORS,
    Command,
    Connections,
    execute,
    execute_one,
    is_topology_change,
    translate,
)
from contex_server.log.redis.key_names import COUNTED, key, parse_sequence, vectors_kind

_BLOCK_MS = 2_000
_FOLLOW_COUNT = 1_000
_FOLLOW_BYTES = 4 * 1024 * 1024
"""What one poll should return at most; the count adapts to the size of the events."""


class Fsync(StrEnum):
    """When the store writes its append-only file to disk."""

    ALWAYS = "always"
    LATER = "later"
    NEVER = "never"


class RedisEventLog(StoreLog):
    """`StoreLog` on any Redis >= 7.2 or Valkey >= 8."""

    def __init__(self, client: Client, fsync: Fsync) -> None:
        self._client = client
        self._connections = client.connections
        self._settings = client.settings
        self._fsync = fsync
        self._appenders: dict[tuple[str, bool], Appender] = {}

    # -- appending ---------------------------------------------------------------

    async def append(self, append: Append) -> Appended:
        bucket = bucket_of(append.project)
        replicated = append.durability is Durability.REPLICATED
        lane = (self._connections.node(bucket), replicated)
        appender = self._appenders.get(lane)
        if appender is None:
            appender = self._appenders[lane] = Appender(
                self._connections,
                bucket,
                partial(
                    append_command,
                    request_window_s=self._settings.request_window_s,
                    audit_retention_ms=self._settings.audit_retention_ms,
                ),
                max_pending=self._settings.pending_appends,
                confirm=partial(self._confirmation, replicated),
            )
        return await appender.append(append)

    def _confirmation(
        self, replicated: bool, asks: bool
    ) -> tuple[Command | None, Callable[[Any], Durability]]:
        """What `Appender` takes as `confirm`."""
        timeout_ms = self._settings.replication_timeout_ms
        if replicated and self._fsync is Fsync.NEVER:
            return ("WAIT", 1, timeout_ms), lambda _: Durability.MEMORY
        if replicated or (asks and self._fsync is Fsync.LATER):
            return ("WAITAOF", 1, int(replicated), timeout_ms), partial(_reached, replicated)
        reached = Durability.FSYNC if self._fsync is Fsync.ALWAYS else Durability.MEMORY
        return None, lambda _: reached

    # -- reading -----------------------------------------------------------------

    async def read(self, project: str, span: Range, count: int) -> list[Entry]:
        return entries_of(await self._client.read(project, "events", span, count))

    async def narrow(self, project: str, span: Range, event_filter: EventFilter) -> Range:
        return span  # The store has no index.

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        stream = key(project, "events")
        commands = [("XRANGE", stream, str(s), str(s)) for s in sequences]
        replies = await self._client.run(project, *commands)
        return [Entry(rows[0][0], rows[0][1][1]) if rows else None for rows in replies]

    async def bounds(self, project: str) -> Bounds:
        stream = ("XINFO", "STREAM", key(project, "events"))
        try:
            time, info = await self._client.run(project, ("TIME",), stream)
        except ResponseError:  # "no such key"
            (time,) = await self._client.run(project, ("TIME",))
            return Bounds(None, BEGINNING, trimmed=False, now_ms=_ms(time))
        fields = pairs(info)
        first = fields[b"first-entry"]
        return Bounds(
            parse_sequence(first[0]) if first else None,
            parse_sequence(fields[b"last-generated-id"]),
            trimmed=fields[b"entries-added"] > fields[b"length"],
            length=fields[b"length"],
            now_ms=_ms(time),
            added=fields[b"entries-added"],
        )

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        reply = await self._client.call_read_only(
            project, "contex1_history", ("events",), str(sequence), count, max_bytes
        )
        return [Entry(*pair) for pair in zip(reply[::2], reply[1::2], strict=True)]

    def follower(self, bucket: int) -> Follower:
        return RedisFollower(self._connections, bucket)

    async def ping(self) -> None:
        await self._client.leased(0, lambda connection: execute_one(connection, "PING"))

    async def close(self) -> None:
        await asyncio.gather(*(appender.close() for appender in self._appenders.values()))
        self._appenders.clear()
        await self._connections.close()


def append_command(
    project: str, appends: SequenceOf[Append], *, request_window_s: int, audit_retention_ms: int
) -> Command:
    """The call that appends some publishes of one project."""
    vectors: dict[bytes, bytes] = {}
    publishes: list[Any] = []
    model = next((append.model for append in appends if append.vectors), "")
    for append in appends:
        if append.model == model:
            # Of two models, one's vectors are left to be computed when they are needed.
            vectors.update(append.vectors)
        publishes += (append.request_id, str(append.origin), append.publisher, len(append.events))
        for event in append.events:
            expected = event.expected_revision
            publishes += (
                event.data_key,
                "" if expected is None else expected,
                "T" if event.tombstone else "",
                event.digest,
                event.event_type,
                event.body,
            )
    return fcall(
        project,
        "contex1_append",
        (*COUNTED, "state", vectors_kind(model), "requests:0", "requests:1", "matching"),
        request_window_s,
        audit_retention_ms,
        model,
        len(vectors),
        *(item for pair in vectors.items() for item in pair),
        *publishes,
    )


class RedisFollower(TailFollower):
    """XREAD BLOCK on a connection of its own, with explicit ids."""

    def __init__(self, connections: Connections, bucket: int) -> None:
        self._connections = connections
        self._bucket = bucket
        self._connection: AbstractConnection | None = None
        self._count = 64

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
        command = (
            *("XREAD", "BLOCK", _BLOCK_MS, "COUNT", self._count, "STREAMS"),
            *names,
            *(str(position) for position in positions.values()),
        )
        try:
            if self._connection is None:
                self._connection = await self._connections.open(self._bucket)
            # It blocks for less than the timeout, so a store that hangs is noticed. Any
            # failure, also a cancellation, closes the connection.
            reply, *replies = await execute(self._connection, command, *more)
            for each in (reply, *replies):
                if isinstance(each, Exception):
                    raise each
        except STORE_ERRORS as error:
            await self.close()
            if is_topology_change(error):
                await self._connections.topology_changed()
            raise translate(error) from error
        if not reply:
            return {}, replies
        streams = reply.items() if isinstance(reply, dict) else reply
        received = {names[name]: entries_of(rows) for name, rows in streams}
        entries = [entry for several in received.values() for entry in several]
        size = sum(len(entry.body) for entry in entries) // len(entries) + 1
        self._count = max(1, min(_FOLLOW_COUNT, _FOLLOW_BYTES // size, self._count * 8))
        return received, replies

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)


class RedisPresence(Facet, PresenceStore):
    async def put_presence(self, project: str, owner: str, presence: str) -> None:
        if presence:
            await self._client.command(project, "HSET", "presence", owner, presence)
        else:
            await self._client.command(project, "HDEL", "presence", owner)

    async def presence(self, project: str) -> dict[str, str]:
        reports = await self._client.command(project, "HGETALL", "presence")
        return {owner.decode(): report.decode() for owner, report in pairs(reports).items()}


async def fsync_policy(connection: AbstractConnection) -> Fsync:
    """When the store behind a connection writes to disk."""
    info = await execute_one(connection, "INFO", "persistence")
    if b"aof_enabled:1" not in info:
        return Fsync.NEVER
    try:
        reply = await execute_one(connection, "CONFIG", "GET", "appendfsync")
    except ResponseError:
        # Managed stores refuse CONFIG; WAITAOF finds out each time.
        return Fsync.LATER
    values = list(reply.values()) if isinstance(reply, dict) else reply[1::2]
    return Fsync.ALWAYS if values == [b"always"] else Fsync.LATER


def _ms(time: Any) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _reached(replicated: bool, reply: Any) -> Durability:
    """What the reply of WAITAOF confirms; an error confirms nothing."""
    if not isinstance(reply, list) or not int(reply[0]):
        return Durability.MEMORY
    # A replica without an append-only file never confirms, and then the answer honestly says
    # FSYNC.
    return Durability.REPLICATED if replicated and int(reply[1]) else Durability.FSYNC

"""The log on Redis or Valkey.

Keys of a project, all in the cluster slot of its bucket `b` (`{b}` is the hash tag):

    ctx:{b}:p:<project>:events       stream; one field "e" an entry, see functions/
    ctx:{b}:p:<project>:state        hash: data key -> latest revision, sequence, digest
    ctx:{b}:p:<project>:vectors:<m>  hash: text digest -> encoding, under a model
    ctx:{b}:p:<project>:matching     hash: "model" -> the one that decides
    ctx:{b}:p:<project>:task:<t>     string: which process does a task, until it expires
    ctx:{b}:p:<project>:agents       hash: agent id -> registration
    ctx:{b}:p:<project>:cursors      hash: agent id -> acknowledged sequence
    ctx:{b}:p:<project>:requests:0|1 hash: request id -> first answer, by turns of a window

and those of the records, in redis_records.py, and of the archive, in redis_archive.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from importlib.resources import files
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import (
    BEGINNING,
    SERVICE,
    Append,
    Appended,
    Durability,
    Entry,
    EventFilter,
    KeyState,
    Origin,
    Sequence,
)
from contex_server.log.port import AgentRecord, AgentWrite, AgentWritten, Bounds, Follower
from contex_server.log.redis.appender import Appender
from contex_server.log.redis.archive import RedisArchive
from contex_server.log.redis.connections import (
    STORE_ERRORS,
    Command,
    Connections,
    connect,
    execute,
    execute_one,
    is_topology_change,
    translate,
)
from contex_server.log.redis.keys import (
    agent_keys,
    bucket_of,
    counted_keys,
    key,
    parse_sequence,
    vectors_key,
)
from contex_server.log.redis.records import RedisRecords
from contex_server.log.redis.sealing import RedisSealing
from contex_server.log.redis.transfer import RedisTransfer

_BLOCK_MS = 2_000
_FOLLOW_COUNT = 1_000
_FOLLOW_BYTES = 4 * 1024 * 1024
"""What one poll should bring at most; the count adapts to the size of the events."""
_SCAN_COUNT = 1_000
# What Entry(…) does, without its keyword arguments: twice as fast, on the hottest path.
_entry = tuple.__new__
_FUNCTIONS = "\n".join(
    files("contex_server.log.redis").joinpath("functions", f"{name}.lua").read_text()
    for name in (
        "common",
        "activity",
        "append",
        "journal",
        "agents",
        "tasks",
        "archive",
        "transfer",
        "erase",
    )
)

log = structlog.get_logger(__name__)


class RedisLog(RedisRecords, RedisArchive, RedisTransfer, RedisSealing):
    """`SealingLog` on any Redis >= 7.2 or Valkey >= 8."""

    def __init__(
        self,
        connections: Connections,
        *,
        request_window_s: int = 600,
        replication_timeout_ms: int = 2_000,
        max_pending: int = 10_000,
        audit_retention_ms: int = 0,
        delivery_retention_ms: int = 0,
        journal_entries: int = 100_000,
    ) -> None:
        super().__init__(audit_retention_ms, delivery_retention_ms, journal_entries)
        self._connections = connections
        self._request_window_s = request_window_s
        self._replication_timeout_ms = replication_timeout_ms
        self._max_pending = max_pending
        self._appenders: dict[tuple[str, bool], Appender] = {}
        self._fsync = _Fsync.UNKNOWN

    @classmethod
    async def open(cls, url: str, **options: Any) -> RedisLog:
        """Connects, loads the functions and finds out what the store's fsync policy is.

        Raises:
            ContexError: STORE_UNAVAILABLE.
            ValueError: The URL is malformed.
        """
        self = cls(connect(url), **options)
        try:
            await self._prepare()
        except BaseException:
            await self.close()
            raise
        return self

    async def _prepare(self) -> None:
        async def prepare(connection: AbstractConnection) -> None:
            await load_functions(connection)
            self._fsync = await _fsync_policy(connection)

        await self._with(0, prepare)
        if self._fsync is not _Fsync.ALWAYS:
            log.warning(
                "store_durability",
                fsync=self._fsync,
                advice="set appendonly yes and appendfsync always: acknowledgements then mean "
                "fsync without waiting for it each time",
            )

    # -- appending ---------------------------------------------------------------

    async def append(self, append: Append) -> Appended:
        """See `EventLog.append`."""
        bucket = bucket_of(append.project)
        replicated = append.durability is Durability.REPLICATED
        lane = (self._connections.node(bucket), replicated)
        appender = self._appenders.get(lane)
        if appender is None:
            appender = self._appenders[lane] = Appender(
                self._connections,
                bucket,
                self._fcall_append,
                load_functions,
                max_pending=self._max_pending,
                confirm=self._confirm_replicated if replicated else self._confirm_local,
            )
        return await appender.append(append)

    def _fcall_append(self, project: str, appends: SequenceOf[Append]) -> Command:
        vectors: dict[bytes, bytes] = {}
        publishes: list[Any] = []
        model = next((append.model for append in appends if append.vectors), "")
        for append in appends:
            if append.model == model:
                # Of two models, one's vectors are left to be computed when they are needed.
                vectors.update(append.vectors)
            publishes += (
                append.request_id,
                str(append.origin),
                append.publisher,
                len(append.events),
            )
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
        return (
            "FCALL",
            "contex1_append",
            10,
            *counted_keys(project),
            key(project, "state"),
            vectors_key(project, model),
            key(project, "requests:0"),
            key(project, "requests:1"),
            key(project, "matching"),
            self._request_window_s,
            self._audit_retention_ms,
            model,
            len(vectors),
            *(item for pair in vectors.items() for item in pair),
            *publishes,
        )

    def _confirm_local(self, asks: bool) -> tuple[Command | None, Any]:
        if self._fsync is _Fsync.ALWAYS:
            return None, lambda _: Durability.FSYNC
        if self._fsync is _Fsync.LATER and asks:
            return ("WAITAOF", 1, 0, self._replication_timeout_ms), (
                lambda reply: Durability.FSYNC if _counts(reply)[0] else Durability.MEMORY
            )
        return None, lambda _: Durability.MEMORY

    def _confirm_replicated(self, asks: bool) -> tuple[Command | None, Any]:
        if self._fsync is _Fsync.NEVER:
            return ("WAIT", 1, self._replication_timeout_ms), lambda _: Durability.MEMORY
        # A replica without an append-only file never confirms by WAITAOF, and then the
        # answer honestly says FSYNC.
        return ("WAITAOF", 1, 1, self._replication_timeout_ms), (
            lambda reply: (Durability.MEMORY, Durability.FSYNC, Durability.REPLICATED)[
                (_counts(reply)[0] > 0) + (_counts(reply)[0] > 0 and _counts(reply)[1] > 0)
            ]
        )

    # -- reading -----------------------------------------------------------------

    async def read(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Entry]:
        """See `EventLog.read`."""
        rows = await self._command(
            project, "XRANGE", key(project, "events"), f"({after}", str(until), "COUNT", count
        )
        return [_entry(Entry, (sequence, fields[1])) for sequence, fields in rows]

    async def read_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Entry]:
        """See `EventLog.read_back`."""
        rows = await self._command(
            project, "XREVRANGE", key(project, "events"), str(until), f"({after}", "COUNT", count
        )
        return [_entry(Entry, (sequence, fields[1])) for sequence, fields in rows]

    async def narrow(
        self,
        project: str,
        after: Sequence,
        until: Sequence,
        wanted: EventFilter,
        *,
        backwards: bool = False,
    ) -> tuple[Sequence, Sequence]:
        """See `EventLog.narrow`; the store has no index."""
        return after, until

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        """See `EventLog.get`."""
        stream = key(project, "events")
        commands = [("XRANGE", stream, str(s), str(s)) for s in sequences]
        replies = await self._commands(project, *commands) if commands else []
        return [Entry(rows[0][0], rows[0][1][1]) if rows else None for rows in replies]

    async def bounds(self, project: str) -> Bounds:
        """See `EventLog.bounds`."""
        try:
            time, info = await self._commands(
                project, ("TIME",), ("XINFO", "STREAM", key(project, "events"))
            )
        except ResponseError as error:
            if "no such key" in str(error):
                time = await self._command(project, "TIME")
                return Bounds(None, BEGINNING, trimmed=False, now_ms=_ms(time))
            raise translate(error) from error
        fields = info if isinstance(info, dict) else dict(zip(info[::2], info[1::2], strict=True))
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
        """See `EventLog.history`."""
        command = ("FCALL_RO", "contex1_history", 1, key(project, "events"))
        found = await self._command(project, *command, str(sequence), count, max_bytes)
        return [Entry(*pair) for pair in zip(found[::2], found[1::2], strict=True)]

    def bucket(self, project: str) -> int:
        """See `EventLog.bucket`."""
        return bucket_of(project)

    def follower(self, bucket: int) -> Follower:
        """See `EventLog.follower`."""
        return _RedisFollower(self._connections, bucket)

    # -- state, vectors, agents --------------------------------------------------

    async def state(self, project: str) -> AsyncIterator[list[KeyState]]:
        """See `EventLog.state`."""
        cursor = b"0"
        while True:
            cursor, fields = await self._command(
                project, "HSCAN", key(project, "state"), cursor, "COUNT", _SCAN_COUNT
            )
            yield [
                _key_state(name, value)
                for name, value in zip(fields[::2], fields[1::2], strict=True)
            ]
            if cursor == b"0":
                return

    async def state_now(
        self, project: str, max_keys: int
    ) -> tuple[Sequence, list[KeyState]] | None:
        """See `EventLog.state_now`."""
        reply = await self._command(
            project,
            "FCALL_RO",
            "contex1_state_now",
            2,
            key(project, "events"),
            key(project, "state"),
            max_keys,
        )
        if reply is None:
            return None
        newest, fields = reply
        states = [
            _key_state(name, value) for name, value in zip(fields[::2], fields[1::2], strict=True)
        ]
        return parse_sequence(newest), states

    async def latest(self, project: str, data_keys: Iterable[str]) -> dict[str, KeyState]:
        """See `EventLog.latest`."""
        wanted = list(data_keys)
        if not wanted:
            return {}
        found = await self._command(project, "HMGET", key(project, "state"), *wanted)
        return {
            name: _key_state(name.encode(), value)
            for name, value in zip(wanted, found, strict=True)
            if value is not None
        }

    async def vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> dict[bytes, bytes]:
        """See `EventLog.vectors`."""
        wanted = list(digests)
        if not wanted:
            return {}
        found = await self._command(project, "HMGET", vectors_key(project, model), *wanted)
        return {d: v for d, v in zip(wanted, found, strict=True) if v is not None}

    async def missing_vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> set[bytes]:
        """See `EventLog.missing_vectors`."""
        wanted, name = list(digests), vectors_key(project, model)
        if not wanted:
            return set()
        found = await self._commands(project, *(("HEXISTS", name, d) for d in wanted))
        return {d for d, there in zip(wanted, found, strict=True) if not there}

    async def put_vectors(self, project: str, model: str, vectors: Mapping[bytes, bytes]) -> None:
        """See `EventLog.put_vectors`."""
        name = vectors_key(project, model)
        if vectors:
            await self._commands(
                project,
                ("HSETNX", key(project, "matching"), "model", model),
                *(("HSETNX", name, d, v) for d, v in vectors.items()),
            )

    async def model(self, project: str) -> str:
        """See `EventLog.model`."""
        found = await self._command(project, "HGET", key(project, "matching"), "model")
        return "" if found is None else str(found.decode())

    async def change_model(
        self, project: str, expected: str, model: str, event_type: str, body: bytes
    ) -> Sequence | None:
        """See `EventLog.change_model`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_change_model",
            7,
            *counted_keys(project),
            key(project, "matching"),
            vectors_key(project, expected),
            expected,
            model,
            event_type,
            body,
            str(SERVICE),
            self._audit_retention_ms,
        )
        return None if reply is None else parse_sequence(reply)

    async def claim(self, project: str, task: str, owner: str, ttl_ms: int) -> bool:
        """See `EventLog.claim`."""
        name = key(project, f"task:{task}")
        reply = await self._command(project, "FCALL", "contex1_claim", 1, name, owner, ttl_ms)
        return bool(reply)

    async def disclaim(self, project: str, task: str, owner: str) -> None:
        """See `EventLog.disclaim`."""
        name = key(project, f"task:{task}")
        await self._command(project, "FCALL", "contex1_claim", 1, name, owner, 0)

    async def write_agent(self, write: AgentWrite) -> AgentWritten | None:
        """See `EventLog.write_agent`."""
        project = write.project
        reply = await self._command(
            project,
            "FCALL",
            "contex1_agent",
            11,
            *counted_keys(project),
            *agent_keys(project, write.agent_id),
            write.agent_id,
            write.expected,
            write.record,
            "" if write.cursor is None else str(write.cursor),
            write.event_type,
            write.body,
            str(write.origin),
            self._audit_retention_ms,
            self._delivery_retention_ms,
            self._journal_entries,
        )
        if reply is None:
            return None
        sequence = parse_sequence(reply[0])
        return AgentWritten(sequence, parse_sequence(reply[1]) if reply[1] else sequence)

    async def agent(self, project: str, agent_id: str) -> AgentRecord | None:
        """See `EventLog.agent`."""
        record, cursor = await self._commands(
            project,
            ("HGET", key(project, "agents"), agent_id),
            ("HGET", key(project, "cursors"), agent_id),
        )
        if record is None:
            return None
        return AgentRecord(agent_id, record, parse_sequence(cursor or b"0-0"))

    async def agents(self, project: str, after: str, count: int) -> list[AgentRecord]:
        """See `EventLog.agents`."""
        ids = await self._command(project, "HKEYS", key(project, "agents"))
        page = sorted(i for i in ids if i > after.encode())[:count]
        if not page:
            return []
        records, cursors = await self._commands(
            project,
            ("HMGET", key(project, "agents"), *page),
            ("HMGET", key(project, "cursors"), *page),
        )
        return [
            AgentRecord(agent_id.decode(), record, parse_sequence(cursor or b"0-0"))
            for agent_id, record, cursor in zip(page, records, cursors, strict=True)
            if record is not None
        ]

    async def acknowledge(
        self, project: str, agent_id: str, sequence: Sequence, origin: Origin = SERVICE
    ) -> Sequence | None:
        """See `EventLog.acknowledge`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_acknowledge",
            6,
            *agent_keys(project, agent_id),
            agent_id,
            self._delivery_retention_ms,
            self._journal_entries,
            str(sequence),
            str(origin),
        )
        return None if reply is None else parse_sequence(reply)

    async def ping(self) -> None:
        """See `EventLog.ping`."""
        await self._with(0, lambda connection: execute_one(connection, "PING"))

    async def close(self) -> None:
        """See `EventLog.close`."""
        await asyncio.gather(*(appender.close() for appender in self._appenders.values()))
        self._appenders.clear()
        await self._connections.close()

    # -- plumbing ----------------------------------------------------------------

    async def _command(self, project: str, *command: Any) -> Any:
        return (await self._commands(project, command))[0]

    async def _commands(self, project: str, *commands: Command) -> list[Any]:
        """Runs commands on a leased connection; raises the first error reply.

        "no such key" is left to the caller, everything else is translated. A function
        that is not there has done nothing: it is loaded, and the call repeated.
        """
        return await self._commands_of(bucket_of(project), *commands)

    async def _commands_of(self, bucket: int, *commands: Command) -> list[Any]:

        async def run(connection: AbstractConnection) -> list[Any]:
            replies = await execute(connection, *commands)
            if any(isinstance(r, ResponseError) and "unction not found" in str(r) for r in replies):
                await load_functions(connection)
                replies = await execute(connection, *commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

        result: list[Any] = await self._with(bucket, run)
        return result

    async def _with(self, bucket: int, work: Any) -> Any:
        try:
            async with self._connections.lease(bucket) as connection:
                return await work(connection)
        except STORE_ERRORS as error:
            if isinstance(error, ResponseError) and "no such key" in str(error):
                raise
            if is_topology_change(error):
                await self._connections.topology_changed()
            raise translate(error) from error


class _RedisFollower:
    """XREAD BLOCK on a connection of its own, with explicit ids."""

    def __init__(self, connections: Connections, bucket: int) -> None:
        self._connections = connections
        self._bucket = bucket
        self._connection: AbstractConnection | None = None
        self._count = 64

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, list[Entry]]:
        """See `Follower.poll`."""
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
            reply = await execute_one(self._connection, *command)
        except STORE_ERRORS as error:
            await self.close()
            if is_topology_change(error):
                await self._connections.topology_changed()
            raise translate(error) from error
        if not reply:
            return {}
        streams = reply.items() if isinstance(reply, dict) else reply
        received = {
            names[name]: [_entry(Entry, (sequence, fields[1])) for sequence, fields in rows]
            for name, rows in streams
        }
        entries = [entry for several in received.values() for entry in several]
        size = sum(len(entry.body) for entry in entries) // len(entries) + 1
        self._count = max(1, min(_FOLLOW_COUNT, _FOLLOW_BYTES // size, self._count * 8))
        return received

    async def close(self) -> None:
        """See `Follower.close`."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)


class _Fsync:
    """When the store writes its append-only file to disk."""

    UNKNOWN = "unknown"
    ALWAYS = "always"
    LATER = "later"
    NEVER = "never"


async def _fsync_policy(connection: AbstractConnection) -> str:
    info = await execute_one(connection, "INFO", "persistence")
    if b"aof_enabled:1" not in info:
        return _Fsync.NEVER
    try:
        reply = await execute_one(connection, "CONFIG", "GET", "appendfsync")
    except ResponseError:
        # Managed stores refuse CONFIG; WAITAOF finds out each time.
        return _Fsync.LATER
    values = list(reply.values()) if isinstance(reply, dict) else reply[1::2]
    return _Fsync.ALWAYS if values == [b"always"] else _Fsync.LATER


async def load_functions(connection: AbstractConnection) -> None:
    """Loads the function library unless this very text is loaded already."""
    libraries = await execute_one(
        connection, "FUNCTION", "LIST", "LIBRARYNAME", "contex1", "WITHCODE"
    )
    for library in libraries:
        fields = (
            library
            if isinstance(library, dict)
            else dict(zip(library[::2], library[1::2], strict=True))
        )
        if fields.get(b"library_code") == _FUNCTIONS.encode():
            return
    await execute_one(connection, "FUNCTION", "LOAD", "REPLACE", _FUNCTIONS)


def _ms(time: Any) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _counts(reply: Any) -> tuple[int, int]:
    """The reply of WAITAOF: fsynced locally, by replicas. An error counts as neither."""
    return (int(reply[0]), int(reply[1])) if isinstance(reply, list) else (0, 0)


def _key_state(name: bytes, value: bytes) -> KeyState:
    revision, sequence, rest = value.split(b" ", 2)
    return KeyState(
        name.decode(), int(revision), parse_sequence(sequence), rest[:1] == b"D", rest[1:]
    )


__all__ = ["ContexError", "RedisLog", "bucket_of", "key", "load_functions"]

"""Group commit: what is published at the same time reaches the store in one call.

While one call is under way, further publishes queue; the next call takes them all. So a
lone publish waits for nobody, and under load the cost of a round trip and of an fsync is
shared by everything that arrived meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from contex_server.kernel.config import Settings
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import Append, Appended, Durability
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.protobuf import timestamp
from contex_server.log.port import DescriptionChanged, KeyDescription
from contex_server.log.redis.client import Client, execute_or_load, fcall
from contex_server.log.redis.connections import (
    STORE_ERRORS,
    Command,
    execute_one,
    is_topology_change,
)
from contex_server.log.redis.key_names import COUNTED, vectors_kind

_MAX_EVENTS = 1_024
"""Events of one function call: some 5 ms during which the store serves nobody else."""
_MAX_BYTES = 8 * 1024 * 1024
_MAX_PENDING_BYTES = 256 * 1024 * 1024
_CLOSE_TIMEOUT_S = 2.0
_QUIET_TURNS = 3
_FULL_EVENTS = 128
_TRUSTED_S = 0.1
"""An idle connection is looked at before it is used: the store may have gone meanwhile."""
_GATHER_S = 0.004

_Waiting = tuple[Append, "asyncio.Future[Appended]"]


class Fsync(StrEnum):
    """When the store writes its append-only file to disk."""

    ALWAYS = "always"
    LATER = "later"
    NEVER = "never"


class Appender:
    """Appends to the buckets of one server, over one connection, in order.

    It connects with the first append.

    Args:
        fsync: The policy of the store.
        replicated: Whether its appends are to be replicated.
    """

    def __init__(self, client: Client, bucket: int, fsync: Fsync, *, replicated: bool) -> None:
        self._connections = client.connections
        self._settings = client.settings
        self._bucket = bucket
        self._fsync = fsync
        self._replicated = replicated
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._events = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._connection: AbstractConnection | None = None
        self._used = 0.0
        self._task = asyncio.create_task(self._run(), name="contex-appender")

    async def append(self, append: Append) -> Appended:
        """See `EventLog.append`."""
        if len(self._waiting) >= self._settings.pending_appends or self._bytes > _MAX_PENDING_BYTES:
            raise ContexError(
                Reason.OVERLOADED,
                f"{len(self._waiting)} publishes of {self._bytes} bytes are waiting for the "
                "store already",
                retry_after_ms=250,
            )
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((append, future))
        self._bytes += _size(append)
        self._events += len(append.events)
        self._idle.clear()
        self._wake.set()
        return await future

    async def close(self) -> None:
        """Appends what waits, unless the store hangs, then closes the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._idle.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
            await self._gather()
            batch = _of_this_turn(self._take())
            if not batch:
                continue
            try:
                await self._commit(batch)
            except STORE_ERRORS as error:
                _fail(batch, await self._translated(error))
            except BaseException as error:
                # A defect, or the end: nobody may be left waiting.
                failure = ContexError(Reason.INTERNAL, f"append failed: {type(error).__name__}")
                failure.__cause__ = error
                _fail(batch, failure)
                if not isinstance(error, Exception):
                    raise

    async def _gather(self) -> None:
        """Lets in what is on its way: returns when some turns of the loop brought nothing.

        An idle loop makes these turns in some 50 µs, so a lone publisher hardly waits. On a
        busy one they take long, and many publishes share the next call: 256 unary publishes
        in flight would otherwise go out by threes.
        """
        deadline = asyncio.get_running_loop().time() + _GATHER_S
        quiet = 0
        while quiet < _QUIET_TURNS and self._events < _FULL_EVENTS:
            before = len(self._waiting)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == before else 0
            if asyncio.get_running_loop().time() > deadline:
                return

    def _take(self) -> list[_Waiting]:
        events = size = 0
        for taken, (append, _) in enumerate(self._waiting):
            events += len(append.events)
            size += _size(append)
            if taken and (events > _MAX_EVENTS or size > _MAX_BYTES):
                break
        else:
            taken = len(self._waiting)
        batch = list(islice(self._waiting, taken))
        for append, _ in batch:
            self._waiting.popleft()
            self._bytes -= _size(append)
            self._events -= len(append.events)
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        projects: dict[str, list[_Waiting]] = {}
        for waiting in batch:
            projects.setdefault(waiting[0].project, []).append(waiting)
        commands = [
            append_command(project, [append for append, _ in group], self._settings)
            for project, group in projects.items()
        ]
        asks = any(append.durability > Durability.MEMORY for append, _ in batch)
        confirm = self._confirmation(asks)
        connection = await self._connected()
        replies = await execute_or_load(connection, commands, *confirm)
        self._used = time.monotonic()
        reached = self._reached(replies[-1] if confirm else None)
        for group, reply in zip(projects.values(), replies, strict=False):
            if isinstance(reply, Exception):
                _fail(group, await self._translated(reply))
                continue
            for (append, future), answer in zip(group, reply, strict=True):
                lane = append.lane
                if lane is not None and isinstance(answer, list) and append.turn == lane.turn:
                    lane.turn += 1
                if not future.done():
                    _resolve(append, future, answer, reached)

    async def _connected(self) -> AbstractConnection:
        """The connection, opened anew if it was idle and the store has closed it meanwhile."""
        connection = self._connection
        if connection is not None and time.monotonic() > self._used + _TRUSTED_S:
            try:
                closed = await connection.can_read()
            except STORE_ERRORS:
                closed = True
            if closed:
                await connection.disconnect(nowait=True)
                self._connection = connection = None
        if connection is None:
            self._connection = connection = await self._connections.open(self._bucket)
        return connection

    def _confirmation(self, asks: bool) -> list[Command]:
        """The command that confirms the durability of all before it, if one is needed.

        Args:
            asks: Whether anybody asks for more than MEMORY.
        """
        timeout_ms = self._settings.replication_timeout_ms
        if self._replicated and self._fsync is Fsync.NEVER:
            return [("WAIT", 1, timeout_ms)]
        if self._replicated or (asks and self._fsync is Fsync.LATER):
            return [("WAITAOF", 1, int(self._replicated), timeout_ms)]
        return []

    def _reached(self, reply: Any) -> Durability:
        """What the reply to the confirmation says; an error, or WAIT, confirms nothing."""
        if reply is None:
            return Durability.FSYNC if self._fsync is Fsync.ALWAYS else Durability.MEMORY
        if not isinstance(reply, list) or not int(reply[0]):
            return Durability.MEMORY
        # A replica without an append-only file never confirms, and then the answer honestly
        # says FSYNC.
        replicated = self._replicated and int(reply[1])
        return Durability.REPLICATED if replicated else Durability.FSYNC

    async def _translated(self, error: Exception) -> ContexError:
        if is_topology_change(error) and self._connection is not None:
            await self._connection.disconnect(nowait=True)
            self._connection = None
        return await self._connections.translated(error)


def append_command(project: str, appends: Sequence[Append], settings: Settings) -> Command:
    """The call that appends some publishes of one project."""
    vectors: dict[bytes, bytes] = {}
    publishes: list[Any] = []
    lanes: dict[int, int] = {}
    model = next((append.model for append in appends if append.vectors), "")
    for append in appends:
        if append.model == model:
            # Of two models, one's vectors are left to be computed when they are needed.
            vectors.update(append.vectors)
        lane: int | str = ""
        if append.lane is not None:
            lane = lanes.setdefault(id(append.lane), len(lanes))
        origin = str(append.origin)
        publishes += (append.request_id, origin, append.publisher, len(append.events), lane)
        for event in append.events:
            expected = event.expected_revision
            publishes += (
                event.data_key,
                event.expected_state if expected is None else expected,
                "T" if event.tombstone else "",
                event.digest,
                event.event_type,
                event.body,
                event.was,
                event.described,
                event.validity,
            )
    return fcall(
        project,
        "contex1_append_expiring",
        (
            *(*COUNTED, "state", vectors_kind(model), "requests:0", "requests:1", "matching"),
            "descriptions",
        ),
        settings.request_window_s,
        settings.audit_retention_ms,
        model,
        len(vectors),
        *(item for pair in vectors.items() for item in pair),
        *publishes,
    )


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


def _size(append: Append) -> int:
    return sum(len(event.body) for event in append.events)


def _of_this_turn(batch: list[_Waiting]) -> list[_Waiting]:
    """Those that may be sent; refuses the others, which one of their lane must precede."""
    current = []
    for append, future in batch:
        if append.lane is None or append.turn == append.lane.turn:
            current.append((append, future))
        elif not future.done():
            future.set_exception(DescriptionChanged({}))
    return current


def _descriptions(answer: list[bytes]) -> dict[str, KeyDescription]:
    """What the append function says of the keys that were taken for something else."""
    fields = [field.decode() for field in answer[1:]]
    return {
        name: KeyDescription(
            None if stored == "?" else stored, LogSequence.parse(latest) if latest else None
        )
        for name, latest, stored in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    }


def _fail(batch: list[_Waiting], error: ContexError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def _conflict(append: Append, index: str, revision: str, state: str) -> ContexError:
    """The refusal of an append whose event expected something else of its key."""
    event = append.events[int(index)]
    kind, expected = "expected_state", event.expected_state
    actual = f"{state}, not {expected}"
    if event.expected_revision is not None:
        kind, expected = "expected_revision", str(event.expected_revision)
        deleted = " and deleted" if state == "deleted" else ""
        actual = f"at revision {revision}{deleted}, not {expected}"
    return ContexError(
        Reason.REVISION_CONFLICT,
        f"data key {event.data_key!r} is {actual}",
        metadata={
            "data_key": event.data_key,
            kind: expected,
            "actual_revision": revision,
            "actual_state": state,
        },
        field=f"events[{index}].{kind}",
    )


def _resolve(
    append: Append,
    future: asyncio.Future[Appended],
    answer: bytes | list[bytes],
    reached: Durability,
) -> None:
    """Reads one reply of the append function; see functions/."""
    if isinstance(answer, list):
        future.set_exception(DescriptionChanged(_descriptions(answer)))
        return
    text = answer.decode()
    if text[0] == "!":
        future.set_exception(_conflict(append, *text[1:].split(" ")))
        return
    if text[0] == "<":
        index, now_ms = text[1:].split(" ")
        now = timestamp(int(now_ms)).ToJsonString()
        field = f"events[{index}].valid_until"
        future.set_exception(invalid_field(field, f"must be after now, {now} by the store's clock"))
        return
    first, *revisions = text.lstrip("=").split(" ")
    ms, n = first.split("-")
    future.set_result(
        Appended(
            LogSequence(int(ms), int(n)),
            tuple(map(int, revisions)),
            reached,
            duplicate=text[0] == "=",
        )
    )

"""Group commit: what is published at the same time reaches the store in one call.

While one call is under way, further publishes queue; the next call takes them all. So a
lone publish waits for nobody, and under load the cost of a round trip and of an fsync is
shared by everything that arrived meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from math import inf
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from contex_server.kernel.config import Settings
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import Append, Appended, Durability
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.protobuf import timestamp
from contex_server.log.buckets import bucket_of
from contex_server.log.port import DescriptionChanged, KeyDescription
from contex_server.log.redis.client import Client, execute_or_load, fcall
from contex_server.log.redis.connections import (
    STORE_ERRORS,
    Command,
    execute,
    execute_one,
    is_refusal,
    translate,
)
from contex_server.log.redis.key_names import COUNTED, vectors_kind
from contex_server.log.redis.packing import packed

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
ASK_REPLICAS_MS, _ASK_REPLICAS_MAX_MS = 10, 200
_POLICY_S = 10.0
"""How long the store's fsync policy is believed, on the connection on which it was asked for."""

_CONFIRMS_TOO_EARLY = re.compile(rb"^(valkey_version:|redis_version:7\.4\.)", re.M)
"""INFO of servers whose WAITAOF confirms before a sync, unless they sync always: Valkey, and Redis
from 7.4 until redis/redis#13793. See findings/waitaof-confirms-what-is-not-synced.sh."""

_Waiting = tuple[Append, "asyncio.Future[Appended]"]


class Fsync(StrEnum):
    """When the store writes its append-only file to disk."""

    ALWAYS = "always"
    LATER = "later"
    UNCONFIRMED = "unconfirmed"
    """Later, and the store says too early that it has: nothing on disk can be claimed."""
    NEVER = "never"


class Appender:
    """Appends in order, over one connection to each server that it meets.

    Those of a bucket always go through the same one, so that their order holds wherever the bucket
    moves.

    Args:
        seen: The highest known sequence of each project: what is appended comes after it, also on
            a server that took over without it.
        replicated: Whether its appends are to be replicated.
    """

    def __init__(
        self, client: Client, seen: MutableMapping[str, LogSequence], *, replicated: bool
    ) -> None:
        self._connections = client.connections
        self._settings = client.settings
        self._replicated = replicated
        self._seen = seen
        self._links: dict[str, _Link] = {}
        self._waiting: deque[_Waiting] = deque()
        self._sizes: deque[int] = deque()
        """The bytes of each that waits."""
        self._bytes = 0
        self._events = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
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
        size = sum([len(event.body) for event in append.events])
        self._waiting.append((append, future))
        self._sizes.append(size)
        self._bytes += size
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
        for link in self._links.values():
            await link.close()

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
        waiting = zip(self._waiting, self._sizes, strict=True)
        for taken, ((append, _), append_bytes) in enumerate(waiting):
            events += len(append.events)
            size += append_bytes
            if taken and (events > _MAX_EVENTS or size > _MAX_BYTES):
                break
        else:
            taken = len(self._waiting)
        batch = list(islice(self._waiting, taken))
        for append, _ in batch:
            self._waiting.popleft()
            self._bytes -= self._sizes.popleft()
            self._events -= len(append.events)
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        projects: dict[str, list[_Waiting]] = {}
        for waiting in batch:
            projects.setdefault(waiting[0].project, []).append(waiting)
        refused = await self._attempt(projects)
        if refused:
            async for _ in self._connections.attempts():
                refused = await self._attempt({project: projects[project] for project in refused})
                if not refused:
                    break
        for project, error in refused.items():
            _fail(projects[project], translate(error))

    async def _attempt(self, projects: Mapping[str, list[_Waiting]]) -> dict[str, Exception]:
        """Commits on the servers that hold the projects now; returns what those have refused, with
        nothing done."""
        nodes: dict[str, list[str]] = {}
        for project in projects:
            nodes.setdefault(self._connections.node(bucket_of(project)), []).append(project)
        refused: dict[str, Exception] = {}
        for node, names in nodes.items():
            groups = [projects[name] for name in names]
            try:
                replies, reached = await self._execute(node, groups)
            except STORE_ERRORS as error:
                link = self._links.pop(node, None)
                if link is not None:
                    await link.close()
                failure = await self._connections.translated(error)
                for group in groups:
                    _fail(group, failure)
                continue
            for name, group, reply in zip(names, groups, replies, strict=True):
                if is_refusal(reply):
                    refused[name] = reply
                elif isinstance(reply, Exception):
                    _fail(group, translate(reply))
                else:
                    last = _answer(group, reply, reached)
                    if last is not None:
                        self._seen[name] = max(last, self._seen.get(name, last))
        return refused

    async def _execute(
        self, node: str, groups: list[list[_Waiting]]
    ) -> tuple[list[Any], Durability]:
        """The replies to one call for each group, and how durable what they have done is."""
        appends = [[append for append, _ in group] for group in groups]
        commands = [
            append_command(each[0].project, each, self._settings, self._seen.get(each[0].project))
            for each in appends
        ]
        asks = any(append.durability > Durability.MEMORY for each in appends for append in each)
        link = await self._linked(node, bucket_of(appends[0][0].project))
        if self._replicated:
            replies = await execute_or_load(link.connection, commands)
            done = not all(isinstance(reply, Exception) for reply in replies)
            reached = await self._replicas(link) if done else Durability.MEMORY
        elif asks and link.fsync is Fsync.LATER:
            confirm = ("WAITAOF", 1, 0, self._settings.replication_timeout_ms)
            *replies, confirmed = await execute_or_load(link.connection, commands, confirm)
            reached = _reached(confirmed, inf)
        else:
            replies = await execute_or_load(link.connection, commands)
            reached = Durability.FSYNC if link.fsync is Fsync.ALWAYS else Durability.MEMORY
        link.used = time.monotonic()
        return replies, reached

    async def _linked(self, node: str, bucket: int) -> _Link:
        """The connection to a server, opened anew if it was idle and the store has closed it
        meanwhile, or if another server may be in charge."""
        link = self._links.get(node)
        if link is not None and (
            link.generation != self._connections.generation or await link.has_ended()
        ):
            await self._links.pop(node).close()
            link = None
        if link is None:
            generation = self._connections.generation
            connection = await self._connections.open(bucket)
            link = self._links[node] = _Link(connection, generation)
        if time.monotonic() > link.asked + _POLICY_S:
            link.fsync = await fsync_policy(link.connection)
            link.asked = time.monotonic()
        return link

    async def _replicas(self, link: _Link) -> Durability:
        """Waits for replicas to have what was written on a connection; tells what they have.

        They are asked again and again: a replica that is asked in one breath with what it is to
        write has not written it yet, and says more a second later.
        """
        settings = self._settings
        end = time.monotonic() + settings.replication_timeout_ms / 1_000
        wait_ms, reached = ASK_REPLICAS_MS, Durability.MEMORY
        kind = ("WAIT",) if link.fsync is Fsync.NEVER else ("WAITAOF", 1)
        while reached < Durability.REPLICATED and (left := end - time.monotonic()) > 0:
            asked = (*kind, settings.confirming_replicas, min(wait_ms, int(left * 1_000) + 1))
            (reply,) = await execute(link.connection, asked)
            if isinstance(reply, Exception):
                link.asked = -inf  # It may have no append-only file any more.
                break
            reached = _reached(reply, settings.confirming_replicas)
            if link.fsync is Fsync.NEVER and reply == settings.confirming_replicas:
                break
            wait_ms = min(2 * wait_ms, _ASK_REPLICAS_MAX_MS)
        if link.fsync is Fsync.UNCONFIRMED and reached is Durability.FSYNC:
            return Durability.MEMORY
        return reached


def _reached(reply: Any, replicas: float) -> Durability:
    """What the reply to WAITAOF says; an error, or WAIT's, confirms nothing.

    A replica without an append-only file never confirms, and then the answer honestly says FSYNC.
    """
    if not isinstance(reply, list) or not int(reply[0]):
        return Durability.MEMORY
    return Durability.REPLICATED if int(reply[1]) >= replicas else Durability.FSYNC


@dataclass(slots=True)
class _Link:
    """A connection for appends.

    Attributes:
        generation: That of the connections when it was opened.
        used: When it was used last.
        fsync: What the server has said of its policy, at the time `asked`.
    """

    connection: AbstractConnection
    generation: int
    used: float = -inf
    fsync: Fsync = Fsync.NEVER
    asked: float = -inf

    async def has_ended(self) -> bool:
        """Whether the store has closed it; that is looked at where it was idle."""
        if time.monotonic() <= self.used + _TRUSTED_S:
            return False
        try:
            return bool(await self.connection.can_read())
        except STORE_ERRORS:
            return True

    async def close(self) -> None:
        await self.connection.disconnect(nowait=True)


def _answer(group: list[_Waiting], reply: list[Any], reached: Durability) -> LogSequence | None:
    """Answers the appends of one call; returns the last sequence of what they appended."""
    last: LogSequence | None = None
    for (append, future), answer in zip(group, reply, strict=True):
        lane = append.lane
        if lane is not None and isinstance(answer, list) and append.turn == lane.turn:
            lane.turn += 1
        appended = None if future.done() else _resolve(append, future, answer, reached)
        last = appended or last
    return last


def append_command(
    project: str, appends: Sequence[Append], settings: Settings, seen: LogSequence | None = None
) -> Command:
    """The call that appends some publishes of one project, after the highest sequence seen."""
    model = next((append.model for append in appends if append.vectors), "")
    return fcall(
        project,
        "contex2_append_packed",
        (
            *(*COUNTED, "state", vectors_kind(model), "requests:0", "requests:1", "matching"),
            *("descriptions", "subjects"),
        ),
        settings.request_window_s,
        settings.audit_retention_ms,
        model,
        "" if seen is None else str(seen),
        packed(appends, model),
    )


async def fsync_policy(connection: AbstractConnection) -> Fsync:
    """When the store behind a connection writes to disk."""
    info = await execute_one(connection, "INFO", "persistence")
    if b"aof_enabled:1" not in info:
        return Fsync.NEVER
    later = Fsync.LATER
    if _CONFIRMS_TOO_EARLY.search(await execute_one(connection, "INFO", "server")):
        later = Fsync.UNCONFIRMED
    try:
        reply = await execute_one(connection, "CONFIG", "GET", "appendfsync")
    except ResponseError:
        # Managed stores refuse CONFIG; WAITAOF finds out each time.
        return later
    values = list(reply.values()) if isinstance(reply, dict) else reply[1::2]
    return Fsync.ALWAYS if values == [b"always"] else later


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
) -> LogSequence | None:
    """Reads one reply of the append function, see functions/; returns the sequence of the last
    event, if it was appended."""
    if isinstance(answer, list):
        future.set_exception(DescriptionChanged(_descriptions(answer)))
        return None
    text = answer.decode()
    if text[0] == "!":
        future.set_exception(_conflict(append, *text[1:].split(" ")))
        return None
    if text[0] == "~":
        future.set_exception(
            ContexError(
                Reason.OVERLOADED,
                "the key that its events are encrypted with was destroyed meanwhile, with the "
                "project or the subject; repeated, they get another one",
                retry_after_ms=250,
            )
        )
        return None
    if text[0] == "<":
        index, now_ms = text[1:].split(" ")
        now = timestamp(int(now_ms)).ToJsonString()
        field = f"events[{index}].valid_until"
        future.set_exception(invalid_field(field, f"must be after now, {now} by the store's clock"))
        return None
    duplicate = text[0] == "="
    first, _, rest = text[duplicate:].partition(" ")
    ms, _, n = first.partition("-")
    sequence = LogSequence(int(ms), int(n))
    revisions = tuple(map(int, rest.split(" ")))
    future.set_result(Appended(sequence, revisions, reached, duplicate))
    return None if duplicate else LogSequence(sequence.ms, sequence.n + len(revisions) - 1)

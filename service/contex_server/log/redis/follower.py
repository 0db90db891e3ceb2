"""Follows projects: on each server of the store, one connection hears of new events, and one reads
them.

Every append is announced on a channel of its bucket, with its events unless they are large; see
`announce` in functions/common.lua. The others are read. Announcements may be lost, so every project
is looked at from time to time as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from itertools import islice

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Entry, Sequence
from contex_server.log.buckets import bucket_of
from contex_server.log.port import Followed, Follower
from contex_server.log.redis.appender import ASK_REPLICAS_MS, Fsync, fsync_policy
from contex_server.log.redis.client import Client, execute_or_load
from contex_server.log.redis.connections import (
    STORE_ERRORS,
    TIMEOUT_S,
    Command,
    Connections,
    execute_one,
)
from contex_server.log.redis.key_names import PROBE_MS, appended_channel, key, parse_sequence

log = structlog.get_logger(__name__)

_WAIT_S = 2.0
_SWEEP_S = 1.5
"""How often all projects are looked at that nothing was announced of."""
_TOLD_BYTES = 4 * 1024 * 1024
"""The most that is held of what was announced; what is more is read."""
_DECIDED = b"!"
"""Begins what tells of decisions, and no name of a project; see functions/inboxes.lua."""
_READ_PROJECTS = 256
_READ_EVENTS = 1_000
"""Events of one project in one read."""
_READ_BYTES = 4 * 1024 * 1024
"""About what one read brings, of all projects."""


class RedisFollower(Follower):
    """Follows projects that `Connections.node` has named one server for; they may move.

    Args:
        highest: The highest sequence that was seen of each project, which it keeps up to date.
        heard: Called with a project and the agents for which something was decided.
    """

    def __init__(
        self,
        client: Client,
        highest: MutableMapping[str, Sequence],
        heard: Callable[[str, list[str]], None],
    ) -> None:
        self._client = client
        self._heard = heard
        self._highest = highest
        self._generation = -1
        self._links: dict[str, _Link] = {}
        self._link_of: dict[str, _Link] = {}
        self._digests: dict[str, tuple[Sequence, bytes]] = {}
        """The event that was read last of each project, and the SHA-1 of its body; empty of a tail
        that has none."""
        self._returned: dict[str, Sequence] = {}
        """Where those projects should be now that the last poll had something of."""
        self._woken = asyncio.Event()
        self._ended = False
        """Whether the poll is to end, though it has nothing."""

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, Followed]:
        self._ended = False
        try:
            await self._prepare(positions)
            received = await self._read(positions)
            end = time.monotonic() + _WAIT_S
            while not received and await self._wait(end):
                received = await self._read(positions)
            if received and self._client.settings.feed_after == "replicated":
                for link in {self._link_of[project] for project in received}:
                    await link.confirm()
        except STORE_ERRORS as error:
            await self.close()
            raise await self._client.connections.translated(error) from error
        except BaseException:
            await self.close()
            raise
        for project, followed in received.items():
            if followed.entries:
                digest = hashlib.sha1(followed.entries[-1].body).hexdigest().encode()
                self._digests[project] = followed.position, digest
                known = self._highest.get(project, followed.position)
                self._highest[project] = max(known, followed.position)
        self._returned = {
            project: followed.position
            for project, followed in received.items()
            if followed.error is None
        }
        return received

    def wake(self) -> None:
        self._ended = True
        self._woken.set()

    async def close(self) -> None:
        links = [*self._links.values()]
        self._links.clear()
        self._link_of.clear()
        await asyncio.gather(*(link.close() for link in links))

    def _due(self) -> list[_Link]:
        return [link for link in self._links.values() if link.is_due()]

    async def _prepare(self, positions: Mapping[str, Sequence]) -> None:
        """Sees to it that each project has a link to the server that holds it now."""
        connections = self._client.connections
        if self._generation != connections.generation:
            await self.close()
            self._generation = connections.generation
        if positions.keys() != self._link_of.keys():
            for project in self._link_of.keys() - positions.keys():
                self._link_of.pop(project).leave(project)
            for project in self._digests.keys() - positions.keys():
                del self._digests[project]
            for project in positions.keys() - self._link_of.keys():
                bucket = bucket_of(project)
                node = connections.node(bucket)
                if node not in self._links:
                    link = _Link(self._client, self._digests, self._woken, self._heard)
                    await link.open(bucket)
                    self._links[node] = link
                self._link_of[project] = self._links[node]
                await self._links[node].follow(project, bucket)
        for project, position in self._returned.items():
            if positions.get(project, position) != position:
                self._link_of[project].due[project] = None  # It was not taken.
        self._returned = {}

    async def _read(self, positions: Mapping[str, Sequence]) -> dict[str, Followed]:
        received: dict[str, Followed] = {}
        for link in self._due():  # More than one where slots have moved.
            received |= await link.read(positions)
        return received

    async def _wait(self, end: float) -> bool:
        """Waits until there is something to read; returns whether that is so, and not after `wake`
        or at `end`."""
        left = min([end - time.monotonic(), *(link.sweep_in() for link in self._links.values())])
        if not self._due() and not self._ended:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._woken.wait()
        return bool(self._due()) and not self._ended and time.monotonic() < end


class _Link:
    """The connections to one server.

    Attributes:
        due: The projects that may have something to read, in the order in which that was noticed.
    """

    def __init__(
        self,
        client: Client,
        digests: dict[str, tuple[Sequence, bytes]],
        woken: asyncio.Event,
        heard: Callable[[str, list[str]], None],
    ) -> None:
        self._heard = heard
        self._connections: Connections = client.connections
        self._settings = client.settings
        self._confirms = client.settings.feed_after == "replicated"
        self._digests = digests
        self._woken = woken
        self.due: dict[str, None] = {}
        self._buckets: dict[bytes, set[str]] = {}
        """The projects of each bucket that is listened to, by its channel. One that has none any
        more is listened to all the same."""
        self._told: dict[str, list[bytes]] = {}
        """What was announced of each project since it was read."""
        self._told_bytes = 0
        self._totals: dict[str, tuple[Sequence, int, int]] = {}
        """Of each project the event that was read last, if it was the newest, the bytes of all
        events up to it, and how many the stream had then: by these, an announcement tells what
        comes before it."""
        self._seen: dict[str, Sequence] = {}
        """Of each project the newest event that was seen in the log itself: if that vanishes, the
        log has been replaced, whatever was announced since."""
        self._unverified: set[str] = set()
        """Those that were not read over this link yet, so the log may be another one."""
        self._swept = time.monotonic()
        self._pinged = time.monotonic()
        self._asked: float | None = None
        """Since when the connection that listens owes an answer."""
        self._error: Exception | None = None
        self._fsync: Fsync | None = None
        self._reading: AbstractConnection
        self._listening: AbstractConnection
        self._task: asyncio.Task[None]

    async def open(self, bucket: int) -> None:
        """Connects to the server that holds a bucket."""
        self._bucket = bucket
        self._reading = await self._connections.open(bucket)
        try:
            self._listening = await self._connections.open(bucket)
        except BaseException:
            await self._reading.disconnect(nowait=True)
            raise
        self._task = asyncio.create_task(self._listen(), name="contex-follower")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for connection in (self._reading, self._listening):
            await connection.disconnect(nowait=True)

    async def follow(self, project: str, bucket: int) -> None:
        """Reads a project soon, and whenever it has something new."""
        channel = appended_channel(bucket).encode()
        if channel not in self._buckets:
            self._buckets[channel] = set()
            # One command each: a cluster takes no two slots in one.
            await self._send("SSUBSCRIBE", channel)
        self._buckets[channel].add(project)
        self._unverified.add(project)
        self.due[project] = None

    def leave(self, project: str) -> None:
        self._buckets[appended_channel(bucket_of(project)).encode()].discard(project)
        self._unverified.discard(project)
        self._told.pop(project, None)
        self._totals.pop(project, None)
        self._seen.pop(project, None)
        self.due.pop(project, None)

    def sweep_in(self) -> float:
        """Seconds until all projects are looked at."""
        return self._swept + _SWEEP_S - time.monotonic()

    def is_due(self) -> bool:
        """Whether there is something to read, or an error to tell."""
        if self.sweep_in() <= 0:
            self._swept = time.monotonic()
            for projects in self._buckets.values():
                self.due.update(dict.fromkeys(projects))
        return bool(self.due or self._told) or self._error is not None

    async def _send(self, *command: str | bytes) -> None:
        """Sends a command whose reply, if it has one, is for `_listen`."""
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # It takes any length.
        await self._listening.send_packed_command([packed], check_health=False)

    async def _listen(self) -> None:
        """Notes what is announced, until the connection ends."""
        try:
            while True:
                message = await self._listening.read_response(
                    disable_decoding=True, timeout=math.inf, push_request=True
                )
                self._asked = None
                if not isinstance(message, list):
                    continue  # The reply to PING.
                kind, channel, what = message
                projects = self._buckets[channel]
                if kind == b"smessage" and what[:1] == _DECIDED:
                    project, *agent_ids = what[1:].decode().split(" ")
                    if project in projects:
                        self._heard(project, agent_ids)
                    continue
                if kind == b"smessage":
                    project = what[: what.index(b" ")].decode()
                    if project in projects:
                        self._told.setdefault(project, []).append(what)
                        self._told_bytes += len(what)
                        if self._told_bytes > _TOLD_BYTES:
                            self._forget_told()
                elif kind == b"ssubscribe":
                    # What came before was not announced here.
                    self.due.update(dict.fromkeys(projects))
                else:
                    raise ConnectionError("the slot of a bucket has moved")
                self._woken.set()
        except NoPermissionError as error:
            log.warning("appends_unannounced", error=str(error))
        except Exception as error:
            self._error = error
            self._woken.set()

    async def _ping(self) -> None:
        """Asks whether the connection that listens is still there, from time to time.

        Raises:
            TimeoutError: It was asked before, and is silent.
        """
        now = time.monotonic()
        if self._task.done():
            return  # It may not listen, or has failed, which `read` tells.
        if self._asked is not None and now > self._asked + TIMEOUT_S:
            raise TimeoutError("the store is silent")
        if self._asked is None and now > self._pinged + TIMEOUT_S:
            self._asked = self._pinged = now
            await self._send("PING")

    def _forget_told(self) -> None:
        self.due.update(dict.fromkeys(self._told))
        self._told, self._told_bytes = {}, 0

    def _take_told(self, positions: Mapping[str, Sequence]) -> dict[str, Followed]:
        """What was announced and follows without a gap; other projects of it are due."""
        told, self._told, self._told_bytes = self._told, {}, 0
        received: dict[str, Followed] = {}
        for project, announcements in told.items():
            if project in self.due:
                continue  # It is in what is read.
            position = positions[project]
            at, total, length = self._totals.get(project, (None, 0, 0))
            if at != position:
                self.due[project] = None
                continue
            entries: list[Entry] = []
            for announcement in announcements:
                head, _, events = announcement.partition(b"\n")
                reached, there, added, count = map(int, head.split(b" ")[1:])
                if 0 < reached <= total:
                    continue  # It was read already.
                if not events or (reached - added, there - count) != (total, length):
                    self.due[project] = None
                    break
                total, length = reached, there
                entries += _announced(events)
            if entries:
                position = entries[-1].sequence
                self._totals[project] = position, total, length
                received[project] = Followed(entries, position)
        return received

    async def read(self, positions: Mapping[str, Sequence]) -> dict[str, Followed]:
        """What is new of projects that are due."""
        if self._error is not None:
            raise self._error
        received = self._take_told(positions)
        due = [*islice(self.due, _READ_PROJECTS)]
        if not due:
            return received
        await self._ping()
        for project in due:  # What is announced from here on is read again.
            del self.due[project]
        calls = _by_bucket(due)
        commands = [self._command(call, positions, len(calls)) for call in calls]
        replies = await execute_or_load(self._reading, commands)
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            for project, (what, told, *rest) in zip(call, reply, strict=True):
                # What a channel begins with is to be confirmed as well.
                is_new = self._confirms and project in self._unverified
                if what == b"+":
                    followed = self._followed(project, positions[project], told, *rest)
                else:
                    tail = parse_sequence(told)
                    error = _log_changed(project, positions[project], tail)
                    followed = Followed([], tail, None if what == b"<" else error, missed=True)
                    self._digests.pop(project, None)
                    self._seen.pop(project, None)
                if is_new or followed.error or followed.position != positions[project]:
                    received[project] = followed
        return received

    def _command(
        self, projects: list[str], positions: Mapping[str, Sequence], calls: int
    ) -> Command:
        arguments: list[str] = []
        for project in projects:
            position, unverified = positions[project], project in self._unverified
            at, digest = self._digests.get(project, (None, b""))
            bare = at != position or not digest
            seen = self._seen.get(project, position)
            arguments += (str(position), "D" if unverified else "", "T" if bare else "")
            arguments.append("" if seen == position else str(seen))
        keys = (key(project, "events") for project in projects)
        bounds = (_READ_EVENTS, max(1, _READ_BYTES // calls))
        return ("FCALL_RO", "contex1_follow", len(projects), *keys, *bounds, *arguments)

    def _followed(
        self,
        project: str,
        position: Sequence,
        digest: bytes,
        more: int,
        total: int,
        length: int,
        *rest: bytes,
    ) -> Followed:
        """What a project has after a position whose event is there."""
        if project in self._unverified:
            self._unverified.remove(project)
            at, known = self._digests.get(project, (None, b""))
            if at != position:
                self._digests[project] = position, digest
            elif digest and known and digest != known:
                del self._digests[project]
                return Followed([], position, _log_changed(project, position, position))
        entries = [Entry(*pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
        if entries or self._digests.get(project) != (position, b""):
            self._seen[project] = position = entries[-1].sequence if entries else position
        if more:
            self.due[project] = None
            self._totals.pop(project, None)
        else:
            self._totals[project] = position, total, length
        return Followed(entries, position)

    async def confirm(self) -> None:
        """Returns when as many replicas as have to confirm have what was read and announced so far.

        Replication is in order, so they do when they have what is written now.
        """
        probe = ("SET", f"ctx:{{{self._bucket}}}:probe", "1", "PX", PROBE_MS)
        await execute_one(self._reading, *probe)
        if self._fsync is None:
            self._fsync = await fsync_policy(self._reading)
        asked: Command = ("WAIT",) if self._fsync is Fsync.NEVER else ("WAITAOF", 0)
        replicas, wait_ms = self._settings.confirming_replicas, ASK_REPLICAS_MS
        while True:
            reply = await execute_one(self._reading, *asked, replicas, wait_ms)
            if int(reply[1] if isinstance(reply, list) else reply) >= replicas:
                return
            if self._error is not None:
                raise self._error
            wait_ms = min(2 * wait_ms, self._settings.replication_timeout_ms)


def _announced(events: bytes) -> list[Entry]:
    """The events of an announcement."""
    entries: list[Entry] = []
    at = 0
    while at < len(events):
        body = events.index(b"\n", at) + 1
        sequence, size = events[at : body - 1].split(b" ")
        end = body + int(size)
        entries.append(Entry(sequence, events[body:end]))
        at = end + 1
    return entries


def _by_bucket(projects: Iterable[str]) -> list[list[str]]:
    """The projects of each bucket: one call takes keys of one slot."""
    buckets: dict[int, list[str]] = {}
    for project in projects:
        buckets.setdefault(bucket_of(project), []).append(project)
    return [*buckets.values()]


def _log_changed(project: str, position: Sequence, tail: Sequence) -> ContexError:
    return ContexError(
        Reason.LOG_CHANGED,
        f"the log of project {project!r} is another one than before: it has no event {position} "
        f"any more, or a different one there, and ends at {tail}",
        metadata={"sequence": str(position), "tail_sequence": str(tail)},
    )

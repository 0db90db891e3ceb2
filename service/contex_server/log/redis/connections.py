"""Connections to a Redis or Valkey: one server, Sentinel or Cluster, by URL.

The hot paths talk to redis-py's `Connection` directly, because the client's response
callbacks cost 1.6-1.8 times as much. Nothing here retries by itself: a command that was
sent may have been executed, and only the caller knows whether repeating it is safe.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason, store_unavailable
from contex_server.kernel.telemetry import cleaned_text

Command = tuple[Any, ...]
TIMEOUT_S = 5.0
"""Of a connection attempt, and of a call with its replies. Not redis-py's socket timeout:
that wraps each write in asyncio.wait_for, which costs a task and, up to Python 3.11, loses
a cancellation that comes in the turn of the loop in which the write ends."""
PATIENCE_S = 5.0
"""How long an outage may last until calls fail at once: a failover, or a store that starts anew."""
LEASED = 4
"""The most leased connections to one server of the store. More read no faster: they take turns in
the event loop here, and in the store."""
CONNECTIONS = LEASED + 4
"""All connections of a process to one server of the store: also two that append, one that hears of
new events, one that reads them."""
_RETRY_S = (0.05, 0.5)
_WATCH_S = 0.5
"""How often the Sentinels are asked who is in charge."""
_READ_BYTES = 256 * 1024

T = TypeVar("T")


SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""The longest path of a Unix socket; `sun_path` ends with a zero."""

_OPTIONS: dict[str, Any] = {
    "protocol": 3,
    "legacy_responses": False,
    "socket_timeout": None,
    "socket_connect_timeout": TIMEOUT_S,
    "socket_read_size": _READ_BYTES,
    "retry": Retry(NoBackoff(), 0),
}


class _Pool:
    """The connections to a server that nobody uses just now; the one used last is taken first.

    Taking one from redis-py's pool costs as much as a command with its reply.
    """

    def __init__(self, of: ConnectionPool) -> None:
        self._of = of
        self._idle: list[AbstractConnection] = []

    def new(self) -> AbstractConnection:
        """A connection that is yet to be opened."""
        connection: AbstractConnection = self._of.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def take(self) -> AbstractConnection | None:
        """One that is open; None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            with suppress(*STORE_ERRORS):
                # One that says something unasked was closed, or is not in step.
                if connection.is_connected and not await connection.can_read():
                    return connection
            await connection.disconnect(nowait=True)
        return None

    def give_back(self, connection: AbstractConnection) -> None:
        """Lets others have a connection."""
        if connection.is_connected:
            self._idle.append(connection)

    async def close(self) -> None:
        """Closes what nobody uses."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)


class Connections:
    """Connections to the servers of a store: to one, or to those that somebody names.

    A connection outlives what it was opened for: a primary becomes a replica, a slot moves. So
    whoever keeps one looks at `generation`, and opens it anew when that has changed.

    Args:
        max_connections: Bound of the leased connections for each server.
        patience_s: How long after the first sign of an outage a connection is still waited for.

    Attributes:
        generation: Grows whenever another server may have taken over.
    """

    def __init__(self, max_connections: int, patience_s: float) -> None:
        self._max_connections = max_connections
        self._patience_s = patience_s
        self._pools: dict[str, _Pool] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._worked = time.monotonic()
        """When a leased connection was given back that worked."""
        self._away_since: dict[int, float] = {}
        self.generation = 0

    def node(self, bucket: int) -> str:
        """Names the server that holds the bucket; buckets of one name share connections."""
        return ""

    async def _target(self, bucket: int) -> tuple[str, type[AbstractConnection], dict[str, Any]]:
        """Names the server that holds a bucket, and how to connect to it."""
        raise NotImplementedError

    async def _pool_of(self, bucket: int) -> _Pool:
        """The pool of connections to the server that holds the bucket."""
        name, kind, options = await self._target(bucket)
        if name not in self._pools:
            self._pools[name] = _Pool(
                ConnectionPool(connection_class=kind, **{**options, **_OPTIONS})
            )
        return self._pools[name]

    @asynccontextmanager
    async def lease(
        self, bucket: int, *, patient: bool = True
    ) -> AsyncIterator[AbstractConnection]:
        """A connection for the `async with` block; closed if the block fails, or if another server
        may have taken over meanwhile.

        Where all are in use, it waits for one for as long as others get theirs.

        Args:
            patient: Whether it is waited for in an outage that has just begun.
        """

        async def get() -> tuple[_Pool, AbstractConnection]:
            pool = await self._pool_of(bucket)
            connection = await pool.take()
            if connection is None:
                connection = await _opened(pool.new())
            return pool, connection

        turns = self._turns.setdefault(self.node(bucket), asyncio.Semaphore(self._max_connections))
        await self._turn(turns)
        try:
            pool, connection = await self._opened(bucket, get, patient=patient)
            generation = self.generation
            try:
                yield connection
                self._worked = time.monotonic()
            except ResponseError:
                raise
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                if generation != self.generation:
                    await connection.disconnect(nowait=True)
                pool.give_back(connection)
        finally:
            turns.release()

    async def _turn(self, turns: asyncio.Semaphore) -> None:
        """Waits for one of the turns that there are with leased connections of a server.

        Raises:
            TimeoutError: Nobody's commands have worked for so long.
        """
        while turns.locked():
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await turns.acquire()
                return
            except TimeoutError:
                if time.monotonic() > self._worked + TIMEOUT_S:
                    raise
        await turns.acquire()

    async def open(self, bucket: int) -> AbstractConnection:
        """A connection of the caller's own, to be closed by it."""

        async def get() -> AbstractConnection:
            return await _opened((await self._pool_of(bucket)).new())

        return await self._opened(bucket, get, patient=True)

    async def _opened(self, bucket: int, get: Callable[[], Awaitable[T]], *, patient: bool) -> T:
        """What opens a connection, repeated while an outage is young: nothing was sent yet."""
        backoff = Backoff(*_RETRY_S)
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    opened = await get()
            except STORE_ERRORS:
                since = self._away_since.setdefault(bucket, began)
                if not patient or time.monotonic() > since + self._patience_s:
                    raise
                await self.topology_changed()
                await backoff.wait()
            else:
                self._away_since.pop(bucket, None)
                return opened

    async def attempts(self) -> AsyncIterator[None]:
        """Each time for another attempt of what a server has refused; ends with the patience."""
        backoff, end = Backoff(*_RETRY_S), time.monotonic() + self._patience_s
        while time.monotonic() < end:
            await self.topology_changed()
            await backoff.wait()
            yield

    async def topology_changed(self) -> None:
        """Looks again who holds what."""
        self.generation += 1
        for pool in self._pools.values():
            await pool.close()

    async def translated(self, error: Exception) -> ContexError:
        """The domain's error for one of the store; looks again who holds what if it says so."""
        if is_refusal(error) or not isinstance(error, ResponseError):
            await self.topology_changed()
        return translate(error)

    async def close(self) -> None:
        """Closes the leased connections, those in use once they are given back."""
        self.generation += 1
        for pool in self._pools.values():
            await pool.close()


class _Single(Connections):
    """One server, always the same."""

    def __init__(self, pool: ConnectionPool, patience_s: float) -> None:
        super().__init__(pool.max_connections, patience_s)
        self._pools[""] = _Pool(pool)

    async def _pool_of(self, bucket: int) -> _Pool:
        return self._pools[""]


class _Watched(Connections):
    """The primary that Sentinels name."""

    def __init__(
        self,
        sentinel: Sentinel,
        service: str,
        options: dict[str, Any],
        max_connections: int,
        patience_s: float,
    ) -> None:
        super().__init__(max_connections, patience_s)
        self._sentinel = sentinel
        self._service = service
        self._options = options
        self._primary: tuple[str, int] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def _target(self, bucket: int) -> tuple[str, type[AbstractConnection], dict[str, Any]]:
        if self._primary is None:
            self._primary = await self._sentinel.discover_master(self._service)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name="contex-sentinels")
        host, port = self._primary
        kind = SSLConnection if self._options.get("ssl") else Connection
        return f"{host}:{port}", kind, {"host": host, "port": port, **self._options}

    async def topology_changed(self) -> None:
        self._primary = None
        await super().topology_changed()

    async def _watch(self) -> None:
        """Leaves a primary that has been replaced but still answers.

        After a planned failover Sentinel makes it a replica some ten seconds later. Until then it
        takes writes, no replica confirms them, and all of them are lost.
        """
        while True:
            await asyncio.sleep(_WATCH_S)
            known = self._primary
            with suppress(*STORE_ERRORS):  # Nobody to ask, or nobody in charge: that is no other.
                named = await self._sentinel.discover_master(self._service)
                if known is not None and self._primary == known != named:
                    await self.topology_changed()

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await super().close()
        for client in self._sentinel.sentinels:
            await client.aclose()


class _Clustered(Connections):
    """A cluster: every bucket is one slot, so each has one node."""

    def __init__(self, cluster: RedisCluster, max_connections: int, patience_s: float) -> None:
        super().__init__(max_connections, patience_s)
        self._cluster = cluster
        self._looking = asyncio.Lock()

    def _node(self, bucket: int) -> ClusterNode:
        slot = self._cluster.keyslot(f"{{{bucket}}}")
        node: ClusterNode = self._cluster.nodes_manager.get_node_from_slot(slot)
        return node

    def node(self, bucket: int) -> str:
        return str(self._node(bucket).name) if self._cluster.nodes_manager.slots_cache else ""

    async def _target(self, bucket: int) -> tuple[str, type[AbstractConnection], dict[str, Any]]:
        async with self._looking:
            if not self._cluster.nodes_manager.slots_cache:
                await self._cluster.initialize()
        node = self._node(bucket)
        return node.name, node.connection_class, node.connection_kwargs

    async def topology_changed(self) -> None:
        seen = self.generation
        async with self._looking:
            # Of many that notice it, one looks.
            if self.generation == seen:
                with suppress(*STORE_ERRORS):  # Nobody is there: who asks next will hear it.
                    await self._cluster.nodes_manager.initialize()
                await super().topology_changed()

    async def close(self) -> None:
        await super().close()
        await self._cluster.aclose()


def connect(
    url: str, *, max_connections: int = LEASED, patience_s: float = PATIENCE_S
) -> Connections:
    """Connections for a URL; nothing is opened yet.

    Args:
        url: redis://, rediss:// or unix:// for one server,
            redis+sentinel://[user:password@]host:port[,host:port…]/service[?db=0], where user and
            password are the store's; the options sentinel_username and sentinel_password are those
            of the Sentinels,
            redis+cluster://[user:password@]host:port.
        max_connections: Bound of the leased connections for each server.
        patience_s: How long after the first sign of an outage a connection is waited for.

    Raises:
        ValueError: The URL has another form.
    """
    if "#" in url:
        raise ValueError("the store URL has a '#': write it as %23")
    parts = _parts(url)
    if parts.scheme in ("redis", "rediss", "unix"):
        _check_options(parts)
        if parts.scheme == "unix":
            _check_socket(parts)
        else:
            _host(parts.netloc.rpartition("@")[2], 6379)
        pool = ConnectionPool.from_url(url, max_connections=max_connections, **_OPTIONS)
        try:
            pool.make_connection()  # type: ignore[no-untyped-call]  # Opens nothing.
        except TypeError:  # "… got an unexpected keyword argument 'name'"
            raise ValueError(_UNKNOWN) from None
        return _Single(pool, patience_s)
    if parts.scheme == "redis+sentinel":
        service = parts.path.strip("/")
        if not service:
            raise ValueError("the store URL names no service: redis+sentinel://host:port/service")
        hosts = [_host(h, 26379) for h in parts.netloc.rpartition("@")[2].split(",")]
        options = _sentinel_options(parts.query)
        return _Watched(
            Sentinel(hosts, sentinel_kwargs=options.pop("sentinel")),  # type: ignore[no-untyped-call]
            service,
            {
                "username": _decoded(parts.username),
                "password": _decoded(parts.password),
                **options,
            },
            max_connections,
            patience_s,
        )
    if parts.scheme == "redis+cluster":
        host, port = _host(parts.netloc.rpartition("@")[2], 6379)
        return _Clustered(
            RedisCluster(
                host=host,
                port=port,
                username=_decoded(parts.username),
                password=_decoded(parts.password),
                protocol=3,
                socket_timeout=TIMEOUT_S,
            ),
            max_connections,
            patience_s,
        )
    # What it starts with is not shown: without a scheme, that may be a password.
    raise ValueError(
        "a store URL starts with redis://, rediss://, unix://, redis+sentinel:// or "
        "redis+cluster://"
    )


def _parts(url: str) -> SplitResult:
    """The parts of a URL whose password, if any, is before its host and not elsewhere.

    No part of the URL is shown where this refuses it: each may be one of the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("the store URL is malformed: brackets are for IPv6 addresses") from None
    if parts.scheme == "unix":
        misplaced = "@" in parts.query or (parts.netloc and "@" not in parts.netloc)
    else:
        misplaced = parts.scheme.startswith("redis") and "@" in parts.path + parts.query
    if misplaced:
        raise ValueError(_ESCAPES)
    return parts


_ESCAPES = (
    "the store URL has an '@' or a host where none belongs; write a '/', '?', '@' or '#' of a "
    "password as %2F, %3F, %40 or %23; a socket's URL is unix:///absolute/path"
)


# Its name is not shown: it may be a part of the password.
_UNKNOWN = "the store URL has an unknown option after its '?', where options such as db=1 are"


def _sentinel_options(query: str) -> dict[str, Any]:
    """The options of a Sentinel URL: "db" of the store, and "sentinel", those of its Sentinels."""
    given = dict(option.partition("=")[::2] for option in query.split("&")) if query else {}
    unknown = given.keys() - {"db", "sentinel_username", "sentinel_password"}
    if unknown:
        raise ValueError(_UNKNOWN)
    database = given.get("db", "0")
    if not database.isdecimal():
        raise ValueError("the store URL's db is not a number")
    secrets = {
        name: unquote(given[f"sentinel_{name}"])
        for name in ("username", "password")
        if f"sentinel_{name}" in given
    }
    return {"db": int(database), "sentinel": {"socket_timeout": TIMEOUT_S, **secrets}}


def _check_options(parts: SplitResult) -> None:
    for option in parts.query.split("&") if parts.query else ():
        if "=" not in option:
            raise ValueError(
                "the store URL has something after its '?', where options such as db=1 are: "
                "write a '?' of a path or password as %3F"
            )


def _check_socket(parts: SplitResult) -> None:
    path = unquote(parts.path)
    if parts.hostname or not path.startswith("/"):
        raise ValueError("the store URL names no socket: unix:///absolute/path")
    if (size := len(os.fsencode(path))) > SOCKET_PATH_BYTES:
        raise ValueError(
            f"the store URL's socket has a path of {size} bytes, and the system allows "
            f"{SOCKET_PATH_BYTES}: use a shorter one, or a symbolic link"
        )


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _host(text: str, default_port: int) -> tuple[str, int]:
    """Host and port of "host:port", "host", "[::1]:port"."""
    parts = urlsplit(f"//{text}")
    try:
        port = parts.port
    except ValueError:
        # What was taken for a port may be a password, so it is not shown.
        raise ValueError(
            "the store URL has a port that is no number up to 65535; write a '/', '?' or '#' of "
            "a password as %2F, %3F or %23"
        ) from None
    return parts.hostname or "localhost", default_port if port is None else port


async def _opened(connection: AbstractConnection) -> AbstractConnection:
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def execute(connection: AbstractConnection, *commands: Command) -> list[Any]:
    """Sends commands in one write and returns their replies, bytes undecoded.

    An error reply stands in the list in its place; a connection error is raised, and so is
    TimeoutError if the replies are not there within `TIMEOUT_S`.
    """
    packed = [hiredis.pack_command(command) for command in commands]
    replies: list[Any] = []
    async with asyncio.timeout(TIMEOUT_S):
        await connection.send_packed_command(packed, check_health=False)
        for _ in commands:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except (ResponseError, BusyLoadingError) as error:
                replies.append(error)
    return replies


async def execute_one(connection: AbstractConnection, *command: Any) -> Any:
    """Sends one command and returns its reply; raises an error reply."""
    (reply,) = await execute(connection, command)
    if isinstance(reply, Exception):
        raise reply
    return reply


def translate(error: Exception) -> ContexError:
    """The domain's error for one of redis-py's."""
    if isinstance(error, OutOfMemoryError) or "OOM " in str(error):
        return ContexError(
            Reason.STORE_FULL,
            "the store has reached its memory limit and takes no writes",
            retry_after_ms=5_000,
        )
    if type(error) is ResponseError and not str(error).startswith(_TRANSIENT):
        return ContexError(Reason.INTERNAL, f"the store refused a command: {_told(error)}")
    return store_unavailable(_told(error) or type(error).__name__)


def _told(error: Exception) -> str:
    """What an error says, without the arguments of the command, which some replies quote."""
    told = str(error).partition(", with args")[0].partition("Protocol ")[0]
    return cleaned_text(told[:_REPLY_CHARS], _REPLY_CHARS)


_REPLY_CHARS = 300
_TRANSIENT = (
    *("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE", "FAILOVER", "UNBLOCKED"),
    "Function not found",
)


def is_refusal(error: object) -> bool:
    """Whether a server says that it has not done anything, since another one is in charge, it is
    not ready, or a slot is on its way: the same may be asked again, of whoever holds the bucket."""
    return isinstance(error, _REFUSALS)


# MOVED is an ASK, MASTERDOWN a CLUSTERDOWN.
_REFUSALS = (AskError, TryAgainError, ClusterDownError, ReadOnlyError, BusyLoadingError)
STORE_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)

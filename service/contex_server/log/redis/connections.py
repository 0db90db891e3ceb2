"""Connections to a Redis or Valkey: one server, Sentinel or Cluster, by URL.

The hot paths talk to redis-py's `Connection` directly, because the client's response
callbacks cost 1.6-1.8 times as much. Nothing here retries by itself: a command that was
sent may have been executed, and only the caller knows whether repeating it is safe.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import hiredis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from contex_server.kernel.errors import ContexError, Reason, store_unavailable

Command = tuple[Any, ...]
TIMEOUT_S = 5.0
"""Of a connection attempt, and of a call with its replies. Not redis-py's socket timeout:
that wraps each write in asyncio.wait_for, which costs a task and, up to Python 3.11, loses
a cancellation that comes in the turn of the loop in which the write ends."""
_READ_BYTES = 256 * 1024


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


class Connections:
    """Connections to one server, or to the master that Sentinel names."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def node(self, bucket: int) -> str:
        """Names the server that holds the bucket; buckets of one name share connections."""
        return ""

    async def pool_of(self, bucket: int) -> Any:
        """The pool of connections to the server that holds the bucket."""
        return self._pool

    @asynccontextmanager
    async def lease(self, bucket: int) -> AsyncIterator[AbstractConnection]:
        """A connection for the `async with` block; closed if the block fails."""
        pool = await self.pool_of(bucket)
        async with asyncio.timeout(TIMEOUT_S):
            connection = await pool.get_connection()
        try:
            yield connection
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    async def open(self, bucket: int) -> AbstractConnection:
        """A connection of the caller's own, to be closed by it."""
        connection: AbstractConnection = (await self.pool_of(bucket)).make_connection()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def topology_changed(self) -> None:
        """Looks again who holds what."""
        # Sentinel is asked at every connect; leased connections to the old master go.
        await self._pool.disconnect(inuse_connections=False)

    async def translated(self, error: Exception) -> ContexError:
        """The domain's error for one of the store; looks again who holds what if it says so."""
        if is_topology_change(error):
            await self.topology_changed()
        return translate(error)

    async def close(self) -> None:
        """Closes the leased connections."""
        await self._pool.disconnect()


class _Clustered(Connections):
    """A cluster: every bucket is one slot, so each has one node."""

    def __init__(self, cluster: RedisCluster, max_connections: int) -> None:
        self._cluster = cluster
        self._max_connections = max_connections
        self._pools: dict[str, BlockingConnectionPool] = {}
        self._ready = asyncio.Lock()

    def _node(self, bucket: int) -> ClusterNode:
        slot = self._cluster.keyslot(f"{{{bucket}}}")
        node: ClusterNode = self._cluster.nodes_manager.get_node_from_slot(slot)
        return node

    def node(self, bucket: int) -> str:
        return str(self._node(bucket).name) if self._cluster.nodes_manager.slots_cache else ""

    async def pool_of(self, bucket: int) -> BlockingConnectionPool:
        async with self._ready:
            if not self._cluster.nodes_manager.slots_cache:
                await self._cluster.initialize()
        node = self._node(bucket)
        if node.name not in self._pools:
            self._pools[node.name] = BlockingConnectionPool(
                connection_class=node.connection_class,
                max_connections=self._max_connections,
                timeout=TIMEOUT_S,
                **{**node.connection_kwargs, **_OPTIONS},
            )
        return self._pools[node.name]

    async def topology_changed(self) -> None:
        await self._cluster.nodes_manager.initialize()

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.disconnect()
        await self._cluster.aclose()


def connect(url: str, *, max_connections: int = 64) -> Connections:
    """Connections for a URL; nothing is opened yet.

    Args:
        url: redis://, rediss:// or unix:// for one server,
            redis+sentinel://[user:password@]host:port[,host:port…]/service[?db=0],
            redis+cluster://[user:password@]host:port.
        max_connections: Bound of the leased connections for each server.

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
        pool = BlockingConnectionPool.from_url(
            url, max_connections=max_connections, timeout=TIMEOUT_S, **_OPTIONS
        )
        try:
            pool.make_connection()  # type: ignore[no-untyped-call]  # Opens nothing.
        except TypeError as error:  # "… got an unexpected keyword argument 'name'"
            name = str(error).rpartition(" ")[2]
            raise ValueError(f"the store URL has an option {name}, which is unknown") from error
        return Connections(pool)
    if parts.scheme == "redis+sentinel":
        service = parts.path.strip("/")
        if not service:
            raise ValueError("the store URL names no service: redis+sentinel://host:port/service")
        hosts = [_host(h, 26379) for h in parts.netloc.rpartition("@")[2].split(",")]
        database = dict(parse_qsl(parts.query)).get("db", "0")
        if not database.isdecimal():
            raise ValueError("the store URL's db is not a number")
        sentinel = Sentinel(hosts, sentinel_kwargs={"socket_timeout": TIMEOUT_S})  # type: ignore[no-untyped-call]
        return Connections(
            SentinelConnectionPool(  # type: ignore[no-untyped-call]
                service,
                sentinel,
                max_connections=max_connections,
                db=int(database),
                username=_decoded(parts.username),
                password=_decoded(parts.password),
                **_OPTIONS,
            )
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


def _check_options(parts: SplitResult) -> None:
    for option in parts.query.split("&") if parts.query else ():
        if "=" not in option:
            raise ValueError(
                f"the store URL has {option!r} after its '?', where options such as db=1 are: "
                "write a '?' of a path as %3F"
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
            except ResponseError as error:
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
    return str(error).partition(", with args")[0].partition("Protocol ")[0][:_REPLY_CHARS]


_REPLY_CHARS = 300
_TRANSIENT = ("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE", "TRYAGAIN", "FAILOVER")


def is_topology_change(error: Exception) -> bool:
    """Whether the error says that another server is in charge now."""
    return isinstance(error, MovedError | ReadOnlyError | ClusterDownError)


STORE_ERRORS = (RedisError, OSError, TimeoutError)

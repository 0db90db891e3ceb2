"""Opens a store on Redis or Valkey."""

from __future__ import annotations

import structlog
from redis.asyncio.connection import AbstractConnection

from contex_server.kernel.config import Settings
from contex_server.kernel.errors import StartupError
from contex_server.log.redis.access import RedisAccess
from contex_server.log.redis.agents import RedisAgents, RedisJournals
from contex_server.log.redis.appender import Fsync, fsync_policy
from contex_server.log.redis.archive import RedisArchive
from contex_server.log.redis.audit import RedisAudit
from contex_server.log.redis.client import Client, load_functions
from contex_server.log.redis.connections import CONNECTIONS, connect, execute_one
from contex_server.log.redis.events import RedisDescriptions, RedisEventLog, RedisPresence
from contex_server.log.redis.expiry import RedisExpiry
from contex_server.log.redis.groups import RedisGroups
from contex_server.log.redis.inboxes import RedisInboxes
from contex_server.log.redis.keys import RedisKeys
from contex_server.log.redis.match import RedisMatch
from contex_server.log.redis.projects import RedisProjects
from contex_server.log.redis.quota import RedisQuota
from contex_server.log.redis.state import RedisSnapshots, RedisState
from contex_server.log.redis.tasks import RedisTasks
from contex_server.log.redis.transfer import RedisTransfer
from contex_server.log.store import Store

log = structlog.get_logger(__name__)

STORE_FORMAT = 1
"""The format that this version reads and writes, see docs/adr/0017. Stores older than the marker
have it, too."""
FORMAT_KEY = "ctx:{0}:format"
"""One for the whole store, in the slot of the bucket that every server opens first."""


async def open_store(url: str, settings: Settings | None = None) -> Store:
    """Connects, checks the format, loads the functions and finds out the store's fsync policy.

    Args:
        url: The store; see `connections.connect`.
        settings: How it is used; None: the defaults.

    Raises:
        ContexError: STORE_UNAVAILABLE.
        StartupError: The store has a format that this version does not read, or takes too few
            connections.
        ValueError: The URL is malformed.
    """
    client = Client(connect(url), settings or Settings())

    async def prepare(connection: AbstractConnection) -> Fsync:
        await _check_format(connection)
        await _check_room(connection, client.settings.workers)
        await load_functions(connection)
        return await fsync_policy(connection)

    try:
        fsync = await client.leased(0, prepare)
    except BaseException:
        await client.connections.close()
        raise
    if fsync is not Fsync.ALWAYS:
        log.warning(
            "store_durability",
            fsync=fsync,
            advice="set appendonly yes and appendfsync always: acknowledgements then mean "
            "fsync without waiting for it each time",
        )
    return Store(
        events=RedisEventLog(client),
        presence=RedisPresence(client),
        descriptions=RedisDescriptions(client),
        expiry=RedisExpiry(client),
        state=RedisState(client),
        snapshots=RedisSnapshots(client),
        match=RedisMatch(client),
        agents=RedisAgents(client),
        journals=RedisJournals(client),
        inboxes=RedisInboxes(client),
        groups=RedisGroups(client),
        audit=RedisAudit(client),
        projects=RedisProjects(client),
        tasks=RedisTasks(client),
        archive=RedisArchive(client),
        keys=RedisKeys(client),
        transfer=RedisTransfer(client),
        access=RedisAccess(client),
        quota=RedisQuota(client),
    )


async def _check_room(connection: AbstractConnection, workers: int) -> None:
    """Refuses a store that takes too few connections; warns if it has taken too many already."""
    info = await execute_one(connection, "INFO", "clients")
    found = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
    allowed, needed = int(found.get(b"maxclients", 0)), CONNECTIONS * workers
    if not allowed:
        return  # Some managed stores don't tell.
    if needed > allowed:
        raise StartupError(
            f"the store takes {allowed} connections (maxclients), and this server needs "
            f"{CONNECTIONS} for each of its {workers} processes, {needed} in all"
        )
    open_now = int(found[b"connected_clients"])
    if open_now + CONNECTIONS > allowed:
        log.warning(
            "store_connections",
            maxclients=allowed,
            open=open_now,
            needed=CONNECTIONS,
            advice="raise maxclients: without a connection, calls fail with STORE_UNAVAILABLE",
        )


async def _check_format(connection: AbstractConnection) -> None:
    """Refuses a store of another format, and marks one that has no marker yet.

    Call it before anything is changed in the store, its functions included.
    """
    ours = str(STORE_FORMAT).encode()
    # Read first: a store that is full still opens, and takes no write.
    stored = await execute_one(connection, "GET", FORMAT_KEY)
    if stored is None:
        stored = await execute_one(connection, "SET", FORMAT_KEY, ours, "NX", "GET") or ours
    if stored != ours:
        raise StartupError(
            f"the store has format {stored.decode(errors='replace')}, and this version of Contex "
            f"reads format {STORE_FORMAT}: start the version that wrote it, or a later one"
        )

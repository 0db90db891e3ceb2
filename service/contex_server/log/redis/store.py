"""Opens a store on Redis or Valkey."""

from __future__ import annotations

import structlog
from redis.asyncio.connection import AbstractConnection

from contex_server.log.redis.agents import RedisAgents, RedisJournals
from contex_server.log.redis.archive import RedisArchive
from contex_server.log.redis.audit import RedisAudit
from contex_server.log.redis.client import Client, load_functions
from contex_server.log.redis.connections import connect
from contex_server.log.redis.events import Fsync, RedisEventLog, RedisPresence, fsync_policy
from contex_server.log.redis.format import check_format
from contex_server.log.redis.keys import RedisKeys
from contex_server.log.redis.match import RedisMatch
from contex_server.log.redis.projects import RedisProjects
from contex_server.log.redis.state import RedisSnapshots, RedisState
from contex_server.log.redis.tasks import RedisTasks
from contex_server.log.redis.transfer import RedisTransfer
from contex_server.log.store import Store

log = structlog.get_logger(__name__)


async def open_store(
    url: str,
    *,
    request_window_s: int = 600,
    replication_timeout_ms: int = 2_000,
    max_pending: int = 10_000,
    audit_retention_ms: int = 0,
    delivery_retention_ms: int = 0,
    journal_entries: int = 100_000,
) -> Store:
    """Connects, checks the format, loads the functions and finds out the store's fsync policy.

    Args:
        url: The store; see `connections.connect`.
        request_window_s: How long request ids are remembered, at least.
        replication_timeout_ms: How long an append waits for a replica.
        max_pending: Publishes that may wait before further ones are refused.
        audit_retention_ms: How long audit records are kept; 0 is for ever.
        delivery_retention_ms: How long journals are kept; 0 is for ever.
        journal_entries: Maximum number of entries of a journal.

    Raises:
        ContexError: STORE_UNAVAILABLE.
        StartupError: The store has a format that this version does not read.
        ValueError: The URL is malformed.
    """
    client = Client(connect(url))

    async def prepare(connection: AbstractConnection) -> Fsync:
        await check_format(connection)
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
        events=RedisEventLog(
            client,
            fsync,
            request_window_s=request_window_s,
            replication_timeout_ms=replication_timeout_ms,
            max_pending=max_pending,
            audit_retention_ms=audit_retention_ms,
        ),
        presence=RedisPresence(client),
        state=RedisState(client),
        snapshots=RedisSnapshots(client),
        match=RedisMatch(client, audit_retention_ms=audit_retention_ms),
        agents=RedisAgents(
            client,
            audit_retention_ms=audit_retention_ms,
            delivery_retention_ms=delivery_retention_ms,
            journal_entries=journal_entries,
        ),
        journals=RedisJournals(
            client,
            delivery_retention_ms=delivery_retention_ms,
            journal_entries=journal_entries,
        ),
        audit=RedisAudit(client),
        projects=RedisProjects(client, audit_retention_ms=audit_retention_ms),
        tasks=RedisTasks(client),
        archive=RedisArchive(client, audit_retention_ms=audit_retention_ms),
        keys=RedisKeys(client, audit_retention_ms=audit_retention_ms),
        transfer=RedisTransfer(client, audit_retention_ms=audit_retention_ms),
    )

"""Opens everything that events are kept in: the store, the archive, and the keys of sealed ones."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.kernel.config import Settings
from contex_server.kernel.errors import ContexError, StartupError
from contex_server.log.port import EventLog
from contex_server.log.redis.start import STORE_WAIT_S
from contex_server.log.redis.store import open_store
from contex_server.log.state import SnapshotReader
from contex_server.log.store import Store
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_log import ArchivedLog, ArchivedSnapshots
from contex_server.tiers.encryption import Encryption
from contex_server.tiers.master_keys import MasterKeys, create_key, read_key
from contex_server.tiers.objects import Objects
from contex_server.tiers.sealed_log import SealedLog
from contex_server.tiers.sealer import Sealer


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the events are.

    Attributes:
        store: The store and its facets.
        archive: The archive; None if there is none.
        sealer: Seals and opens events.
        encryption: Whether all events of a project are sealed, or those that name a subject.
        log: The events of store and archive, as they were published.
        raw: The same, with sealed events as they are stored.
        snapshots: The snapshots of store and archive.
    """

    store: Store
    archive: Archive | None
    sealer: Sealer
    encryption: Encryption
    log: EventLog
    raw: EventLog
    snapshots: SnapshotReader


async def open_storage(settings: Settings, store_url: str, stack: AsyncExitStack) -> Storage:
    """Opens the store, the archive and the keys; the stack closes them.

    Raises:
        StartupError: One of them can't be used.
    """
    store = await connect_store(settings, store_url)
    stack.push_async_callback(store.events.close)
    archive = _open_archive(settings, store)
    if archive is not None:
        stack.push_async_callback(archive.close)
    sealer = Sealer(store.keys, _master_keys(settings))
    raw: EventLog = store.events
    snapshots: SnapshotReader = store.snapshots
    if archive is not None:
        raw, snapshots = ArchivedLog(store, archive), ArchivedSnapshots(store, archive)
    encryption = Encryption(store.keys)
    stack.push_async_callback(encryption.close)
    encryption.start()
    return Storage(store, archive, sealer, encryption, SealedLog(raw, sealer), raw, snapshots)


async def connect_store(settings: Settings, store_url: str) -> Store:
    """Opens the store, and waits some time for one that is only starting.

    Raises:
        StartupError: The store can't be reached or used.
    """
    deadline = asyncio.get_running_loop().time() + STORE_WAIT_S
    while True:
        try:
            return await open_store(store_url, settings)
        except ContexError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise StartupError(error.message) from error
            await asyncio.sleep(0.25)
        except ValueError as error:
            raise StartupError(str(error)) from error


def archive_url(settings: Settings) -> str | None:
    """Where the archive is; None if there is none."""
    url = settings.archive_url
    if url is None and settings.redis_url is None:
        url = (settings.data_dir / "archive").resolve().as_uri()
    return None if url == "none" else url


def _open_archive(settings: Settings, store: Store) -> Archive | None:
    url = archive_url(settings)
    if url is None:
        return None
    try:
        objects = Objects.open(url)
    except (ValueError, OSError) as error:
        raise StartupError(f"the archive can't be used: {error}") from error
    return Archive(store.archive, objects, cache_bytes=settings.archive_cache_bytes)


def _master_keys(settings: Settings) -> MasterKeys | None:
    try:
        if settings.master_key_file is not None:
            key_of = create_key if settings.create_master_key else read_key
            current = key_of(settings.master_key_file)
        elif settings.redis_url is None:
            current = create_key(settings.data_dir / "master.key")
        else:
            return None
        previous = settings.previous_master_key_file
        return MasterKeys(current, [] if previous is None else [read_key(previous)])
    except (ValueError, OSError) as error:
        raise StartupError(f"the master key can't be used: {error}") from error

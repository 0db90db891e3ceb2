"""The room of states, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.kernel.config import Settings
from contex_server.kernel.growth import Growth
from contex_server.state.history import HistoryReader
from contex_server.state.reader import StateReader
from contex_server.state.snapshot_cache import SnapshotCache
from contex_server.state.snapshotter import Snapshotter
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class StateRoom:
    """Reads states and histories; takes snapshots in the background as projects grow."""

    reader: StateReader
    history: HistoryReader


def open_state(
    settings: Settings, storage: Storage, growth: Growth, stack: AsyncExitStack
) -> StateRoom:
    """Builds the room; the stack closes it."""
    log, store = storage.log, storage.store
    snapshots = SnapshotCache(storage.snapshots, cache_bytes=settings.snapshot_cache_bytes)
    snapshotter = Snapshotter(
        log, store, snapshots, events=settings.snapshot_events, size=settings.snapshot_bytes
    )
    stack.push_async_callback(snapshotter.close)
    growth.listen(snapshotter.appended)
    growth.listen_deleted(snapshotter.deleted)
    reader = StateReader(
        log,
        store.state,
        snapshots,
        cache_bytes=settings.snapshot_cache_bytes,
        on_long_fold=snapshotter.appended,
    )
    growth.listen_deleted(reader.forget)
    return StateRoom(reader, HistoryReader(log, store.state, snapshots))

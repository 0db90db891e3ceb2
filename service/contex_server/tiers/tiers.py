"""One log out of store, archive and sealing."""

from __future__ import annotations

from typing import NamedTuple

from contex_server.log.port import EventLog
from contex_server.log.state import SnapshotReader
from contex_server.log.store import Store
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_log import ArchivedLog, ArchivedSnapshots
from contex_server.tiers.sealed_log import SealedLog
from contex_server.tiers.sealer import Sealer


class Tiers(NamedTuple):
    """The log, whatever tier an event is in.

    Attributes:
        log: The events of store and archive, as they were published.
        raw: The same, with sealed events as they are stored.
        snapshots: The snapshots of store and archive.
    """

    log: EventLog
    raw: EventLog
    snapshots: SnapshotReader


def compose(store: Store, archive: Archive | None, sealer: Sealer) -> Tiers:
    """Stacks the tiers: the store, the archive if there is one, sealing on top."""
    raw: EventLog = store.events
    snapshots: SnapshotReader = store.snapshots
    if archive is not None:
        raw = ArchivedLog(store, archive)
        snapshots = ArchivedSnapshots(store, archive)
    return Tiers(SealedLog(raw, sealer), raw, snapshots)

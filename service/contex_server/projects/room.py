"""The room of projects, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.inbox.reader import InboxReader
from contex_server.inbox.verification import DeliveryVerification
from contex_server.kernel.config import Settings
from contex_server.kernel.growth import Growth
from contex_server.log.store import Store
from contex_server.matching.embeddings import Embeddings
from contex_server.projects.admission import Admission
from contex_server.projects.archiver import Archiver
from contex_server.projects.deletion import Deleter
from contex_server.projects.encryption_admin import EncryptionAdmin
from contex_server.projects.erasure import Eraser
from contex_server.projects.existence import Existence
from contex_server.projects.pace import Pace
from contex_server.projects.recovery import Recovery
from contex_server.projects.removal import Removal
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.projects.retention_admin import RetentionAdmin
from contex_server.projects.rewrapping import Rewrapper
from contex_server.projects.usage import UsageReader
from contex_server.projects.verification import Verification
from contex_server.state.reader import StateReader
from contex_server.tiers.archived_keys import ArchivedKeys
from contex_server.tiers.storage import Storage, archive_url

_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class ProjectsRoom:
    """Keeps projects within their limits; archives in the background as they grow. Without an
    archive, `archiver` and `recovery` are None."""

    retentions: RetentionStore
    retention: RetentionAdmin
    usage: UsageReader
    encryption: EncryptionAdmin
    eraser: Eraser
    deleter: Deleter
    existence: Existence
    verification: Verification
    archiver: Archiver | None
    recovery: Recovery | None
    admission: Admission | None


async def open_projects(
    settings: Settings,
    storage: Storage,
    embeddings: Embeddings,
    states: StateReader,
    inboxes: InboxReader,
    growth: Growth,
    stack: AsyncExitStack,
) -> ProjectsRoom:
    """Builds the room; the stack closes it."""
    store, archive = storage.store, storage.archive
    retentions = retention_store(settings, store)
    pace = Pace(store.projects)
    stack.push_async_callback(pace.close)
    growth.throttle = pace.throttle
    removal, archiver, recovery, admission = None, None, None, None
    if archive is not None:
        removal = Removal(store, storage.raw, archive, states)
        archiver = Archiver(
            store,
            archive,
            ArchivedKeys(store.keys, archive.objects),
            retentions,
            events=settings.segment_events,
            size=settings.segment_bytes,
            expire=removal.expire,
            pace=pace,
        )
        stack.push_async_callback(archiver.close)
        archiver.start()
        growth.listen(archiver.appended)
        recovery = Recovery(storage, archiver)
        admission = Admission(store.events, archiver.task.unrecorded)
        growth.admit = admission.check
        growth.listen_deleted(admission.forget)
    existence = Existence(storage.store.events)
    growth.listen_deleted(existence.forget)
    growth.listen_deleted(lambda project, _: storage.sealer.forget(project))
    growth.listen_deleted(lambda project, _: storage.encryption.forget(project))
    growth.listen_deleted(lambda project, _: embeddings.forget(project))
    task = archiver.task if archiver is not None else None
    deleter = Deleter(storage, retentions, task, embeddings.models.ids, growth)
    stack.push_async_callback(deleter.close)
    await deleter.start()
    rewrapper = Rewrapper(storage, archiver)
    stack.push_async_callback(rewrapper.close)
    rewrapper.start()
    eraser = Eraser(storage, retentions, archiver, embeddings.models.ids, growth)
    return ProjectsRoom(
        retentions,
        RetentionAdmin(storage.log, retentions, archiver, removal),
        usage_reader(settings, store, retentions),
        EncryptionAdmin(storage),
        eraser,
        deleter,
        existence,
        Verification(storage, embeddings, recovery, DeliveryVerification(inboxes)),
        archiver,
        recovery,
        admission,
    )


def retention_store(settings: Settings, store: Store) -> RetentionStore:
    """The retention of every project, over the settings' defaults."""
    defaults = Retention(
        store_seconds=int(settings.store_days * _DAY_S),
        store_events=settings.store_events,
        store_bytes=settings.store_bytes,
        archive_seconds=int(settings.archive_days * _DAY_S),
        keep_revisions=settings.keep_revisions,
    )
    return RetentionStore(store.projects, defaults)


def usage_reader(settings: Settings, store: Store, retentions: RetentionStore) -> UsageReader:
    """What projects use of their limits."""
    return UsageReader(
        store,
        retentions,
        archived=archive_url(settings) is not None,
        segment_events=settings.segment_events,
        segment_bytes=settings.segment_bytes,
    )

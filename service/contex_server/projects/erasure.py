"""Erases payloads: by destroying the key that they are sealed with, or by rewriting the archive.
See docs/adr/0016."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import orjson
import structlog

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.growth import Growth
from contex_server.kernel.model import (
    DATA_ERASED,
    SEALED_TAG,
    Entry,
    Erasure,
    KeyState,
    Origin,
    Range,
    Sequence,
)
from contex_server.log.archive import SegmentRecord, is_remains
from contex_server.log.keys import Erased
from contex_server.log.pages import pages
from contex_server.projects.archiver import Archiver
from contex_server.projects.retention import RetentionStore
from contex_server.tiers.objects import archive_unavailable
from contex_server.tiers.sealer import key_id_of, tombstone
from contex_server.tiers.storage import Storage

log = structlog.get_logger(__name__)

_PAGE_EVENTS = 2_000
_DATA_BYTES = 1024 * 1024
"""What the event has room for that says which data were erased: agents are told of these."""
_REVISIONS_BYTES = 32
_SEALED = bytes([SEALED_TAG])


@dataclass(slots=True)
class _ErasedEvents:
    """The events to erase; `latest` holds the last of them of each data key, `revisions` the first
    and the last revision."""

    events: int = 0
    digests: set[bytes] = field(default_factory=set)
    latest: dict[str, Sequence] = field(default_factory=dict)
    revisions: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        event = event_codec.decode(entry)
        self.events += 1
        if event.data_key:
            self.latest[event.data_key] = event.sequence
            first, _ = self.revisions.get(event.data_key, (event.revision, 0))
            self.revisions[event.data_key] = first, event.revision
        if event.text_digest:
            self.digests.add(event.text_digest)


def _fitting(
    revisions: dict[str, tuple[int, int]],
) -> Iterator[tuple[str, tuple[int, int]]]:
    """As many data as the event has room for, with the revisions that were erased."""
    room = _DATA_BYTES
    for name, erased in revisions.items():
        room -= 6 * len(name) + _REVISIONS_BYTES  # As JSON, at the most.
        if room < 0:
            log.warning("erasure_untold", data=len(revisions))
            return
        yield name, erased


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases data.

    Attributes:
        archiver: None without an archive.
        models: Embedding models that may have made vectors.
    """

    storage: Storage
    retentions: RetentionStore
    archiver: Archiver | None
    models: Callable[[], list[str]]
    growth: Growth

    async def erase(
        self,
        project: str,
        *,
        subject: str = "",
        data_key: str = "",
        request_id: str,
        reason: str,
        origin: Origin,
    ) -> tuple[int, Sequence | None, bool]:
        """Erases the events of a subject, or of a data key.

        Returns:
            How many were erased, the sequence of the event that says so, if any were, and
            whether the request was answered before.

        Raises:
            ContexError: LOG_CHANGED, LEGAL_HOLD, DATA_KEY_NOT_FOUND, ARCHIVE_DISABLED,
                ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        keys = self.storage.store.keys
        before = await keys.erasure(project, request_id)
        if before is not None:
            return before[1], before[0], True
        await self.retentions.check_not_on_hold(project)
        await self.growth.admit(project)
        now_ms = (await self.storage.store.events.bounds(project)).now_ms
        erasure = Erasure(now_ms, request_id, reason)
        key_id = b""
        if subject:
            key_id = await keys.key_of_subject(project, subject)
            if not key_id:
                return 0, None, False
            erased = await self._sealed_with(project, key_id)
        else:
            erased = await self._rewrite(project, data_key, erasure)
        await self._drop_vectors(project, erased)
        kind, name = ("subject", subject) if subject else ("data_key", data_key)
        payload = {
            kind: name,
            "request_id": request_id,
            "reason": reason,
            "erased_count": erased.events,
            "data": dict(_fitting(erased.revisions)),
        }
        target = f"{kind.replace('_', ' ')} {name}"
        detail = f"erased {erased.events} events of {target}, request {request_id}: {reason}"
        reached("erasing")
        recorded = Erased(
            request_id,
            subject,
            key_id,
            tombstone(erasure),
            erased.events,
            erased.latest,
            DATA_ERASED,
            event_codec.encode(DATA_ERASED, orjson.dumps(payload), {}),
            encode_action(AuditAction.ADMINISTERED, origin, detail, count=erased.events),
        )
        if key_id and self.archiver is not None:
            # Otherwise the archiver could store the key again.
            async with self.archiver.task.exclusive(project):
                directory = (await self.storage.store.archive.archived(project)).directory
                if directory:
                    archived_keys = self.archiver.segments.keys
                    await archived_keys.destroy(directory, key_id, recorded.tombstone)
                sequence = await keys.erase(project, recorded)
        else:
            sequence = await keys.erase(project, recorded)
        self.storage.sealer.forget(project)
        # They may have been computed again in the meantime.
        await self._drop_vectors(project, erased)
        if not await keys.rewrite_files(project):
            log.warning("store_keeps_its_files", project=project)
        self.growth.grown(project)
        log.warning("data_erased", project=project, events=erased.events, request_id=request_id)
        return erased.events, sequence, False

    async def _sealed_with(self, project: str, key_id: bytes) -> _ErasedEvents:
        """The events that are sealed with a key."""
        erased = _ErasedEvents()
        tail = (await self.storage.raw.bounds(project)).tail
        source = pages(self.storage.raw, project, Range(until=tail), max_events=_PAGE_EVENTS)
        async with aclosing(source):
            async for page in source:
                for entry in page.entries:
                    if entry.body[:1] == _SEALED and key_id_of(entry) == key_id:
                        erased.add(entry)
        return erased

    async def _drop_vectors(self, project: str, erased: _ErasedEvents) -> None:
        """Drops the vectors of erased texts, except for those that other data still have."""
        dropped = set(erased.digests)
        async for states in self.storage.store.state.state(project):
            dropped -= {
                state.digest
                for state in states
                if not state.deleted and erased.latest.get(state.data_key) != state.sequence
            }
        model = await self.storage.store.match.model(project)
        for each in {model, *self.models()} - {""}:
            await self.storage.store.match.drop_vectors(project, each, dropped)

    async def _rewrite(self, project: str, data_key: str, erasure: Erasure) -> _ErasedEvents:
        """Rewrites every segment that has events of a data key, without their payloads.

        Events that are still in the store are moved to the archive first.
        """
        latest = (await self.storage.store.state.latest(project, [data_key])).get(data_key)
        if latest is None:
            raise ContexError(
                Reason.DATA_KEY_NOT_FOUND,
                f"data key {data_key!r} never had an event in project {project!r}",
                metadata={"data_key": data_key},
                field="data_key",
            )
        archiver = self.archiver
        if archiver is None:
            raise ContexError(
                Reason.ARCHIVE_DISABLED, "a data key is erased in the archive, and there is none"
            )
        erased = _ErasedEvents()
        async with archiver.task.exclusive(project):
            await archiver.move_all(project)
            directory = await archiver.segments.archive.directory(project)
            remains = directory.archived.remains
            for record in [*([remains] if remains else []), *directory.records]:
                if record.first <= latest.sequence:
                    await archiver.task.claim(project)
                    await self._rewrite_segment(archiver, project, record, latest, erasure, erased)
        return erased

    async def _rewrite_segment(
        self,
        archiver: Archiver,
        project: str,
        record: SegmentRecord,
        latest: KeyState,
        erasure: Erasure,
        erased: _ErasedEvents,
    ) -> None:
        """Erases the events of a data key, up to its latest, in one segment."""
        archive = archiver.segments.archive
        index = await archive.index(record)
        places = set(index.places_of(latest.data_key))
        if not places:
            return

        def erase(place: int, entry: Entry) -> Entry:
            if place not in places or entry.sequence > latest.sequence:
                return entry
            rewritten = event_codec.erase(entry, erasure)
            before = None if rewritten is not entry else event_codec.decode(entry).erased
            if before is None or before.request_id == erasure.request_id:
                # Also what this request had erased when it was interrupted.
                erased.add(entry)
            return rewritten

        replaced = await archiver.segments.rewrite(project, record, erase)
        if replaced is None:
            return
        reached("erasing-segment")
        await archiver.task.claim(project, afresh=True)
        store = self.storage.store.archive
        replace = store.replace_remains if is_remains(record) else store.replace_segment
        if not await replace(project, archiver.task.claims.owner, replaced):
            await archive.objects.delete(replaced.name)
            raise archive_unavailable("another process is working on it")
        await archive.objects.delete(record.name)

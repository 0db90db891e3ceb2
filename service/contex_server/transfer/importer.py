"""Imports files into projects: staged out of sight, checked, and then made visible.

See docs/adr/0015. The staged project is named after the project, "~" and the import's id; to
background work it is a project like any other. Once the whole file is checked, the staged project
replaces the project in one step, or its events are added to the project batch by batch if the
project has events already or if they are appended as new ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from uuid import uuid4

import structlog

from contex_server.audit.records import AuditAction, encode_action
from contex_server.events.publisher import Publisher
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.failpoints import reached
from contex_server.kernel.growth import Growth
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    Entry,
    Event,
    Origin,
    Range,
    Sequence,
)
from contex_server.log.transfer import Restored
from contex_server.matching.formats.passages import PayloadMalformed
from contex_server.projects.room import ProjectsRoom
from contex_server.tiers.storage import Storage
from contex_server.transfer.commit import ImportCommit
from contex_server.transfer.continuity import Continuity, ContinuityError
from contex_server.transfer.detection import detect, make_reader
from contex_server.transfer.items import (
    Agents,
    Events,
    FileFormat,
    Item,
    MalformedFile,
    Manifest,
    Reader,
    SettingsItem,
    Summary,
    Vectors,
)
from contex_server.transfer.request import Checkpoint, ImportMode, ImportReport, ImportRequest
from contex_server.transfer.staging import Staging
from contex_server.transfer.transform import EventTransform, check_payload

log = structlog.get_logger(__name__)

_BATCH_EVENTS = 1_000
_BATCH_BYTES = 2 * 1024 * 1024
_ABANDONED_S = 7 * 24 * 3600
_SWEEP_S = 3600.0
_SLICE = 200
"""Events handled before other tasks get their turn."""


class Importer:
    """Imports into the projects of a server."""

    def __init__(
        self, storage: Storage, publisher: Publisher, projects: ProjectsRoom, growth: Growth
    ) -> None:
        self.storage = storage
        self.publisher = publisher
        self.projects = projects
        self.growth = growth
        self._swept = -_SWEEP_S

    async def begin(self, request: ImportRequest, origin: Origin) -> Import:
        """Begins an import, or resumes it.

        Raises:
            ContexError: PROJECT_NOT_EMPTY, IMPORT_IN_PROGRESS, STORE_UNAVAILABLE; INVALID_FIELD
                if an import of the same id began with another request.
        """
        await self._sweep()
        started = Import(self, request, origin)
        await started.open()
        return started

    def staging(self, project: str) -> Staging:
        """The staged project of this name."""
        return Staging(project, self.storage, self.projects)

    async def _sweep(self) -> None:
        """Drops imports that were abandoned long ago."""
        now = time.monotonic()
        if now < self._swept + _SWEEP_S:
            return
        self._swept = now
        for project in await self.storage.store.projects.projects():
            if "~" in project:
                stored = Checkpoint.decode(await self.storage.store.transfer.import_note(project))
                if stored is not None and stored.at < time.time() - _ABANDONED_S:
                    log.info("import_dropped", project=project)
                    await self.staging(project).drop(stored.models)


class Import:
    """One import.

    Methods may raise `ContexError` with IMPORT_MALFORMED, PROJECT_NOT_EMPTY, and what `Staging`
    and appending raise.
    """

    def __init__(self, importer: Importer, request: ImportRequest, origin: Origin) -> None:
        self._importer = importer
        self._request = request
        self._origin = origin
        self._store = importer.storage.store
        name = f"{request.project}~{request.import_id or uuid4().hex[:16]}"
        self._staging = importer.staging(name)
        self._checkpoint = Checkpoint(request.fingerprint(), time.time(), secrets.token_hex(16))
        self._manifest = Manifest()
        self._reader: Reader | None = None
        self._start = bytearray()
        """The beginning of the file, until its format is known."""
        self._batch: list[Restored] = []
        self._batch_bytes = 0
        self._continuity = Continuity()
        self._staged_tail = BEGINNING
        """The end of what was staged before the import was resumed."""
        self._project_tail = BEGINNING
        """The end of the project when an exact import began."""
        self._matched = BEGINNING
        """The project's own events are found in the file up to here."""
        self.byte_count = 0
        """Bytes of the file read so far."""
        self.report = ImportReport(dry_run=request.dry_run)
        self._transform = self._new_transform()

    @property
    def resume_offset(self) -> int:
        """Where in the file to continue if the import is interrupted now."""
        return self._staging.offset

    @property
    def _exact(self) -> bool:
        return self._request.mode is ImportMode.EXACT

    async def open(self) -> None:
        """Begins or resumes the import; see `Importer.begin`."""
        request = self._request
        bounds = await self._importer.storage.log.bounds(request.project)
        if self._exact:
            self._project_tail = bounds.tail
            if bounds.trimmed or (bounds.tail > BEGINNING and not request.verbatim):
                raise _not_empty(request.project, bounds.tail)
        if request.dry_run:
            return
        await self._staging.claim()
        try:
            await self._resume()
        except BaseException:
            await self.close(keep=True)
            raise

    async def _resume(self) -> None:
        staged = self._staging.project
        stored = Checkpoint.decode(await self._store.transfer.import_note(staged))
        if stored is not None and stored.fingerprint != self._checkpoint.fingerprint:
            raise invalid_field(
                "start.import_id", "an import with this id began with other options"
            )
        if stored is None or not (stored.reader or stored.checked):
            await self._drop()
            self._checkpoint.at = time.time()
            await self._store.transfer.put_import_note(staged, self._checkpoint.encode())
            return
        self._checkpoint = stored
        self._manifest = Manifest.of_json(stored.manifest)
        self._continuity.partial = self._manifest.partial
        self.report = ImportReport(**stored.report)
        self._transform = self._new_transform()
        self._continuity.last = Sequence.parse(stored.last_read)
        self._matched = Sequence.parse(stored.matched)
        await self._staging.load()
        self._staged_tail = self._staging.tail
        if not stored.checked:
            await self._plan_staging()
            self._reader = make_reader(FileFormat(stored.format))
            self._reader.resume(stored.offset, stored.reader)
            self._continuity.all_keys_known = self._request.verbatim
            await self._load_latest(staged)
            if self._matched > BEGINNING:
                await self._load_latest(self._request.project)
        self._staging.offset = self.byte_count = stored.offset

    def _new_transform(self) -> EventTransform:
        return EventTransform(self._request, self.report, bytes.fromhex(self._checkpoint.salt))

    async def _plan_staging(self) -> None:
        """Tells the staging how much to expect, as far as the file says."""
        retention = await self._importer.projects.retentions.of(self._request.project)
        self._staging.plan(self._manifest.events, self._manifest.bytes, retention)

    async def _load_latest(self, project: str) -> None:
        """Adds the latest events of a project, of keys that are not known yet."""
        async for chunk in self._store.state.state(project):
            for state in chunk:
                for known in (self._transform, self._continuity):
                    known.add_latest(state.data_key, state.revision, state.sequence)

    async def feed(self, data: bytes) -> None:
        """Reads the next bytes of the file."""
        self.byte_count += len(data)
        if self._checkpoint.checked:
            return
        if not self._request.dry_run:
            await self._staging.claim()
        with _malformed_refused():
            if self._reader is None:
                self._start += data
                if not self._open_reader(complete=False):
                    return
                data, self._start = bytes(self._start), bytearray()
            assert self._reader is not None
            await self._import(self._reader.feed(data))

    async def finish(self) -> ImportReport:
        """Checks that the file is complete and makes the import visible."""
        if not self._checkpoint.checked:
            await self._check()
        if self._request.dry_run:
            return self.report
        reached("import-checked")
        await self._commit()
        project, report = self._request.project, self.report
        self._importer.growth.grown(project)
        log.info("imported", project=project, events=report.imported, last=report.last)
        return report

    async def close(self, *, keep: bool) -> None:
        """Ends the import; with `keep`, it can be resumed."""
        if self._request.dry_run:
            return
        with suppress(ContexError):
            await self._staging.drain()
        with suppress(ContexError):
            if not keep or not self._request.import_id:
                await self._drop()
        await self._staging.release()

    def _open_reader(self, *, complete: bool) -> bool:
        """Detects the format; returns whether that was possible."""
        format = self._request.format or detect(bytes(self._start), complete=complete)
        if format is None:
            return False
        self._checkpoint.format = self.report.format = format
        self._reader = make_reader(format)
        return True

    async def _check(self) -> None:
        """Reads the rest and checks that the file is complete."""
        with _malformed_refused():
            if self._reader is None:
                self._open_reader(complete=True)
                assert self._reader is not None
                await self._import(self._reader.feed(bytes(self._start)))
            await self._import(self._reader.finish())
            if self._exact and not self._reader.exported:
                raise MalformedFile("not exported by Contex: import it with mode replay", 0, 1)
        if self._exact and self._project_tail > self._matched:
            raise _not_empty(self._request.project, self._project_tail)
        self._checkpoint.checked = True
        await self._flush(always=True)

    async def _import(self, items: Iterable[Item]) -> None:
        for item in items:
            await self._import_item(item)
            if len(self._batch) >= _BATCH_EVENTS or self._batch_bytes >= _BATCH_BYTES:
                await self._flush()

    async def _import_item(self, item: Item) -> None:
        match item:
            case Manifest():
                self._manifest = item
                self._continuity.partial = item.partial
                self._checkpoint.manifest = asdict(item)
                self._checkpoint.model = item.model
                self.report.source = item.project
                await self._plan_staging()
            case Events():
                try:
                    await self._import_events(item.entries)
                except ContinuityError as error:
                    raise self._malformed(str(error)) from error
            case Agents():
                self.report.agents += len(item.records)
                if not self._request.dry_run and self._exact:
                    agents = {a.agent_id: (a.record, a.cursor) for a in item.records}
                    await self._store.agents.restore_agents(self._staging.project, agents)
            case Vectors():
                self.report.vectors += len(item.encodings)
                project, model = self._staging.project, self._manifest.model
                if not self._request.dry_run and model:
                    await self._store.match.put_vectors(project, model, item.encodings)
            case SettingsItem():
                self._checkpoint.retention = item.retention.decode()
            case Summary():
                if item.events != self.report.read:
                    assert self._reader is not None
                    problem = f"{self.report.read} events, but the summary says {item.events}"
                    raise MalformedFile(problem, self._reader.offset, self._reader.item)
                self.report.digest = item.digest

    async def _import_events(self, entries: list[Entry]) -> None:
        assert self._reader is not None
        if self._exact and self._continuity.last < self._project_tail:
            entries = await self._skip_present(entries)
        verbatim = self._exact and self._request.verbatim and not self._manifest.partial
        add = self._add_verbatim if verbatim and self._reader.exported else self._add_selected
        for start in range(0, len(entries), _SLICE):
            add(entries[start : start + _SLICE])
            await asyncio.sleep(0)
            if self._batch_bytes >= _BATCH_BYTES and self._reader.state() is None:
                await self._stage()

    async def _skip_present(self, entries: list[Entry]) -> list[Entry]:
        """Compares events with those that the project has already; returns the others."""
        present = [entry for entry in entries if entry.sequence <= self._project_tail]
        project = self._request.project
        if not present:
            raise _not_empty(project, self._project_tail)
        until = max(present[-1].sequence, self._matched)
        span = Range(self._matched, until)
        stored = await self._importer.storage.log.read(project, span, len(present) + 1)
        if stored != present:
            raise _not_empty(project, self._project_tail)
        for entry, links in zip(present, self._continuity.check_links(present), strict=True):
            self._transform.add_present(entry, links)
        self._matched = self._continuity.last = present[-1].sequence
        self.report.read += len(present)
        self.report.present += len(present)
        return entries[len(present) :]

    def _add_verbatim(self, entries: list[Entry]) -> None:
        """Adds events that are imported unchanged: the same as `_add_selected`, several times
        as fast."""
        self._continuity.check_order(entries)
        self.report.read += len(entries)
        self.report.add_imported(entries[0], entries[-1], len(entries))
        if entries[0].sequence <= self._staged_tail:
            entries = [entry for entry in entries if entry.sequence > self._staged_tail]
        self._batch += map(Restored.of, entries, self._continuity.check_links(entries))
        self._batch_bytes += sum([len(entry.body) for entry in entries])

    def _add_selected(self, entries: list[Entry]) -> None:
        """Adds the events that the request selects, changed as it says."""
        assert self._reader is not None
        try:
            records = list(map(event_codec.decode, entries))
        except ValueError as error:
            raise self._malformed(f"not an event: {error!s:.100}") from error
        if self._reader.exported:
            self._continuity.check_order(entries)
            fresh = [r for r in records if r.sequence > self._staged_tail]
            if fresh:
                links = [record.links for record in fresh]
                self._continuity.check_links(entries[-len(fresh) :], links)
        else:
            records = list(map(self._in_file_order, records))
        self.report.read += len(entries)
        mark = not self._exact and (
            self._reader.exported or self._checkpoint.format == FileFormat.LEGACY_JSON
        )
        for entry, record in zip(entries, records, strict=True):
            if not self._transform.selects(record):
                self.report.skipped += 1
                continue
            if not self._exact and not self._reader.exported:
                try:
                    check_payload(record)
                except PayloadMalformed as error:
                    raise self._malformed(f"invalid payload: {error}") from error
            if record.sequence > self._staged_tail:
                restored = self._transform.apply(entry, record, mark=mark)
                self._batch.append(restored)
                self._batch_bytes += len(restored.body)
                entry = Entry(restored.id, restored.body)
            self.report.add_imported(entry, entry, 1)

    def _in_file_order(self, record: Event) -> Event:
        """An event of a foreign file at the sequence at which it is imported: the order of the
        file takes precedence over its times."""
        if not record.event_type or (record.event_type == DATA_DELETED and not record.data_key):
            raise self._malformed("an event without a type, or a deletion without a data key")
        sequence = max(record.sequence, self._continuity.last.next())
        self._continuity.last = sequence
        return record if sequence == record.sequence else replace(record, sequence=sequence)

    def _malformed(self, problem: str) -> MalformedFile:
        assert self._reader is not None
        return self._reader.malformed(problem)

    async def _flush(self, *, always: bool = False) -> None:
        """Stages the batch together with a checkpoint."""
        if not self._batch and not always:
            return
        checkpoint, offset = self._checkpoint, 0
        state = self._reader.state() if self._reader is not None else None
        if self._reader is not None and state is not None:
            offset = checkpoint.offset = self._reader.offset
            checkpoint.reader = state
        elif not checkpoint.checked:
            checkpoint.reader = {}  # The import can't be resumed from here on.
        checkpoint.last_read = str(self._continuity.last)
        checkpoint.matched = str(self._matched)
        checkpoint.report = asdict(self.report)
        await self._stage(checkpoint.encode(), offset, last=always)

    async def _stage(self, note: bytes = b"", offset: int = 0, *, last: bool = False) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not self._request.dry_run:
            await self._staging.put(batch, note, offset, last=last)

    async def _drop(self) -> None:
        await self._staging.drop(self._checkpoint.models)

    async def _commit(self) -> None:
        """Makes what is staged part of the project."""
        checkpoint, project, importer = self._checkpoint, self._request.project, self._importer
        commit = ImportCommit(importer.storage, importer.publisher, self._staging, project)
        extends = self._project_tail > BEGINNING
        if not self._exact:
            name = hashlib.sha256(self._staging.project.encode()).hexdigest()[:24]
            self.report.first, self.report.last = await commit.replay(name, self._origin)
        else:
            if extends:
                committed = await commit.append(self._project_tail, checkpoint.model)
            else:
                committed = await self._staging.commit(checkpoint.models, self._action())
            if not committed:
                raise _not_empty(project, (await importer.storage.log.bounds(project)).tail)
            reached("import-committed")
            retention, projects = checkpoint.retention.encode(), self._store.projects
            if retention and not await projects.retention(project):
                await projects.put_retention(project, retention, self._action())
        if extends or not self._exact:
            await self._store.audit.note_actions(project, [self._action()])

    def _action(self) -> bytes:
        mode = self._request.mode.name.lower()
        source = f" of project {self.report.source}" if self.report.source else ""
        detail, last, count = f"Import, {mode}{source}", self.report.last, self.report.imported
        return encode_action(AuditAction.IMPORTED, self._origin, detail, sequence=last, count=count)


@contextmanager
def _malformed_refused() -> Iterator[None]:
    try:
        yield
    except MalformedFile as error:
        raise error.as_error() from error


def _not_empty(project: str, tail: Sequence) -> ContexError:
    return ContexError(
        Reason.PROJECT_NOT_EMPTY,
        f"project {project!r} has events of its own, up to {tail}",
        metadata={"tail_sequence": str(tail)},
        field="start.project",
    )

"""Imports files into projects: staged out of sight, checked, and then made visible.

See docs/adr/0015. The staged project is named after the project, "~" and the import's id; to
background work it is a project like any other. Once the whole file is checked, the staged project
replaces the project in one step, or its events are added to the project batch by batch if the
project has events already or if they are appended as new ones.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from uuid import uuid4

import structlog

from contex_server.events.publisher import Publisher
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, invalid_field
from contex_server.kernel.failpoints import reached
from contex_server.kernel.failures import Failures
from contex_server.kernel.growth import Growth
from contex_server.kernel.model import BEGINNING, Entry, Origin, Range
from contex_server.kernel.right_of_way import heavily
from contex_server.log.agents import AgentRecord, RestoredAgent
from contex_server.log.inboxes import CarriedDecisions
from contex_server.log.transfer import Restored
from contex_server.match.agent_codec import AgentDamaged, decode_agent, ttl_ms_of
from contex_server.match.agent_rules import check_agent
from contex_server.matching.background import Snapshot, SnapshotDamaged, size_reached
from contex_server.matching.describe import DIGEST_BYTES
from contex_server.matching.encoding import dimension_of, unpack_finite
from contex_server.matching.models import Models
from contex_server.projects.retention import Retention
from contex_server.projects.room import ProjectsRoom
from contex_server.quota.keeper import QuotaKeeper
from contex_server.tiers.storage import Storage
from contex_server.transfer import items
from contex_server.transfer.commit import ImportCommit, not_empty
from contex_server.transfer.continuity import ContinuityError
from contex_server.transfer.decisions import check_decisions, check_within
from contex_server.transfer.detection import detect, make_reader
from contex_server.transfer.request import Checkpoint, ImportMode, ImportReport, ImportRequest
from contex_server.transfer.staging import Staging
from contex_server.transfer.transform import EventTransform

log = structlog.get_logger(__name__)

_BATCH_EVENTS = 1_000
_BATCH_BYTES = 2 * 1024 * 1024
_ABANDONED_S = 7 * 24 * 3600
_SWEEP_S = 3600.0
_SLICE_EVENTS = 1_000
_SLICE_BYTES = 256 * 1024
"""Events handled before other tasks get their turn."""


@dataclass(slots=True)
class Importer:
    """Imports into the projects of a server."""

    storage: Storage
    publisher: Publisher
    projects: ProjectsRoom
    growth: Growth
    models: Models
    limits: Limits
    quota: QuotaKeeper
    _swept: float = -_SWEEP_S
    _failures: Failures = field(default_factory=lambda: Failures("import_not_dropped"))

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

    async def _sweep(self) -> None:
        """Drops imports that were abandoned long ago."""
        now = time.monotonic()
        if now < self._swept + _SWEEP_S:
            return
        self._swept = now
        for project in await self.storage.store.projects.projects():
            if "~" in project:
                with self._failures.isolated(project):
                    await self._drop_abandoned(project)

    async def _drop_abandoned(self, project: str) -> None:
        stored = Checkpoint.decode(await self.storage.store.transfer.import_note(project))
        if stored is not None and stored.at < time.time() - _ABANDONED_S:
            log.info("import_dropped", project=project)
            await Staging(project, self.storage, self.projects).drop(stored.models)


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
        self._staging = Staging(name, importer.storage, importer.projects)
        self._checkpoint = Checkpoint(request.fingerprint(), time.time(), secrets.token_hex(16))
        self._checkpoint.report.dry_run = request.dry_run
        self._opened: items.Reader | None = None
        self._start = bytearray()
        """The beginning of the file, until its format is known."""
        self._batch: list[Restored] = []
        self._batch_bytes = 0
        self._dimension = 0
        """Of the vectors; 0 until that is known."""
        self._project_tail = BEGINNING
        """The end of the project when an exact import began."""
        self.byte_count = 0
        """Bytes of the file read so far."""
        self._transform = self._new_transform()

    @property
    def report(self) -> ImportReport:
        """What was imported so far."""
        return self._checkpoint.report

    @property
    def resume_offset(self) -> int:
        """Where in the file to continue if the import is interrupted now."""
        return self._staging.offset

    @property
    def _exact(self) -> bool:
        return self._request.mode is ImportMode.EXACT

    @property
    def _reader(self) -> items.Reader:
        assert self._opened is not None
        return self._opened

    async def open(self) -> None:
        """Begins or resumes the import; see `Importer.begin`."""
        request = self._request
        bounds = await self._importer.storage.log.bounds(request.project)
        if self._exact:
            self._project_tail = bounds.tail if bounds.exists else BEGINNING
            if bounds.trimmed or (bounds.exists and not request.verbatim):
                raise not_empty(request.project, bounds.tail)
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
        self._transform = self._new_transform()
        continuity = self._transform.continuity
        continuity.partial = stored.manifest.partial
        continuity.last = stored.last_read
        await self._staging.load()
        self._transform.staged_tail = self._staging.tail
        if not stored.checked:
            await self._plan_staging()
            self._opened = make_reader(items.FileFormat(stored.format), self._importer.limits)
            self._reader.resume(stored.offset, stored.reader)
            continuity.all_keys_known = self._request.verbatim
            await self._load_latest(staged)
            if stored.matched > BEGINNING:
                await self._load_latest(self._request.project)
        self._staging.offset = self.byte_count = stored.offset

    def _new_transform(self) -> EventTransform:
        salt = bytes.fromhex(self._checkpoint.salt)
        return EventTransform(self._request, self.report, salt, self._importer.limits)

    async def _plan_staging(self) -> None:
        """Tells the staging how much to expect, as far as the file says."""
        retention = await self._importer.projects.retentions.of(self._request.project)
        manifest = self._checkpoint.manifest
        self._staging.plan(manifest.events, manifest.bytes, retention)

    async def _load_latest(self, project: str) -> None:
        """Adds the latest events of a project, of keys that are not known yet."""
        async for chunk in self._store.state.state(project):
            for state in chunk:
                self._transform.add_latest(state.data_key, state.revision, state.sequence)

    async def feed(self, data: bytes) -> None:
        """Reads the next bytes of the file."""
        self.byte_count += len(data)
        if self._checkpoint.checked:
            return
        if not self._request.dry_run:
            await self._staging.claim()
        with _malformed_refused():
            if self._opened is None:
                self._start += data
                if not self._open_reader(complete=False):
                    return
                data, self._start = bytes(self._start), bytearray()
            await self._import(self._reader.feed(data))

    async def finish(self) -> ImportReport:
        """Checks that the file is complete and makes the import visible."""
        if not self._checkpoint.checked:
            await self._check()
        if self._request.dry_run:
            return self.report
        reached("import-checked")
        importer, project, report = self._importer, self._request.project, self.report
        await importer.quota.admit_import(project, self._staging.project)
        commit = ImportCommit(
            importer.storage,
            importer.publisher,
            self._staging,
            self._request,
            self._checkpoint,
            self._origin,
        )
        await commit.commit(self._project_tail)
        importer.growth.grown(project)
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
        self._opened = make_reader(format, self._importer.limits)
        return True

    async def _check(self) -> None:
        """Reads the rest and checks that the file is complete."""
        with _malformed_refused():
            if self._opened is None:
                self._open_reader(complete=True)
                await self._import(self._reader.feed(bytes(self._start)))
            await self._import(self._reader.finish())
            if self._exact and not self._reader.exported:
                problem = "not exported by Contex: import it with mode replay"
                raise items.MalformedFile(problem, 0, 1)
            if self._exact and not self._request.dry_run:
                await self._check_agents_stand()
        if self._exact and self._project_tail > self._checkpoint.matched:
            raise not_empty(self._request.project, self._project_tail)
        self._checkpoint.checked = True
        await self._flush(always=True)

    async def _import(self, read: Iterator[items.Item | None]) -> None:
        ended = items.Summary()
        # In a thread, and not for long at a time: what is read may be large, or hold nothing.
        while (item := await heavily(next, read, ended)) is not ended:
            if item is not None:
                await self._import_item(item)
            if len(self._batch) >= _BATCH_EVENTS or self._batch_bytes >= _BATCH_BYTES:
                await self._flush()

    async def _import_item(self, item: items.Item) -> None:
        match item:
            case items.Manifest():
                self._transform.continuity.partial = item.partial
                self._checkpoint.manifest = item
                self._checkpoint.model = item.model
                self.report.source = item.project
                await self._plan_staging()
            case items.Events():
                try:
                    await self._import_events(item.entries, item.places)
                except ContinuityError as error:
                    raise self._reader.malformed(str(error)) from error
            case items.Agents():
                self._check_agents(item.records)
                self.report.agents += len(item.records)
                if not self._request.dry_run and self._exact:
                    agents = {
                        a.agent_id: RestoredAgent(a.record, a.cursor, ttl_ms_of(a.record))
                        for a in item.records
                    }
                    await self._store.agents.restore_agents(self._staging.project, agents)
            case items.Decisions():
                await self._import_decisions(item.part)
            case items.Vectors():
                await heavily(self._check_vectors, item.encodings)
                self.report.vectors += len(item.encodings)
                project, model = self._staging.project, self._checkpoint.model
                if not self._request.dry_run and model:
                    await self._store.match.put_vectors(project, model, item.encodings)
            case items.Backgrounds():
                await self._import_backgrounds(item)
            case items.SettingsItem():
                try:
                    retention = Retention.decode(item.retention)
                except ValueError as error:
                    raise self._malformed(f"settings: {error}") from error
                self._checkpoint.retention = retention.encode().decode()
            case items.Summary():
                if item.events != self.report.read:
                    problem = f"{self.report.read} events, but the summary says {item.events}"
                    raise items.MalformedFile(problem, self._reader.offset, self._reader.item)
                self.report.digest = item.digest

    async def _import_decisions(self, part: CarriedDecisions) -> None:
        """Keeps what was decided if the project becomes the exported one, event for event: deciding
        goes on there. Otherwise it is decided anew from the agents' cursors on."""
        try:
            await heavily(check_decisions, part, self._importer.limits)
        except ValueError as error:
            raise self._malformed(f"what was decided: {error}") from error
        if self._exact and self._request.verbatim and not self._request.dry_run:
            epoch = int(1000 * self._checkpoint.at)
            await self._store.inboxes.restore_decisions(self._staging.project, part, epoch)
            await self._store.groups.restore(self._staging.project, part.parked)

    async def _check_agents_stand(self) -> None:
        """Checks that nothing was decided after the last event, and lets no agent stand there: a
        cursor beyond what is imported can't be read from."""
        staged, last = self._staging.project, self._transform.continuity.last
        try:
            await check_within(self._store.inboxes, staged, last)
        except ValueError as error:
            raise self._malformed(f"what was decided: {error}") from error
        after = ""
        while records := await self._store.agents.agents(staged, after, _BATCH_EVENTS):
            after = records[-1].agent_id
            ahead = {agent.agent_id: last for agent in records if agent.cursor > last}
            await self._store.agents.set_cursors(staged, ahead)

    async def _import_backgrounds(self, item: items.Backgrounds) -> None:
        """Keeps backgrounds if every event is imported unchanged: they sum up all of them."""
        model, last = self._checkpoint.model, self._transform.continuity.last
        sizes: list[int] = []
        for sequence, packed in item.packed.items():
            try:
                snapshot = await heavily(Snapshot.unpack, packed)
            except SnapshotDamaged as error:
                raise self._malformed(f"a background: {error}") from error
            self._check_dimension(len(snapshot.mean), "a background")
            if sequence > last:
                raise self._malformed(f"a background: of {sequence}, after the last event")
            sizes.append(snapshot.data)
        if sizes and model and not self._request.dry_run and self._exact and self._request.verbatim:
            size = size_reached(max(sizes))
            await self._store.match.put_backgrounds(self._staging.project, model, item.packed, size)

    def _check_agents(self, records: list[AgentRecord]) -> None:
        for stored in records:
            name = f"agent {stored.agent_id!r:.60}"
            try:
                agent = decode_agent(stored.record)
                check_agent(agent, stored.agent_id, self._importer.limits)
            except AgentDamaged as error:
                raise self._malformed(f"{name}: {error}") from error
            except ContexError as error:
                raise self._malformed(f"{name}: {error.message}") from error

    def _check_vectors(self, encodings: Mapping[bytes, bytes]) -> None:
        for digest, packed in encodings.items():
            try:
                self._check_dimension(dimension_of(packed), "a vector")
                unpack_finite(packed)
            except ValueError as error:
                raise self._malformed(f"a vector: {error}") from error
            if len(digest) != DIGEST_BYTES:
                raise self._malformed(f"a vector: its digest must have {DIGEST_BYTES} bytes")

    def _check_dimension(self, dimension: int, name: str) -> None:
        """Checks a dimension against the model's, or if the model isn't here, the first one's."""
        models, model = self._importer.models, self._checkpoint.model
        if model in models.ids():
            self._dimension = models.embedder(model).dimension
        self._dimension = self._dimension or dimension
        if dimension != self._dimension:
            raise self._malformed(f"{name}: {dimension} dimensions, not {self._dimension}")

    def _malformed(self, problem: str) -> items.MalformedFile:
        """What is wrong with the item that was read last."""
        return self._reader.malformed(problem, items.Place(self._reader.offset, self._reader.item))

    async def _import_events(self, entries: list[Entry], places: list[items.Place]) -> None:
        transform, reader = self._transform, self._reader
        if self._exact and transform.continuity.last < self._project_tail:
            left = await self._skip_present(entries)
            entries, places = left, places[len(entries) - len(left) :]
        start = 0
        while start < len(entries):
            taken = _slice(entries, start)
            where = places[start : start + len(taken)]
            start += len(taken)
            # It describes or redacts them, which takes long where payloads are large.
            imported = await heavily(transform.take, taken, reader, where)
            self._batch += imported
            self._batch_bytes += sum([len(event.body) for event in imported])
            if self._batch_bytes >= _BATCH_BYTES and reader.state() is None:
                await self._stage()

    async def _skip_present(self, entries: list[Entry]) -> list[Entry]:
        """Compares events with those that the project has already; returns the others."""
        present = [entry for entry in entries if entry.sequence <= self._project_tail]
        project, matched = self._request.project, self._checkpoint.matched
        if not present:
            raise not_empty(project, self._project_tail)
        span = Range(matched, max(present[-1].sequence, matched))
        stored = await self._importer.storage.log.read(project, span, len(present) + 1)
        if stored != present and stored != await heavily(self._transform.with_digests, present):
            raise not_empty(project, self._project_tail)
        self._transform.add_present(present)
        self._checkpoint.matched = present[-1].sequence
        self.report.read += len(present)
        self.report.present += len(present)
        return entries[len(present) :]

    async def _flush(self, *, always: bool = False) -> None:
        """Stages the batch together with a checkpoint."""
        if not self._batch and not always:
            return
        checkpoint, offset = self._checkpoint, 0
        state = self._reader.state()
        if state is not None:
            offset = checkpoint.offset = self._reader.offset
            checkpoint.reader = state
        elif not checkpoint.checked:
            checkpoint.reader = {}  # The import can't be resumed from here on.
        checkpoint.last_read = self._transform.continuity.last
        await self._stage(checkpoint.encode(), offset, last=always)

    async def _stage(self, note: bytes = b"", offset: int = 0, *, last: bool = False) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not self._request.dry_run:
            await self._staging.put(batch, note, offset, last=last)

    async def _drop(self) -> None:
        await self._staging.drop(self._checkpoint.models)


def _slice(entries: list[Entry], start: int) -> list[Entry]:
    """The next events that are handled together, at least one."""
    taken, size = list[Entry](), 0
    for entry in entries[start : start + _SLICE_EVENTS]:
        taken.append(entry)
        size += len(entry.body)
        if size >= _SLICE_BYTES:
            break
    return taken


@contextmanager
def _malformed_refused() -> Iterator[None]:
    try:
        yield
    except items.MalformedFile as error:
        raise error.as_error() from error

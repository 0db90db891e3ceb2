"""Bringing a file into a project: staged where nobody sees it, checked, and then made visible.

See docs/adr/0015. The staged project has the name of the project, "~" and the import's id, and
is one like any other to whatever keeps projects in order; with the last byte of the file
checked it takes the place of the project in one step, or its events are added to the project
one batch after the other, where that had some already or gets them as new ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
import structlog

from contex_server.audit.records import AuditAction, encode_action
from contex_server.events.publisher import Publisher
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    SERVICE_TYPES,
    Entry,
    Origin,
    Record,
    Sequence,
)
from contex_server.log.agents import AgentRecord
from contex_server.log.port import EventLog
from contex_server.log.store import Store
from contex_server.log.transfer import Restored
from contex_server.matching.describe import PayloadMalformed, describe
from contex_server.matching.embeddings import describe_event
from contex_server.projects.archiver import Archiver
from contex_server.projects.policy import Retentions
from contex_server.projects.recovery import Recovery
from contex_server.state.moments import rfc3339
from contex_server.tiers.sealer import Sealer
from contex_server.transfer.commit import Landing
from contex_server.transfer.continuity import Broken, Continuity
from contex_server.transfer.detection import detect, reader_of
from contex_server.transfer.items import (
    Agents,
    Events,
    FileFormat,
    Item,
    Malformed,
    Manifest,
    Reader,
    SettingsItem,
    Summary,
    Vectors,
)
from contex_server.transfer.plan import Mode, Report, Wanted
from contex_server.transfer.redaction import redacted, remapped
from contex_server.transfer.staging import Staging

log = structlog.get_logger(__name__)

_BATCH_EVENTS = 1_000
_BATCH_BYTES = 2 * 1024 * 1024
_KEPT_S = 7 * 24 * 3600
_SWEEP_S = 3600.0
_SLICE = 200
"""So many events are looked at between two times that others get their turn."""


class _Link(NamedTuple):
    """The latest event of a key, as it is imported."""

    revision: int
    sequence: Sequence


@dataclass(slots=True)
class _Note:
    """How far an import is, as it is kept with what is staged."""

    fingerprint: str
    at: float
    salt: str
    format: int = 0
    offset: int = 0
    reader: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    last_read: str = "0-0"
    staged: str = "0-0"
    matched: str = "0-0"
    model: str = ""
    retention: str = ""
    checked: bool = False

    @property
    def models(self) -> list[str]:
        """The models that there are vectors of."""
        return [self.model] if self.model else []

    def encode(self) -> bytes:
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__})


class Imports:
    """Imports into the projects of a server.

    Args:
        event_log: All events.
        store: Where imports are staged.
        publisher: Appends events anew.
        sealer: Seals those that name a subject.
        retentions: What the store keeps.
        archiver: Archives the rest; None where there is no archive.
        recovery: Goes on with what was archived; None likewise.
        grown: Told of each project that has grown.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: Store,
        publisher: Publisher,
        sealer: Sealer,
        retentions: Retentions,
        archiver: Archiver | None,
        recovery: Recovery | None,
        *grown: Callable[[str], None],
    ) -> None:
        self.log = event_log
        self.store = store
        self.publisher = publisher
        self.retentions = retentions
        self.grown = grown
        self._sealer = sealer
        self._archiver = archiver
        self._recovery = recovery
        self._swept = -_SWEEP_S

    async def begin(self, wanted: Wanted, origin: Origin) -> Import:
        """Begins an import, or goes on with it.

        Raises:
            ContexError: PROJECT_NOT_EMPTY, IMPORT_IN_PROGRESS, STORE_UNAVAILABLE; INVALID_FIELD
                where the import of this id was another.
        """
        await self._sweep()
        started = Import(self, wanted, origin)
        await started.open()
        return started

    def staging(self, project: str) -> Staging:
        """A staged project, by its name."""
        return Staging(project, self.store, self._sealer, self._archiver, self._recovery)

    async def _sweep(self) -> None:
        """Drops what was staged long ago and not gone on with."""
        now = time.monotonic()
        if now < self._swept + _SWEEP_S:
            return
        self._swept = now
        for project in await self.store.projects.projects():
            if "~" in project:
                note = _read(await self.store.transfer.import_note(project))
                if note is not None and note.at < time.time() - _KEPT_S:
                    log.info("import_dropped", project=project)
                    await self.staging(project).drop(note.models)


class Import:
    """One import.

    Attributes:
        byte_count: So much of it was read.
        report: What has happened so far.
    """

    def __init__(self, imports: Imports, wanted: Wanted, origin: Origin) -> None:
        self._of = imports
        self._wanted = wanted
        self._origin = origin
        self._store = imports.store
        self._staging = imports.staging(f"{wanted.project}~{wanted.import_id or uuid4().hex[:16]}")
        self._staged = self._staging.project
        self._note = _Note(wanted.fingerprint(), time.time(), secrets.token_hex(16))
        self._manifest = Manifest()
        self._reader: Reader | None = None
        self._start = bytearray()
        self._batch: list[Restored] = []
        self._batch_bytes = 0
        self._continuity = Continuity()
        self._target: dict[str, _Link] = {}
        self._staged_tail = BEGINNING
        """The end of what was staged before the import was gone on with."""
        self._known_tail = BEGINNING
        """The end of the project when the import began."""
        self._matched = BEGINNING
        self.byte_count = 0
        self.report = Report(dry_run=wanted.dry_run)

    @property
    def resume_offset(self) -> int:
        """The file is wanted from here on, should the import be resumed."""
        return self._staging.offset

    @property
    def _exact(self) -> bool:
        return self._wanted.mode is Mode.EXACT

    # -- from the beginning to the end ---------------------------------------------

    async def open(self) -> None:
        """Takes the import up; see `Imports.begin`."""
        wanted = self._wanted
        bounds = await self._of.log.bounds(wanted.project)
        if self._exact:
            self._known_tail = bounds.tail
            if bounds.trimmed or (bounds.tail > BEGINNING and not wanted.whole):
                raise _not_empty(wanted.project, bounds.tail)
        if wanted.dry_run:
            return
        await self._staging.claim()
        try:
            await self._take_up()
        except BaseException:
            await self.leave(keep=True)
            raise

    async def _take_up(self) -> None:
        note = _read(await self._store.transfer.import_note(self._staged))
        if note is not None and note.fingerprint != self._note.fingerprint:
            raise ContexError(
                Reason.INVALID_FIELD,
                "start.import_id: an import of this id into the project began otherwise",
                field="start.import_id",
            )
        if note is None or not (note.reader or note.checked):
            await self._drop()
            self._note.at = time.time()
            await self._store.transfer.put_import_note(self._staged, self._note.encode())
            return
        self._note = note
        self._manifest = Manifest.of_json(note.manifest)
        self._continuity.partial = self._manifest.partial
        self.report = Report(**note.report)
        self._continuity.last = Sequence.parse(note.last_read)
        self._matched = Sequence.parse(note.matched)
        await self._staging.take_up()
        self._staged_tail = self._staging.tail
        if not note.checked:
            await self._expect()
            self._reader = reader_of(FileFormat(note.format))
            self._reader.resume(note.offset, note.reader)
            self._continuity.whole = self._wanted.whole
            await self._know_links(self._staged)
            if self._matched > BEGINNING:
                await self._know_links(self._wanted.project)
        self._staging.offset = self.byte_count = note.offset

    async def _expect(self) -> None:
        """Lets it be known how much will be staged, as far as the file says it."""
        retention = await self._of.retentions.of(self._wanted.project)
        self._staging.expect(self._manifest.events, self._manifest.bytes, retention)

    async def _know_links(self, project: str) -> None:
        """Takes in the latest event of each key of a project, of those that are not known."""
        async for chunk in self._store.state.state(project):
            for state in chunk:
                link = _Link(state.revision, state.sequence)
                self._target.setdefault(state.data_key, link)
                self._continuity.knows(state.data_key, link.revision, link.sequence)

    async def feed(self, data: bytes) -> None:
        """Takes the next bytes of the file in.

        Raises:
            ContexError: IMPORT_MALFORMED, PROJECT_NOT_EMPTY, IMPORT_IN_PROGRESS, STORE_FULL,
                STORE_UNAVAILABLE.
        """
        self.byte_count += len(data)
        if self._note.checked:
            return
        if not self._wanted.dry_run:
            await self._staging.claim()
        if self._reader is None:
            self._start += data
            if not self._open_reader(complete=False):
                return
            data, self._start = bytes(self._start), bytearray()
        assert self._reader is not None
        try:
            for item in self._reader.feed(data):
                await self._take(item)
        except Malformed as error:
            raise error.as_error() from error

    async def finish(self) -> Report:
        """Takes note that the file is complete, and lets it become visible.

        Raises:
            ContexError: As `feed`, and what appending raises.
        """
        if not self._note.checked:
            await self._check()
        if self._wanted.dry_run:
            return self.report
        reached("import-checked")
        await self._land()
        for note in self._of.grown:
            note(self._wanted.project)
        log.info(
            "imported",
            project=self._wanted.project,
            events=self.report.imported,
            last=self.report.last,
        )
        return self.report

    async def leave(self, *, keep: bool) -> None:
        """Ends the import; with `keep`, it can be resumed."""
        if self._wanted.dry_run:
            return
        with suppress(ContexError):
            await self._staging.settled()
        with suppress(ContexError):
            if not keep or not self._wanted.import_id:
                await self._drop()
        await self._staging.release()

    # -- reading -------------------------------------------------------------------

    def _open_reader(self, *, complete: bool) -> bool:
        found = self._wanted.format
        if found is None:
            try:
                found = detect(bytes(self._start), complete=complete)
            except Malformed as error:
                raise error.as_error() from error
            if found is None:
                return False
        self._note.format = self.report.format = found
        self._reader = reader_of(found)
        return True

    async def _check(self) -> None:
        """Reads what is left, and sees to it that the file is complete."""
        try:
            if self._reader is None:
                self._open_reader(complete=True)
                assert self._reader is not None
                for item in self._reader.feed(bytes(self._start)):
                    await self._take(item)
            for item in self._reader.finish():
                await self._take(item)
            if self._exact and not self._reader.exported:
                raise Malformed("made by somebody else: import it with mode replay", 0, 1)
        except Malformed as error:
            raise error.as_error() from error
        if self._exact and self._known_tail > self._matched:
            raise _not_empty(self._wanted.project, self._known_tail)
        self._note.checked = True
        await self._flush(always=True)

    async def _take(self, item: Item) -> None:
        match item:
            case Manifest():
                self._manifest = item
                self._continuity.partial = item.partial
                self._note.manifest = item.to_json()
                self._note.model = item.model
                self.report.source = item.project
                await self._expect()
            case Events():
                try:
                    await self._take_events(item.entries)
                except Broken as error:
                    raise self._malformed(str(error)) from error
            case Agents():
                await self._take_agents(item.records)
            case Vectors():
                await self._take_vectors(item.encodings)
            case SettingsItem():
                self._note.retention = item.retention.decode()
            case Summary():
                if item.events != self.report.read:
                    assert self._reader is not None
                    raise Malformed(
                        f"{self.report.read} events, and the summary says {item.events}",
                        self._reader.offset,
                        self._reader.item,
                    )
                self.report.digest = item.digest
        if len(self._batch) >= _BATCH_EVENTS or self._batch_bytes >= _BATCH_BYTES:
            await self._flush()

    async def _take_events(self, entries: list[Entry]) -> None:
        if self._exact and self._continuity.last < self._known_tail:
            entries = await self._match(entries)
        assert self._reader is not None
        whole = (
            self._exact
            and self._wanted.whole
            and self._reader.exported
            and not self._manifest.partial
        )
        for start in range(0, len(entries), _SLICE):
            if whole:
                self._take_whole(entries[start : start + _SLICE])
            else:
                for entry in entries[start : start + _SLICE]:
                    self._take_event(entry)
            await asyncio.sleep(0)
            assert self._reader is not None
            if self._batch_bytes >= _BATCH_BYTES and self._reader.state() is None:
                await self._flush_part()

    def _take_whole(self, entries: list[Entry]) -> None:
        """Takes events that are imported as they are: the same as `_take_event`, at a third of
        its cost."""
        self._continuity.order(entries)
        self.report.read += len(entries)
        self._imported(entries)
        if entries[0].sequence <= self._staged_tail:
            entries = [entry for entry in entries if entry.sequence > self._staged_tail]
        self._batch += map(Restored.of, entries, self._continuity.link(entries))
        self._batch_bytes += sum([len(entry.body) for entry in entries])

    def _take_event(self, entry: Entry) -> None:
        assert self._reader is not None
        wanted, report = self._wanted, self.report
        try:
            record = event_codec.record(entry)
        except ValueError as error:
            raise self._malformed(f"what is no event: {error!s:.100}") from error
        if self._reader.exported:
            self._continuity.order([entry])
            sequence = self._continuity.last
        else:
            # Somebody else's times: the order of the file counts.
            sequence = max(record.sequence, self._continuity.last.next())
            self._continuity.last = sequence
        report.read += 1
        if self._reader.exported:
            if sequence > self._staged_tail:
                self._continuity.link([entry])
        elif not record.event_type or (record.event_type == DATA_DELETED and not record.data_key):
            raise self._malformed("an event without a type, or a deletion of nothing")
        kept = wanted.after < sequence <= wanted.until
        if not kept or not wanted.filter.passes(record):
            report.skipped += 1
            return
        if not self._exact:
            if record.event_type in SERVICE_TYPES or record.erased is not None:
                report.skipped += 1
                return
            record = self._marked(record, entry)
            if not self._reader.exported:
                self._check_payload(record)
        if sequence <= self._staged_tail:
            self._imported([entry])
            return
        if sequence != record.sequence:
            record = replace(record, sequence=sequence)
        changed = self._changed(record)
        if changed is not record or sequence != entry.sequence:
            record = changed
            entry = event_codec.entry(record)
        if record.data_key:
            self._target[record.data_key] = _Link(record.revision, sequence)
        self._batch.append(Restored.of(entry, event_codec.links(entry)))
        self._batch_bytes += len(entry.body)
        self._imported([entry])

    def _imported(self, entries: list[Entry]) -> None:
        report = self.report
        report.imported += len(entries)
        report.first = report.first or entries[0].id.decode()
        report.last = entries[-1].id.decode()

    def _check_payload(self, record: Record) -> None:
        """What is appended anew must be what it says it is; later is too late to find out."""
        try:
            describe(
                record.data_key,
                record.description,
                record.payload,
                record.content_type,
                record.event_type,
            )
        except PayloadMalformed as error:
            raise self._malformed(f"a payload: {error}") from error

    def _marked(self, record: Record, entry: Entry) -> Record:
        """What says where a replayed event comes from."""
        assert self._reader is not None
        if not self._reader.exported and self._note.format != FileFormat.LEGACY_JSON:
            return record
        original = {
            "original_sequence": entry.id.decode(),
            "original_time": rfc3339(record.sequence.ms),
        }
        return replace(record, metadata={**record.metadata, **original})

    def _changed(self, record: Record) -> Record:
        """An event as it is imported: under its new name, its values redacted, and linked to
        what was imported before it."""
        wanted = self._wanted
        if wanted.whole and self._exact and not self._manifest.partial:
            return record
        key = remapped(record.data_key, wanted.mappings) if record.data_key else ""
        payload = redacted(
            record.data_key, record.payload, wanted.redactions, bytes.fromhex(self._note.salt)
        )
        self.report.remapped += key != record.data_key
        self.report.redacted += payload is not record.payload
        if key != record.data_key or payload is not record.payload:
            record = replace(record, data_key=key, payload=payload)
            if record.text_digest and record.event_type != DATA_DELETED:
                record = replace(record, text_digest=self._digest(record))
        before = self._target.get(key) if key else None
        revision = record.revision
        if wanted.mappings or not self._exact:
            revision = (before.revision if before else 0) + 1 if key else 0
        return replace(
            record, revision=revision, previous_sequence=before.sequence if before else None
        )

    def _digest(self, record: Record) -> bytes:
        return describe_event(event_codec.decode(event_codec.entry(record))).digest()

    async def _match(self, entries: list[Entry]) -> list[Entry]:
        """Compares events with those that the project has already; returns the others."""
        here = [entry for entry in entries if entry.sequence <= self._known_tail]
        if not here:
            raise _not_empty(self._wanted.project, self._known_tail)
        until = max(here[-1].sequence, self._matched)
        there = await self._of.log.read(self._wanted.project, self._matched, until, len(here) + 1)
        if there != here:
            raise _not_empty(self._wanted.project, self._known_tail)
        for entry, links in zip(here, self._continuity.link(here), strict=True):
            if links.data_key:
                self._target[links.data_key] = _Link(links.revision, entry.sequence)
        self._matched = self._continuity.last = here[-1].sequence
        self.report.read += len(here)
        self.report.present += len(here)
        return entries[len(here) :]

    async def _take_agents(self, records: list[AgentRecord]) -> None:
        self.report.agents += len(records)
        if not self._wanted.dry_run and self._exact:
            agents = {a.agent_id: (a.record, a.cursor) for a in records}
            await self._store.agents.restore_agents(self._staged, agents)

    async def _take_vectors(self, encodings: dict[bytes, bytes]) -> None:
        self.report.vectors += len(encodings)
        if not self._wanted.dry_run and self._manifest.model:
            await self._store.match.put_vectors(self._staged, self._manifest.model, encodings)

    # -- staging -------------------------------------------------------------------

    async def _flush(self, *, always: bool = False) -> None:
        """Stages what is pending, and how far the file was read with it."""
        if not self._batch and not always:
            return
        state = self._reader.state() if self._reader is not None else None
        offset = 0
        if state is not None and self._reader is not None:
            self._note.offset, self._note.reader = self._reader.offset, state
            offset = self._reader.offset
        self._note.last_read = str(self._continuity.last)
        self._note.matched = str(self._matched)
        self._note.report = {name: getattr(self.report, name) for name in Report.__slots__}
        if state is None and not self._note.checked:
            # What is staged from here on can't be gone on with.
            self._note.reader = {}
        await self._flush_part(self._note.encode(), offset, last=always)

    async def _flush_part(self, note: bytes = b"", offset: int = 0, *, last: bool = False) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not self._wanted.dry_run:
            await self._staging.put(batch, note, offset, last=last)

    async def _drop(self) -> None:
        await self._staging.drop(self._note.models)

    # -- making visible ------------------------------------------------------------

    async def _land(self) -> None:
        """What is staged becomes part of the project."""
        note, project = self._note, self._wanted.project
        landing = Landing(self._of.log, self._store, self._of.publisher, self._staging, project)
        if not self._exact:
            name = hashlib.sha256(self._staged.encode()).hexdigest()[:24]
            first, last = await landing.replay(name, self._origin)
            self.report.first, self.report.last = first, last
            await self._store.audit.note_actions(project, [self._action()])
            return
        if self._known_tail > BEGINNING:
            whole = await landing.add(self._known_tail, note.model)
        else:
            whole = await self._staging.commit(note.models, self._action())
        if not whole:
            raise _not_empty(project, (await self._of.log.bounds(project)).tail)
        reached("import-landed")
        await landing.set_retention(note.retention.encode(), self._action())
        if self._known_tail > BEGINNING:
            await self._store.audit.note_actions(project, [self._action()])

    def _action(self) -> bytes:
        mode = self._wanted.mode.name.lower()
        source = f" of project {self.report.source}" if self.report.source else ""
        return encode_action(
            AuditAction.IMPORTED,
            self._origin,
            f"Import, {mode}{source}",
            sequence=self.report.last,
            count=self.report.imported,
        )

    def _malformed(self, problem: str) -> Malformed:
        assert self._reader is not None
        return Malformed(problem, self._reader.offset, self._reader.item + 1)


def _read(data: bytes) -> _Note | None:
    return _Note(**orjson.loads(data)) if data else None


def _not_empty(project: str, tail: Sequence) -> ContexError:
    return ContexError(
        Reason.PROJECT_NOT_EMPTY,
        f"project {project!r} has events of its own, up to {tail}",
        metadata={"tail_sequence": str(tail)},
        field="start.project",
    )

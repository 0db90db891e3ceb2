"""Reading a project out into a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import BEGINNING, Entry, EventFilter, Sequence
from contex_server.log.agents import AgentRecord
from contex_server.log.pages import check_readable, pages
from contex_server.log.port import EventLog
from contex_server.log.store import Store
from contex_server.state.moments import rfc3339
from contex_server.transfer.items import Chain, FileFormat, Manifest, Summary, Writer
from contex_server.transfer.lines import LinesWriter
from contex_server.transfer.native import NativeWriter
from contex_server.transfer.parquet import ParquetWriter

_PAGE_EVENTS = 4_000
_AGENTS = 500


class ExportPart(IntEnum):
    """What else goes with the events; the numbers are those of `contex.v1.ExportPart`."""

    AGENTS = 1
    VECTORS = 2
    SETTINGS = 3


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is wanted; see `contex.v1.ExportRequest`.

    Attributes:
        after: Events after this sequence, ...
        until: ... up to this one; beyond the end of the log: up to its end.
        resume: What `ExportChunk.resume` was, of an export that is gone on with.
    """

    project: str
    format: FileFormat
    compress: bool
    after: Sequence
    until: Sequence
    filter: EventFilter
    parts: frozenset[ExportPart]
    resume: str = ""


class ExportChunk(NamedTuple):
    """The next bytes of the file, and how far that is; see `contex.v1.ExportResponse`."""

    data: bytes
    events: int
    bytes: int
    total: int
    scanned: int
    resume: str = ""
    summary: Summary | None = None


@dataclass(slots=True)
class _Progress:
    """Where an export stands after a piece, as a token carries it."""

    cut: str
    position: str
    first: str = ""
    last: str = ""
    events: int = 0
    bytes: int = 0
    scanned: int = 0
    items: int = 0
    chain: str = ""
    wanted: str = ""


class Exporter:
    """Makes files.

    Args:
        event_log: All events.
        store: What is kept beside them.
    """

    def __init__(self, event_log: EventLog, store: Store) -> None:
        self._log = event_log
        self._store = store

    async def export(self, wanted: ExportRequest) -> AsyncGenerator[ExportChunk, None]:
        """The pieces of the file.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, CURSOR_INVALID,
                FORMAT_UNAVAILABLE, ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        project = wanted.project
        writer = await asyncio.to_thread(self._writer, wanted)
        bounds = await self._log.bounds(project)
        if wanted.after > BEGINNING:
            check_readable(bounds, wanted.after)
        if wanted.resume:
            at = _resumed(wanted, writer)
        else:
            cut = min(wanted.until, bounds.tail)
            at = _Progress(str(cut), str(wanted.after), wanted=_fingerprint(wanted))
        cut, position = Sequence.parse(at.cut), Sequence.parse(at.position)
        total = max(bounds.length, at.scanned)

        def piece(
            data: bytes, *, resumable: bool = True, summary: Summary | None = None
        ) -> ExportChunk:
            at.bytes += len(data)
            at.items, at.chain = writer.items, writer.chain.digest
            resume = _token(at) if resumable and wanted.format is not FileFormat.PARQUET else ""
            return ExportChunk(data, at.events, at.bytes, total, at.scanned, resume, summary)

        if not wanted.resume:
            model = (
                await self._store.match.model(project) if ExportPart.VECTORS in wanted.parts else ""
            )
            partial = bool(wanted.after > BEGINNING or not wanted.filter.is_open or bounds.trimmed)
            manifest = Manifest(project, at.cut, rfc3339(bounds.now_ms), partial, model)
            if not partial and cut == bounds.tail:
                counters = await self._store.projects.counters(project)
                manifest = replace(manifest, events=counters.events, bytes=counters.bytes)
            yield piece(writer.begin(manifest))
        source = pages(
            self._log,
            project,
            position,
            cut,
            resumed=bool(wanted.resume) and position > wanted.after,
            max_events=_PAGE_EVENTS,
        )
        async with aclosing(source):
            async for page in source:
                if not page.entries:
                    continue
                entries = self._selected(page.entries, wanted.filter)
                data = await asyncio.to_thread(writer.events, entries) if entries else b""
                at.scanned += len(page.entries)
                at.position = page.entries[-1].id.decode()
                if entries:
                    at.first = at.first or entries[0].id.decode()
                    at.last = entries[-1].id.decode()
                    at.events += len(entries)
                yield piece(data)
        summary = Summary(at.cut, at.first, at.last, at.events)
        async for data, agents, vectors in self._parts(wanted, writer, cut):
            summary = replace(
                summary, agents=summary.agents + agents, vectors=summary.vectors + vectors
            )
            yield piece(data, resumable=False)
        if wanted.format is not FileFormat.PARQUET:
            summary = replace(summary, digest=writer.chain.digest)
        last = await asyncio.to_thread(writer.end, summary)
        yield piece(last, resumable=False, summary=summary)

    def _writer(self, wanted: ExportRequest) -> Writer:
        match wanted.format:
            case FileFormat.NATIVE:
                return NativeWriter()
            case FileFormat.PARQUET:
                return ParquetWriter()
            case _:
                cloud = wanted.format is FileFormat.CLOUD_EVENTS
                return LinesWriter(cloud=cloud, compress=wanted.compress)

    def _selected(self, entries: list[Entry], wanted: EventFilter) -> list[Entry]:
        if wanted.is_open:
            return entries
        return [entry for entry in entries if wanted.passes(event_codec.decode(entry))]

    async def _parts(
        self, wanted: ExportRequest, writer: Writer, cut: Sequence
    ) -> AsyncGenerator[tuple[bytes, int, int], None]:
        """What goes with the events: bytes, and how many agents and vectors they hold."""
        project = wanted.project
        if ExportPart.AGENTS in wanted.parts:
            after = ""
            while records := await self._store.agents.agents(project, after, _AGENTS):
                after = records[-1].agent_id
                kept = [AgentRecord(a.agent_id, a.record, min(a.cursor, cut)) for a in records]
                yield writer.agents(kept), len(kept), 0
        if ExportPart.VECTORS in wanted.parts:
            model = await self._store.match.model(project)
            seen: set[bytes] = set()
            async for encodings in self._store.match.all_vectors(project, model):
                fresh = {digest: v for digest, v in encodings.items() if digest not in seen}
                seen |= fresh.keys()
                if fresh:
                    yield await asyncio.to_thread(writer.vectors, fresh), 0, len(fresh)
        if ExportPart.SETTINGS in wanted.parts:
            retention = await self._store.projects.retention(project)
            if retention:
                yield writer.settings(retention), 0, 0


def _fingerprint(wanted: ExportRequest) -> str:
    parts = (
        wanted.format,
        wanted.compress,
        str(wanted.after),
        *map(sorted, (wanted.filter.event_types, wanted.filter.data_keys)),
        sorted(wanted.filter.publishers),
        sorted(wanted.parts),
    )
    chain = Chain()
    chain.add(repr(parts).encode())
    return chain.digest[:16]


def _token(at: _Progress) -> str:
    return orjson.dumps([getattr(at, name) for name in _Progress.__slots__]).decode()


def _resumed(wanted: ExportRequest, writer: Writer) -> _Progress:
    try:
        at = _Progress(*orjson.loads(wanted.resume))
        writer.items = int(at.items)
        writer.chain = Chain(bytes.fromhex(at.chain))
        Sequence.parse(at.cut)
        Sequence.parse(at.position)
    except (ValueError, TypeError) as error:
        raise ContexError(
            Reason.CURSOR_INVALID, "resume_token: damaged", field="resume_token"
        ) from error
    if at.wanted != _fingerprint(wanted):
        raise invalid_field("resume_token", "was made for an export of other things")
    if isinstance(writer, LinesWriter):
        writer.project = wanted.project
    return at

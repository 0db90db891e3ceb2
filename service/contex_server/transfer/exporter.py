"""Exports projects to files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import astuple, dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import orjson

from contex_server.agents.visibility import Viewer
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Entry, EventFilter, Range, Sequence
from contex_server.kernel.right_of_way import heavily
from contex_server.log.agents import AgentRecord
from contex_server.log.pages import Page, check_readable, pages
from contex_server.log.port import READ_BYTES
from contex_server.match.agent_codec import AgentDamaged, decode_agent
from contex_server.projects.retention import Retention
from contex_server.state.moments import rfc3339
from contex_server.tiers.storage import Storage
from contex_server.transfer.decisions import DecisionsReader
from contex_server.transfer.items import Chain, FileFormat, Manifest, Summary, Writer
from contex_server.transfer.lines import LinesWriter
from contex_server.transfer.native import NativeWriter
from contex_server.transfer.parquet import ParquetWriter

_PAGE_EVENTS = 2_000
_AGENTS = 500
_EVERYONE = Viewer()


class ExportPart(IntEnum):
    """What to export besides events; the numbers are those of `contex.v1.ExportPart`."""

    AGENTS = 1
    VECTORS = 2
    SETTINGS = 3


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export; see `contex.v1.ExportRequest`.

    Attributes:
        after: Only events after this sequence ...
        until: ... and up to this one, or to the end of the log.
        resume: The `ExportChunk.resume` to continue from; "" for a new export.
        viewer: Who exports: the file has the agents that it sees. If there is more, it has no
            vectors, which would tell of other data, and nothing is counted but what it has.
    """

    project: str
    format: FileFormat
    compress: bool
    after: Sequence
    until: Sequence
    filter: EventFilter
    parts: frozenset[ExportPart]
    resume: str = ""
    viewer: Viewer = _EVERYONE

    @property
    def is_whole(self) -> bool:
        """Whether who exports sees the whole project."""
        return self.viewer.sees_all


class ExportChunk(NamedTuple):
    """The next bytes of the file, and the progress; see `contex.v1.ExportProjectResponse`."""

    data: bytes
    events: int
    bytes: int
    total: int
    scanned: int
    resume: str = ""
    summary: Summary | None = None


@dataclass(slots=True)
class _Progress:
    """The progress of an export after a chunk, as its resume token holds it."""

    cut: str
    position: str
    first: str = ""
    last: str = ""
    events: int = 0
    bytes: int = 0
    scanned: int = 0
    items: int = 0
    chain: str = ""
    fingerprint: str = ""
    agents: int = 0
    decided: bool = False
    """Whether agents were written, with what was decided for them."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """Exports projects."""

    storage: Storage

    async def export(self, request: ExportRequest) -> AsyncGenerator[ExportChunk, None]:
        """The file, in chunks.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, CURSOR_INVALID,
                FORMAT_UNAVAILABLE, ARCHIVE_UNAVAILABLE, STORE_UNAVAILABLE, OVERLOADED.
        """
        project = request.project
        writer = await heavily(_writer, request)
        bounds = await self.storage.log.bounds(project)
        if request.after > BEGINNING:
            check_readable(bounds, request.after)
        if request.resume:
            at = _resumed(request, writer)
        else:
            cut = min(request.until, bounds.tail)
            at = _Progress(str(cut), str(request.after), fingerprint=_fingerprint(request))
        cut, position = Sequence.parse(at.cut), Sequence.parse(at.position)
        total = max(bounds.length, at.scanned) if request.is_whole else 0

        def chunk(
            data: bytes, *, resumable: bool = True, summary: Summary | None = None
        ) -> ExportChunk:
            at.bytes += len(data)
            at.items, at.chain = writer.items, writer.chain.digest
            resume = ""
            if resumable and request.format is not FileFormat.PARQUET:
                resume = orjson.dumps(astuple(at)).decode()
            of = max(total, at.scanned)
            return ExportChunk(data, at.events, at.bytes, of, at.scanned, resume, summary)

        if not request.resume:
            model = ""
            if ExportPart.VECTORS in request.parts and request.is_whole:
                model = await self.storage.store.match.model(project)
            partial = request.after > BEGINNING or not request.filter.is_open or bounds.trimmed
            manifest = Manifest(project, at.cut, rfc3339(bounds.now_ms), partial, model)
            if not partial and cut == bounds.tail:
                counters = await self.storage.store.projects.counters(project)
                manifest = replace(manifest, events=counters.events, bytes=counters.bytes)
            decisions = await self._decisions(request)
            # With what was decided, there is nothing to resume from before events follow.
            yield chunk(writer.begin(manifest), resumable=decisions is None)
            if decisions is not None:
                async for data in self._decided(decisions, writer, at):
                    yield chunk(data, resumable=False)
                cut = Sequence.parse(at.cut)
        resumed = bool(request.resume) and position > request.after
        async for data in self._events(request, writer, at, Range(position, cut), resumed=resumed):
            yield chunk(data)
        if ExportPart.AGENTS in request.parts and not at.decided:
            async for records in self._agents(project, cut, at, request.viewer):
                yield chunk(writer.agents(records), resumable=False)
        summary = Summary(at.cut, at.first, at.last, at.events, at.agents)
        async for data in self._parts(request, writer, cut, summary):
            yield chunk(data, resumable=False)
        if request.format is not FileFormat.PARQUET:
            summary.digest = writer.chain.digest
        last = await heavily(writer.end, summary)
        yield chunk(last, resumable=False, summary=summary)

    async def _decisions(self, request: ExportRequest) -> DecisionsReader | None:
        """What was decided, if it goes with the events: with all that there are, and no others."""
        whole = request.after == BEGINNING and request.until == END_OF_TIME
        if ExportPart.AGENTS not in request.parts or not (whole and request.filter.is_open):
            return None
        return await DecisionsReader.begin(self.storage, request.project)

    async def _decided(
        self, decisions: DecisionsReader, writer: Writer, at: _Progress
    ) -> AsyncGenerator[bytes, None]:
        """Agents with what was decided for them; moves the cut to the end of what that is about."""
        async for part in decisions.parts():
            yield await heavily(writer.decisions, part)
        async for records in self._agents(decisions.project, END_OF_TIME, at):
            begun = decisions.begun_since(records)
            if begun.records:
                yield writer.decisions(begun)
            yield writer.agents(records)
        # Last: everything that was read names events up to here.
        at.cut = str((await self.storage.log.bounds(decisions.project)).tail)
        at.decided = True

    async def _events(
        self, request: ExportRequest, writer: Writer, at: _Progress, span: Range, *, resumed: bool
    ) -> AsyncGenerator[bytes, None]:
        """The events of a range, counted in the progress."""
        source = pages(
            self.storage.log, request.project, span, resumed=resumed, max_events=_PAGE_EVENTS
        )
        parts = _parts_of(source, request.filter)
        if not request.is_whole:
            parts = _regrouped(parts)
        async with aclosing(source), aclosing(parts):
            async for part in parts:
                data, entries = b"", part.entries
                if entries:
                    data = await heavily(writer.events, entries)
                    at.first = at.first or entries[0].id.decode()
                    at.last = entries[-1].id.decode()
                    at.events += len(entries)
                at.scanned += part.scanned
                at.position = part.position.decode()
                yield data

    async def _agents(
        self, project: str, limit: Sequence, at: _Progress, viewer: Viewer = _EVERYONE
    ) -> AsyncGenerator[list[AgentRecord], None]:
        """Registrations, with cursors up to a limit; counted in the progress.

        What is damaged is left out, as every import would refuse it; `verify` names it.
        """
        after = ""
        while records := await self.storage.store.agents.agents(project, after, _AGENTS):
            after = records[-1].agent_id
            kept = [
                AgentRecord(a.agent_id, a.record, min(a.cursor, limit))
                for a in viewer.shown(project, records)
                if _is_agent(a.record)
            ]
            at.agents += len(kept)
            yield kept

    async def _parts(
        self, request: ExportRequest, writer: Writer, cut: Sequence, summary: Summary
    ) -> AsyncGenerator[bytes, None]:
        """What goes with events and agents; counts vectors in the summary."""
        project = request.project
        if ExportPart.VECTORS in request.parts and request.is_whole:
            model = await self.storage.store.match.model(project)
            seen: set[bytes] = set()
            async for encodings in self.storage.store.match.all_vectors(project, model):
                unseen = {digest: v for digest, v in encodings.items() if digest not in seen}
                seen |= unseen.keys()
                if unseen:
                    summary.vectors += len(unseen)
                    yield await heavily(writer.vectors, unseen)
            if request.filter.is_open:
                # They sum up all data: those of other data than the file has mean nothing there.
                found = await self.storage.store.match.backgrounds(project, model)
                packed = {s: background for s, background in found.items() if s <= cut}
                if packed:
                    yield await heavily(writer.backgrounds, packed)
        if ExportPart.SETTINGS in request.parts:
            retention = await self.storage.store.projects.retention(project)
            if retention and Retention.is_readable(retention):
                yield writer.settings(retention)


class _Part(NamedTuple):
    """Events of the file, and how many were read for them, up to a sequence."""

    entries: list[Entry]
    scanned: int
    position: bytes


async def _parts_of(
    source: AsyncIterable[Page], event_filter: EventFilter
) -> AsyncGenerator[_Part, None]:
    async for page in source:
        if page.entries:
            entries = page.entries
            if not event_filter.is_open:
                entries = await heavily(_passing, event_filter, entries)
            yield _Part(entries, len(page.entries), page.entries[-1].id)


async def _regrouped(parts: AsyncIterable[_Part]) -> AsyncGenerator[_Part, None]:
    """The same events in parts that depend on nothing else."""
    held: list[Entry] = []
    size_bytes = 0
    async for part in parts:
        for entry in part.entries:
            held.append(entry)
            size_bytes += len(entry.body)
            if len(held) == _PAGE_EVENTS or size_bytes >= READ_BYTES:
                yield _Part(held, len(held), held[-1].id)
                held, size_bytes = [], 0
    if held:
        yield _Part(held, len(held), held[-1].id)


def _passing(event_filter: EventFilter, entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if event_filter.passes(event_codec.decode(entry))]


def _is_agent(record: bytes) -> bool:
    try:
        decode_agent(record)
    except AgentDamaged:
        return False
    return True


def _writer(request: ExportRequest) -> Writer:
    if request.format is FileFormat.NATIVE:
        return NativeWriter()
    if request.format is FileFormat.PARQUET:
        return ParquetWriter()
    cloud = request.format is FileFormat.CLOUD_EVENTS
    return LinesWriter(request.project, cloud=cloud, compress=request.compress)


def _fingerprint(request: ExportRequest) -> str:
    parts = (
        request.format,
        request.compress,
        str(request.after),
        *request.filter.fingerprint(),
    )
    # Part of tokens, so it may not change with the names of classes.
    include = ", ".join(f"<Part.{part.name}: {part:d}>" for part in sorted(request.parts))
    chain = Chain()
    chain.add(f"{repr(parts)[:-1]}, [{include}])".encode())
    return chain.digest[:16]


def _resumed(request: ExportRequest, writer: Writer) -> _Progress:
    try:
        at = _Progress(*orjson.loads(request.resume))
        writer.items = int(at.items)
        writer.chain = Chain(bytes.fromhex(at.chain))
        Sequence.parse(at.cut)
        Sequence.parse(at.position)
    except (ValueError, TypeError) as error:
        raise ContexError(
            Reason.CURSOR_INVALID, "resume_token: damaged", field="resume_token"
        ) from error
    if at.fingerprint != _fingerprint(request):
        raise invalid_field("resume_token", "belongs to an export with other options")
    return at

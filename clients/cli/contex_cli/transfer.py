"""`contex export`, `import` and `clone`: a project as a file, and back, and into another."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import contex
from contex.transfer import format_of, is_compressed

from contex_cli import options, pipes
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import InputError
from contex_cli.parameters import UsageError, argument, option
from contex_cli.progress import Progress
from contex_cli.times import sequence_text

_FORMATS = {
    "native": contex.ExportFormat.NATIVE,
    "jsonl": contex.ExportFormat.JSON_LINES,
    "cloudevents": contex.ExportFormat.CLOUD_EVENTS,
    "parquet": contex.ExportFormat.PARQUET,
}
_PLACE = "[HOST:PORT/]PROJECT"
_INCLUDE = "What else goes with the events: agents, vectors, settings; native only. Repeatable."


def parse_renaming(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise ValueError(f"{text!r} is not OLD=NEW")
    return old, new


def parse_redaction(text: str) -> tuple[str, str]:
    """Reads [GLOB:]/POINTER into the glob, empty for all data, and the pointer."""
    glob, _, pointer = text.rpartition(":/")
    if not text.startswith("/") and not glob:
        raise ValueError(f"{text!r} is not [GLOB:]/POINTER")
    return (glob, f"/{pointer}") if glob else ("", text)


@dataclass
class Redactions:
    """Which values are taken out of payloads, and what takes their place."""

    redact: tuple[tuple[str, str], ...] = option(
        (),
        "Take this value out of JSON payloads, of keys like GLOB; * as a part of the pointer is "
        "every element. Repeatable.",
        metavar="[GLOB:]/POINTER",
        parse=parse_redaction,
    )
    redact_with: str | None = option(
        None, "Put this in place of what --redact names.", metavar="JSON"
    )
    redact_hash: bool = option(
        False, "Put a hash in its place: equal values stay equal within an import."
    )

    def of_client(self) -> list[contex.Redaction]:
        if self.redact_hash and self.redact_with is not None:
            raise UsageError("contradicts --redact-with", "--redact-hash")
        if not self.redact and (self.redact_hash or self.redact_with is not None):
            raise UsageError("needs --redact", "--redact-with")
        action = contex.RedactionAction.REMOVE
        if self.redact_hash:
            action = contex.RedactionAction.HASH
        elif self.redact_with is not None:
            action = contex.RedactionAction.REPLACE
        data = (self.redact_with or "").encode()
        return [
            contex.Redaction(pointer, action, (glob,) if glob else (), data)
            for glob, pointer in self.redact
        ]


@command("export")
async def export(
    session: Session,
    output: str = option(..., "Where to; - is stdout.", "--output", "-o", metavar="FILE"),
    file_format: contex.ExportFormat | None = option(
        None, "The format. [default: by the suffix of FILE, or native]", "--format", parse=_FORMATS
    ),
    zstd: bool = option(False, "Compress jsonl and cloudevents; .zst does it too."),
    *,
    selection: options.Selection,
    include: tuple[contex.ExportPart, ...] = option((), _INCLUDE, metavar="PART"),
) -> None:
    """What is published meanwhile is left out. FILE.part grows and becomes FILE when it is
    complete; the same command again resumes an interrupted export.
    """
    chosen = file_format or format_of(output)
    arguments: dict[str, Any] = {
        **vars(selection),
        "compress": zstd or is_compressed(output),
        "include": include,
    }
    with Progress("exported", bar=True) as progress:
        if output == "-":
            async with session.client.export(session.project, chosen, **arguments) as pieces:
                async for piece in pieces:
                    sys.stdout.buffer.write(piece.data)
                    progress.reach_piece(piece)
            sys.stdout.buffer.flush()
            return
        summary = await session.client.export_to(
            session.project, output, chosen, progress=progress.reach_piece, **arguments
        )
    session.answer(summary, lambda summary: _show_export(summary, output, chosen))
    if not summary.event_count:
        out.remark(f"no event of project {session.project} was exported")


def _show_export(
    summary: contex.ExportSummary, file: str, file_format: contex.ExportFormat
) -> None:
    name = next(name for name, value in _FORMATS.items() if value is file_format)
    size = f", {out.size_text(os.stat(file).st_size)}" if os.path.isfile(file) else ""
    rows = {
        "file": f"{file}, {name}{size}",
        "events": f"{summary.event_count:,}",
        "first": sequence_text(summary.first_sequence),
        "last": sequence_text(summary.last_sequence),
        "cut": sequence_text(summary.cut_sequence),
    }
    if summary.agent_count or summary.vector_count:
        agents = out.counted(summary.agent_count, "agent")
        rows["with"] = f"{agents}, {out.counted(summary.vector_count, 'vector')}"
    if summary.digest:
        rows["digest"] = summary.digest
    out.show_rows(rows)


@command("import")
async def import_(
    session: Session,
    file: str = argument(
        ...,
        "FILE",
        "What `contex export` wrote, CloudEvents, or what the older HTTP service returned; - is "
        "stdin.",
    ),
    mode: contex.ImportMode = option(
        contex.ImportMode.EXACT, "exact: as they are, into an empty project. replay: as new events."
    ),
    dry_run: bool = option(False, "Read, check and report; change nothing."),
    *,
    selection: options.Selection,
    remap: tuple[tuple[str, str], ...] = option(
        (),
        "Data keys that begin with OLD begin with NEW instead. Repeatable.",
        metavar="OLD=NEW",
        parse=parse_renaming,
    ),
    redactions: Redactions,
    import_id: str | None = option(
        None,
        "Go on with the import of this id. [default: by the file, its size and time]",
        metavar="ID",
    ),
) -> None:
    """No event can be seen before the whole file was checked. The same command again goes on with
    an import that was interrupted; after a pipe, only with the same --import-id.
    """
    changes = redactions.of_client()
    with contextlib.ExitStack() as opened, Progress("read", bar=True) as progress:
        source: str | BinaryIO = file
        if _is_pipe(file):
            source = opened.enter_context(tempfile.TemporaryFile(prefix="contex-import"))
            total_bytes = await _copy(file, source)
        else:
            total_bytes = os.stat(file).st_size
        report = await session.client.import_from(
            session.project,
            source,
            mode=mode,
            **vars(selection),
            dry_run=dry_run,
            remap_keys=dict(remap),
            redactions=changes,
            import_id=import_id,
            progress=lambda now: progress.reach(now.event_count, total_bytes, done=now.byte_count),
        )
    session.answer(report, _show_import)


def _is_pipe(file: str) -> bool:
    """Whether it can be read once only: an import goes back after a lost connection."""
    if file == "-":
        return True
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        raise InputError(f"can't read {file!r}: {error.strerror}") from None
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


async def _copy(file: str, copy: BinaryIO) -> int:
    """Copies a pipe to the end; returns its bytes."""
    descriptor = pipes.open_source(file)
    try:
        while data := await pipes.read(descriptor):
            copy.write(data)
    finally:
        if file != "-":
            os.close(descriptor)
    size = copy.tell()
    copy.seek(0)
    return size


@command("clone", without=["project"])
async def clone(
    session: Session,
    source: str = argument(..., _PLACE, "What to copy."),
    destination: str = argument(..., _PLACE, "The new project; or an earlier copy, to go on with."),
    *,
    selection: options.Selection,
    include: tuple[contex.ExportPart, ...] = option(
        (contex.ExportPart.AGENTS, contex.ExportPart.VECTORS), _INCLUDE, metavar="PART"
    ),
    redactions: Redactions,
) -> None:
    """For example: `contex clone prod:50051/shop shop-test`. A place without HOST:PORT is on the
    server of --target. Agents and vectors are copied, unless --include says otherwise.
    """
    source_server, _, source_project = source.rpartition("/")
    server, _, project = destination.rpartition("/")
    with Progress("copied", bar=True) as progress:
        report = await session.connect(source_server or session.target).clone(
            source_project,
            project,
            session.connect(server or session.target),
            **vars(selection),
            include=include,
            redactions=redactions.of_client(),
            progress=progress.reach_piece,
        )
    session.answer(report, _show_import)


def _show_import(report: contex.ImportReport) -> None:
    verb = "would be imported" if report.dry_run else "imported"
    source = f", of project {report.source_project}" if report.source_project else ""
    rows = {
        "file": f"{report.format.name.lower()}{source}, {out.counted(report.read_count, 'event')}",
        verb: f"{report.imported_count:,}",
    }
    for name, count in {
        "left out": report.skipped_count,
        "there already": report.present_count,
        "renamed": report.remapped_count,
        "changed": report.redacted_count,
        "agents": report.agent_count,
        "vectors": report.vector_count,
    }.items():
        if count:
            rows[name] = f"{count:,}"
    rows["first"] = sequence_text(report.first_sequence)
    rows["last"] = sequence_text(report.last_sequence)
    if report.digest:
        rows["digest"] = report.digest
    out.show_rows(rows)

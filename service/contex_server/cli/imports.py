"""`contex import`, and `contex clone`: a file, or another project, into a project."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli import options
from contex_server.cli.exits import InputError
from contex_server.cli.export import Include, Part, filter_arguments
from contex_server.cli.output import console, print_json
from contex_server.cli.progress import Progress
from contex_server.cli.running import run
from contex_server.cli.stats import rows_table, sequence_text
from contex_server.cli.time_records import plain_record

if TYPE_CHECKING:
    from contex import ExportPiece, ImportProgress, ImportReport, Redaction


class Mode(StrEnum):
    """As the events are, or as new ones."""

    EXACT = "exact"
    REPLAY = "replay"


Redact = Annotated[
    list[str] | None,
    typer.Option(
        "--redact",
        metavar="[GLOB:]/POINTER",
        help="Take this value out of JSON payloads, of keys like GLOB; * as a part of the "
        "pointer is every element. Repeatable.",
    ),
]
RedactWith = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Put this in the place of what --redact names."),
]
RedactHash = Annotated[
    bool,
    typer.Option(
        "--redact-hash", help="Put a hash in its place: equal values stay equal within an import."
    ),
]


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What `contex export` wrote, "
            "CloudEvents, or what the older HTTP service returned.",
        ),
    ],
    mode: Annotated[
        Mode,
        typer.Option(help="exact: as they are, into an empty project. replay: as new events."),
    ] = Mode.EXACT,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read, check and report; change nothing.")
    ] = False,
    since: options.Since = None,
    until: options.Until = None,
    types: options.Types = None,
    keys: options.Keys = None,
    publishers: options.Publishers = None,
    remap: Annotated[
        list[str] | None,
        typer.Option(
            "--remap",
            metavar="OLD=NEW",
            help="Data keys that begin with OLD begin with NEW. Repeatable.",
        ),
    ] = None,
    redact: Redact = None,
    redact_with: RedactWith = None,
    redact_hash: RedactHash = False,
    import_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Go on with the import of this id. [default: by the file, its size and time]",
        ),
    ] = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Read a file into a project. Nothing is to be seen before all of it was checked.

    The same command again goes on with an import that was interrupted.
    """
    if not file.is_file():
        raise InputError(f"can't read {str(file)!r}: no such file")
    arguments: dict[str, Any] = {
        **filter_arguments(options.Filter.of(types, keys, publishers, since, until)),
        "dry_run": dry_run,
        "remap_keys": _remapped(remap),
        "import_id": import_id,
    }
    run(
        _import(
            file,
            mode,
            arguments,
            redactions(redact, redact_with, redact_hash),
            project,
            target,
            timeout,
            as_json,
            file.stat().st_size,
        )
    )


def _remapped(entries: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries or ():
        old, equals, new = entry.partition("=")
        if not equals or not old:
            raise typer.BadParameter(f"{entry!r} is not OLD=NEW", param_hint="--remap")
        found[old] = new
    return found


def redactions(
    redact: list[str] | None, replacement: str | None, hashed: bool
) -> list[dict[str, Any]]:
    """What --redact and those beside it say, as arguments of `contex.Redaction`.

    Raises:
        typer.BadParameter: They can't be understood.
    """
    if hashed and replacement is not None:
        raise typer.BadParameter("contradicts --redact-with", param_hint="--redact-hash")
    if not redact and (hashed or replacement is not None):
        raise typer.BadParameter("needs --redact", param_hint="--redact-with")
    action = "HASH" if hashed else "REMOVE" if replacement is None else "REPLACE"
    found = []
    for entry in redact or ():
        glob, _, pointer = entry.rpartition(":/")
        if not entry.startswith("/") and not glob:
            raise typer.BadParameter(f"{entry!r} is not [GLOB:]/POINTER", param_hint="--redact")
        pointer = f"/{pointer}" if glob else entry
        keys = (glob,) if glob else ()
        data = (replacement or "").encode()
        found.append(
            {"json_pointer": pointer, "action": action, "data_keys": keys, "replacement": data}
        )
    return found


def _redaction(fields: dict[str, Any]) -> Redaction:
    from contex import Redaction, RedactionAction

    return Redaction(**{**fields, "action": RedactionAction[fields["action"]]})


async def _import(
    file: Path,
    mode: Mode,
    arguments: dict[str, Any],
    changes: list[dict[str, Any]],
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
    total_bytes: int,
) -> None:
    from contex import ImportMode

    with Progress("read", total_bytes=total_bytes) as progress:
        size = 0

        def reached(now: ImportProgress) -> None:
            nonlocal size
            progress.advance(now.event_count - progress.events, now.byte_count - size)
            size = now.byte_count

        async with options.connect(target, timeout) as client:
            report = await client.import_from(
                project,
                file,
                mode=ImportMode[mode.name],
                progress=reached,
                redactions=[_redaction(fields) for fields in changes],
                **arguments,
            )
    _print(report, as_json)


def clone(
    source: Annotated[str, typer.Argument(metavar="[HOST:PORT/]PROJECT", help="What to copy.")],
    destination: Annotated[
        str, typer.Argument(metavar="[HOST:PORT/]PROJECT", help="The project to be; it is empty.")
    ],
    since: options.Since = None,
    until: options.Until = None,
    types: options.Types = None,
    keys: options.Keys = None,
    publishers: options.Publishers = None,
    include: Include = None,
    redact: Redact = None,
    redact_with: RedactWith = None,
    redact_hash: RedactHash = False,
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Copy a project, or a part of it, into another: `contex clone prod:50051/shop shop-test`.

    A place without HOST:PORT is on the server of --target. Agents and vectors are copied,
    unless --include says otherwise.
    """
    wanted = options.Filter.of(types, keys, publishers, since, until)
    parts = tuple(include) if include is not None else (Part.AGENTS, Part.VECTORS)
    run(
        _clone(
            _place(source, target),
            _place(destination, target),
            wanted,
            parts,
            redactions(redact, redact_with, redact_hash),
            timeout,
            as_json,
        )
    )


def _place(text: str, target: str) -> tuple[str, str]:
    server, _, project = text.rpartition("/")
    return server or target, project


async def _clone(
    source: tuple[str, str],
    destination: tuple[str, str],
    wanted: options.Filter,
    parts: tuple[Part, ...],
    changes: list[dict[str, Any]],
    timeout: float,
    as_json: bool,
) -> None:
    from contex import ExportPart

    with Progress("copied", bar=True) as progress:

        def reached(piece: ExportPiece) -> None:
            progress.reach(piece.event_count, piece.total_count, done=piece.scanned_count)

        async with (
            options.connect(source[0], timeout) as client,
            options.connect(destination[0], timeout) as other,
        ):
            report = await client.clone(
                source[1],
                destination[1],
                other,
                **filter_arguments(wanted),
                include=[ExportPart[part.name] for part in parts],
                redactions=[_redaction(fields) for fields in changes],
                progress=reached,
            )
    _print(report, as_json)


def _print(report: ImportReport, as_json: bool) -> None:
    if as_json:
        print_json(plain_record(report))
    else:
        console().print(rows_table(report_rows(report)))


def report_rows(report: ImportReport) -> dict[str, str]:
    """What is told of an import, line by line."""
    verb = "would be imported" if report.dry_run else "imported"
    source = f", of project {report.source_project}" if report.source_project else ""
    rows = {
        "file": f"{report.format.name.lower()}{source}, {report.read_count:,} events",
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
    return rows

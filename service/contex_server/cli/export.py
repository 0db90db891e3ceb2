"""`contex export`: a project as a file."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli import options
from contex_server.cli.output import console, print_json
from contex_server.cli.progress import Progress
from contex_server.cli.running import run
from contex_server.cli.stats import rows_table, sequence_text
from contex_server.cli.time_records import plain_record

if TYPE_CHECKING:
    from contex import ExportPiece, ExportSummary


class FileFormat(StrEnum):
    """What the file looks like."""

    NATIVE = "native"
    JSONL = "jsonl"
    CLOUDEVENTS = "cloudevents"
    PARQUET = "parquet"


class Part(StrEnum):
    """What else goes with the events: the names of `contex.ExportPart`."""

    AGENTS = "agents"
    VECTORS = "vectors"
    SETTINGS = "settings"


CLIENT_FORMATS = {
    FileFormat.NATIVE: "NATIVE",
    FileFormat.JSONL: "JSON_LINES",
    FileFormat.CLOUDEVENTS: "CLOUD_EVENTS",
    FileFormat.PARQUET: "PARQUET",
}
_SUFFIXES = {
    ".ctx": FileFormat.NATIVE,
    ".ce.jsonl": FileFormat.CLOUDEVENTS,
    ".jsonl": FileFormat.JSONL,
    ".parquet": FileFormat.PARQUET,
}
Include = Annotated[
    list[Part] | None,
    typer.Option(
        "--include",
        metavar="PART",
        help=f"What else goes with the events: {', '.join(Part)}; native only. Repeatable.",
    ),
]


def export(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is stdout.")
    ],
    file_format: Annotated[
        FileFormat | None,
        typer.Option("--format", help="The format. [default: by the suffix of FILE, or native]"),
    ] = None,
    zstd: Annotated[
        bool, typer.Option("--zstd", help="Compress jsonl and cloudevents; .zst does it too.")
    ] = False,
    since: options.Since = None,
    until: options.Until = None,
    types: options.Types = None,
    keys: options.Keys = None,
    publishers: options.Publishers = None,
    include: Include = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Write a project into a file: the log up to now, whatever is published meanwhile.

    FILE.part grows and becomes FILE when it is complete; the same command again goes on with
    one that was left.
    """
    zstd = zstd or output.endswith(".zst")
    chosen = file_format or format_of(output)
    wanted = options.Filter.of(types, keys, publishers, since, until)
    run(
        _export(
            output, chosen, zstd, wanted, tuple(include or ()), project, target, timeout, as_json
        )
    )


def format_of(file: str) -> FileFormat:
    """The format that a name stands for."""
    name = file.removesuffix(".zst").lower()
    return next((f for suffix, f in _SUFFIXES.items() if name.endswith(suffix)), FileFormat.NATIVE)


def filter_arguments(wanted: options.Filter) -> dict[str, Any]:
    """A filter as the client takes it."""
    return {
        "since": wanted.since,
        "until": wanted.until,
        "event_types": wanted.event_types,
        "data_keys": wanted.data_keys,
        "publishers": wanted.publishers,
    }


async def _export(
    file: str,
    chosen: FileFormat,
    zstd: bool,
    wanted: options.Filter,
    parts: tuple[Part, ...],
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
) -> None:
    from contex import ExportFormat, ExportPart

    file_format = ExportFormat[CLIENT_FORMATS[chosen]]
    arguments: dict[str, Any] = {
        **filter_arguments(wanted),
        "compress": zstd,
        "include": [ExportPart[part.name] for part in parts],
    }
    with Progress("exported", bar=True) as progress:

        def reached(piece: ExportPiece) -> None:
            progress.reach(piece.event_count, piece.total_count, done=piece.scanned_count)

        async with options.connect(target, timeout) as client:
            if file == "-":
                async with client.export(project, file_format, **arguments) as pieces:
                    async for piece in pieces:
                        sys.stdout.buffer.write(piece.data)
                        reached(piece)
                sys.stdout.buffer.flush()
                return
            summary = await client.export_to(
                project, file, file_format, progress=reached, **arguments
            )
    if as_json:
        print_json(plain_record(summary))
    else:
        _show(summary, Path(file))


def _show(summary: ExportSummary, path: Path) -> None:
    from contex_server.cli.stats import size_text

    rows = {
        "file": f"{path}, {size_text(path.stat().st_size)}",
        "events": f"{summary.event_count:,}",
        "first": sequence_text(summary.first_sequence),
        "last": sequence_text(summary.last_sequence),
        "cut": sequence_text(summary.cut_sequence),
    }
    if summary.agent_count or summary.vector_count:
        rows["with"] = f"{summary.agent_count:,} agents, {summary.vector_count:,} vectors"
    if summary.digest:
        rows["digest"] = summary.digest
    console().print(rows_table(rows))

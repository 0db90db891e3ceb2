"""`contex blame`: who set each part of a datum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.moments import moment_text
from contex_server.cli.output import (
    console,
    error_console,
    plain,
    print_json,
    printable,
    styled,
    table,
)
from contex_server.cli.positions import parse_moment
from contex_server.cli.records import rfc3339
from contex_server.cli.running import run
from contex_server.cli.time_records import blame_summary, part_record

if TYPE_CHECKING:
    from contex import Blame
    from rich.table import Table

# Revisions next to each other are told apart; the newest is the brightest.
_NEWEST, _OTHERS = "bold yellow", ("cyan", "magenta", "green", "blue")
_VALUE = 200


def blame(
    data_key: Annotated[str, typer.Argument(metavar="KEY", help="The datum.")],
    as_of: options.AsOf = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show who set each field of a datum, or each line, and when."""
    moment = parse_moment(as_of, "--at")

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            found = await client.blame(project, data_key, as_of=moment)
        if as_json:
            for part in found.parts:
                print_json(part_record(part, found.event.content_type))
            print_json(blame_summary(found))
        else:
            _show(found)

    run(work())


def _show(blame: Blame) -> None:
    console().print(blame_table(blame))
    console().print(
        f"{plain(blame.event.data_key)} r{blame.event.revision}, as of {moment_text(blame.as_of)}",
        markup=False,
    )
    if blame.truncated:
        error_console().print(
            "what is said to be set by the oldest revision may be older: "
            "the revisions before it were not read"
        )


def blame_table(blame: Blame) -> Table:
    """A row for each part; those of one revision share a colour."""
    newest = blame.event.revision
    older = sorted({part.revision for part in blame.parts} - {newest}, reverse=True)
    colours = {revision: _OTHERS[i % len(_OTHERS)] for i, revision in enumerate(older)}
    result = table("rev", "time", "publisher", "path", "value", numbers=("rev",))
    for part in blame.parts:
        colour = colours.get(part.revision, _NEWEST)
        result.add_row(
            styled(f"r{part.revision}", colour),
            styled(rfc3339(part.time), colour),
            styled(plain(part.publisher), colour),
            styled(plain(part.path, 100) or "(the whole)"),
            styled(_value(part.value)),
        )
    return result


def _value(value: str) -> str:
    """A line keeps its indentation."""
    shown = printable(value)
    return shown if len(shown) <= _VALUE else shown[: _VALUE - 1] + "…"

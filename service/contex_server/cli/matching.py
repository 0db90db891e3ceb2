"""`contex matching`: what a project is matched by."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.bars import bar
from contex_server.cli.output import cell, console, error_console, flush, print_json, table
from contex_server.cli.records import status_record
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import AsyncClient, MatchingStatus

_ASK_EVERY_S = 1.0
_BAR = 30


def matching(
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show how embedding anew comes on, until it is done."),
    ] = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show what a project is matched by: model, index, formula."""

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            status = await client.matching_status(project)
            if watch:
                status = await _watch(client, project, status, as_json)
        if as_json:
            print_json(status_record(status))
        else:
            _show(status)

    run(work(), follows=watch)


async def _watch(
    client: AsyncClient, project: str, status: MatchingStatus, as_json: bool
) -> MatchingStatus:
    """Shows each change until the models agree, and returns what is then."""
    from rich.live import Live
    from rich.text import Text

    errors = error_console()
    moving = Live(console=errors, transient=True, auto_refresh=False)
    with moving if errors.is_terminal and not as_json else nullcontext():
        shown = ""
        while status.is_embedding_anew:
            line = progress_line(status)
            if line != shown and as_json:
                print_json(status_record(status))
                flush()
            elif line != shown and errors.is_terminal:
                moving.update(Text(line), refresh=True)
            elif line != shown:
                errors.print(line, markup=False)
            shown = line
            await asyncio.sleep(_ASK_EVERY_S)
            status = await client.matching_status(project)
    return status


def progress_line(status: MatchingStatus) -> str:
    """How far embedding anew has come, as a bar."""
    total = status.texts_total
    share = status.texts_embedded / total if total else 0.0
    return (
        f"embedding anew  {bar(share, _BAR)}  {status.texts_embedded:,} of {total:,} texts "
        f"({share:.0%})"
    )


def _show(status: MatchingStatus) -> None:
    result = table("", "")
    result.show_header = False
    result.add_row("model", cell(status.model or "none yet"))
    if status.is_embedding_anew:
        result.add_row("configured model", cell(status.configured_model))
    result.add_row("scorer", cell(status.scorer))
    result.add_row("default threshold", f"{status.default_threshold:.2f}")
    result.add_row(
        "index here",
        f"{status.data_indexed:,} data, {status.passages_indexed:,} passages, "
        f"{status.needs_indexed:,} needs of agents that listen, "
        f"{status.index_bytes / 2**20:,.1f} MiB",
    )
    console().print(result)
    if status.is_embedding_anew:
        console().print(progress_line(status), markup=False)

"""`contex history`: the revisions of a datum, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.listing import Limited
from contex_server.cli.output import (
    assembled,
    console,
    flush,
    payload_lines,
    payload_preview,
    plain,
    print_cut,
    print_json,
    styled,
)
from contex_server.cli.patches import patch_lines
from contex_server.cli.positions import Place, parse_moment
from contex_server.cli.records import rfc3339
from contex_server.cli.running import run
from contex_server.cli.time_records import revision_record

if TYPE_CHECKING:
    from contex import AsyncClient, Revision


def history(
    data_key: Annotated[str, typer.Argument(metavar="KEY", help="The datum.")],
    as_of: options.AsOf = None,
    revision: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only this revision, with its payload in full."),
    ] = None,
    brief: Annotated[
        bool, typer.Option("--brief", help="A line for each, without patches and payloads.")
    ] = False,
    limit: options.Limit = 100,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show how a datum came to be what it is.

    Its revisions, newest first, each with its publisher, time and the patch from the one before.
    """
    if revision is not None and as_of is not None:
        raise typer.BadParameter("a revision is the same at any moment", param_hint="--at")
    moment = parse_moment(as_of, "--at")

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            if revision is None:
                await _list(client, project, data_key, moment, limit, brief, as_json)
                return
            found = await client.get_revision(project, data_key, revision)
        if as_json:
            print_json(revision_record(found))
        else:
            _show(found, brief=False)
            for line in payload_lines(found.event):
                console().print(styled(line))

    run(work())


async def _list(
    client: AsyncClient,
    project: str,
    data_key: str,
    moment: Place | None,
    limit: int,
    brief: bool,
    as_json: bool,
) -> None:
    limited = Limited(limit)
    revisions = client.history(
        project,
        data_key,
        as_of=moment,
        omit_patches=brief,
        omit_payloads=brief,
        page_size=limited.page_size,
    )
    async for revision in limited.of(revisions):
        if as_json:
            print_json(revision_record(revision))
        else:
            _show(revision, brief)
        flush()
    limited.remark("newest")


def _show(revision: Revision, brief: bool) -> None:
    event = revision.event
    facts = f"  {rfc3339(revision.time)}  {event.sequence}"
    if event.event_type != "data_published":
        facts += f"  {plain(event.event_type)}"
    if event.publisher:
        facts += f"  by {plain(event.publisher)}"
    print_cut(assembled((f"r{event.revision}", "bold yellow"), facts))
    if brief:
        return
    lines = patch_lines(revision.patch)
    if not lines and event.payload:
        lines = [styled(payload_preview(event, 400))]
    for line in lines:
        console().print(assembled("    ", line))
    console().print()

"""`contex feedback`: whether matches were useful, and all that was said about it."""

from __future__ import annotations

from typing import Annotated

import typer

from contex_server.cli import options
from contex_server.cli.files import written
from contex_server.cli.output import encode_json, plain, print_json, print_line
from contex_server.cli.positions import Place, parse_position
from contex_server.cli.progress import Progress
from contex_server.cli.records import feedback_record
from contex_server.cli.running import run

feedback = typer.Typer(
    help="Judge matches, and export the judgements.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@feedback.command("give")
def give(
    agent_id: options.AgentId,
    sequence: Annotated[str, typer.Argument(metavar="SEQUENCE", help="The event that matched.")],
    useful: Annotated[
        bool, typer.Option("--useful/--not-useful", help="Whether the agent could use it.")
    ],
    need_index: Annotated[
        int, typer.Option(min=0, metavar="I", help="Which of the agent's needs, from 0.")
    ] = 0,
    comment: Annotated[str, typer.Option(help="A remark for people.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Makes repeating this command safe. [default: a new one]"),
    ] = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Note in the log whether a match was useful."""

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            noted = await client.record_feedback(
                project,
                agent_id,
                sequence,
                useful=useful,
                need_index=need_index,
                comment=comment,
                request_id=request_id,
            )
        if as_json:
            print_json({"sequence": noted})
        else:
            verdict = "useful" if useful else "not useful"
            print_line(f"{sequence} was {verdict} for {plain(agent_id)}  {noted}")

    run(work())


@feedback.command("export")
def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write; - is stdout.")] = "-",
    since: options.Since = None,
    until: options.Until = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
) -> None:
    """Write all judgements as JSON lines, a training set.

    Each has the need, the datum, the verdict, and what the match was made of when it was judged.
    """
    start, end = parse_position(since, "--since"), parse_position(until, "--until")
    run(_export(file, start, end, project, target, timeout))


async def _export(
    file: str,
    since: Place | None,
    until: Place | None,
    project: str,
    target: str,
    timeout: float,
) -> None:
    with Progress("exported", things="judgements") as progress, written(file) as lines:
        async with (
            options.connect(target, timeout) as client,
            client.export_feedback(project, since=since, until=until) as judgements,
        ):
            async for judgement in judgements:
                lines.write(encode_json(feedback_record(judgement)))
                progress.advance(1)

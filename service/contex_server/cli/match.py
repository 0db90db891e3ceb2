"""`contex match`: what answers a question now, or answered it then."""

from __future__ import annotations

from typing import Annotated

import typer

from contex_server.cli import options
from contex_server.cli.found import show_context, show_found, show_omitted
from contex_server.cli.output import console, print_json
from contex_server.cli.positions import parse_moment
from contex_server.cli.records import answer_record
from contex_server.cli.running import run


def match(
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="What to look for, in plain words.")
    ],
    top: Annotated[
        int | None,
        typer.Option(metavar="N", help="Data for each question, 1 to 100. [default: 10]"),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Lowest score that matches, above 0, at most 1. [default: the server's]",
        ),
    ] = None,
    keys: options.Keys = None,
    as_of: options.AsOf = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Draw what each score is made of.")
    ] = False,
    max_tokens: options.MaxTokens = None,
    chosen_format: options.FormatOption = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Find the data that answer questions, without an agent."""
    moment = parse_moment(as_of, "--at")

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            answer = await client.match(
                project,
                questions,
                threshold=min_score,
                max_matches=top,
                data_keys=keys or (),
                as_of=moment,
                max_context_tokens=max_tokens,
                context_format=options.context_format(chosen_format),
            )
        if as_json:
            print_json(answer_record(answer))
        elif chosen_format is not None:
            show_context(answer.context)
        else:
            show_found(answer.by_need(), explain)
            console().print(f"{len(answer.data)} data match, as of {answer.sequence}")
            show_omitted(answer.context, console())

    run(work())

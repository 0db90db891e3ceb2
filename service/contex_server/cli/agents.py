"""`contex register` and `agents`: what agents need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.exits import InputError, complain_about
from contex_server.cli.output import (
    agent_record,
    cell,
    console,
    matched_record,
    payload_preview,
    plain,
    print_json,
    print_line,
    rfc3339,
    table,
)
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import Agent, Registration
    from rich.table import Table

Needs = Annotated[
    list[str] | None,
    typer.Option("--need", "-n", help="What the agent wants to know, in plain words. Repeatable."),
]
NeedsFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A file with one need a line; # starts a comment."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Lowest score that matches, above 0, at most 1. [default: the server's]"),
]
MaxMatches = Annotated[
    int | None, typer.Option(help="Data shown for each need, 1 to 100. [default: 10]")
]


def read_needs(needs: list[str] | None, file: Path | None) -> list[str]:
    """The needs of `--need` and `--needs-file`, in this order.

    Raises:
        InputError: The file can't be read.
    """
    found = list(needs or ())
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't read {str(file)!r}: {error}") from None
        stripped = (line.strip() for line in lines)
        found += [line for line in stripped if line and not line.startswith("#")]
    return found


def _needs_or_exit(needs: list[str] | None, file: Path | None) -> list[str]:
    try:
        return read_needs(needs, file)
    except InputError as error:
        raise typer.Exit(complain_about(error)) from None


def register(
    agent_id: options.AgentId,
    needs: Needs = None,
    needs_file: NeedsFile = None,
    threshold: Threshold = None,
    max_matches: MaxMatches = None,
    last_seen: Annotated[
        str | None,
        typer.Option(
            metavar="SEQUENCE", help="The last event the agent knows; 0: it wants everything."
        ),
    ] = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Register an agent and show what matches its needs now.

    A registration of the same id is replaced.
    """
    lines = _needs_or_exit(needs, needs_file)
    if not lines:
        raise typer.BadParameter("missing; or use --needs-file", param_hint="--need")

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            registration = await client.register_agent(
                project,
                agent_id,
                lines,
                last_seen_sequence=last_seen,
                threshold=threshold,
                max_matches=max_matches,
            )
        _show_registration(registration, as_json)

    run(work())


def _show_registration(registration: Registration, as_json: bool) -> None:
    agent = registration.agent
    if as_json:
        print_json(
            {
                **agent_record(agent),
                "sequence": registration.sequence,
                "cursor": registration.cursor,
                "data": [matched_record(datum) for datum in registration.data],
            }
        )
        return
    for need, found in registration.by_need().items():
        result = table(
            "score", "data key", "rev", "description", "payload", numbers=("score", "rev")
        )
        for matched, match in found[: agent.max_matches]:
            event = matched.event
            result.add_row(
                f"{match.score:.2f}",
                cell(event.data_key),
                str(event.revision),
                cell(event.description, 60),
                cell(payload_preview(event, 40)),
            )
        console().print(cell(need), style="bold")
        console().print(result if found else "  nothing yet\n")
    console().print(
        f"{plain(agent.agent_id)}: {len(registration.data)} data match, "
        f"as of {registration.sequence}",
        markup=False,
    )


registry = typer.Typer(
    help="List, show and change the registered agents.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@registry.callback()
def list_agents(
    context: typer.Context,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """List the registered agents; with a subcommand, show or change one.

    Options of a subcommand come after it.
    """
    if context.invoked_subcommand is not None:
        given = [
            name
            for name in context.params
            if (source := context.get_parameter_source(name)) is not None
            and source.name == "COMMANDLINE"
        ]
        if given:
            raise typer.BadParameter(f"put the options after {context.invoked_subcommand!r}")
        return

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            agents = [agent async for agent in client.list_agents(project)]
        if as_json:
            for agent in agents:
                print_json(agent_record(agent))
        else:
            console().print(_agents_table(agents) if agents else "no agents")

    run(work())


def _agents_table(agents: list[Agent]) -> Table:
    result = table(
        "agent", "needs", "threshold", "registered", "acknowledged", numbers=("threshold",)
    )
    for agent in agents:
        result.add_row(
            cell(agent.agent_id),
            cell("; ".join(agent.needs), 200),
            f"{agent.threshold:.2f}",
            rfc3339(agent.registered_time),
            agent.acknowledged_sequence,
        )
    return result


@registry.command("show")
def show(
    agent_id: options.AgentId,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show one registration."""

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            _show_agent(await client.get_agent(project, agent_id), as_json)

    run(work())


def _show_agent(agent: Agent, as_json: bool) -> None:
    from rich.text import Text

    if as_json:
        print_json(agent_record(agent))
        return
    result = table("", "")
    result.show_header = False
    for name, value in agent_record(agent).items():
        text = "\n".join(map(plain, value)) if isinstance(value, list) else plain(str(value))
        result.add_row(name, Text(text))
    console().print(result)


@registry.command("update")
def update(
    agent_id: options.AgentId,
    needs: Needs = None,
    needs_file: NeedsFile = None,
    threshold: Threshold = None,
    max_matches: MaxMatches = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Change a registration; what is not given stays.

    New needs replace all old ones.
    """
    lines = _needs_or_exit(needs, needs_file)

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            registration = await client.update_agent(
                project,
                agent_id,
                needs=lines or None,
                threshold=threshold,
                max_matches=max_matches,
            )
        _show_registration(registration, as_json)

    run(work())


@registry.command("unregister")
def unregister(
    agent_id: options.AgentId,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Remove a registration and its cursor."""

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            sequence = await client.unregister_agent(project, agent_id)
        if as_json:
            print_json({"agent_id": agent_id, "sequence": sequence})
        else:
            print_line(f"{plain(agent_id)} unregistered  {sequence}")

    run(work())


@registry.command("ack")
def ack(
    agent_id: options.AgentId,
    sequence: Annotated[
        str, typer.Argument(metavar="SEQUENCE", help="The last event it has dealt with.")
    ],
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Move an agent's durable cursor forward, never back."""

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            acknowledged = await client.acknowledge(project, agent_id, sequence)
        if as_json:
            print_json({"agent_id": agent_id, "acknowledged_sequence": acknowledged})
        else:
            print_line(f"{plain(agent_id)} has acknowledged up to {acknowledged}")

    run(work())

"""`contex register` and `agents`: what agents need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli import options
from contex_server.cli.found import show_context, show_found, show_omitted
from contex_server.cli.needs import Exclude, Needs, NeedsFile, needs_or_exit
from contex_server.cli.output import cell, console, plain, print_json, print_line, table
from contex_server.cli.records import agent_record, registration_record, rfc3339
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import Agent, MinDelta, Need, Registration
    from rich.table import Table

MaxMatches = Annotated[
    int | None, typer.Option(help="Data shown for each need, 1 to 100. [default: 10]")
]


def register(
    agent_id: options.AgentId,
    needs: Needs = None,
    needs_file: NeedsFile = None,
    exclude: Exclude = None,
    threshold: options.Threshold = None,
    max_matches: MaxMatches = None,
    only_changes: options.OnlyChanges = None,
    pointers: options.OnlyChangesAt = None,
    last_seen: Annotated[
        str | None,
        typer.Option(
            metavar="SEQUENCE", help="The last event the agent knows; 0: it wants everything."
        ),
    ] = None,
    max_tokens: options.MaxTokens = None,
    chosen_format: options.FormatOption = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Register an agent and show what matches its needs now.

    A registration of the same id is replaced.
    """
    wanted = needs_or_exit(needs, needs_file, exclude)
    if not wanted:
        raise typer.BadParameter("missing; or use --needs-file", param_hint="--need")
    min_delta = options.min_delta(only_changes, pointers)

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            registration = await client.register_agent(
                project,
                agent_id,
                wanted,
                last_seen_sequence=last_seen,
                threshold=threshold,
                max_matches=max_matches,
                min_delta=min_delta,
                max_context_tokens=max_tokens,
                context_format=options.context_format(chosen_format),
            )
        _show_registration(registration, chosen_format, as_json)

    run(work())


def _show_registration(
    registration: Registration, chosen_format: options.Format | None, as_json: bool
) -> None:
    agent = registration.agent
    if as_json:
        print_json(registration_record(registration))
        return
    if chosen_format is not None:
        show_context(registration.context)
        return
    limits = {need.text: need.max_matches for need in agent.need_specs}
    show_found(
        {
            need: found[: limits.get(need) or agent.max_matches]
            for need, found in registration.by_need().items()
        }
    )
    console().print(
        f"{plain(agent.agent_id)}: {len(registration.data)} data match, "
        f"as of {registration.sequence}",
        markup=False,
    )
    show_omitted(registration.context, console())


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
    for name, value in _agent_rows(agent).items():
        result.add_row(name, Text(value))
    console().print(result)


def _agent_rows(agent: Agent) -> dict[str, str]:
    record: dict[str, Any] = agent_record(agent)
    del record["need_specs"]
    record["needs"] = "\n".join(
        map(need_line, agent.need_specs) if agent.need_specs else map(plain, agent.needs)
    )
    record["min_delta"] = _updates(agent.min_delta)
    return {name: value if name == "needs" else plain(str(value)) for name, value in record.items()}


def need_line(need: Need) -> str:
    """A need and its options on one line."""
    options_of_it = []
    if need.threshold is not None:
        options_of_it.append(f"threshold {need.threshold:g}")
    if need.max_matches is not None:
        options_of_it.append(f"at most {need.max_matches}")
    if need.exclude_data_keys:
        options_of_it.append(f"not {', '.join(map(plain, need.exclude_data_keys))}")
    return plain(need.text) + (f"  ({'; '.join(options_of_it)})" if options_of_it else "")


def _updates(min_delta: MinDelta | None) -> str:
    if min_delta is None or not (min_delta.payload_changed or min_delta.json_pointers):
        return "all updates"
    if not min_delta.json_pointers:
        return "updates that change the payload"
    pointers = (pointer or "the whole" for pointer in min_delta.json_pointers)
    return f"updates that change {' or '.join(pointers)}"


@registry.command("update")
def update(
    agent_id: options.AgentId,
    needs: Needs = None,
    needs_file: NeedsFile = None,
    exclude: Exclude = None,
    threshold: options.Threshold = None,
    max_matches: MaxMatches = None,
    only_changes: options.OnlyChanges = None,
    pointers: options.OnlyChangesAt = None,
    max_tokens: options.MaxTokens = None,
    chosen_format: options.FormatOption = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Change a registration; what is not given stays.

    New needs replace all old ones.
    """
    wanted = needs_or_exit(needs, needs_file, exclude)
    min_delta = options.min_delta(only_changes, pointers)

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            registration = await client.update_agent(
                project,
                agent_id,
                needs=wanted or None,
                threshold=threshold,
                max_matches=max_matches,
                min_delta=min_delta,
                max_context_tokens=max_tokens,
                context_format=options.context_format(chosen_format),
            )
        _show_registration(registration, chosen_format, as_json)

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

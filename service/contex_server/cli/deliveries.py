"""`contex deliveries`: who was sent an event, or what was sent to an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.listing import Limited
from contex_server.cli.output import cell, console, print_json, table
from contex_server.cli.positions import Place, parse_position
from contex_server.cli.records import rfc3339
from contex_server.cli.running import run
from contex_server.cli.time_records import delivery_record

if TYPE_CHECKING:
    from contex import Delivery
    from rich.table import Table


def deliveries(
    sequence: Annotated[
        str | None,
        typer.Option("--event", metavar="SEQUENCE", help="Who was sent this event."),
    ] = None,
    agent_id: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="What this agent was sent.")
    ] = None,
    since: options.Since = None,
    until: options.Until = None,
    backwards: options.Backwards = False,
    limit: options.Limit = 100,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show who was sent an event, or what an agent was sent.

    When, and for which need. What an agent has received is always on record; what is on record
    may have been lost on the way, and was sent again then.
    """
    if (sequence is None) == (agent_id is None):
        raise typer.BadParameter("give one of the two", param_hint="--event or --agent")
    if sequence is not None and (since is not None or until is not None or backwards):
        raise typer.BadParameter(
            "--since, --until and --backwards go with --agent", param_hint="--event"
        )
    start, end = parse_position(since, "--since"), parse_position(until, "--until")
    run(
        _deliveries(
            project, sequence, agent_id, start, end, backwards, limit, target, timeout, as_json
        )
    )


async def _deliveries(
    project: str,
    sequence: str | None,
    agent_id: str | None,
    since: Place | None,
    until: Place | None,
    backwards: bool,
    limit: int,
    target: str,
    timeout: float,
    as_json: bool,
) -> None:
    found: list[Delivery] = []
    limited = Limited(limit)
    async with options.connect(target, timeout) as client:
        sent = client.deliveries(
            project,
            sequence=sequence,
            agent_id=agent_id,
            since=since,
            until=until,
            backwards=backwards,
            page_size=limited.page_size,
        )
        async for delivery in limited.of(sent):
            if as_json:
                print_json(delivery_record(delivery))
            else:
                found.append(delivery)
    if not as_json:
        console().print(deliveries_table(found) if found else "no deliveries")
    limited.remark()


def deliveries_table(found: list[Delivery]) -> Table:
    """A row for each need that an event was sent for."""
    result = table(
        *("time", "agent", "data key", "rev", "sequence", "how", "for", "score"),
        numbers=("rev", "score"),
    )
    for delivery in found:
        how = delivery.kind.name.lower().replace("_", " ")
        first = [
            rfc3339(delivery.time),
            cell(delivery.agent_id),
            cell(delivery.data_key),
            f"r{delivery.revision}",
            delivery.sequence,
            cell(f"{how}, again" if delivery.resend else how),
        ]
        needs = [
            (cell(need.need or f"need {need.need_index}", 60), f"{need.score:.2f}")
            for need in delivery.needs
        ]
        for i, (need, score) in enumerate(needs or [(cell(""), "")]):
            result.add_row(*(first if i == 0 else [""] * len(first)), need, score)
    return result

"""`contex state`: the data as they were at a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.moments import moment_text
from contex_server.cli.output import (
    assembled,
    cell,
    console,
    payload_lines,
    payload_preview,
    plain,
    print_cut,
    print_json,
    styled,
    table,
)
from contex_server.cli.positions import parse_moment
from contex_server.cli.records import rfc3339
from contex_server.cli.running import run
from contex_server.cli.time_records import datum_record, moment_record

if TYPE_CHECKING:
    from contex import Datum, Event, Moment
    from rich.table import Table


def state(
    data_keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY|GLOB", help="Only these data. [default: all]"),
    ] = None,
    as_of: options.AsOf = None,
    prefix: options.Prefix = "",
    keys_only: Annotated[
        bool, typer.Option("--keys", help="Only keys, revisions and sequences.")
    ] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Show deleted keys too.")] = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show a project's data as they were at a moment.

    One KEY shows the datum in full.
    """
    moment = parse_moment(as_of, "--at")

    async def work() -> None:
        found: list[Datum] = []
        async with (
            options.connect(target, timeout) as client,
            client.stream_state(
                project,
                as_of=moment,
                data_keys=data_keys or (),
                prefix=prefix,
                keys_only=keys_only,
                include_deleted=deleted,
            ) as data,
        ):
            async for datum in data:
                if as_json:
                    print_json(datum_record(datum))
                else:
                    found.append(datum)
        if as_json:
            as_of_record = moment_record(data.as_of)
            print_json({"summary": {"as_of": as_of_record, "data_count": data.data_count}})
        else:
            _show_state(found, data.as_of, one=data_keys is not None and _is_one(data_keys))

    run(work())


def _is_one(data_keys: list[str]) -> bool:
    return len(data_keys) == 1 and not {"*", "?"} & set(data_keys[0])


def _show_state(found: list[Datum], as_of: Moment, one: bool) -> None:
    if one and len(found) == 1 and found[0].event is not None:
        _show_datum(found[0].event)
    elif found:
        console().print(_state_table(found))
    count = f"{len(found):,}" if found else "no"
    console().print(f"{count} data, as of {moment_text(as_of)}", markup=False)


def _state_table(found: list[Datum]) -> Table:
    brief = all(datum.event is None for datum in found)
    columns = ("data key", "rev", "sequence") if brief else ("data key", "rev", "time")
    result = table(*columns, *(() if brief else ("publisher", "payload")), numbers=("rev",))
    for datum in found:
        event = datum.event
        row = [cell(datum.data_key), str(datum.revision)]
        if event is None:
            row += [datum.sequence + ("  (deleted)" if datum.deleted else "")]
        else:
            shown = "(omitted)" if datum.payload_omitted else payload_preview(event)
            row += [rfc3339(event.time), cell(event.publisher), cell(shown)]
        result.add_row(*row, style="dim" if datum.deleted else None)
    return result


def _show_datum(event: Event) -> None:
    """A datum in full: what is known about it, then the payload on its own."""
    facts = f"  revision {event.revision}  {rfc3339(event.time)}  {event.sequence}"
    by = f"  by {plain(event.publisher)}" if event.publisher else ""
    print_cut(assembled((plain(event.data_key), "bold"), facts, by))
    if event.description:
        console().print(styled(plain(event.description), "dim"))
    console().print()
    for line in payload_lines(event):
        console().print(styled(line))
    console().print()

"""`contex events`, `replay` and `tail`: the log, a page of it, all of it, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.exits import complain
from contex_server.cli.listing import Limited
from contex_server.cli.output import (
    console,
    event_line,
    events_table,
    flush,
    print_json,
    print_line,
)
from contex_server.cli.progress import Progress
from contex_server.cli.records import event_record
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import AsyncClient, Event

_PAGE_EVENTS = 1_000
_BEFORE_THE_FIRST = "0"


def events(
    since: options.Since = None,
    until: options.Until = None,
    types: options.Types = None,
    keys: options.Keys = None,
    publishers: options.Publishers = None,
    backwards: options.Backwards = False,
    limit: options.Limit = 100,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """List events of a project's log."""
    wanted = options.Filter.of(types, keys, publishers, since, until)
    run(_events(wanted, backwards, limit, project, target, timeout, as_json))


async def _events(
    wanted: options.Filter,
    backwards: bool,
    limit: int,
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
) -> None:
    listed: list[Event] = []
    limited = Limited(limit)
    async with options.connect(target, timeout) as client:
        found = client.list_events(
            project,
            since=wanted.since,
            until=wanted.until,
            event_types=wanted.event_types,
            data_keys=wanted.data_keys,
            publishers=wanted.publishers,
            backwards=backwards,
            page_size=limited.page_size,
        )
        async for event in limited.of(found):
            if as_json:
                print_json(event_record(event))
            else:
                listed.append(event)
    if as_json:
        return
    console().print(events_table(listed) if listed else "no events")
    limited.remark()


def replay(
    since: options.Since = None,
    until: options.Until = None,
    types: options.Types = None,
    keys: options.Keys = None,
    publishers: options.Publishers = None,
    backwards: options.Backwards = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Stream every event of a range, as fast as it can be read.

    The output of --json can be published again: see `contex publish --stream`.
    """
    wanted = options.Filter.of(types, keys, publishers, since, until)
    run(_replay(wanted, backwards, project, target, timeout, as_json))


async def _replay(
    wanted: options.Filter,
    backwards: bool,
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
) -> None:
    from contex import ContexError

    shown = as_json or not console().is_terminal
    with Progress("replayed", shown=shown) as progress:
        async with (
            options.connect(target, timeout) as client,
            client.replay(
                project,
                since=wanted.since,
                until=wanted.until,
                event_types=wanted.event_types,
                data_keys=wanted.data_keys,
                publishers=wanted.publishers,
                backwards=backwards,
                # A command in a pipe ends with an error rather than wait for ever.
                reconnect=False,
            ) as stream,
        ):
            try:
                async for event in stream:
                    if as_json:
                        print_json(event_record(event))
                    else:
                        print_line(event_line(event))
                    progress.advance(1)
            except ContexError:
                if stream.position is not None:
                    bound = "--until" if backwards else "--since"
                    complain(f"the last event printed is {stream.position}: go on with {bound}")
                raise
            finally:
                flush()


def tail(
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many of the newest events to show.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with each new event, until Ctrl-C.")
    ] = False,
    types: options.Types = None,
    keys: options.Keys = None,
    publishers: options.Publishers = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show the newest events, and with -f new ones as they arrive."""
    wanted = options.Filter.of(types, keys, publishers)
    run(_tail(lines, follow, wanted, project, target, timeout, as_json), follows=follow)


async def _tail(
    lines: int,
    follow: bool,
    wanted: options.Filter,
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
) -> None:
    def show(event: Event) -> None:
        if as_json:
            print_json(event_record(event))
        else:
            print_line(event_line(event))
        flush()

    async with options.connect(target, timeout) as client:
        end = await _newest(client, project)
        for event in await _last(client, project, wanted, end, lines):
            show(event)
        if not follow:
            return
        async with client.subscribe(
            project,
            after_sequence=end,
            event_types=wanted.event_types,
            data_keys=wanted.data_keys,
            publishers=wanted.publishers,
        ) as stream:
            async for event in stream:
                show(event)


async def _newest(client: AsyncClient, project: str) -> str:
    """The sequence of the newest event of all: what is shown and what is followed meet there."""
    async for event in client.list_events(project, backwards=True, page_size=1):
        return event.sequence
    return _BEFORE_THE_FIRST


async def _last(
    client: AsyncClient, project: str, wanted: options.Filter, end: str, count: int
) -> list[Event]:
    found: list[Event] = []
    if not count or end == _BEFORE_THE_FIRST:
        return found
    async for event in client.list_events(
        project,
        until=end,
        event_types=wanted.event_types,
        data_keys=wanted.data_keys,
        publishers=wanted.publishers,
        backwards=True,
        page_size=min(count, _PAGE_EVENTS),
    ):
        found.append(event)
        if len(found) == count:
            break
    found.reverse()
    return found

"""`contex events`, `replay` and `tail`: the log, a page of it, all of it, and its end."""

from __future__ import annotations

import contex

from contex_cli import options
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import complain
from contex_cli.parameters import option
from contex_cli.progress import Progress

_BEFORE_THE_FIRST = "0"


@command("events")
async def events(
    session: Session,
    selection: options.Selection,
    backwards: bool = options.BACKWARDS,
    *,
    limit: options.Limit,
) -> None:
    items = session.client.list_events(
        session.project, **vars(selection), backwards=backwards, page_size=limit.page_size
    )
    columns: out.Columns[contex.Event] = {
        "sequence": "sequence",
        "time": "time",
        "data key": "data_key",
        "rev": lambda event: event.revision or "",
        "type": "event_type",
        "publisher": "publisher",
        "valid until": "valid_until",
        "payload": out.payload_preview,
    }
    await limit.show(items, columns, "no events", as_json=session.json)


def _print(session: Session, event: contex.Event) -> None:
    if session.json:
        out.print_json(event)
    else:
        out.print_parts(out.event_parts(event))


@command("replay")
async def replay(
    session: Session, selection: options.Selection, backwards: bool = options.BACKWARDS
) -> None:
    """The output of --json can be published again: see `contex publish --stream`."""
    with Progress("replayed", shown=session.json or not out.console().is_terminal) as progress:
        async with session.client.replay(
            session.project,
            **vars(selection),
            backwards=backwards,
            # In a pipe, better an error than waiting for ever.
            reconnect=False,
        ) as stream:
            try:
                async for event in stream:
                    _print(session, event)
                    progress.advance(1)
            except contex.ContexError:
                if stream.position is not None:
                    bound = "--until" if backwards else "--since"
                    complain(f"the last event printed is {stream.position}: go on with {bound}")
                raise
            finally:
                out.flush()


@command("tail")
async def tail(
    session: Session,
    lines: int = option(10, "How many of the newest events to show.", "--lines", "-n", minimum=0),
    follow: bool = option(False, "Go on with each new event, until Ctrl-C.", "--follow", "-f"),
    *,
    filter: options.Filter,
) -> None:
    session.follows = follow
    client = session.client
    # What is shown and what is followed meet at the newest event of all.
    end = _BEFORE_THE_FIRST
    async for event in client.list_events(session.project, backwards=True, page_size=1):
        end = event.sequence
        break
    if lines and end != _BEFORE_THE_FIRST:
        limit = options.Limit(lines)
        newest = client.list_events(
            session.project, until=end, **vars(filter), backwards=True, page_size=limit.page_size
        )
        for event in reversed([event async for event in limit.of(newest)]):
            _print(session, event)
    out.flush()
    if not follow:
        return
    async with client.subscribe(session.project, after_sequence=end, **vars(filter)) as stream:
        async for event in stream:
            _print(session, event)
            out.flush()

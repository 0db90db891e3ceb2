"""`contex events`, `replay` and `tail`: the log, a page of it, all of it, and its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import contex

from contex_cli import options, playing
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import complain
from contex_cli.parameters import UsageError, option
from contex_cli.progress import Progress
from contex_cli.times import parse_length

_BEFORE_THE_FIRST = "0"
_SHORTEST_PAUSE, _LONGEST_PAUSE = timedelta(milliseconds=1), timedelta(hours=1)


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
        "publisher": out.publisher_text,
        "valid until": "valid_until",
        "payload": out.payload_preview,
    }
    await limit.show(items, columns, "no events", as_json=session.json)


def _print(session: Session, event: contex.Event) -> None:
    if session.json:
        out.print_json(event)
    else:
        out.print_parts(out.event_parts(event))


def parse_speed(text: str) -> float:
    """Reads a multiple of the original pace."""
    with suppress(ValueError):
        if 0 < (speed := float(text)) <= playing.MAX_SPEED:
            return speed
    raise ValueError(f"{text!r} is not a number above 0, at most {playing.MAX_SPEED:,.0f}")


def parse_pause(text: str) -> timedelta:
    """Reads the length of a pause."""
    length = parse_length(text)
    if not _SHORTEST_PAUSE <= length <= _LONGEST_PAUSE:
        raise ValueError(f"{text!r} is not from a millisecond to an hour")
    return length


@command("replay")
async def replay(
    session: Session,
    selection: options.Selection,
    backwards: bool = options.BACKWARDS,
    speed: float | None = option(
        None,
        "Keep the pace of the events, times this: 1 is that at which they were published. "
        "[default: as fast as they come]",
        metavar="FACTOR",
        parse=parse_speed,
    ),
    max_pause: timedelta | None = option(
        None,
        "With --speed, the longest pause between two events: 0.5s, 5s, 1m. [default: 10s]",
        metavar="LENGTH",
        parse=parse_pause,
    ),
) -> None:
    """On a terminal, the space bar pauses and goes on, n or Enter steps to the next event, + and -
    change the pace, and q ends.

    The output of --json can be published again: see `contex publish --stream`.
    """
    if max_pause is not None and speed is None:
        raise UsageError("only together with --speed", "--max-pause")
    watched = playing.has_keys()
    shown = not watched and (session.json or not out.console().is_terminal)
    with Progress("replayed", shown=shown) as progress:
        async with session.client.replay(
            session.project,
            **vars(selection),
            backwards=backwards,
            # Who presses keys wants more than a pace: see `playing`.
            speed=None if watched else speed,
            max_pause=None if watched else max_pause,
            # In a pipe, better an error than waiting for ever.
            reconnect=False,
        ) as stream:
            try:
                if watched:
                    await _play(session, stream, speed, max_pause)
                    return
                async for event in stream:
                    _print(session, event)
                    progress.advance(1)
                    if speed is not None:
                        out.flush()
            except contex.ContexError:
                if stream.position is not None:
                    bound = "--until" if backwards else "--since"
                    complain(f"the last event printed is {stream.position}: go on with {bound}")
                raise
            finally:
                out.flush()


async def _play(
    session: Session,
    stream: contex.Subscription[contex.Event],
    speed: float | None,
    max_pause: timedelta | None,
) -> None:
    """Prints a replay to one who can press keys."""
    status = out.Status()
    if speed is not None and status.is_shown:
        out.remark(playing.KEYS)
    player = playing.Player(speed, max_pause, status.show)

    async def end() -> None:
        await player.ended.wait()
        await stream.close()

    ending = asyncio.create_task(end())
    try:
        with playing.keys(player.press):
            async for event in stream:
                if await player.turn(event):
                    status.show("")
                    _print(session, event)
                    out.flush()
    finally:
        status.show("")
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


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

"""`contex knew`: what an agent knew at a moment, and what it did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.agents import need_line
from contex_server.cli.moments import instant_text, moment_text
from contex_server.cli.output import (
    assembled,
    cell,
    console,
    payload_preview,
    plain,
    print_json,
    styled,
    table,
)
from contex_server.cli.positions import parse_moment
from contex_server.cli.records import rfc3339
from contex_server.cli.running import run
from contex_server.cli.time_records import agent_context_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contex import AgentContext, AgentStream, DeliveredNeed, KnownDatum, MatchedEvent
    from rich.table import Table
    from rich.text import Text

_REASONS = {
    "MIN_DELTA": "the update changed nothing that it asked for",
    "EXCLUDED": "the need excludes the key",
    "BELOW_THRESHOLD": "nearly matched: below the threshold",
    "ANSWER_FULL": "the answer to its registration had no room",
}


def knew(
    agent_id: options.AgentId,
    as_of: options.AsOf = None,
    near_misses: Annotated[
        int,
        typer.Option(
            min=0, max=100, metavar="N", help="Show so many data that nearly matched, too."
        ),
    ] = 0,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show what an agent knew at a moment, and what not.

    Its needs, the data that it had been sent and whether they were out of date, what had not
    reached it, and what was held back and why.
    """
    moment = parse_moment(as_of, "--at")

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            context = await client.agent_context(
                project, agent_id, as_of=moment, near_misses=near_misses
            )
        if as_json:
            print_json(agent_context_record(context, open_stream(context) is not None))
        else:
            _show(context)

    run(work())


def open_stream(context: AgentContext) -> AgentStream | None:
    """The stream by which the agent was connected at the moment; the newest of several."""
    at = context.as_of.time
    for stream in context.streams:
        if stream.closed_time is None or stream.closed_time > at:
            return stream
    return None


def _show(context: AgentContext) -> None:
    _line((plain(context.agent.agent_id), "bold"), f"  as of {moment_text(context.as_of)}")
    _show_connection(context)
    if context.last_sent_time is not None:
        sent = f"{context.last_sent_sequence} at {instant_text(context.last_sent_time)}"
        _line(f"  last sent     {sent}")
    else:
        _line("  last sent     nothing yet")
    _line(f"  acknowledged  {context.agent.acknowledged_sequence or 'nothing yet'}")
    _heading("What it needed", len(context.agent.needs))
    needs = context.agent.need_specs
    for i, need in enumerate(map(need_line, needs) if needs else map(plain, context.agent.needs)):
        _line(f"  {i}  {need}")

    stale = sum(known.stale for known in context.known)
    _heading("What it knew", len(context.known), f"{stale:,} out of date" if stale else "")
    if context.known:
        console().print(known_table(context.known))
    _heading("What had not reached it", len(context.pending))
    if context.pending:
        console().print(_matched_table(("", datum) for datum in context.pending))
    _heading("What was held back", len(context.held_back))
    if context.held_back:
        held = (
            (_REASONS.get(held.reason.name, held.reason.name.lower()), held.data)
            for held in context.held_back
        )
        console().print(_matched_table(held))


def _show_connection(context: AgentContext) -> None:
    stream = open_stream(context)
    if stream is not None:
        client = f" ({plain(stream.client, 80)})" if stream.client else ""
        _line(
            ("  connected     ", "green"),
            f"since {instant_text(stream.opened_time)}, from {plain(stream.peer)}{client}",
        )
    elif context.streams and (closed := context.streams[0].closed_time) is not None:
        _line(("  not connected ", "yellow"), f"since {instant_text(closed)}")
    else:
        _line(("  not connected ", "yellow"), "and never before")


def known_table(known: Iterable[KnownDatum]) -> Table:
    """What an agent had been sent: which revision, when, why, and whether there was a newer."""
    result = table(
        *("data key", "rev", "sent", "for", "score", "acknowledged", "up to date", "payload"),
        numbers=("rev", "score"),
    )
    for datum in known:
        result.add_row(
            cell(datum.data_key),
            f"r{datum.revision}",
            rfc3339(datum.sent_time),
            cell(_needs(datum.needs)),
            _score(datum.needs),
            styled("yes") if datum.acknowledged else styled("no", "yellow"),
            _freshness(datum),
            cell("" if datum.event is None else payload_preview(datum.event)),
        )
    return result


def _freshness(datum: KnownDatum) -> Text:
    if datum.deleted:
        return styled("no: deleted", "red")
    if datum.stale:
        return styled(f"no: r{datum.latest_revision} by then", "red")
    return styled("yes", "green")


def _needs(needs: tuple[DeliveredNeed, ...]) -> str:
    """The need that was met best, and how many others were."""
    if not needs:
        return ""
    best = max(needs, key=lambda need: need.score)
    more = f" (+{len(needs) - 1})" if len(needs) > 1 else ""
    return plain(best.need or f"need {best.need_index}", 50) + more


def _score(needs: tuple[DeliveredNeed, ...]) -> str:
    return f"{max(need.score for need in needs):.2f}" if needs else ""


def _matched_table(data: Iterable[tuple[str, MatchedEvent]]) -> Table:
    """What an agent had not been sent, with the reason where there is one."""
    rows = list(data)
    why = ["why"] if any(reason for reason, _ in rows) else []
    result = table(
        *("score", "data key", "rev", "published", "for"),
        *why,
        "payload",
        numbers=("score", "rev"),
    )
    for reason, matched in rows:
        event = matched.event
        best = max(matched.matches, key=lambda match: match.score, default=None)
        result.add_row(
            f"{matched.score:.2f}",
            cell(event.data_key),
            f"r{event.revision}",
            rfc3339(event.time),
            cell(best.need if best is not None else "", 50),
            *([cell(reason)] if why else []),
            cell("" if matched.payload_omitted else payload_preview(event)),
        )
    return result


def _heading(text: str, count: int, more: str = "") -> None:
    console().print()
    _line((text, "bold"), f"  {f'{count:,}' if count else 'nothing'}", f", {more}" if more else "")


def _line(*parts: str | tuple[str, str]) -> None:
    console().print(assembled(*parts))

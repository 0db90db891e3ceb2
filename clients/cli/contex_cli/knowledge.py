"""`contex knew` and `deliveries`: what an agent knew at a moment, and who was sent what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import contex

from contex_cli import options
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.matches import need_lines
from contex_cli.parameters import UsageError, option
from contex_cli.records import record
from contex_cli.times import Place, instant_text, moment_text

_REASONS = {
    "MIN_DELTA": "the update changed nothing that it asked for",
    "EXCLUDED": "the need excludes the key",
    "BELOW_THRESHOLD": "nearly matched: below the threshold",
    "ANSWER_FULL": "the answer to its registration had no room",
    "MUTED": "it does without such deliveries",
    "OWN": "it published this itself",
    "OTHER": "other",
}
_STALE = {
    "ON_ITS_WAY": "on its way",
    "UNDECIDED": "not decided yet",
    "MIN_DELTA": "changed nothing that it asked for",
    "MUTED": "muted",
    "OTHER": "other",
}


@command("knew")
async def knew(
    session: Session,
    agent_id: str = options.AGENT_ID,
    as_of: Place | None = options.AS_OF,
    near_misses: int = option(
        0, "Also show this many data that nearly matched.", metavar="N", minimum=0, maximum=100
    ),
) -> None:
    """Its needs, the data that it had been sent and which of them were stale and why, what had not
    reached it, and what was held back and why.
    """
    context = await session.client.agent_context(
        session.project, agent_id, as_of=as_of, near_misses=near_misses
    )
    if session.json:
        out.print_json(record(context) | {"connected": open_stream(context) is not None})
    else:
        _show(context)


def open_stream(context: contex.AgentContext) -> contex.AgentStream | None:
    """The stream by which the agent was connected at the moment; the newest of several."""
    at = context.as_of.time
    is_open = (s for s in context.streams if s.closed_time is None or s.closed_time > at)
    return next(is_open, None)


def _show(context: contex.AgentContext) -> None:
    agent = context.agent
    out.say((out.plain(agent.agent_id), "bold"), f"  as of {moment_text(context.as_of)}")
    _show_connection(context)
    sent = "nothing yet"
    if context.last_sent_time is not None:
        sent = f"{context.last_sent_sequence} at {instant_text(context.last_sent_time)}"
    out.say(f"  last sent     {sent}")
    out.say(f"  acknowledged  {agent.acknowledged_sequence or 'nothing yet'}")
    _heading("What it needed", len(agent.needs))
    for i, need in enumerate(need_lines(agent)):
        out.say(f"  {i}  {need}")

    stale = sum(known.stale for known in context.known)
    notes = [f"{stale:,} out of date"] if stale else []
    _heading("What it knew", len(context.known), *notes, cut=context.known_omitted_count)
    if context.known:
        out.show_table(
            context.known,
            {
                "data key": "data_key",
                "rev": lambda datum: f"r{datum.revision}",
                "sent": "sent_time",
                "for": lambda datum: _needs(datum.needs),
                "score": lambda datum: max((need.score for need in datum.needs), default=""),
                "acknowledged": lambda datum: (
                    "yes" if datum.acknowledged else out.styled("no", "yellow")
                ),
                "up to date": _freshness,
                "payload": lambda datum: out.payload_preview(datum.event) if datum.event else "",
            },
        )
    _heading("What had not reached it", len(context.pending), cut=context.pending_omitted_count)
    if context.pending:
        _show_matched([("", datum) for datum in context.pending])
    _heading("What was held back", len(context.held_back), cut=context.held_back_omitted_count)
    if context.held_back:
        _show_matched([(_REASONS[held.reason.name], held.data) for held in context.held_back])
    if context.withheld:
        _heading("What it may no longer read", len(context.withheld))
        for datum in context.withheld:
            since = f"since {instant_text(datum.since_time)}, {datum.since_sequence}"
            out.say(f"  {out.plain(datum.data_key)} r{datum.revision}  withheld {since}")


def _show_connection(context: contex.AgentContext) -> None:
    if (stream := open_stream(context)) is not None:
        client = f" ({out.plain(stream.client, 80)})" if stream.client else ""
        since = f"{instant_text(stream.opened_time)}, from {out.plain(stream.peer)}{client}"
        out.say(("  connected     ", "green"), f"since {since}")
        return
    closed = context.streams[0].closed_time if context.streams else None
    since = "and never before" if closed is None else f"since {instant_text(closed)}"
    out.say(("  not connected ", "yellow"), since)


def _heading(text: str, count: int, *notes: str, cut: int = 0) -> None:
    if cut:
        notes += (f"cut: {cut:,} more had no room in the answer",)
    out.say()
    out.say((text, "bold"), f"  {', '.join([f'{count:,}' if count else 'nothing', *notes])}")


def _freshness(datum: contex.KnownDatum) -> out.Text:
    has_newer = datum.latest_sequence != datum.sequence
    newer = f"r{datum.latest_revision} by then"
    if not datum.stale:
        return out.styled("yes: the newer one is its own" if has_newer else "yes", "green")
    kind = datum.pending_kind
    if kind in (None, contex.MatchKind.UPDATED, contex.MatchKind.MATCHED):
        what = "deleted" if datum.deleted else newer
    else:
        what = kind.name.lower()
    reason = "" if datum.stale_reason is None else f", {_STALE[datum.stale_reason.name]}"
    return out.styled(f"no: {what}{reason}", "red")


def _needs(needs: tuple[contex.DeliveredNeed, ...]) -> str:
    """The need that was met best, and how many others were."""
    if not needs:
        return ""
    best = max(needs, key=lambda need: need.score)
    more = f" (+{len(needs) - 1})" if len(needs) > 1 else ""
    return out.plain(best.need or f"need {best.need_index}", 50) + more


def _show_matched(rows: Sequence[tuple[str, contex.MatchedEvent]]) -> None:
    """What an agent had not been sent, with the reason where there is one."""

    def need(matched: contex.MatchedEvent) -> str:
        best = max(matched.matches, key=lambda match: match.score, default=None)
        return out.plain(best.need, 50) if best is not None else ""

    columns: dict[str, Callable[[tuple[str, contex.MatchedEvent]], Any]] = {
        "score": lambda row: row[1].score,
        "data key": lambda row: row[1].event.data_key,
        "rev": lambda row: f"r{row[1].event.revision}",
        "published": lambda row: row[1].event.time,
        "for": lambda row: need(row[1]),
        "why": lambda row: row[0],
        "payload": lambda row: "" if row[1].payload_omitted else out.payload_preview(row[1].event),
    }
    if not any(reason for reason, _ in rows):
        del columns["why"]
    out.show_table(rows, columns)


@command("deliveries")
async def deliveries(
    session: Session,
    sequence: str | None = option(None, "Who was sent this event.", "--event", metavar="SEQUENCE"),
    agent_id: str | None = option(None, "What this agent was sent.", "--agent", metavar="AGENT"),
    *,
    range: options.Range,
    backwards: bool = options.BACKWARDS,
    limit: options.Limit,
) -> None:
    """When, and for which need. What an agent has received is always on record; what is on record
    may have been lost on the way, and was then sent again.
    """
    if (sequence is None) == (agent_id is None):
        raise UsageError("give one of the two", "--event or --agent")
    if sequence is not None and (any(vars(range).values()) or backwards):
        raise UsageError("--since, --until and --backwards go with --agent", "--event")
    items = session.client.deliveries(
        session.project,
        sequence=sequence,
        agent_id=agent_id,
        **vars(range),
        backwards=backwards,
        page_size=limit.page_size,
    )
    columns: out.Columns[contex.Delivery] = {
        "time": "time",
        "agent": "agent_id",
        "data key": "data_key",
        "rev": lambda delivery: f"r{delivery.revision}",
        "sequence": "sequence",
        "change": lambda delivery: out.kind_text(delivery.change) if delivery.change else "",
        "how": _kind,
        "for": lambda delivery: [
            out.cell(need.need or f"need {need.need_index}", 60) for need in delivery.needs
        ],
        "score": lambda delivery: [need.score for need in delivery.needs],
    }
    await limit.show(items, columns, "no deliveries", as_json=session.json)


def _kind(delivery: contex.Delivery) -> str:
    kind = delivery.kind.name.lower().replace("_", " ")
    return f"{kind}, again" if delivery.resend else kind

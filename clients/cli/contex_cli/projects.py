"""`contex stats`, `retention`, `remove`, `erase` and `verify`: a project as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from dataclasses import fields, replace
from typing import Any

import click
import contex

from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode
from contex_cli.parameters import UsageError, option
from contex_cli.progress import Progress
from contex_cli.times import Place, parse_place, sequence_text

_DAY_S = 86_400
_BEGINNING = "0-0"
_SHOWN_OF_A_KIND = 20
"""Findings of one kind that are listed for people."""
REASON = option(..., "Why, for the audit.", metavar="TEXT")
YES = option(False, "Do not ask.")


@command("stats")
async def stats(session: Session) -> None:
    session.answer(await session.client.stats(session.project), _show_stats)


def _show_stats(stats: contex.Stats) -> None:
    out.show_rows(stats_rows(stats))
    for warning in stats.warnings:
        out.say(f"warning: {out.plain(warning)}")


def stats_rows(stats: contex.Stats) -> dict[str, str]:
    """A project's size and positions, for people."""
    counted = ""
    if stats.counted_since not in ("", _BEGINNING):
        counted = f", counted since {sequence_text(stats.counted_since)}"
    rows = {
        "events": f"{stats.event_count:,}, {out.size_text(stats.event_bytes)} appended{counted}",
        "first": sequence_text(stats.first_sequence),
        "last": sequence_text(stats.last_sequence),
        "rate": f"{stats.events_per_second:,.2f} events a second over the last minute",
        "data keys": f"{stats.data_key_count:,}, and {stats.deleted_key_count:,} deleted",
        "agents": f"{stats.agent_count:,}",
        "streams": f"{stats.subscriber_count:,} Subscribe, {stats.listener_count:,} Listen",
        "snapshots": "none yet",
        "archived": "nothing",
    }
    if stats.snapshot_sequence:
        rows["snapshots"] = (
            f"{stats.snapshot_count:,}, {out.size_text(stats.snapshot_bytes)}, "
            f"the newest at {sequence_text(stats.snapshot_sequence)}"
        )
    if stats.archived_sequence:
        rows["archived"] = (
            f"{out.counted(stats.archive_event_count, 'event')} in "
            f"{out.counted(stats.segment_count, 'segment')}, "
            f"{out.size_text(stats.archive_bytes)}, up to {sequence_text(stats.archived_sequence)}"
        )
        rows["in the store"] = out.counted(stats.store_event_count, "event")
    if stats.removed_event_count:
        rows["removed"] = f"{out.counted(stats.removed_event_count, 'event')}, for good"
    if stats.compacted_event_count:
        rows["compacted"] = f"{out.counted(stats.compacted_event_count, 'event')} without payloads"
    return rows


@command("retention show")
async def show(session: Session) -> None:
    session.answer(await session.client.retention(session.project), _show_retention)


@command("retention set")
async def set_(
    session: Session,
    store_days: float | None = option(
        None, "Older events move to the archive; 0: no limit.", metavar="DAYS", minimum=0
    ),
    store_events: int | None = option(
        None, "Maximum number of events in the store; 0: no limit.", metavar="N", minimum=0
    ),
    store_bytes: int | None = option(
        None, "Maximum number of bytes in the store; 0: no limit.", metavar="N", minimum=0
    ),
    archive_days: float | None = option(
        None, "Older archived events are removed for good; 0: never.", metavar="DAYS", minimum=0
    ),
    keep_revisions: int | None = option(
        None,
        "Archived events lose their payloads once their data key has this number of later ones; "
        "0: never.",
        metavar="N",
        minimum=0,
    ),
    legal_hold: bool | None = option(
        None,
        "Set or lift a legal hold: under it nothing is removed for good or erased.",
        "--legal-hold/--no-legal-hold",
    ),
    reset: bool = option(False, "Start from the server's defaults."),
) -> None:
    given: dict[str, Any] = {
        "store_seconds": _seconds(store_days),
        "store_events": store_events,
        "store_bytes": store_bytes,
        "archive_seconds": _seconds(archive_days),
        "keep_revisions": keep_revisions,
        "legal_hold": legal_hold,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes and not reset:
        raise UsageError("nothing to change: give a limit, --legal-hold or --reset")
    client = session.client
    before = contex.Retention() if reset else (await client.retention(session.project)).own
    await client.set_retention(session.project, replace(before, **changes))
    session.answer(await client.retention(session.project), _show_retention)


def _seconds(days: float | None) -> int | None:
    return None if days is None else round(days * _DAY_S)


def _show_retention(info: contex.RetentionInfo) -> None:
    out.show_table(
        [field.name for field in fields(info.own)],
        {
            "": lambda name: name.replace("_", " ").replace("seconds", "days"),
            "of the project": lambda name: _limit_text(name, getattr(info.own, name)),
            "in effect": lambda name: _limit_text(name, getattr(info.effective, name)),
        },
    )
    if not info.has_archive:
        out.say("the server has no archive: nothing leaves the store")


def _limit_text(name: str, value: int | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if not value:
        return "no limit"
    if name.endswith("seconds"):
        return f"{value / _DAY_S:,.2f}"
    return out.size_text(value) if name.endswith("bytes") else f"{value:,}"


def _confirm(question: str) -> None:
    try:
        click.confirm(question, abort=True)
    except click.Abort:
        raise UsageError("not confirmed; --yes does not ask", "--yes") from None


@command("remove")
def remove(
    session: Session,
    before: Place = option(
        ..., "Events before this sequence or time.", metavar="POSITION", parse=parse_place
    ),
    reason: str = REASON,
    yes: bool = YES,
) -> Awaitable[None]:
    """The latest event of each key stays. Refused while the project is on legal hold."""
    if not yes:
        _confirm(f"Remove events of {session.project} before {before} for good?")

    async def work() -> None:
        removed = await session.client.remove_events(session.project, before, reason=reason)
        count, first = (
            out.counted(removed.removed_count, "event"),
            sequence_text(removed.first_sequence),
        )
        session.answer(removed, lambda _: out.show_rows({"removed": count, "first": first}))

    return work()


@command("erase")
def erase(
    session: Session,
    reason: str = REASON,
    subject: str | None = option(
        None, "All events whose metadata name this subject.", metavar="NAME"
    ),
    data_key: str | None = option(None, "All events of this data key.", "--key", metavar="KEY"),
    request_id: str | None = option(None, "Makes the call idempotent.", metavar="ID"),
    yes: bool = YES,
) -> Awaitable[None]:
    if (subject is None) == (data_key is None):
        raise UsageError("give one of --subject and --key", "--subject")
    what = f"subject {subject}" if subject is not None else f"data key {data_key}"
    if not yes:
        _confirm(f"Erase the payloads of {what} in {session.project}?")

    async def work() -> None:
        erased = await session.client.erase(
            session.project,
            subject=subject,
            data_key=data_key,
            reason=reason,
            request_id=request_id,
        )
        again = ", by an earlier call of this request" if erased.duplicate else ""
        rows = {
            "erased": f"{out.counted(erased.erased_count, 'event')}{again}",
            "recorded in": sequence_text(erased.sequence),
        }
        session.answer(erased, lambda _: out.show_rows(rows))
        if not erased.erased_count:
            out.remark(f"nothing left to erase of {what} in project {session.project}")

    return work()


@command("verify")
async def verify(
    session: Session,
    repair: bool = option(False, "Rebuild what can be derived."),
    set_aside: bool = option(False, "Do without archived events that the store does not have."),
    all_deliveries: bool = option(
        False, "Judge every delivery in the inboxes of agents, not only some of the newest."
    ),
) -> ExitCode:
    """Compares the log, the archive, the state, the snapshots, the counters and what was decided
    for agents. Exits with 9 if a difference is left. Vectors that are missing, as after an import
    without them, are none: they are computed when they are needed, or by --repair.

    While the archive has events that the store does not have, publishes are refused: --repair
    restores them, --set-aside does without and keeps them under other names.
    """
    findings: list[contex.Finding] = []
    with Progress("verified", bar=True) as progress:
        async with session.client.verify(
            session.project,
            repair=repair,
            set_aside=set_aside,
            all_deliveries=all_deliveries,
        ) as steps:
            async for step in steps:
                progress.reach(step.event_count, step.total_count)
                summary = step.summary
                if step.finding is not None:
                    findings.append(step.finding)
                    if session.json:
                        out.print_json(step.finding)
    assert summary is not None
    if session.json:
        out.print_json({"summary": summary})
    else:
        _show_findings(findings, summary)
    if not summary.event_count:
        out.remark(f"project {session.project} has no events")
    left = [f for f in findings if not f.repaired and f.kind is not contex.FindingKind.VECTOR]
    return ExitCode.DAMAGED if left else ExitCode.OK


def _show_findings(findings: list[contex.Finding], summary: contex.VerifySummary) -> None:
    vectors = [f for f in findings if f.kind is contex.FindingKind.VECTOR]
    findings = [f for f in findings if f.kind is not contex.FindingKind.VECTOR]
    shown: list[contex.Finding] = []
    left_out: Counter[tuple[str, str]] = Counter()
    kinds: Counter[contex.FindingKind] = Counter()
    for finding in findings:
        kinds[finding.kind] += 1
        if kinds[finding.kind] <= _SHOWN_OF_A_KIND:
            shown.append(finding)
        else:
            left_out[finding.kind.value, _outlook(finding)] += 1
    if shown:
        out.show_table(
            shown,
            {
                "what": lambda finding: finding.kind.value,
                "where": "place",
                "how it differs": "detail",
                "": _outlook,
            },
        )
    for (kind, outlook), count in left_out.items():
        out.say(f"and {count:,} more: {kind}, {outlook}; --json lists them all")
    rows = {
        "as of": sequence_text(summary.as_of_sequence),
        "read": f"{out.counted(summary.event_count, 'event')}, "
        f"{out.counted(summary.segment_count, 'segment')}, "
        f"{out.counted(summary.snapshot_count, 'snapshot')}, "
        f"{out.counted(summary.data_key_count, 'data key')}, "
        f"{out.counted(summary.delivery_count, 'delivery')}",
        "differences": f"{len(findings):,}, {sum(f.repaired for f in findings):,} repaired",
    }
    if vectors:
        computed = all(finding.repaired for finding in vectors)
        when = "computed now" if computed else "computed when they are needed"
        rows["vectors"] = f"{len(vectors):,} missing, {when}"
    out.show_rows(rows)


def _outlook(finding: contex.Finding) -> str:
    if finding.repaired:
        return "repaired"
    return "can be repaired" if finding.repairable else "can't be repaired"

"""`contex retention`, `remove`, `erase` and `verify`: how long what is kept, and whether it is."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.exits import ExitCode
from contex_server.cli.output import cell, console, print_json, table
from contex_server.cli.positions import parse_position
from contex_server.cli.progress import Progress
from contex_server.cli.running import run
from contex_server.cli.stats import rows_table, sequence_text, size_text
from contex_server.cli.time_records import plain_record

if TYPE_CHECKING:
    from contex import Finding, RetentionInfo, VerifySummary

_DAY_S = 86_400
retention = typer.Typer(help="How long a project is kept, and where.", no_args_is_help=True)
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


@retention.command("show")
def show(
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show how long a project is kept."""

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            info = await client.retention(project)
        if as_json:
            print_json(plain_record(info))
        else:
            _show(info)

    run(work())


@retention.command("set")
def set_(
    store_days: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="Older events move to the archive; 0: no limit."),
    ] = None,
    store_events: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="So many events stay in the store; 0: no limit."),
    ] = None,
    store_bytes: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="So many bytes stay in the store; 0: no limit."),
    ] = None,
    archive_days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", min=0, help="Older archived events are removed for good; 0: never."
        ),
    ] = None,
    legal_hold: Annotated[
        bool | None,
        typer.Option(
            "--legal-hold/--no-legal-hold",
            help="Nothing is removed for good or erased, or that again.",
            show_default=False,
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Begin with the server's defaults for all of it.")
    ] = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Decide how long a project is kept. What is not given stays as it is."""

    async def work() -> None:
        from dataclasses import replace

        from contex import Retention

        async with options.connect(target, timeout) as client:
            before = Retention() if reset else (await client.retention(project)).own
            given = {
                "store_seconds": _seconds(store_days),
                "store_events": store_events,
                "store_bytes": store_bytes,
                "archive_seconds": _seconds(archive_days),
                "legal_hold": legal_hold,
            }
            changes = {name: value for name, value in given.items() if value is not None}
            await client.set_retention(project, replace(before, **changes))  # type: ignore[arg-type]
            info = await client.retention(project)
        if as_json:
            print_json(plain_record(info))
        else:
            _show(info)

    run(work())


def _seconds(days: float | None) -> int | None:
    return None if days is None else round(days * _DAY_S)


def _show(info: RetentionInfo) -> None:
    result = table("", "of the project", "in effect")
    for field in fields(info.own):
        own, effective = getattr(info.own, field.name), getattr(info.effective, field.name)
        result.add_row(
            field.name.replace("_", " "),
            cell(_text(field.name, own)),
            cell(_text(field.name, effective)),
        )
    console().print(result)
    if not info.has_archive:
        console().print("the server has no archive: nothing leaves the store")


def _text(name: str, value: int | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if not value:
        return "no limit"
    if name.endswith("seconds"):
        return f"{value:,} s ({value / _DAY_S:,.1f} days)"
    return size_text(value) if name.endswith("bytes") else f"{value:,}"


def remove(
    before: Annotated[
        str, typer.Option(metavar="POSITION", help="Events before this sequence or time.")
    ],
    reason: Reason,
    yes: Yes = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Remove old events for good, in whole segments of the archive.

    The latest event of each key stays. Refused while the project is on legal hold.
    """
    place = parse_position(before, "--before")
    assert place is not None
    if not yes:
        typer.confirm(f"Remove events of {project} before {before} for good?", abort=True)

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            removed = await client.remove_events(project, place, reason=reason)
        if as_json:
            print_json(plain_record(removed))
            return
        rows = {
            "removed": f"{removed.removed_count:,} events",
            "first": sequence_text(removed.first_sequence),
        }
        console().print(rows_table(rows))

    run(work())


def erase(
    reason: Reason,
    subject: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="All events whose metadata name this subject."),
    ] = None,
    data_key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="All events of this data key.")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Makes the call idempotent.")
    ] = None,
    yes: Yes = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Make payloads unreadable everywhere; sequences, times and digests stay."""
    if (subject is None) == (data_key is None):
        raise typer.BadParameter("give one of --subject and --key", param_hint="--subject")
    what = f"subject {subject}" if subject is not None else f"data key {data_key}"
    if not yes:
        typer.confirm(f"Erase the payloads of {what} in {project}?", abort=True)

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            erased = await client.erase(
                project,
                subject=subject,
                data_key=data_key,
                reason=reason,
                request_id=request_id,
            )
        if as_json:
            print_json(plain_record(erased))
            return
        again = ", by an earlier call of this request" if erased.duplicate else ""
        rows = {
            "erased": f"{erased.erased_count:,} events{again}",
            "told by": sequence_text(erased.sequence),
        }
        console().print(rows_table(rows))

    run(work())


def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Make anew what can be derived.")
    ] = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Read a project end to end and report every difference.

    Compares the log, the archive, the state, the snapshots, the counters and the vectors. Exits
    with 9 if a difference is left.
    """

    async def work() -> ExitCode:
        left = 0
        found: list[Finding] = []
        summary = None
        with Progress("verified", bar=True) as progress:
            async with (
                options.connect(target, timeout) as client,
                client.verify(project, repair=repair) as steps,
            ):
                async for step in steps:
                    progress.reach(step.event_count, step.total_count)
                    summary = step.summary
                    if step.finding is not None:
                        left += not step.finding.repaired
                        if as_json:
                            print_json(plain_record(step.finding))
                        else:
                            found.append(step.finding)
        assert summary is not None
        if as_json:
            print_json({"summary": plain_record(summary)})
        else:
            _show_findings(found, summary)
        return ExitCode.DAMAGED if left else ExitCode.OK

    run(work())


def _show_findings(found: list[Finding], summary: VerifySummary) -> None:
    if found:
        result = table("what", "where", "how it differs", "")
        for finding in found:
            done = "can be repaired" if finding.repairable else "can't be repaired"
            result.add_row(
                finding.kind.value,
                cell(finding.place),
                cell(finding.detail),
                "repaired" if finding.repaired else done,
            )
        console().print(result)
    rows = {
        "as of": sequence_text(summary.as_of_sequence),
        "read": f"{summary.event_count:,} events, {summary.segment_count:,} segments, "
        f"{summary.snapshot_count:,} snapshots, {summary.data_key_count:,} data keys",
        "differences": f"{summary.finding_count:,}, {summary.repaired_count:,} repaired",
    }
    console().print(rows_table(rows))

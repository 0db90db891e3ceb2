"""`contex audit`: who did what, when and from where; as a table, or exported as a file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli import options
from contex_server.cli.files import written
from contex_server.cli.listing import Limited
from contex_server.cli.output import cell, console, plain, print_json, table
from contex_server.cli.positions import Place, parse_position
from contex_server.cli.progress import Progress
from contex_server.cli.records import rfc3339
from contex_server.cli.running import run
from contex_server.cli.time_records import audit_record

if TYPE_CHECKING:
    from contex import AuditRecord
    from rich.table import Table


class Action(StrEnum):
    """What was done: the names of `contex.AuditAction`."""

    PUBLISHED = "published"
    DELETED = "deleted"
    REGISTERED = "registered"
    UNREGISTERED = "unregistered"
    DELIVERED = "delivered"
    ACKNOWLEDGED = "acknowledged"
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBED = "unsubscribed"
    EXPORTED = "exported"
    JUDGED = "judged"
    ADMINISTERED = "administered"
    IMPORTED = "imported"
    REFUSED = "refused"


class FileFormat(StrEnum):
    """The format of an export."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


_CLIENT_FORMATS = {
    FileFormat.CSV: "CSV",
    FileFormat.JSONL: "JSON_LINES",
    FileFormat.PARQUET: "PARQUET",
}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which records a command reads."""

    since: Place | None
    until: Place | None
    actions: tuple[Action, ...]
    actors: tuple[str, ...]
    agent_ids: tuple[str, ...]
    data_keys: tuple[str, ...]
    request_id: str

    def arguments(self) -> dict[str, Any]:
        """The same as the client takes it."""
        from contex import AuditAction

        return {
            "since": self.since,
            "until": self.until,
            "actions": tuple(AuditAction[action.name] for action in self.actions),
            "actors": self.actors,
            "agent_ids": self.agent_ids,
            "data_keys": self.data_keys,
            "request_id": self.request_id,
        }


def audit(
    since: options.Since = None,
    until: options.Until = None,
    actions: Annotated[
        list[Action] | None,
        typer.Option(
            "--action",
            metavar="ACTION",
            help=f"Only such actions: {', '.join(Action)}. Repeatable.",
        ),
    ] = None,
    actors: Annotated[
        list[str] | None,
        typer.Option("--actor", metavar="NAME", help="Only by this actor. Repeatable."),
    ] = None,
    agent_ids: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="AGENT", help="Only about this agent. Repeatable."),
    ] = None,
    keys: options.Keys = None,
    request_id: Annotated[str, typer.Option(metavar="ID", help="Only what this request did.")] = "",
    backwards: options.Backwards = False,
    limit: options.Limit = 100,
    file_format: Annotated[
        FileFormat | None,
        typer.Option("--format", help="Export all records. [default: by the suffix of --output]"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to export to; - is stdout."),
    ] = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show who did what, when and from where.

    With --format or --output every record that fits is exported as a file, oldest first.
    """
    wanted = _Wanted(
        parse_position(since, "--since"),
        parse_position(until, "--until"),
        tuple(actions or ()),
        tuple(actors or ()),
        tuple(agent_ids or ()),
        tuple(keys or ()),
        request_id,
    )
    if file_format is None and output is None:
        run(_list(wanted, backwards, limit, project, target, timeout, as_json))
        return
    if as_json or backwards:
        option = "--json" if as_json else "--backwards"
        raise typer.BadParameter("does not go with an export", param_hint=option)
    if file_format is None:
        file_format = _format_of(output or "")
    if file_format is FileFormat.PARQUET and output is None:
        raise typer.BadParameter("parquet is no text: name a file", param_hint="--output")
    run(_export(wanted, file_format, output or "-", project, target, timeout))


def _format_of(file: str) -> FileFormat:
    suffix = PurePath(file).suffix.lower().removeprefix(".")
    try:
        return FileFormat(suffix)
    except ValueError:
        raise typer.BadParameter(
            f"can't be told by {file!r}: csv, jsonl or parquet", param_hint="--format"
        ) from None


async def _list(
    wanted: _Wanted,
    backwards: bool,
    limit: int,
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
) -> None:
    found: list[AuditRecord] = []
    limited = Limited(limit)
    async with options.connect(target, timeout) as client:
        records = client.audit(
            project, **wanted.arguments(), backwards=backwards, page_size=limited.page_size
        )
        async for record in limited.of(records):
            if as_json:
                print_json(audit_record(record))
            else:
                found.append(record)
    if not as_json:
        console().print(audit_table(found) if found else "no records")
    limited.remark()


def audit_table(found: list[AuditRecord]) -> Table:
    """What fits on a screen of each record; --json has all columns."""
    result = table("time", "action", "who", "what", "from", "detail")
    for record in found:
        who = plain(record.actor) or "(not named)"
        if not record.actor_verified and record.actor:
            who += " (unverified)"
        result.add_row(
            rfc3339(record.time),
            cell(record.action.name.lower()),
            cell(who),
            cell(_subject(record)),
            cell(" ".join(filter(None, (record.peer, record.client.partition(" ")[0])))),
            cell(_detail(record)),
        )
    return result


def _subject(record: AuditRecord) -> str:
    """What an action was about: the datum, the agent, the event."""
    parts = []
    if record.data_key:
        parts.append(f"{record.data_key} r{record.revision}")
    elif record.event_type:
        parts.append(record.event_type)
    if record.agent_id:
        parts.append(f"agent {record.agent_id}")
    if record.sequence:
        parts.append(record.sequence)
    return "  ".join(parts)


def _detail(record: AuditRecord) -> str:
    parts = [record.detail, f"{record.count:,}" if record.count else ""]
    if record.request_id:
        parts.append(f"request {record.request_id}")
    return ", ".join(filter(None, parts))


async def _export(
    wanted: _Wanted,
    file_format: FileFormat,
    file: str,
    project: str,
    target: str,
    timeout: float,
) -> None:
    from contex import AuditFormat

    chosen = AuditFormat[_CLIENT_FORMATS[file_format]]
    with Progress("exported", things="records") as progress, written(file) as out:
        async with (
            options.connect(target, timeout) as client,
            client.export_audit(project, chosen, **wanted.arguments()) as pieces,
        ):
            async for piece in pieces:
                out.write(piece.data)
                progress.advance(piece.record_count - progress.events)

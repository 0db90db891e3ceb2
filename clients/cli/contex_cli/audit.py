"""`contex audit`: who did what, when and from where; as a table, or exported as a file."""

from __future__ import annotations

from typing import Any

import contex

from contex_cli import options
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.parameters import UsageError, option
from contex_cli.progress import Progress

_FORMATS = {
    "csv": contex.AuditFormat.CSV,
    "jsonl": contex.AuditFormat.JSON_LINES,
    "parquet": contex.AuditFormat.PARQUET,
}
_ACTIONS = ", ".join(action.value for action in contex.AuditAction if action.name != "OTHER")


@command("audit")
async def audit(
    session: Session,
    range: options.Range,
    actions: tuple[contex.AuditAction, ...] = option(
        (), f"Only these actions: {_ACTIONS}. Repeatable.", "--action", metavar="ACTION"
    ),
    actors: tuple[str, ...] = option(
        (), "Only by this actor. Repeatable.", "--actor", metavar="NAME"
    ),
    agent_ids: tuple[str, ...] = option(
        (), "Only about this agent. Repeatable.", "--agent", metavar="AGENT"
    ),
    keys: tuple[str, ...] = options.KEYS,
    request_id: str = option("", "Only what this request did.", metavar="ID"),
    backwards: bool = options.BACKWARDS,
    *,
    limit: options.Limit,
    file_format: contex.AuditFormat | None = option(
        None, "Export all records. [default: by the suffix of --output]", "--format", parse=_FORMATS
    ),
    output: str | None = option(
        None, "Where to export to; - is stdout.", "--output", "-o", metavar="FILE"
    ),
) -> None:
    """With --format or --output every record that fits is exported as a file, oldest first."""
    exports = file_format is not None or output is not None
    if exports and (session.json or backwards):
        option = "--json" if session.json else "--backwards"
        raise UsageError("does not go with an export", option)
    if file_format is None and output is not None:
        file_format = _FORMATS.get(output.lower().rpartition(".")[2])
        if file_format is None:
            raise UsageError(f"can't be told by {output!r}: csv, jsonl or parquet", "--format")
    if file_format is contex.AuditFormat.PARQUET and output is None:
        raise UsageError("parquet is not text: name a file", "--output")

    arguments: dict[str, Any] = {
        "project": session.project,
        **vars(range),
        "actions": actions,
        "actors": actors,
        "agent_ids": agent_ids,
        "data_keys": keys,
        "request_id": request_id,
    }
    if file_format is not None:
        with (
            Progress("exported", thing="record") as progress,
            out.open_file(output or "-") as opened,
        ):
            async with session.client.export_audit(format=file_format, **arguments) as pieces:
                async for piece in pieces:
                    opened.write(piece.data)
                    progress.advance(piece.record_count - progress.events)
        return
    records = session.client.audit(**arguments, backwards=backwards, page_size=limit.page_size)
    await limit.show(records, _COLUMNS, "no records", as_json=session.json)


def _actor(record: contex.AuditRecord) -> str:
    is_claimed = record.actor and not record.actor_verified
    return (record.actor or "(not named)") + (" (unverified)" if is_claimed else "")


def _subject(record: contex.AuditRecord) -> str:
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


def _detail(record: contex.AuditRecord) -> str:
    parts = [record.detail, f"{record.count:,}" if record.count else ""]
    if record.request_id:
        parts.append(f"request {record.request_id}")
    return ", ".join(filter(None, parts))


# What fits on a screen of each record; --json has all columns.
_COLUMNS: out.Columns[contex.AuditRecord] = {
    "time": "time",
    "action": lambda record: record.action.name.lower(),
    "who": _actor,
    "what": _subject,
    "from": lambda record: f"{record.peer} {record.client.partition(' ')[0]}".strip(),
    "detail": _detail,
}

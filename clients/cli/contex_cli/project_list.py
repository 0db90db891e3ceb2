"""`contex projects`: which projects there are, their encryption, and their end."""

from __future__ import annotations

import click
import contex

from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, complain
from contex_cli.parameters import UsageError, argument, option
from contex_cli.projects import REASON, YES, stats_rows
from contex_cli.times import rfc3339, sequence_text

_HIDDEN = "not shown"


@command("projects", without=("project",))
async def projects(
    session: Session,
    name: str = option("", "Only names that fit.", metavar="GLOB"),
) -> None:
    """A project begins with its first event."""
    found: list[contex.ProjectSummary] = []
    async for project in session.client.list_projects(name):
        if session.json:
            out.print_json(project)
        else:
            found.append(project)
    if session.json:
        return
    if found:
        out.show_table(
            found,
            {
                "project": "project",
                "events": lambda p: f"{p.event_count:,}" if p.last_sequence else _HIDDEN,
                "size": lambda p: out.size_text(p.event_bytes) if p.last_sequence else _HIDDEN,
                "first": lambda p: sequence_text(p.first_sequence),
                "last": lambda p: sequence_text(p.last_sequence),
            },
        )
    out.say(out.counted(len(found), "project") if found else "no projects")


@command("projects show")
async def show(
    session: Session, name: str = argument("", "[NAME]", "The project; or -p.")
) -> ExitCode:
    """Exits with 4 if it does not exist, and says whether it was deleted."""
    project = await session.client.project(name or session.project)
    session.answer(project, _show)
    return ExitCode.OK if project.exists else ExitCode.NOT_FOUND


def _show(project: contex.ProjectInfo) -> None:
    rows = {"project": project.project}
    if project.stats is None:
        rows["exists"] = "yes; the rest is not shown to you" if project.exists else "no"
    else:
        rows |= stats_rows(project.stats)
        rows["model"] = project.model or "none yet"
    rows["legal hold"] = "yes" if project.retention.effective.legal_hold else "no"
    if (encryption := project.encryption) is not None:
        rows |= _encryption_rows(encryption)
    if (deletion := project.deletion) is not None:
        by = f" by {out.plain(deletion.identity)}" if deletion.identity else ""
        rows["deleted"] = f"{rfc3339(deletion.delete_time)}{by}: {out.plain(deletion.reason)}"
    out.show_rows(rows)


@command("projects encryption")
async def encryption(
    session: Session,
    name: str = argument("", "[NAME]", "The project; or -p."),
    on: bool | None = option(None, "Encrypt what is published from now on, or not.", "--on/--off"),
) -> ExitCode:
    """Events that name a subject are encrypted in any case."""
    project = name or session.project
    if on is not None:
        answer = await session.client.set_encryption(project, on)
    else:
        info = await session.client.project(project)
        if info.encryption is None and info.exists and info.stats is None:
            complain("not shown to you: it takes the right to see all data of the project")
            return ExitCode.DENIED
        if info.encryption is None:
            complain("the server doesn't tell: it is too old, or you may not know")
            return ExitCode.UNSUPPORTED
        answer = info.encryption
    session.answer(answer, lambda found: out.show_rows(_encryption_rows(found)))
    return ExitCode.OK


def _encryption_rows(found: contex.Encryption) -> dict[str, str]:
    rows = {
        "encrypted": "all events" if found.enabled else "events that name a subject",
        "master key": found.master_key_id or "the server has none",
    }
    if not found.master_key_id and not found.enabled:
        rows["encrypted"] = "nothing"
    if found.keys_to_rewrap:
        keys = out.counted(found.keys_to_rewrap, "key")
        rows["still needed"] = f"the previous master key, for {keys}"
    return rows


@command("projects delete")
async def delete(
    session: Session,
    name: str = argument(..., "NAME", "The project."),
    reason: str = REASON,
    request_id: str | None = option(None, "Makes the call idempotent.", metavar="ID"),
    yes: bool = YES,
) -> None:
    """Asks for the name once more, unless --yes is given. Refused while the project is on legal
    hold."""
    if not yes:
        _confirm(name)
    deleted = await session.client.delete_project(name, reason=reason, request_id=request_id)
    again = ", by an earlier call of this request" if deleted.duplicate else ""
    rows = {
        "deleted": f"{name}, {out.counted(deleted.deletion.event_count, 'event')}{again}",
        "at": rfc3339(deleted.deletion.delete_time),
    }
    session.answer(deleted, lambda _: out.show_rows(rows))


def _confirm(name: str) -> None:
    try:
        typed = click.prompt(
            f"Everything in {name} will be gone. Type its name to delete it", err=True
        )
    except click.Abort:
        typed = ""
    if typed != name:
        raise UsageError("not confirmed; --yes does not ask", "--yes")

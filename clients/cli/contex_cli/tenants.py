"""`contex tenants` and `usage`: what belongs together, and how much it may use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

import contex

from contex_cli import output as out
from contex_cli.bars import bar
from contex_cli.command import Session, command
from contex_cli.parameters import argument, option

_BAR = 20
_NEARLY = 0.8
"""Of a limit, what is worth a warning colour."""
_LIMITS = tuple(field.name for field in fields(contex.UsageLimits))
_UNITS = ("KiB", "MiB", "GiB", "TiB")
_NAME = argument(..., "NAME", "Its name.")


def _parse_limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in _LIMITS:
        raise ValueError(f"{name!r} is no limit; there are {', '.join(_LIMITS)}")
    try:
        value = _number(number) if "bytes" in name else int(number)
    except (ValueError, OverflowError):
        value = -1
    if value < 0:
        units = ", or with KiB, MiB, GiB, TiB" if "bytes" in name else ""
        raise ValueError(f"{text!r}: write it as {name}=NUMBER{units}; 0 is no limit")
    return name, value


def _number(text: str) -> int:
    """A number of bytes, such as 1048576, 1MiB or 1.5 GiB."""
    for power, unit in enumerate(_UNITS, 1):
        if text.lower().endswith(unit.lower()):
            return round(float(text[: -len(unit)]) * (1 << 10 * power))
    return int(text)


@command("tenants", without=("project",))
async def tenants(session: Session) -> None:
    """Without a subcommand it lists them. Options of a subcommand come after it."""
    found = await session.client.access.tenants()
    if session.json:
        for tenant in found:
            out.print_json(tenant)
        return
    columns: out.Columns[contex.Tenant] = {
        "tenant": "name",
        "projects": lambda tenant: ", ".join(tenant.projects),
        "limits": lambda tenant: _limit_lines(tenant.limits),
        "of each project": lambda tenant: _limit_lines(tenant.project_limits),
        "description": "description",
    }
    out.show_table(found, columns, "no tenants")


@command("tenants set", without=("project",))
async def set_(
    session: Session,
    name: str = _NAME,
    projects: tuple[str, ...] = option(
        (), "Its projects, as a glob. Repeatable.", "--project", "-p", metavar="GLOB"
    ),
    limits: tuple[tuple[str, int], ...] = option(
        (),
        "What all of its projects may use together, such as events_per_second=1000; 0: no limit. "
        "Repeatable.",
        "--limit",
        metavar="NAME=N",
        parse=_parse_limit,
    ),
    project_limits: tuple[tuple[str, int], ...] = option(
        (),
        "What each of its projects may use. Repeatable.",
        "--project-limit",
        metavar="NAME=N",
        parse=_parse_limit,
    ),
    description: str | None = option(None, "What it is.", metavar="TEXT"),
) -> None:
    """The tenant default has all projects that no other has; only its limits can be set."""
    access = session.client.access
    known = {tenant.name: tenant for tenant in await access.tenants()}
    before = known.get(name) or contex.Tenant(name)
    after = await access.set_tenant(
        name,
        projects or before.projects,
        limits=_changed(before.limits, limits),
        project_limits=_changed(before.project_limits, project_limits),
        description=before.description if description is None else description,
    )
    session.answer(after, _show_tenant)


def _changed(
    before: contex.UsageLimits | None, given: Iterable[tuple[str, int]]
) -> contex.UsageLimits | None:
    changes = dict(given)
    return replace(before or contex.UsageLimits(), **changes) if changes else before


def _show_tenant(tenant: contex.Tenant) -> None:
    out.show_rows(
        {
            "tenant": tenant.name,
            "projects": ", ".join(tenant.projects) or "none",
            "limits": _limit_lines(tenant.limits),
            "of each project": _limit_lines(tenant.project_limits),
            "description": tenant.description,
        }
    )


def _limit_lines(limits: contex.UsageLimits | None) -> list[str]:
    values = {} if limits is None else {name: getattr(limits, name) for name in _LIMITS}
    return [f"{_words(name)} {_amount(name, n)}" for name, n in values.items() if n] or ["none"]


@command("tenants delete", without=("project",))
async def delete(session: Session, name: str = _NAME) -> None:
    """Its projects become those of the tenant default."""
    await session.client.access.delete_tenant(name)
    session.answer({"name": name}, lambda _: out.say(f"tenant {out.plain(name)} is deleted"))


@command("usage")
async def usage(
    session: Session,
    tenant: str = argument("", "[TENANT]", "The tenant; or -p."),
) -> None:
    """Of rates, the mean of the last minute. Without a tenant and -p, whoever belongs to a tenant
    sees that of its own.
    """
    access = session.client.access
    if not tenant and not session.names_project:
        me = await access.who_am_i()
        tenant = me.tenant if me.credential is not None else ""
    report = await (access.usage(tenant) if tenant else access.usage(project=session.project))
    session.answer(report, _show_usage)


def _show_usage(report: contex.UsageReport) -> None:
    of = f"project {report.project}, of tenant" if report.project else "tenant"
    out.say(f"{of} {out.plain(report.tenant)}")
    columns: out.Columns[contex.Usage] = {
        "what": lambda used: _words(used.name),
        "used": lambda used: _amount(used.name, used.used),
        "share": _share_bar,
        "limit": lambda used: _amount(used.name, used.limit) if used.limit else "none",
        "refused": lambda used: f"{used.refused:,}" if used.refused else "",
    }
    out.show_table(report.usage, columns, "nothing is counted")


def _share_bar(used: contex.Usage) -> object:
    if not used.limit:
        return ""
    share = used.used / used.limit
    style = "red" if share >= 1 else "yellow" if share >= _NEARLY else ""
    return out.styled(f"{bar(share, _BAR)} {share:>4.0%}", style)


def _words(name: str) -> str:
    return name.replace("_per_second", " a second").replace("_", " ")


def _amount(name: str, amount: float) -> str:
    if "bytes" in name:
        return out.size_text(round(amount))
    return f"{amount:,.1f}".removesuffix(".0")

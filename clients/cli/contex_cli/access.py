"""`contex whoami`, `can`, `access` and `roles`: who may do what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import contex

from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, complain
from contex_cli.options import Limit
from contex_cli.parameters import UsageError, argument, option
from contex_cli.times import rfc3339

WHOM = argument(..., "IDENTITY", "An identity, or group:ISSUER:GROUP.")
TENANT = option("", "The tenant that it belongs to.", metavar="NAME")
_MYSELF = "-"
_OFF = "access is off there, and everybody may do everything"
_PAGE = 1_000


@dataclass(kw_only=True)
class Where:
    """For what a role is granted."""

    projects: tuple[str, ...] = option(
        (), "For these projects, as a glob. Repeatable.", "--project", "-p", metavar="GLOB"
    )
    data_keys: tuple[str, ...] = option(
        (),
        "For these data keys only, as a glob. Repeatable. [default: all, and events without one]",
        "--data-key",
        metavar="GLOB",
    )

    def grant(self, role: str) -> contex.Grant:
        if not self.projects:
            raise UsageError("missing: for which projects? -p '*' is all of them", "--project")
        return contex.Grant(role, self.projects, self.data_keys)


@command("whoami", without=("project",))
async def whoami(session: Session) -> None:
    session.answer(await session.client.access.who_am_i(), _show_me)


def _show_me(me: contex.WhoAmI) -> None:
    if me.credential is None:
        out.say(f"nobody in particular: {_OFF}")
        return
    how = me.credential.value.replace("_", " ")
    rows: dict[str, str | list[str]] = {
        "identity": out.plain(me.identity),
        "tenant": out.plain(me.tenant) or "none: all projects",
        "proved by": f"{how} {me.key_id}".strip(),
        "valid until": rfc3339(me.expire_time) if me.expire_time else "it is revoked",
    }
    if me.groups:
        rows["groups"] = list(map(out.plain, me.groups))
    out.show_rows(rows)
    show_grants(me.grants)


def show_grants(grants: Sequence[contex.Grant]) -> None:
    columns: out.Columns[contex.Grant] = {
        "role": "role",
        "projects": lambda grant: ", ".join(grant.projects),
        "data keys": _keys_text,
    }
    out.show_table(grants, columns, "no grants")


def _keys_text(grant: contex.Grant) -> str:
    return ", ".join(grant.data_keys) or "all"


@command("can", without=("project",))
async def can(
    session: Session,
    who: str = argument(..., "WHO", "An identity; - is yourself."),
    what: str = argument(..., "WHAT", "A permission, such as read, or an RPC, such as GetState."),
    where: str = argument(..., "WHERE", "A project, or one with a data key: shop:billing/vat."),
    groups: tuple[str, ...] = option(
        (),
        "Also a member of this group, group:ISSUER:GROUP. Repeatable.",
        "--group",
        metavar="NAME",
    ),
) -> ExitCode:
    """Exits with 0 if it is allowed, and with 12 if it is not. Others can be asked about by whoever
    administers them."""
    # Names of projects have neither.
    project, _, data_key = re.sub("[:/]", "\0", where, count=1).partition("\0")
    access = session.client.access
    decision = await access.can(
        _permission_or_rpc(what),
        project,
        data_key=data_key,
        identity="" if who == _MYSELF else who,
        groups=groups,
    )
    if not decision and (await access.who_am_i()).credential is None:
        decision = contex.Decision(True, _OFF, (), ())
    session.answer(decision, _show_decision)
    return ExitCode.OK if decision else ExitCode.NOT_GRANTED


def _permission_or_rpc(text: str) -> str:
    permissions = [one.value for one in contex.Permission if one is not contex.Permission.OTHER]
    if text.lower() in permissions:
        return text.lower()
    if not text[:1].isupper():
        problem = f"{text!r} is no permission; there are {', '.join(permissions)}, and RPCs"
        raise UsageError(problem, "WHAT")
    return text


def _show_decision(decision: contex.Decision) -> None:
    word, style = ("allowed", "green") if decision else ("denied", "red")
    out.say((word, style), f": {out.plain(decision.reason)}")
    if decision.data_keys:
        keys = ", ".join(map(out.plain, decision.data_keys))
        out.say(f"for the data keys {keys}" if decision else f"it is for the data keys {keys}")
    columns: out.Columns[contex.GrantDecision] = {
        "": lambda one: out.styled("yes", "green") if one.allows else out.styled("no", "red"),
        "of": "identity",
        "role": lambda one: one.grant.role,
        "projects": lambda one: ", ".join(one.grant.projects),
        "data keys": lambda one: _keys_text(one.grant),
        "problem": "problem",
    }
    if decision.reason != _OFF:
        out.show_table(decision.grants, columns, "no grants")


# -- grants ------------------------------------------------------------------------------


@command("access list", without=("project",))
async def list_(
    session: Session,
    limit: Limit,
    tenant: str = option("", "Only of this tenant.", metavar="NAME"),
) -> None:
    columns: out.Columns[contex.Binding] = {
        "identity": "identity",
        "tenant": "tenant",
        "role": lambda binding: [out.cell(grant.role) for grant in binding.grants],
        "projects": lambda binding: [out.cell(", ".join(g.projects)) for g in binding.grants],
        "data keys": lambda binding: [out.cell(_keys_text(grant)) for grant in binding.grants],
        "time": "update_time",
    }
    found = session.client.access.bindings(tenant=tenant, page_size=limit.page_size)
    await limit.show(found, columns, "nobody has grants", as_json=session.json)


@command("access grant", without=("project",))
async def grant(
    session: Session,
    where: Where,
    identity: str = WHOM,
    role: str = argument(..., "ROLE", "See contex roles."),
    tenant: str = TENANT,
) -> None:
    """What it has already stays: the grants of an identity add up."""
    given = where.grant(role)
    before = await binding_of(session, identity)
    grants = before.grants if before else ()
    after = await session.client.access.set_binding(
        identity,
        grants if any(is_same(given, one) for one in grants) else (*grants, given),
        tenant=tenant or (before.tenant if before else ""),
    )
    session.answer(after, _show_binding)


@command("access revoke", without=("project",))
async def revoke(
    session: Session,
    where: Where,
    identity: str = WHOM,
    role: str = argument(..., "ROLE", "The role."),
) -> ExitCode:
    """Without -p and --data-key from all projects, with them the grant that names just these."""
    before = await binding_of(session, identity)
    grants = before.grants if before else ()
    left = [one for one in grants if not _fits(one, role, where)]
    if before is None or len(left) == len(grants):
        complain(f"{identity} has no such grant; contex access list shows what there is")
        return ExitCode.NOT_FOUND
    if left:
        after = await session.client.access.set_binding(identity, left, tenant=before.tenant)
    else:
        await session.client.access.delete_binding(identity)
        after = contex.Binding(identity, before.tenant, (), None)
    session.answer(after, _show_binding)
    return ExitCode.OK


def _fits(one: contex.Grant, role: str, where: Where) -> bool:
    return (
        one.role == role
        and (not where.projects or {*where.projects} == {*one.projects})
        and (not where.data_keys or {*where.data_keys} == {*one.data_keys})
    )


def is_same(one: contex.Grant, other: contex.Grant) -> bool:
    """Whether two grants say the same, in whatever order."""
    return one.role == other.role and all(
        {*first} == {*second}
        for first, second in (
            (one.projects, other.projects),
            (one.data_keys, other.data_keys),
        )
    )


@command("access delete", without=("project",))
async def delete(session: Session, identity: str = WHOM) -> None:
    """Its keys stay valid, and may do nothing: contex keys revoke ends them."""
    await session.client.access.delete_binding(identity)
    session.answer(
        {"identity": identity}, lambda _: out.say(f"{out.plain(identity)} has no grants any more")
    )


async def binding_of(session: Session, identity: str) -> contex.Binding | None:
    """What an identity has; None if that is nothing."""
    async for binding in session.client.access.bindings(page_size=_PAGE):
        if binding.identity == identity:
            return binding
    return None


def _show_binding(binding: contex.Binding) -> None:
    tenant = f", of tenant {out.plain(binding.tenant)}" if binding.tenant else ""
    out.say(f"{out.plain(binding.identity)}{tenant}")
    show_grants(binding.grants)


# -- roles -------------------------------------------------------------------------------


@command("roles", without=("project",))
async def roles(session: Session) -> None:
    """Without a subcommand it lists them. Options of a subcommand come after it."""
    found = await session.client.access.roles()
    if session.json:
        for role in found:
            out.print_json(role)
        return
    columns: out.Columns[contex.Role] = {
        "role": "name",
        "permissions": lambda role: _permissions_text(role.permissions),
        "": lambda role: "built in" if role.built_in else "",
        "description": "description",
    }
    out.show_table(found, columns, "no roles")


@command("roles set", without=("project",))
async def set_role(
    session: Session,
    name: str = argument(..., "NAME", "Its name."),
    permissions: tuple[contex.Permission, ...] = argument(
        ..., "PERMISSION", "What it allows: read, state, …"
    ),
    description: str = option("", "What it is for.", metavar="TEXT"),
) -> None:
    """Replaces what it allowed before. Those that are built in can't be changed."""
    role = await session.client.access.set_role(name, permissions, description=description)
    session.answer(
        role, lambda _: out.say(f"{out.plain(role.name)}: {_permissions_text(role.permissions)}")
    )


@command("roles delete", without=("project",))
async def delete_role(session: Session, name: str = argument(..., "NAME", "Its name.")) -> None:
    await session.client.access.delete_role(name)
    session.answer({"name": name}, lambda _: out.say(f"role {out.plain(name)} is deleted"))


def _permissions_text(permissions: Sequence[contex.Permission]) -> str:
    return ", ".join(permission.value for permission in permissions)

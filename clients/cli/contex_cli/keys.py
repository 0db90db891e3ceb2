"""`contex login`, `logout` and `keys`: what proves who calls.

A secret is read from a prompt, a file, stdin or the environment, never from the command line, which
other users of the machine can see.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import click
import contex
from contex import credentials

from contex_cli import output as out
from contex_cli.access import TENANT, Where, binding_of, is_same
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, InputError
from contex_cli.options import Limit
from contex_cli.parameters import UsageError, argument, option
from contex_cli.times import instant_text, parse_length, rfc3339

_KEY = argument(..., "KEY_ID", "The key, as contex keys list names it.")


@command("login", without=("project",))
def login(
    session: Session,
    stdin: bool = option(False, "Read the key from stdin instead of asking.", "--api-key-stdin"),
) -> Awaitable[ExitCode]:
    """Asks for the key, unless --api-key-file has it. It is kept, for --target alone, in a file
    that only you can read: ~/.config/contex/credentials.json, or CONTEX_CREDENTIALS_FILE.
    """
    # Asked here, before signals are handled in the loop: Ctrl-C ends the question.
    try:
        session.api_key = _given_key(stdin, session.api_key_file)
    except ValueError as error:
        raise InputError(str(error)) from None
    return _login(session, session.api_key)


def _given_key(stdin: bool, file: str) -> str:
    if stdin:
        return credentials.checked(sys.stdin.readline(), "stdin")
    if file:
        return credentials.read_key(file)
    if not sys.stdin.isatty():
        raise UsageError("stdin is no terminal; use --api-key-stdin or --api-key-file")
    return credentials.checked(click.prompt("API key", hide_input=True, err=True), "the key")


async def _login(session: Session, key: str) -> ExitCode:
    me = await session.client.access.who_am_i()
    if me.credential is None:
        raise InputError(f"access is off at {session.target}: no key is needed, and none was kept")
    try:
        path = credentials.store_key(session.address, key)
    except ValueError as error:
        raise InputError(str(error)) from None
    until = f", until {instant_text(me.expire_time)}" if me.expire_time else ""
    session.answer(
        {"target": session.target, "identity": me.identity, "file": path},
        lambda _: out.say(f"{out.plain(me.identity)} at {session.target}{until}; kept in {path}"),
    )
    return ExitCode.OK


@command("logout", without=("project", "timeout", "api_key_file"))
def logout(session: Session) -> int:
    """The key itself stays valid: contex keys revoke ends it."""
    try:
        known = session.address in credentials.stored_keys(credentials.credentials_file())
        credentials.store_key(session.address, None)
    except ValueError as error:
        raise InputError(str(error)) from None
    was = "forgotten" if known else "no key was kept"
    session.answer(
        {"target": session.target, "forgotten": known},
        lambda _: out.print_line(f"{session.target}: {was}"),
    )
    return ExitCode.OK


@command("keys create", without=("project",))
async def create(
    session: Session,
    where: Where,
    identity: str = argument(..., "IDENTITY", "Whom it stands for: a plain name."),
    role: str = option(
        "", "Grant the identity this role; refused if it has others already.", metavar="ROLE"
    ),
    replace_grants: bool = option(
        False, "With --role: take away what the identity has been granted before."
    ),
    tenant: str = TENANT,
    name: str = option("", "What it is for.", metavar="TEXT"),
    owner: str = option("", "Who answers for it.", metavar="TEXT"),
    ttl: timedelta | None = option(
        None,
        "How long it is valid: 12h, 90d. [default: until it is revoked]",
        metavar="LENGTH",
        parse=parse_length,
    ),
) -> None:
    """The key alone goes to stdout, all else to stderr. Without --role the identity may do what it
    could before, and nothing if it is new.
    """
    if not role and (where.projects or where.data_keys):
        raise UsageError("missing: -p and --data-key say for what a role is granted", "--role")
    grants = [where.grant(role)] if role else []
    if grants and not replace_grants:
        await _check_new(session, identity, grants[0])
    created = await session.client.access.create_key(
        identity,
        tenant=tenant,
        name=name,
        owner=owner,
        ttl=ttl,
        grants=grants,
    )
    _print_secret(session, created)


async def _check_new(session: Session, identity: str, grant: contex.Grant) -> None:
    """A key is created with all that its identity is to have: nothing is to be lost by that."""
    before = await binding_of(session, identity)
    if before and any(not is_same(one, grant) for one in before.grants):
        raise UsageError(
            f"{identity} has {out.counted(len(before.grants), 'grant')} already, which this would "
            "replace: leave out --role for another key with the same rights, and add to them by "
            "contex access grant; or give --replace-grants",
            "--role",
        )


@command("keys rotate", without=("project",))
async def rotate(
    session: Session,
    key_id: str = _KEY,
    overlap: timedelta | None = option(
        None,
        "How much longer the old one is valid: 0s, 12h, 30d. [default: 1d]",
        metavar="LENGTH",
        parse=parse_length,
    ),
    ttl: timedelta | None = option(
        None,
        "How long the new one is valid. [default: as long as the old one was]",
        metavar="LENGTH",
        parse=parse_length,
    ),
) -> None:
    """The new key alone goes to stdout, all else to stderr."""
    rotated = await session.client.access.rotate_key(key_id, overlap=overlap, ttl=ttl)
    _print_secret(session, rotated)
    if not session.json and rotated.replaced.expire_time is not None:
        until = instant_text(rotated.replaced.expire_time)
        out.remark(f"{key_id} is valid until {until}: replace it everywhere by then")


def _print_secret(session: Session, created: contex.NewKey | contex.RotatedKey) -> None:
    if session.json:
        out.print_json(created)
        return
    key = created.key
    until = f", valid until {instant_text(key.expire_time)}" if key.expire_time else ""
    out.remark(
        f"key {key.key_id} of {out.plain(key.identity)}{until}; it is shown this once, so keep it:"
    )
    sys.stdout.write(f"{created.secret_key}\n")
    out.flush()


@command("keys list", without=("project",))
async def list_(
    session: Session,
    limit: Limit,
    identity: str = argument("", "[IDENTITY]", "Only its keys."),
    tenant: str = option("", "Only of this tenant.", metavar="NAME"),
) -> None:
    columns: out.Columns[contex.ApiKey] = {
        "key": "key_id",
        "identity": "identity",
        "tenant": "tenant",
        "": _state,
        "used": lambda key: rfc3339(key.last_use_time) if key.last_use_time else "never",
        "for": "name",
        "owner": "owner",
        "created": "create_time",
        "by": "created_by",
    }
    found = session.client.access.keys(identity, tenant=tenant, page_size=limit.page_size)
    await limit.show(found, columns, "no keys", as_json=session.json)


def _state(key: contex.ApiKey) -> str:
    if key.revoke_time is not None:
        return f"revoked {rfc3339(key.revoke_time)}"
    if key.expire_time is None:
        return "valid"
    verb = "expired" if key.expire_time <= datetime.now(UTC) else "valid until"
    return f"{verb} {rfc3339(key.expire_time)}"


@command("keys revoke", without=("project",))
async def revoke(session: Session, key_id: str = _KEY) -> None:
    """On every server within 2 seconds. The identity keeps its grants and its other keys."""
    key = await session.client.access.revoke_key(key_id)
    session.answer(
        key, lambda _: out.say(f"{key.key_id} of {out.plain(key.identity)} is {_state(key)}")
    )

"""Writes docs/guide/roles.md from the option `access` of each RPC and the roles that are built in;
tests/docs checks that it is current.

python docs/render_access.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

from contex.v1 import access_pb2
from contex_server.access.roles import BUILT_IN
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "roles.md"
PROTOS = ROOT / "protos" / "contex" / "v1"

_INTRODUCTION = """\
<!-- made by docs/render_access.py; change the protos and access/roles.py, not this file -->
# Roles

Which call takes which permission, and which role has it. [Access](access.md) tells how roles are
granted; `contex roles` lists those of a server, with its own.

## Built-in roles

They can't be changed; `contex roles set` makes others.
"""

_CALLS = """\
## Calls

Any one of the permissions of a call is enough; where there is none, the caller only has to be
known. The reach says for what it has to be held:

{reaches}
Calls count against `write_calls_per_second`, `read_calls_per_second` or `admin_calls_per_second`
of [a tenant](access.md#tenants-and-limits); those that are metered also by the work that they make.
Health checks and reflection are open to everybody.
"""


def page() -> str:
    """The whole page."""
    parts = [
        _INTRODUCTION,
        table(
            ("role", "for", "permissions"),
            (
                (f"`{role.name}`", role.description, named(role.permissions))
                for role in BUILT_IN.values()
            ),
        ),
        "## Permissions\n",
        table(
            ("permission", "allows to"),
            (
                (f"`{name}`", comment.removesuffix(".").replace("|", "/"))
                for name, comment in comments("PERMISSION").items()
            ),
        ),
        _CALLS.format(
            reaches=table(
                ("reach", "the permission has to be held for"),
                ((name.replace("_", " "), text) for name, text in comments("REACH").items()),
            )
        ),
    ]
    for service in services():
        headings = ("RPC", "permissions", "reach", "counts as", *(f"`{role}`" for role in BUILT_IN))
        parts += [f"### {service.name}\n", table(headings, map(row, service.methods))]
    return "\n".join(parts)


def services() -> Iterator[ServiceDescriptor]:
    """All services, in the order of their files."""
    for path in sorted(PROTOS.glob("*_service.proto")):
        module = import_module(f"contex.v1.{path.stem}_pb2")
        yield from module.DESCRIPTOR.services_by_name.values()


def row(method: MethodDescriptor) -> Iterator[str]:
    """What an RPC takes, and which roles have that."""
    access = method.GetOptions().Extensions[access_pb2.access]
    yield f"`{method.name}`"
    yield named(access.permissions, " or ") or "none"
    reach = access_pb2.Reach.Name(access.reach).removeprefix("REACH_")
    yield "" if reach == "UNSPECIFIED" else reach.lower().replace("_", " ")
    call_class = access_pb2.CallClass.Name(access.call_class).removeprefix("CALL_CLASS_").lower()
    yield call_class + ", metered" * access.metered
    for role in BUILT_IN.values():
        allowed = not access.permissions or not role.permissions.isdisjoint(access.permissions)
        yield "yes" if allowed else ""


def named(permissions: Iterable[int], between: str = ", ") -> str:
    """Permissions as the command line names them, in the order of the protos."""
    names = map(access_pb2.Permission.Name, sorted(permissions))
    return between.join(f"`{name.removeprefix('PERMISSION_').lower()}`" for name in names)


def comments(prefix: str) -> dict[str, str]:
    """The comments of an enumeration's values, by their names in lower case."""
    text = (PROTOS / "access.proto").read_text(encoding="utf-8")
    found = re.findall(rf"((?:  //.*\n)+)  {prefix}_(\w+) = \d+;", text)
    words = {
        name.lower(): " ".join(
            line.strip().removeprefix("//").strip() for line in lines.split("\n")
        )
        for lines, name in found
    }
    if prefix == "PERMISSION":
        del words["unspecified"]
    else:
        words["none"] = words.pop("unspecified")
    return words


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    head = [f"| {' | '.join(headings)} |"]
    lines = [*head, "|" + "---|" * (head[0].count("|") - 1)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

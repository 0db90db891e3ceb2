"""The roles that are built in, and what each of them may do."""

from __future__ import annotations

from enum import IntEnum

from contex_server.access.records import Role


class Permission(IntEnum):
    """What an identity may do; `contex.v1.Permission` explains each."""

    PUBLISH = 1
    READ = 2
    LISTEN = 3
    REGISTER = 4
    MATCH = 5
    STATE = 6
    AUDIT = 7
    EXPORT = 8
    IMPORT = 9
    ERASE = 10
    ADMINISTER = 11
    OBSERVE = 12
    OPERATE = 13


_P = Permission


def _role(name: str, description: str, *permissions: Permission) -> Role:
    return Role(name, frozenset(permissions), description, built_in=True)


BUILT_IN = {
    role.name: role
    for role in (
        _role("admin", "Everything, keys and bindings included.", *Permission),
        _role(
            "operator",
            "Runs a project: how large and busy it is, retention, erasure, export, import, audit.",
            *(_P.OBSERVE, _P.OPERATE, _P.ERASE, _P.EXPORT, _P.IMPORT, _P.AUDIT),
        ),
        _role("publisher", "Publishes and deletes data.", _P.PUBLISH),
        _role(
            "consumer",
            "Has agents, and reads: events, states, matches, what its agents get.",
            *(_P.READ, _P.LISTEN, _P.REGISTER, _P.MATCH, _P.STATE),
        ),
        _role(
            "readonly",
            "Reads events, states, matches and figures; has no agents.",
            *(_P.READ, _P.STATE, _P.MATCH, _P.OBSERVE),
        ),
        _role(
            "auditor",
            "Reads the audit and what agents knew, events, states and figures.",
            *(_P.AUDIT, _P.READ, _P.STATE, _P.OBSERVE),
        ),
    )
}
"""By name, in the order in which they are listed."""

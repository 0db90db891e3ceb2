"""What is on record of access: keys, bindings, roles, tenants; as JSON in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

DEFAULT_TENANT = "default"
"""The tenant of all projects that no other tenant has."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role for projects and data keys.

    Attributes:
        projects: Globs, of the projects of the binding's tenant.
        data_keys: Globs; None: all, and events without a data key.
    """

    role: str
    projects: frozenset[str]
    data_keys: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """What an identity, or a group, may do.

    Attributes:
        tenant: The tenant for whose projects it holds; "": for all projects.
    """

    identity: str
    tenant: str
    grants: tuple[Grant, ...]
    updated_ms: int = 0

    @property
    def record_name(self) -> str:
        """Its name in the store."""
        return f"binding/{self.identity}"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key.

    Attributes:
        digest: SHA-256 of the secret, in hexadecimal. A secret has 256 random bits, so nothing
            slower is needed.
        expires_ms: Until when it is valid, in unix milliseconds; 0: for ever.
        revoked_ms: When it was revoked; 0: it was not.
        replaces: The id of the key that was rotated to it.
    """

    key_id: str
    identity: str
    tenant: str
    digest: str = field(repr=False)
    name: str = ""
    owner: str = ""
    created_by: str = ""
    created_ms: int = 0
    expires_ms: int = 0
    revoked_ms: int = 0
    replaces: str = ""

    @property
    def record_name(self) -> str:
        """Its name in the store."""
        return f"key/{self.key_id}"


@dataclass(frozen=True, slots=True)
class Role:
    """A set of permissions, by their numbers."""

    name: str
    permissions: frozenset[int]
    description: str = ""
    built_in: bool = False

    @property
    def record_name(self) -> str:
        """Its name in the store."""
        return f"role/{self.name}"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Projects, keys and identities that belong together.

    Attributes:
        projects: Globs over its projects.
        limits: What all of its projects may use together, by the fields of `UsageLimits` that are
            not 0.
        project_limits: What each of them may use, likewise.
    """

    name: str
    projects: frozenset[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)
    project_limits: Mapping[str, int] = field(default_factory=dict)
    description: str = ""

    @property
    def record_name(self) -> str:
        """Its name in the store."""
        return f"tenant/{self.name}"


Record: TypeAlias = ApiKey | Binding | Role | Tenant


class RecordDamaged(ValueError):
    """What is stored is no record."""


def encode(record: Record) -> bytes:
    """A record as it is stored."""
    match record:
        case Binding():
            fields: dict[str, Any] = {
                "identity": record.identity,
                "tenant": record.tenant,
                "grants": [
                    [
                        g.role,
                        sorted(g.projects),
                        None if g.data_keys is None else sorted(g.data_keys),
                    ]
                    for g in record.grants
                ],
                "updated_ms": record.updated_ms,
            }
        case ApiKey():
            names = ApiKey.__slots__
            fields = {name: getattr(record, name) for name in names}
        case Role():
            fields = {
                "name": record.name,
                "permissions": sorted(record.permissions),
                "description": record.description,
            }
        case Tenant():
            fields = {
                "name": record.name,
                "projects": sorted(record.projects),
                "limits": dict(record.limits),
                "project_limits": dict(record.project_limits),
                "description": record.description,
            }
    return orjson.dumps(fields)


def decode(name: str, stored: bytes) -> Record:
    """Reads what `encode` wrote under a name.

    Raises:
        RecordDamaged: It is nothing that `encode` wrote.
    """
    kind = name.partition("/")[0]
    try:
        fields = orjson.loads(stored)
        match kind:
            case "key":
                return ApiKey(**fields)
            case "binding":
                grants = tuple(
                    Grant(role, frozenset(projects), None if keys is None else frozenset(keys))
                    for role, projects, keys in fields.pop("grants")
                )
                return Binding(grants=grants, **fields)
            case "role":
                return Role(**{**fields, "permissions": frozenset(fields["permissions"])})
            case "tenant":
                return Tenant(**{**fields, "projects": frozenset(fields["projects"])})
    except (ValueError, KeyError, TypeError) as error:
        raise RecordDamaged(f"{name}: {type(error).__name__}") from error
    raise RecordDamaged(f"{name}: of a later version")

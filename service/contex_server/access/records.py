"""What is on record of access: keys, bindings, roles, tenants; as JSON in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import orjson

from contex_server.kernel.globs import Globs

T = TypeVar("T")

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
    _globs: Globs | None = field(default=None, init=False, compare=False, repr=False)

    def has(self, project: str) -> bool:
        """Whether a project, existing or not, is one of its projects."""
        if self._globs is None:
            # Kept, for each project that nobody asked for before asks all tenants.
            object.__setattr__(self, "_globs", Globs.of(self.projects))
        assert self._globs is not None
        return self._globs.fit(project)

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
    try:
        record = _read(name.partition("/")[0], orjson.loads(stored))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RecordDamaged(f"{name}: {type(error).__name__}") from None
    if record.record_name != name:
        raise RecordDamaged(f"{name}: it holds another record")
    return record


def _read(kind: str, stored: dict[str, Any]) -> Record:
    # A text in the place of a list would be its characters, "*" among them: nothing is taken that
    # `encode` has not written so.
    match kind:
        case "key":
            for name, value in stored.items():
                _the(int if name.endswith("_ms") else str, value)
            return ApiKey(**stored)
        case "binding":
            grants = tuple(
                Grant(
                    _the(str, role), _all(str, projects), None if keys is None else _all(str, keys)
                )
                for role, projects, keys in _the(list, stored.pop("grants"))
            )
            updated_ms = _the(int, stored.pop("updated_ms"))
            return Binding(grants=grants, updated_ms=updated_ms, **_texts(stored))
        case "role":
            permissions = _all(int, stored.pop("permissions"))
            name, description = (_the(str, stored.pop(part)) for part in ("name", "description"))
            if stored:
                raise TypeError
            return Role(name, permissions, description)
        case "tenant":
            projects = _all(str, stored.pop("projects"))
            limits = [_numbers(stored.pop(name)) for name in ("limits", "project_limits")]
            return Tenant(
                projects=projects, limits=limits[0], project_limits=limits[1], **_texts(stored)
            )
    raise ValueError


def _the(kind: type[T], value: object) -> T:
    if type(value) is not kind:
        raise TypeError
    return value


def _all(kind: type[T], values: object) -> frozenset[T]:
    return frozenset(_the(kind, value) for value in _the(list, values))


def _texts(stored: Mapping[str, Any]) -> dict[str, str]:
    return {name: _the(str, value) for name, value in stored.items()}


def _numbers(stored: object) -> dict[str, int]:
    return {name: _the(int, value) for name, value in _the(dict, stored).items()}

"""Who may do what. Pure: a policy is a function of the records, and never changes.

A grant allows what its role does, for the projects that its globs name among those of its binding's
tenant, and for its data keys. Grants add up; nothing forbids. What a caller may see of a project is
the union of the data keys of all grants that count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from contex_server.access.records import (
    DEFAULT_TENANT,
    ApiKey,
    Binding,
    Grant,
    Record,
    Role,
    Tenant,
)
from contex_server.access.roles import BUILT_IN, Permission
from contex_server.kernel import globs
from contex_server.kernel.principal import Credential, Principal
from contex_server.kernel.scope import EVERYTHING, Scope

K = TypeVar("K")
V = TypeVar("V")

_CACHED = 50_000
_ALL = frozenset({"*"})
_DEFAULT = Tenant(DEFAULT_TENANT)
_UNKNOWN = Tenant("")
EVERY_PERMISSION = frozenset(map(int, Permission))


class Held(NamedTuple):
    """A grant that counts for somebody, and by whose binding it does."""

    binding: Binding
    grant: Grant


class GrantDecision(NamedTuple):
    """What a grant says; `problem` is why it does not allow it, "" if it does."""

    held: Held
    problem: str


class Decision(NamedTuple):
    """Whether something is allowed.

    Attributes:
        scope: For which data keys; None: for none.
        reason: Why, in one sentence.
    """

    allowed: bool
    scope: Scope | None
    reason: str
    grants: tuple[GrantDecision, ...]


@dataclass(slots=True, eq=False)
class Policy:
    """All records that decide, as of a version.

    Attributes:
        custom_roles: Those that are not built in.
        bindings: By identity or group.
        tenants: By name.
        is_whole: Whether all tenants are known. While one can't be read, the projects that no other
            tenant has may be its own: they are nobody's, and not those of "default".
    """

    custom_roles: Mapping[str, Role] = field(default_factory=dict)
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    is_whole: bool = True
    _scopes: dict[tuple[Principal, frozenset[int], str], Scope | None] = field(
        default_factory=dict, init=False
    )
    _tenants_of: dict[str, Tenant] = field(default_factory=dict, init=False)

    def go_on_from(self, before: Policy) -> None:
        """Takes over which tenants have which projects, if tenants are the same: to find that out
        anew takes long where there are many."""
        if (self.tenants, self.is_whole) == (before.tenants, before.is_whole):
            self._tenants_of = before._tenants_of

    @property
    def roles(self) -> dict[str, Role]:
        """All roles, those that are built in first."""
        return {**BUILT_IN, **self.custom_roles}

    def role(self, name: str) -> Role | None:
        """A role by its name."""
        return BUILT_IN.get(name) or self.custom_roles.get(name)

    def permissions(self, grant: Grant) -> frozenset[int]:
        """What a grant's role allows; nothing, if there is no such role any more."""
        role = self.role(grant.role)
        return frozenset() if role is None else role.permissions

    def tenant_of(self, project: str) -> Tenant:
        """The tenant that has a project, existing or not."""
        tenant = self._tenants_of.get(project)
        if tenant is None:
            rest = self.tenants.get(DEFAULT_TENANT, _DEFAULT) if self.is_whole else _UNKNOWN
            tenant = next((t for t in self.tenants.values() if t.has(project)), rest)
            _remember(self._tenants_of, project, tenant)
        return tenant

    def tenant_name(self, principal: Principal) -> str:
        """The tenant that somebody belongs to; "" if that is none."""
        binding = self.bindings.get(principal.identity)
        if binding is not None:
            return binding.tenant
        if principal.tenant:
            return principal.tenant
        return next((held.binding.tenant for held in self.held_by(principal)), "")

    def held_by(self, principal: Principal) -> Iterator[Held]:
        """All grants that count for somebody."""
        for name in (principal.identity, *sorted(principal.groups)):
            binding = self.bindings.get(name)
            # A key of one tenant does not prove the identity of another one's.
            if binding is not None and principal.tenant in ("", binding.tenant):
                for grant in binding.grants:
                    yield Held(binding, grant)

    def scope(
        self, principal: Principal, permissions: frozenset[int], project: str
    ) -> Scope | None:
        """The data keys of a project that somebody has one of some permissions for.

        Args:
            permissions: Empty: any.

        Returns:
            None if it has none of them for any.
        """
        if principal.credential is Credential.NONE:
            return EVERYTHING  # Access is off.
        question = principal, permissions, project
        try:
            return self._scopes[question]
        except KeyError:
            pass
        scope = _union(
            held.grant
            for held in self.held_by(principal)
            if not self._problem(held, permissions, project)
        )
        _remember(self._scopes, question, scope)
        return scope

    def knows(self, principal: Principal, project: str) -> bool:
        """Whether somebody has any right in a project."""
        return self.scope(principal, frozenset(), project) is not None

    def whole_tenants(self, principal: Principal, permission: int) -> dict[str, frozenset[int]]:
        """The tenants for all of which somebody has a permission, with all that it may do there; ""
        stands for the whole deployment."""
        if principal.credential is Credential.NONE:
            return {"": EVERY_PERMISSION}  # Access is off.
        found: dict[str, frozenset[int]] = {}
        for binding, grant in self.held_by(principal):
            if grant.projects >= _ALL and grant.data_keys is None:
                had = found.get(binding.tenant, frozenset())
                found[binding.tenant] = had | self.permissions(grant)
        return {tenant: may for tenant, may in found.items() if permission in may}

    def decide(
        self,
        principal: Principal,
        permissions: frozenset[int],
        project: str,
        *,
        data_key: str | None = None,
        whole: bool = False,
    ) -> Decision:
        """Decides, and says why.

        Args:
            permissions: One of them is enough.
            data_key: The data key that it is about; None: any.
            whole: Whether it takes the right to all data keys.
        """
        if principal.credential is Credential.NONE:
            return Decision(True, EVERYTHING, "access is off: everybody may do everything", ())
        grants = tuple(
            GrantDecision(held, self._problem(held, permissions, project, data_key))
            for held in self.held_by(principal)
        )
        scope = self.scope(principal, permissions, project)
        names = " or ".join(sorted(Permission(number).name for number in permissions))
        if not grants:
            return Decision(False, None, f"{principal.identity!r} has no grants", grants)
        if scope is None or (data_key is not None and not scope.admits(data_key)):
            what = f"{names} in {project!r}" if names else f"anything in {project!r}"
            about = f" for {data_key!r}" if data_key else ""
            return Decision(False, scope, f"no grant allows {what}{about}", grants)
        if whole and not scope.is_open:
            reason = f"no grant allows {names} for all data keys of {project!r}"
            return Decision(False, scope, reason, grants)
        by = ", ".join(
            f"{d.held.grant.role} of {d.held.binding.identity!r}" for d in grants if not d.problem
        )
        return Decision(True, scope, f"allowed by {by}", grants)

    def _problem(
        self,
        held: Held,
        permissions: frozenset[int],
        project: str,
        data_key: str | None = None,
    ) -> str:
        """Why a grant does not allow one of some permissions; "" if it does."""
        binding, grant = held
        role = self.role(grant.role)
        if role is None:
            return f"there is no role {grant.role!r}"
        if permissions and not permissions & role.permissions:
            names = " or ".join(sorted(Permission(number).name for number in permissions))
            return f"the role {grant.role!r} does not have {names}"
        if binding.tenant and self.tenant_of(project).name != binding.tenant:
            return f"{project!r} is no project of the tenant {binding.tenant!r}"
        if not globs.match(grant.projects, project):
            return f"{project!r} does not fit its projects"
        if data_key is not None and not Scope(grant.data_keys).admits(data_key):
            return f"{data_key!r} does not fit its data keys"
        return ""


def is_administered(records: Iterable[Record], now_ms: int) -> bool:
    """Whether somebody administers the deployment, by a valid key, or by a token or certificate."""
    some = [*records]
    roles = {**BUILT_IN, **{one.name: one for one in some if isinstance(one, Role)}}
    administrators = {
        binding.identity
        for binding in some
        if isinstance(binding, Binding) and not binding.tenant
        for grant in binding.grants
        if grant.projects >= _ALL and grant.data_keys is None
        if (role := roles.get(grant.role)) and Permission.ADMINISTER in role.permissions
    }
    if any(":" in identity for identity in administrators):
        return True
    return any(
        isinstance(key, ApiKey)
        and key.identity in administrators
        and not key.tenant
        and not key.revoked_ms
        and not 0 < key.expires_ms <= now_ms
        for key in some
    )


def _union(grants: Iterable[Grant]) -> Scope | None:
    keys: frozenset[str] = frozenset()
    found = False
    for grant in grants:
        if grant.data_keys is None:
            return EVERYTHING
        keys, found = keys | grant.data_keys, True
    return Scope(keys) if found else None


def _remember(cache: dict[K, V], question: K, answer: V) -> None:
    """Keeps an answer. What is asked is bounded, and a policy lasts until the next change."""
    if len(cache) >= _CACHED:
        cache.clear()
    cache[question] = answer

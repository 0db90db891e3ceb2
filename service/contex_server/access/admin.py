"""Keys, bindings, roles and tenants: what may be changed, and by whom.

Nobody gives away more than they have. Whoever administers a tenant rules within it: over identities
whose names begin with the tenant's, its projects, and no further. Who administers the deployment
rules over all, and alone over roles, tenants, and identities of tokens, groups and certificates.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import random
from secrets import token_hex
from typing import NamedTuple, TypeVar

from contex_server.access.authenticator import check_valid
from contex_server.access.credentials import Secret, new_key
from contex_server.access.directory import GUARD, Directory
from contex_server.access.policy import Policy, is_administered
from contex_server.access.records import (
    DEFAULT_TENANT,
    ApiKey,
    Binding,
    Grant,
    Record,
    Role,
    Tenant,
    encode,
)
from contex_server.access.roles import BUILT_IN, Permission
from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.globs import overlap
from contex_server.kernel.model import Origin
from contex_server.kernel.principal import Principal
from contex_server.kernel.slices import sliced
from contex_server.log.access import AccessStore, Write

R = TypeVar("R")

_TRIES, _PAUSE_S = 20, 0.005
_CHANGES = f"{GUARD}changes"
"""Another one after each change."""

Changes = Mapping[str, Record | None]
"""Records by name; None: there is to be none."""


class Caller(NamedTuple):
    """Who changes something."""

    principal: Principal
    origin: Origin


class IssuedKey(NamedTuple):
    """A new key, with its secret; and the one that it replaces, if it does."""

    key: ApiKey
    secret: Secret
    replaced: ApiKey | None = None


@dataclass(frozen=True, slots=True)
class Admin:
    """Changes records."""

    directory: Directory
    store: AccessStore
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def policy(self) -> Policy:
        """What holds."""
        return self.directory.policy

    def administered(self, caller: Caller) -> dict[str, frozenset[int]]:
        """The tenants that somebody administers, with what it may give away there; "" stands for
        the deployment.

        Raises:
            ContexError: PERMISSION_DENIED, if there are none.
        """
        found = self.policy.whole_tenants(caller.principal, Permission.ADMINISTER)
        if not found:
            raise _denied(caller, "administer")
        return found

    def is_visible(self, caller: Caller, tenant: str) -> bool:
        """Whether somebody administers a tenant."""
        found = self.administered(caller)
        return "" in found or tenant in found

    def check_administers_all(self, caller: Caller) -> None:
        """Checks that somebody administers the deployment.

        Raises:
            ContexError: PERMISSION_DENIED.
        """
        self._check_no_climbing(caller, "", ())

    async def create_key(
        self, caller: Caller, key: ApiKey, ttl_ms: int, grants: tuple[Grant, ...]
    ) -> IssuedKey:
        """Creates a key of an identity, with grants if some are given.

        Args:
            key: Its identity, tenant, name and owner.
            ttl_ms: How long it is valid; 0: for ever.

        Raises:
            ContexError: PERMISSION_DENIED, INVALID_FIELD.
        """
        secret, now_ms = new_key(), _now_ms()

        def change() -> Changes:
            tenant = self._tenant(caller, key.tenant, key.identity)
            check_identity(key.identity, tenant)
            new = replace(
                key,
                key_id=secret.key_id,
                tenant=tenant,
                digest=secret.digest,
                created_by=caller.principal.identity,
                created_ms=now_ms,
                expires_ms=now_ms + ttl_ms if ttl_ms else 0,
            )
            self._check_owned(caller, key.identity)
            binding = self.policy.bindings.get(key.identity)
            changes: dict[str, Record | None] = {new.record_name: new}
            if grants:
                binding = Binding(key.identity, tenant, grants, now_ms)
                self._check_grants(grants, tenant)
                changes[binding.record_name] = binding
            self._check_no_climbing(caller, tenant, () if binding is None else binding.grants)
            return changes

        detail = f"created key {secret.key_id} of {key.identity!r}"
        if grants:
            detail += f": {_told(grants)}"
        written = await self._write(caller, change, detail)
        return IssuedKey(_the(ApiKey, written), secret)

    async def rotate_key(
        self, caller: Caller, key_id: str, overlap_ms: int, ttl_ms: int | None
    ) -> IssuedKey:
        """Creates a key in the place of another, which is valid for a while longer.

        Args:
            ttl_ms: How long the new one is valid; None: as long as the old one was to be.

        Raises:
            ContexError: PERMISSION_DENIED, ACCESS_NOT_FOUND, INVALID_FIELD.
        """
        secret, now_ms = new_key(), _now_ms()

        def change() -> Changes:
            old = self._key(caller, key_id)
            if old.revoked_ms or 0 < old.expires_ms <= now_ms:
                raise invalid_field("key_id", "is no longer valid: create a key instead")
            binding = self.policy.bindings.get(old.identity)
            self._check_no_climbing(caller, old.tenant, () if binding is None else binding.grants)
            lasts_ms = old.expires_ms - old.created_ms if old.expires_ms else 0
            lasts_ms = lasts_ms if ttl_ms is None else ttl_ms
            until_ms = now_ms + overlap_ms
            ending = replace(old, expires_ms=min(old.expires_ms or until_ms, until_ms))
            new = replace(
                old,
                key_id=secret.key_id,
                digest=secret.digest,
                created_by=caller.principal.identity,
                created_ms=now_ms,
                expires_ms=now_ms + lasts_ms if lasts_ms else 0,
                replaces=old.key_id,
            )
            return {new.record_name: new, ending.record_name: ending}

        written = await self._write(caller, change, f"rotated key {key_id} to {secret.key_id}")
        new, ending = (record for record in written if isinstance(record, ApiKey))
        return IssuedKey(new, secret, ending)

    async def revoke_key(self, caller: Caller, key_id: str) -> ApiKey:
        """Ends the validity of a key.

        Raises:
            ContexError: PERMISSION_DENIED, ACCESS_NOT_FOUND.
        """
        now_ms = _now_ms()

        def change() -> Changes:
            key = self._key(caller, key_id)
            revoked = key if key.revoked_ms else replace(key, revoked_ms=now_ms)
            return {key.record_name: revoked}

        return _the(ApiKey, await self._write(caller, change, f"revoked key {key_id}"))

    async def set_binding(self, caller: Caller, binding: Binding) -> Binding:
        """Sets what an identity or a group may do.

        Raises:
            ContexError: PERMISSION_DENIED, INVALID_FIELD.
        """
        now_ms = _now_ms()

        def change() -> Changes:
            tenant = self._tenant(caller, binding.tenant, binding.identity, "binding.tenant")
            self._check_bindable(caller, binding.identity, tenant)
            # What is taken from it is given back by whoever might have given it.
            self._check_owned(caller, binding.identity)
            self._check_grants(binding.grants, tenant, "binding.grants")
            self._check_no_climbing(caller, tenant, binding.grants)
            new = replace(binding, tenant=tenant, updated_ms=now_ms)
            return {new.record_name: new}

        detail = f"bound {binding.identity!r}: {_told(binding.grants) or 'nothing'}"
        return _the(Binding, await self._write(caller, change, detail))

    async def delete_binding(self, caller: Caller, identity: str) -> None:
        """Takes all grants away from an identity.

        Raises:
            ContexError: PERMISSION_DENIED, ACCESS_NOT_FOUND.
        """

        def change() -> Changes:
            self.administered(caller)  # Who may not at all does not learn what there is.
            binding = self.policy.bindings.get(identity)
            if binding is None or not self.is_visible(caller, binding.tenant):
                raise _not_found("binding", identity)
            return {binding.record_name: None}

        await self._write(caller, change, f"took all grants from {identity!r}")

    async def set_role(self, caller: Caller, role: Role) -> Role:
        """Creates or changes a role.

        Raises:
            ContexError: PERMISSION_DENIED, INVALID_FIELD.
        """

        def change() -> Changes:
            self.check_administers_all(caller)
            if role.name in BUILT_IN:
                raise invalid_field("role.name", f"{role.name!r} is built in")
            # It may be the caller's own.
            self._check_has(caller, "", role.permissions)
            return {role.record_name: role}

        names = ", ".join(Permission(number).name for number in sorted(role.permissions))
        return _the(Role, await self._write(caller, change, f"set role {role.name!r}: {names}"))

    async def delete_role(self, caller: Caller, name: str) -> None:
        """Deletes a role.

        Raises:
            ContexError: PERMISSION_DENIED, INVALID_FIELD, ACCESS_NOT_FOUND, ACCESS_IN_USE.
        """

        def change() -> Changes:
            self.check_administers_all(caller)
            if name in BUILT_IN:
                raise invalid_field("name", f"{name!r} is built in")
            role = self.policy.custom_roles.get(name)
            if role is None:
                raise _not_found("role", name)
            for binding in self.policy.bindings.values():
                if any(grant.role == name for grant in binding.grants):
                    raise _in_use("role", name, binding.identity)
            return {role.record_name: None}

        await self._write(caller, change, f"deleted role {name!r}")

    async def set_tenant(self, caller: Caller, tenant: Tenant) -> Tenant:
        """Creates or changes a tenant.

        Raises:
            ContexError: PERMISSION_DENIED, INVALID_FIELD.
        """

        def change() -> Changes:
            self.check_administers_all(caller)
            if tenant.name == DEFAULT_TENANT and tenant.projects:
                problem = "the default tenant has all projects that no other tenant has"
                raise invalid_field("tenant.projects", problem)
            return {tenant.record_name: tenant}

        async def check() -> None:
            self.check_administers_all(caller)
            await _check_apart(tenant, self.policy.tenants.values())

        limits = ", ".join(f"{name} {value}" for name, value in sorted(tenant.limits.items()))
        of_each = ", ".join(f"{name} {n}" for name, n in sorted(tenant.project_limits.items()))
        detail = (
            f"set tenant {tenant.name!r}: projects {', '.join(sorted(tenant.projects)) or 'none'}"
        )
        detail += f"; limits {limits or 'none'}; of each project {of_each or 'none'}"
        return _the(Tenant, await self._write(caller, change, detail, check))

    async def delete_tenant(self, caller: Caller, name: str) -> None:
        """Deletes a tenant.

        Raises:
            ContexError: PERMISSION_DENIED, ACCESS_NOT_FOUND, ACCESS_IN_USE.
        """

        def change() -> Changes:
            self.check_administers_all(caller)
            tenant = self.policy.tenants.get(name)
            if tenant is None:
                raise _not_found("tenant", name)
            for binding in self.policy.bindings.values():
                if binding.tenant == name:
                    raise _in_use("tenant", name, binding.identity)
            for key in self.directory.all_keys():
                if key.tenant == name and not key.revoked_ms:
                    raise _in_use("tenant", name, f"key {key.key_id}")
            return {tenant.record_name: None}

        await self._write(caller, change, f"deleted tenant {name!r}")

    async def _write(
        self,
        caller: Caller,
        change: Callable[[], Changes],
        detail: str,
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> list[Record]:
        """Writes what `change` makes of the newest records; returns what holds then.

        What a change rests on is more than what it writes: the caller's rights, a tenant that is
        there. So all changes of the deployment are one after the other: each is made of all those
        before it, or again.
        """
        note = encode_action(AuditAction.ADMINISTERED, caller.origin, detail)
        async with self._one_at_a_time:
            for attempt in range(_TRIES):
                await self.directory.refresh()
                before = self.directory.stored(_CHANGES)
                check_valid(caller.principal, self.directory)
                if check is not None:
                    await check()
                changes = change()
                self._check_administered(changes)
                writes = {_CHANGES: Write(before, token_hex(8).encode())}
                for name, record in changes.items():
                    after = b"" if record is None else encode(record)
                    writes[name] = Write(self.directory.stored(name), after)
                if await self.store.write(writes, note) is not None:
                    await self.directory.refresh()
                    return [record for record in changes.values() if record is not None]
                await asyncio.sleep(random() * _PAUSE_S * attempt)
        raise ContexError(
            Reason.OVERLOADED, "others keep changing the same records", retry_after_ms=100
        )

    def _check_administered(self, changes: Changes) -> None:
        """Checks that somebody is left who administers the deployment, if somebody does."""
        now_ms = _now_ms()
        keys, policy = self.directory.all_keys(), self.policy
        some: list[Record] = [*keys, *policy.bindings.values(), *policy.custom_roles.values()]
        records = {record.record_name: record for record in some}
        after = {name: one for name, one in {**records, **changes}.items() if one is not None}
        if is_administered(records.values(), now_ms) and not is_administered(
            after.values(), now_ms
        ):
            raise ContexError(
                Reason.ACCESS_IN_USE,
                "this is the last administrator of the deployment: nobody else could change rights",
                metadata={"kind": "administrator", "name": "", "used_by": "the deployment"},
            )

    def _tenant(self, caller: Caller, tenant: str, identity: str, field: str = "tenant") -> str:
        """The tenant that is meant, which somebody has to administer.

        Where none is given: that of the identity's name, or the only one that the caller
        administers.
        """
        found = self.administered(caller)
        prefix, has_prefix, _ = identity.partition("/")
        if not tenant and has_prefix and ":" not in identity:
            tenant = prefix
        if not tenant and "" not in found:
            if len(found) > 1:
                raise invalid_field(field, f"must be one of {', '.join(sorted(found))}")
            (tenant,) = found
        if "" not in found and tenant not in found:
            raise _denied(caller, f"administer the tenant {tenant!r}")
        if tenant and tenant != DEFAULT_TENANT and tenant not in self.policy.tenants:
            raise invalid_field(field, f"there is no tenant {tenant!r}")
        return tenant

    def _key(self, caller: Caller, key_id: str) -> ApiKey:
        self.administered(caller)  # Who may not at all does not learn what there is.
        key = self.directory.key(key_id)
        if key is None or not self.is_visible(caller, key.tenant):
            raise _not_found("key", key_id)
        return key

    def _check_bindable(self, caller: Caller, identity: str, tenant: str) -> None:
        if ":" not in identity:
            check_identity(identity, tenant, "binding.identity")
        elif "" not in self.administered(caller):
            raise _denied(caller, "bind identities of tokens, groups and certificates")

    def _check_owned(self, caller: Caller, identity: str) -> None:
        """Checks that an identity is nobody's, or of what somebody administers."""
        binding = self.policy.bindings.get(identity)
        tenants = {key.tenant for key in self.directory.all_keys() if key.identity == identity}
        for tenant in tenants if binding is None else tenants | {binding.tenant}:
            self._check_no_climbing(caller, tenant, ())

    def _check_grants(self, grants: Iterable[Grant], tenant: str, field: str = "grants") -> None:
        """Checks that grants can hold: for roles that there are, and projects of the tenant."""
        owner = self.policy.tenants.get(tenant)
        for index, grant in enumerate(grants):
            if self.policy.role(grant.role) is None:
                raise invalid_field(f"{field}[{index}].role", f"there is no role {grant.role!r}")
            if owner is None or tenant == DEFAULT_TENANT:
                continue
            for glob in sorted(grant.projects):
                if not any(overlap(glob, theirs) for theirs in owner.projects):
                    problem = f"{glob!r} has no project of the tenant {tenant!r}"
                    raise invalid_field(f"{field}[{index}].projects", problem)

    def _check_no_climbing(self, caller: Caller, tenant: str, grants: Iterable[Grant]) -> None:
        """Checks that somebody has all that it gives away."""
        found = self.administered(caller)
        if "" not in found and tenant not in found:
            raise _denied(caller, f"administer {repr(tenant) if tenant else 'the deployment'}")
        for grant in grants:
            self._check_has(caller, tenant, self.policy.permissions(grant))

    def _check_has(self, caller: Caller, tenant: str, permissions: frozenset[int]) -> None:
        found = self.administered(caller)
        missing = permissions - found.get("", frozenset()) - found.get(tenant, frozenset())
        if missing:
            names = ", ".join(Permission(number).name for number in sorted(missing))
            raise _denied(caller, f"give away {names}, which it does not have itself")


def check_identity(identity: str, tenant: str, field: str = "identity") -> None:
    """Checks the name of an identity that keys prove.

    Raises:
        ContexError: INVALID_FIELD.
    """
    if ":" in identity:
        raise invalid_field(field, "must not contain ':', which names of tokens have")
    prefix = f"{tenant}/" if tenant and tenant != DEFAULT_TENANT else ""
    if prefix and not (identity.startswith(prefix) and len(identity) > len(prefix)):
        raise invalid_field(field, f"must begin with {prefix!r}, for it belongs to that tenant")
    if not prefix and "/" in identity:
        raise invalid_field(
            field, "must not contain '/', which names of a tenant's identities have"
        )


def _told(grants: Iterable[Grant]) -> str:
    """Grants for the audit."""
    texts = []
    for grant in grants:
        keys = "all" if grant.data_keys is None else ", ".join(sorted(grant.data_keys))
        projects = ", ".join(sorted(grant.projects))
        texts.append(f"{grant.role} in {projects} for data keys {keys}")
    return "; ".join(texts)


async def _check_apart(tenant: Tenant, others: Iterable[Tenant]) -> None:
    projects = sorted(tenant.projects)
    async for other in sliced([other for other in others if other.name != tenant.name]):
        for theirs in sorted(other.projects):
            for mine in projects:
                if overlap(mine, theirs):
                    problem = f"{mine!r} has projects of {theirs!r}, the tenant {other.name!r}"
                    raise invalid_field("tenant.projects", problem)


def _the(kind: type[R], records: list[Record]) -> R:
    return next(record for record in records if isinstance(record, kind))


def _denied(caller: Caller, what: str) -> ContexError:
    identity = caller.principal.identity
    return ContexError(
        Reason.PERMISSION_DENIED, f"{identity!r} may not {what}", metadata={"identity": identity}
    )


def _not_found(kind: str, name: str) -> ContexError:
    return ContexError(
        Reason.ACCESS_NOT_FOUND,
        f"there is no {kind} {name!r}, or it is not yours to administer",
        metadata={"kind": kind, "name": name},
    )


def _in_use(kind: str, name: str, used_by: str) -> ContexError:
    return ContexError(
        Reason.ACCESS_IN_USE,
        f"the {kind} {name!r} is in use, by {used_by}",
        metadata={"kind": kind, "name": name, "used_by": used_by},
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

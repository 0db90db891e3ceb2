"""Methods of `contex.v1.AccessService`: who may do what, and how much."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from contex.lazy import access as values
from contex.lazy import access_service_pb2, access_service_pb2_grpc, wire

if TYPE_CHECKING:
    from contex.access import (
        ApiKey,
        Binding,
        Decision,
        Grant,
        NewKey,
        Permission,
        Role,
        RotatedKey,
        Tenant,
        UsageLimits,
        UsageReport,
        WhoAmI,
    )

    from .calls import AsyncCalls


class AsyncAccessService:
    """Who may do what, and how much: `access` of a client.

    Changes hold on every server within 2 seconds. Most of these calls take the permission
    `administer`.
    """

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    @property
    def _access(self) -> access_service_pb2_grpc.AccessServiceAsyncStub:
        return self._calls._connection.stub(access_service_pb2_grpc.AccessServiceStub)

    async def who_am_i(self) -> WhoAmI:
        """Returns who the caller is, how that was proved, and what it may do.

        Raises:
            Unauthenticated: It has no valid credentials.
        """
        request = access_service_pb2.WhoAmIRequest()
        return values.who_am_i(await self._calls._once(self._access.WhoAmI, request))

    async def can(
        self,
        what: Permission | str,
        project: str,
        *,
        data_key: str = "",
        identity: str = "",
        groups: Iterable[str] = (),
    ) -> Decision:
        """Returns whether something is allowed, and what each grant says. True where it is.

        Args:
            what: A permission, such as "read", or an RPC, such as "GetState".
            project: In which project.
            data_key: With which data key; by default with any.
            identity: Whom it is about; by default the caller.
            groups: Groups of the identity to count as well, as "group:<issuer>:<group>".
        """
        request = values.question(
            what,
            identity=identity,
            project=project,
            data_key=data_key,
            groups=wire.several(groups, "groups"),
        )
        return values.decision(await self._calls._once(self._access.CheckAccess, request))

    async def create_key(
        self,
        identity: str,
        *,
        tenant: str = "",
        name: str = "",
        owner: str = "",
        ttl: float | timedelta | None = None,
        grants: Iterable[Grant] = (),
    ) -> NewKey:
        """Creates an API key; `secret_key` of what it returns can't be shown again.

        The call is never repeated by itself: each creates another key.

        Args:
            identity: Whom it stands for: a plain name.
            tenant: The tenant that it belongs to; by default none, or the caller's.
            name: What it is for.
            owner: Who answers for it.
            ttl: Seconds for which it is valid; by default for ever.
            grants: What the identity may do from now on; by default that stays as it is.
        """
        request = wire.message(
            access_service_pb2.CreateKeyRequest,
            identity=identity,
            tenant=tenant,
            name=name,
            owner=owner,
            ttl=None if ttl is None else wire.duration(ttl, "ttl"),
            grants=values.to_grants(grants),
        )
        return values.new_key(await self._calls._once(self._access.CreateKey, request))

    def keys(
        self, identity: str = "", *, tenant: str = "", page_size: int = 100
    ) -> AsyncIterator[ApiKey]:
        """Iterates over keys in the order of their ids, fetching page after page.

        Args:
            identity: Only its keys; by default all.
            tenant: Only this tenant's.
        """
        request = wire.message(
            access_service_pb2.ListKeysRequest,
            identity=identity,
            tenant=tenant,
            page_size=page_size,
        )
        return self._calls._listed(
            lambda: self._access.ListKeys, request, lambda page: map(values.api_key, page.keys)
        )

    async def rotate_key(
        self,
        key_id: str,
        *,
        overlap: float | timedelta | None = None,
        ttl: float | timedelta | None = None,
    ) -> RotatedKey:
        """Creates another key in the place of one.

        Args:
            key_id: The key to replace.
            overlap: Seconds for which that is valid yet, up to 90 days; by default one day.
            ttl: Seconds for which the new one is valid; by default as long as the old one was.

        Raises:
            AccessNotFound: There is no such key.
        """
        request = wire.message(
            access_service_pb2.RotateKeyRequest,
            key_id=key_id,
            overlap=None if overlap is None else wire.duration(overlap, "overlap"),
            ttl=None if ttl is None else wire.duration(ttl, "ttl"),
        )
        return values.rotated_key(await self._calls._once(self._access.RotateKey, request))

    async def revoke_key(self, key_id: str) -> ApiKey:
        """Ends the validity of a key; calls and streams that it opened end within 2 seconds.

        Raises:
            AccessNotFound: There is no such key.
        """
        request = wire.message(access_service_pb2.RevokeKeyRequest, key_id=key_id)
        response = await self._calls._repeated(self._access.RevokeKey, request)
        return values.api_key(response.key)

    async def set_binding(
        self, identity: str, grants: Iterable[Grant], *, tenant: str = ""
    ) -> Binding:
        """Sets what an identity, or a group, may do, replacing its grants."""
        request = wire.message(
            access_service_pb2.SetBindingRequest,
            binding=wire.message(
                access_service_pb2.Binding,
                identity=identity,
                tenant=tenant,
                grants=values.to_grants(grants),
            ),
        )
        response = await self._calls._repeated(self._access.SetBinding, request)
        return values.binding(response.binding)

    def bindings(self, *, tenant: str = "", page_size: int = 100) -> AsyncIterator[Binding]:
        """Iterates over bindings in the order of their identities.

        Args:
            tenant: Only this tenant's; by default all.
        """
        request = wire.message(
            access_service_pb2.ListBindingsRequest, tenant=tenant, page_size=page_size
        )
        return self._calls._listed(
            lambda: self._access.ListBindings,
            request,
            lambda page: map(values.binding, page.bindings),
        )

    async def delete_binding(self, identity: str) -> None:
        """Takes all grants away from an identity.

        Raises:
            AccessNotFound: It has none.
        """
        request = wire.message(access_service_pb2.DeleteBindingRequest, identity=identity)
        await self._calls._once(self._access.DeleteBinding, request)

    async def set_role(
        self, name: str, permissions: Iterable[Permission | str], *, description: str = ""
    ) -> Role:
        """Creates or changes a role. Those that are built in can't be changed."""
        request = wire.message(
            access_service_pb2.SetRoleRequest,
            role=wire.message(
                access_service_pb2.Role,
                name=name,
                permissions=[
                    values.permission_number(one, "permissions")
                    for one in wire.several(permissions, "permissions")
                ],
                description=description,
            ),
        )
        response = await self._calls._repeated(self._access.SetRole, request)
        return values.role(response.role)

    async def roles(self) -> tuple[Role, ...]:
        """Returns all roles, those that are built in first."""
        request = access_service_pb2.ListRolesRequest()
        response = await self._calls._once(self._access.ListRoles, request)
        return tuple(map(values.role, response.roles))

    async def delete_role(self, name: str) -> None:
        """Deletes a role.

        Raises:
            AccessNotFound: There is no such role.
            AccessInUse: A binding names it.
        """
        request = wire.message(access_service_pb2.DeleteRoleRequest, name=name)
        await self._calls._once(self._access.DeleteRole, request)

    async def set_tenant(
        self,
        name: str,
        projects: Iterable[str] = (),
        *,
        limits: UsageLimits | None = None,
        project_limits: UsageLimits | None = None,
        description: str = "",
    ) -> Tenant:
        """Creates a tenant, or replaces what it is.

        Args:
            projects: Globs over its projects.
            limits: What all of its projects may use together; by default as much as they like.
            project_limits: What each of them may use.
            description: What it is.
        """
        request = wire.message(
            access_service_pb2.SetTenantRequest,
            tenant=wire.message(
                access_service_pb2.Tenant,
                name=name,
                projects=wire.several(projects, "projects"),
                limits=values.to_limits(limits),
                project_limits=values.to_limits(project_limits),
                description=description,
            ),
        )
        response = await self._calls._repeated(self._access.SetTenant, request)
        return values.tenant(response.tenant)

    async def tenants(self) -> tuple[Tenant, ...]:
        """Returns the tenants that the caller administers, in the order of their names."""
        request = access_service_pb2.ListTenantsRequest()
        response = await self._calls._once(self._access.ListTenants, request)
        return tuple(map(values.tenant, response.tenants))

    async def delete_tenant(self, name: str) -> None:
        """Deletes a tenant; its projects become those of "default".

        Raises:
            AccessNotFound: There is no such tenant.
            AccessInUse: A key or a binding belongs to it.
        """
        request = wire.message(access_service_pb2.DeleteTenantRequest, name=name)
        await self._calls._once(self._access.DeleteTenant, request)

    async def usage(self, tenant: str | None = None, *, project: str | None = None) -> UsageReport:
        """Returns what a tenant, or a project, uses, beside its limits.

        Raises:
            ValueError: Not exactly one of the two is given.
        """
        request = wire.message(
            access_service_pb2.GetUsageRequest, **wire.exactly_one(tenant=tenant, project=project)
        )
        return values.usage_report(await self._calls._once(self._access.GetUsage, request))

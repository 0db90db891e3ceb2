"""AccessService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from contex.v1 import access_service_pb2 as pb

from contex_server.access.admin import Caller
from contex_server.access.records import DEFAULT_TENANT, ApiKey, Tenant
from contex_server.access.roles import Permission
from contex_server.access.rules import Reach, Rule
from contex_server.api.access import checks, messages
from contex_server.api.shared import cursors, fields
from contex_server.api.shared.cursors import Token
from contex_server.api.shared.servicer import Servicer
from contex_server.kernel.call import Call
from contex_server.kernel.errors import Checks, ContexError, Reason, invalid_field
from contex_server.kernel.principal import Credential, Principal
from contex_server.kernel.protobuf import timestamp
from contex_server.kernel.slices import sliced

_MOST_GROUPS = 32


def _caller(call: Call) -> Caller:
    return Caller(call.principal, call.origin)


def _sees(administered: Container[str], asked: str) -> Callable[[str], bool]:
    """Whether a list has what belongs to a tenant; "" of `asked` stands for all of them."""
    if not asked:
        return lambda tenant: "" in administered or tenant in administered
    return lambda tenant: tenant == asked and ("" in administered or tenant in administered)


class AccessServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["AccessService"]

    async def who_am_i(self, request: pb.WhoAmIRequest, call: Call) -> pb.WhoAmIResponse:
        principal, policy = call.principal, self._rooms.access.directory.policy
        expires_s = principal.expires_s
        return pb.WhoAmIResponse(
            identity=principal.identity,
            tenant=policy.tenant_name(principal),
            credential=int(principal.credential),  # type: ignore[arg-type]
            key_id=principal.key_id,
            expire_time=None if expires_s is None else timestamp(int(expires_s * 1000)),
            groups=sorted(principal.groups),
            grants=[messages.grant_message(held.grant) for held in policy.held_by(principal)],
        )

    async def check_access(
        self, request: pb.CheckAccessRequest, call: Call
    ) -> pb.CheckAccessResponse:
        what = request.WhichOneof("what")
        with Checks() as check:
            principal = check(self._asked_about, request, call)
            project = check(fields.project, request.project)
            if request.data_key:
                check(fields.data_key, request.data_key)
            if what == "permission":
                permissions = frozenset(
                    (check(checks.permission, request.permission, "permission"),)
                )
                whole = False
            elif what == "method":
                rule = check(self._rule, request.method)
            else:
                check.refuse("what", "a permission or a method is required")
        if what == "method":
            permissions, whole = rule.permissions, rule.reach is Reach.PROJECT
        # Of many groups there may be a thousand grants.
        decision = await asyncio.to_thread(
            self._rooms.access.directory.policy.decide,
            principal,
            permissions,
            project,
            data_key=request.data_key or None,
            whole=whole,
        )
        keys = decision.scope.data_keys if decision.scope is not None else None
        return pb.CheckAccessResponse(
            allowed=decision.allowed,
            reason=decision.reason,
            data_keys=sorted(keys or ()),
            grants=map(messages.decision_message, decision.grants),
        )

    def _asked_about(self, request: pb.CheckAccessRequest, call: Call) -> Principal:
        with Checks() as check:
            name = check(checks.optional_identity, request.identity)
            check(fields.check_count, "groups", len(request.groups), _MOST_GROUPS)
            groups = frozenset(
                check(checks.group, group, f"groups[{index}]")
                for index, group in enumerate(request.groups[:_MOST_GROUPS])
            )
        own = call.principal.identity
        if name in ("", own) and not groups:
            return call.principal
        asked = groups if name in ("", own) else groups | {name}
        administered = self._rooms.access.admin.administered(_caller(call))
        bindings = self._rooms.access.directory.policy.bindings
        for one in sorted(asked):
            binding = bindings.get(one)
            if "" not in administered and (binding is None or binding.tenant not in administered):
                raise ContexError(
                    Reason.ACCESS_NOT_FOUND,
                    f"there is no binding {one!r}, or it is not yours to administer",
                    metadata={"kind": "binding", "name": one},
                )
        return Principal(name or own, credential=Credential.TOKEN, groups=groups)

    def _rule(self, method: str) -> Rule:
        rule = self._rooms.access.rules.get(method)
        if rule is None:
            raise invalid_field("method", f"{method[:64]!r} is no RPC")
        if not rule.is_of_project:
            raise invalid_field("method", f"{method} is about no project")
        return rule

    async def create_key(self, request: pb.CreateKeyRequest, call: Call) -> pb.CreateKeyResponse:
        ttl_ms = 0
        with Checks() as check:
            identity = check(checks.identity, request.identity)
            tenant = check(checks.optional_tenant, request.tenant)
            name = check(checks.text, request.name, "name")
            owner = check(checks.text, request.owner, "owner")
            grants = check(checks.grants, request.grants, self._limits, "grants")
            if request.HasField("ttl"):
                ttl_ms = check(checks.lasts_ms, request.ttl, 1_000, checks.MAX_TTL_MS, "ttl")
        key = ApiKey("", identity, tenant, "", name, owner)
        issued = await self._rooms.access.admin.create_key(_caller(call), key, ttl_ms, grants)
        return pb.CreateKeyResponse(
            key=messages.key_message(issued.key), secret_key=issued.secret.text
        )

    async def list_keys(self, request: pb.ListKeysRequest, call: Call) -> pb.ListKeysResponse:
        with Checks() as check:
            identity = check(checks.optional_identity, request.identity)
            tenant = check(checks.optional_tenant, request.tenant)
            size = check(fields.page_size, request.page_size, self._limits)
            after = check(cursors.decode_text, Token.KEYS_PAGE, "", request.page_token)
        access = self._rooms.access
        sees = _sees(access.admin.administered(_caller(call)), tenant)
        visible = [
            key
            async for key in sliced(access.directory.all_keys())
            if key.key_id > after and identity in ("", key.identity) and sees(key.tenant)
        ]
        page = visible[:size]
        used = await self._rooms.storage.store.access.uses([key.key_id for key in page])
        response = pb.ListKeysResponse()
        async for key, ms in sliced(zip(page, used, strict=True)):
            response.keys.append(messages.key_message(key, ms))
        if len(visible) > size:
            response.next_page_token = cursors.encode_text(Token.KEYS_PAGE, "", page[-1].key_id)
        return response

    async def rotate_key(self, request: pb.RotateKeyRequest, call: Call) -> pb.RotateKeyResponse:
        overlap_ms, ttl_ms = checks.DAY_MS, None
        with Checks() as check:
            key_id = check(checks.key_id, request.key_id)
            if request.HasField("overlap"):
                most_ms = checks.MAX_OVERLAP_MS
                overlap_ms = check(checks.lasts_ms, request.overlap, 0, most_ms, "overlap")
            if request.HasField("ttl"):
                ttl_ms = check(checks.lasts_ms, request.ttl, 1_000, checks.MAX_TTL_MS, "ttl")
        admin = self._rooms.access.admin
        issued = await admin.rotate_key(_caller(call), key_id, overlap_ms, ttl_ms)
        assert issued.replaced is not None
        return pb.RotateKeyResponse(
            key=messages.key_message(issued.key),
            secret_key=issued.secret.text,
            replaced=messages.key_message(issued.replaced),
        )

    async def revoke_key(self, request: pb.RevokeKeyRequest, call: Call) -> pb.RevokeKeyResponse:
        key_id = checks.key_id(request.key_id)
        key = await self._rooms.access.admin.revoke_key(_caller(call), key_id)
        return pb.RevokeKeyResponse(key=messages.key_message(key))

    async def set_binding(self, request: pb.SetBindingRequest, call: Call) -> pb.SetBindingResponse:
        given = checks.binding(request.binding, self._limits)
        binding = await self._rooms.access.admin.set_binding(_caller(call), given)
        return pb.SetBindingResponse(binding=messages.binding_message(binding))

    async def list_bindings(
        self, request: pb.ListBindingsRequest, call: Call
    ) -> pb.ListBindingsResponse:
        with Checks() as check:
            tenant = check(checks.optional_tenant, request.tenant)
            size = check(fields.page_size, request.page_size, self._limits)
            after = check(cursors.decode_text, Token.BINDINGS_PAGE, "", request.page_token)
        access = self._rooms.access
        sees = _sees(access.admin.administered(_caller(call)), tenant)
        bindings = access.directory.policy.bindings
        response, size_bytes = pb.ListBindingsResponse(), 0
        async for identity in sliced(sorted(name for name in bindings if name > after)):
            if not sees(bindings[identity].tenant):
                continue
            binding = messages.binding_message(bindings[identity])
            size_bytes += binding.ByteSize()
            full = response.bindings and size_bytes > self._limits.page_bytes
            if full or len(response.bindings) == size:
                last = response.bindings[-1].identity
                response.next_page_token = cursors.encode_text(Token.BINDINGS_PAGE, "", last)
                break
            response.bindings.append(binding)
        return response

    async def delete_binding(
        self, request: pb.DeleteBindingRequest, call: Call
    ) -> pb.DeleteBindingResponse:
        identity = checks.identity(request.identity)
        await self._rooms.access.admin.delete_binding(_caller(call), identity)
        return pb.DeleteBindingResponse()

    async def set_role(self, request: pb.SetRoleRequest, call: Call) -> pb.SetRoleResponse:
        given = checks.role(request.role)
        role = await self._rooms.access.admin.set_role(_caller(call), given)
        return pb.SetRoleResponse(role=messages.role_message(role))

    async def list_roles(self, request: pb.ListRolesRequest, call: Call) -> pb.ListRolesResponse:
        roles = self._rooms.access.directory.policy.roles.values()
        return pb.ListRolesResponse(roles=map(messages.role_message, roles))

    async def delete_role(self, request: pb.DeleteRoleRequest, call: Call) -> pb.DeleteRoleResponse:
        name = checks.role_name(request.name)
        await self._rooms.access.admin.delete_role(_caller(call), name)
        return pb.DeleteRoleResponse()

    async def set_tenant(self, request: pb.SetTenantRequest, call: Call) -> pb.SetTenantResponse:
        given = checks.tenant(request.tenant, self._limits)
        tenant = await self._rooms.access.admin.set_tenant(_caller(call), given)
        return pb.SetTenantResponse(tenant=messages.tenant_message(tenant))

    async def list_tenants(
        self, request: pb.ListTenantsRequest, call: Call
    ) -> pb.ListTenantsResponse:
        access = self._rooms.access
        administered = access.admin.administered(_caller(call))
        tenants = {DEFAULT_TENANT: Tenant(DEFAULT_TENANT), **access.directory.policy.tenants}
        return pb.ListTenantsResponse(
            tenants=[
                messages.tenant_message(tenants[name])
                async for name in sliced(sorted(tenants))
                if "" in administered or name in administered
            ]
        )

    async def delete_tenant(
        self, request: pb.DeleteTenantRequest, call: Call
    ) -> pb.DeleteTenantResponse:
        name = checks.tenant_name(request.name, "name")
        await self._rooms.access.admin.delete_tenant(_caller(call), name)
        return pb.DeleteTenantResponse()

    async def get_usage(self, request: pb.GetUsageRequest, call: Call) -> pb.GetUsageResponse:
        policy = self._rooms.access.directory.policy
        of = request.WhichOneof("of")
        with Checks() as check:
            if of == "project":
                check(fields.project, request.project)
            elif of == "tenant":
                check(checks.tenant_name, request.tenant)
            else:
                check.refuse("of", "a tenant or a project is required")
        if of == "project":
            tenant = policy.tenant_of(request.project)
            may = policy.scope(call.principal, frozenset({Permission.OBSERVE}), request.project)
            allowed = may is not None and may.is_open
        else:
            tenant = policy.tenants.get(request.tenant, Tenant(request.tenant))
            whole = policy.whole_tenants(call.principal, Permission.OBSERVE)
            allowed = "" in whole or request.tenant in whole
        if allowed and of == "tenant" and request.tenant not in (DEFAULT_TENANT, *policy.tenants):
            raise ContexError(
                Reason.ACCESS_NOT_FOUND,
                f"there is no tenant {request.tenant!r}",
                metadata={"kind": "tenant", "name": request.tenant},
            )
        if not allowed:
            identity = call.principal.identity
            raise ContexError(
                Reason.PERMISSION_DENIED,
                f"{identity!r} may not see what this uses",
                metadata={"identity": identity, "method": call.method},
            )
        quota = self._rooms.quota
        bounds = quota.keeper.limits.limits_of_tenant(tenant.name)
        usage = [pb.Usage(**used._asdict()) for used in await quota.usage(bounds, request.project)]
        return pb.GetUsageResponse(tenant=tenant.name, project=request.project, usage=usage)

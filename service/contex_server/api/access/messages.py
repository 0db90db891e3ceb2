"""Records of access as messages of the API."""

from __future__ import annotations

from contex.v1 import access_service_pb2 as pb

from contex_server.access.policy import GrantDecision
from contex_server.access.records import ApiKey, Binding, Grant, Role, Tenant
from contex_server.kernel.protobuf import timestamp


def grant_message(grant: Grant) -> pb.Grant:
    """A grant."""
    keys = sorted(grant.data_keys or ())
    return pb.Grant(role=grant.role, projects=sorted(grant.projects), data_keys=keys)


def binding_message(binding: Binding) -> pb.Binding:
    """A binding."""
    return pb.Binding(
        identity=binding.identity,
        tenant=binding.tenant,
        grants=map(grant_message, binding.grants),
        update_time=timestamp(binding.updated_ms),
    )


def key_message(key: ApiKey, used_ms: int = 0) -> pb.ApiKey:
    """A key, without its secret."""
    return pb.ApiKey(
        key_id=key.key_id,
        identity=key.identity,
        tenant=key.tenant,
        name=key.name,
        owner=key.owner,
        created_by=key.created_by,
        create_time=timestamp(key.created_ms),
        expire_time=timestamp(key.expires_ms) if key.expires_ms else None,
        revoke_time=timestamp(key.revoked_ms) if key.revoked_ms else None,
        last_use_time=timestamp(used_ms) if used_ms else None,
        replaces_key_id=key.replaces,
    )


def role_message(role: Role) -> pb.Role:
    """A role."""
    return pb.Role(
        name=role.name,
        permissions=sorted(role.permissions),  # type: ignore[arg-type]
        description=role.description,
        built_in=role.built_in,
    )


def tenant_message(tenant: Tenant) -> pb.Tenant:
    """A tenant."""
    return pb.Tenant(
        name=tenant.name,
        projects=sorted(tenant.projects),
        limits=pb.UsageLimits(**tenant.limits),
        project_limits=pb.UsageLimits(**tenant.project_limits),
        description=tenant.description,
    )


def decision_message(decision: GrantDecision) -> pb.GrantDecision:
    """What a grant says."""
    return pb.GrantDecision(
        identity=decision.held.binding.identity,
        grant=grant_message(decision.held.grant),
        allows=not decision.problem,
        problem=decision.problem,
    )

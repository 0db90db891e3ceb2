"""A small access service over a real socket, for tests of the client and the command line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from contex.v1 import (
    access_pb2,
    access_service_pb2,
    access_service_pb2_grpc,
    agent_service_pb2,
    agent_service_pb2_grpc,
    match_service_pb2,
    match_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
)
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

ADMIN_KEY = "ctx_adminadmin00_0123456789abcdef"
SECRET = "s3cr3ts3cr3ts3cr3t"


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    reason: str,
    *,
    retry_ms: int | None = None,
    **metadata: str,
) -> None:
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=reason, domain="contex.dev", metadata=metadata)
    ]
    if retry_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message="no")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, "no")


class Access(access_service_pb2_grpc.AccessServiceServicer):
    """Keys, bindings, roles and tenants in memory. The identity of a key is its id.

    Attributes:
        requests: All requests.
        authorizations: What each call sent as "authorization".
        revoked: Keys that are refused.
        is_off: Whether nobody is asked who they are.
        tenant: Whose the caller is.
        hidden: Whether of projects only the names are told.
        refusals: How the next calls are refused: code, reason, milliseconds of RetryInfo.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.authorizations: list[str] = []
        self.refusals: list[tuple[grpc.StatusCode, str, int | None]] = []
        self.keys: dict[str, access_service_pb2.ApiKey] = {}
        self.bindings: dict[str, access_service_pb2.Binding] = {}
        self.roles = {
            "publisher": access_service_pb2.Role(
                name="publisher", permissions=[access_pb2.PERMISSION_PUBLISH], built_in=True
            )
        }
        self.tenants = {"default": access_service_pb2.Tenant(name="default", projects=["*"])}
        self.needs_key = True
        self.is_off = False
        self.tenant = ""
        self.hidden = True
        self.revoked: set[str] = set()

    def _take(self, request: Any, context: grpc.ServicerContext) -> str:
        """Notes a call; returns the key's id."""
        sent = dict(context.invocation_metadata())
        authorization = str(sent.get("authorization", ""))
        self.requests.append(request)
        self.authorizations.append(authorization)
        if self.refusals:
            code, reason, retry_ms = self.refusals.pop(0)
            refuse(context, code, reason, retry_ms=retry_ms, limit="read_calls_per_second")
        if authorization.removeprefix("Bearer ") in self.revoked:
            refuse(context, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", cause="REVOKED")
        if self.needs_key and not authorization.startswith("Bearer ctx_"):
            cause = "INVALID" if authorization else "MISSING"
            refuse(context, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", cause=cause)
        return authorization.split("_")[1] if authorization else ""

    def WhoAmI(self, request, context):
        key_id = self._take(request, context)
        if self.is_off:
            return access_service_pb2.WhoAmIResponse()
        response = access_service_pb2.WhoAmIResponse(
            identity="root",
            tenant=self.tenant,
            credential=access_service_pb2.CREDENTIAL_API_KEY,
            key_id=key_id,
        )
        response.grants.add(role="admin", projects=["*"])
        return response

    def CheckAccess(self, request, context):
        self._take(request, context)
        identity = request.identity or "root"
        response = access_service_pb2.CheckAccessResponse()
        binding = self.bindings.get(identity, access_service_pb2.Binding())
        for grant in binding.grants:
            decided = response.grants.add(identity=identity, grant=grant)
            decided.allows = grant.role == "publisher" and (
                request.permission == access_pb2.PERMISSION_PUBLISH
                or request.method in ("Publish", "GetMatchingStatus")
            )
            decided.problem = "" if decided.allows else "the role does not have the permission"
        response.allowed = any(one.allows for one in response.grants)
        response.reason = "a grant allows it" if response.allowed else "no grant allows it"
        if response.allowed:
            response.data_keys.extend(response.grants[0].grant.data_keys)
        return response

    def CreateKey(self, request, context):
        self._take(request, context)
        key = self._new_key(request.identity, request.tenant)
        key.name, key.owner = request.name, request.owner
        if request.grants:
            self.bindings[request.identity] = access_service_pb2.Binding(
                identity=request.identity, tenant=request.tenant, grants=request.grants
            )
        return access_service_pb2.CreateKeyResponse(key=key, secret_key=self._secret(key))

    def _new_key(self, identity: str, tenant: str) -> access_service_pb2.ApiKey:
        key_id = f"key{len(self.keys):09}"
        key = access_service_pb2.ApiKey(key_id=key_id, identity=identity, tenant=tenant)
        key.created_by = "root"
        key.create_time.FromMilliseconds(1_764_000_000_000)
        self.keys[key_id] = key
        return key

    def _secret(self, key: access_service_pb2.ApiKey) -> str:
        return f"ctx_{key.key_id}_{SECRET}"

    def _key(self, key_id: str, context: grpc.ServicerContext) -> access_service_pb2.ApiKey:
        if key_id not in self.keys:
            code = grpc.StatusCode.NOT_FOUND
            refuse(context, code, "ACCESS_NOT_FOUND", kind="key", name=key_id)
        return self.keys[key_id]

    def ListKeys(self, request, context):
        self._take(request, context)
        start, size = int(request.page_token or 0), request.page_size or 100
        keys = [k for k in self.keys.values() if request.identity in ("", k.identity)]
        more = str(start + size) if start + size < len(keys) else ""
        return access_service_pb2.ListKeysResponse(
            keys=keys[start : start + size], next_page_token=more
        )

    def RotateKey(self, request, context):
        self._take(request, context)
        old = self._key(request.key_id, context)
        key = self._new_key(old.identity, old.tenant)
        key.replaces_key_id = old.key_id
        old.expire_time.FromMilliseconds(1_764_000_000_000 + request.overlap.ToMilliseconds())
        return access_service_pb2.RotateKeyResponse(
            key=key, secret_key=self._secret(key), replaced=old
        )

    def RevokeKey(self, request, context):
        self._take(request, context)
        key = self._key(request.key_id, context)
        key.revoke_time.FromMilliseconds(1_764_000_000_000)
        return access_service_pb2.RevokeKeyResponse(key=key)

    def SetBinding(self, request, context):
        self._take(request, context)
        self.bindings[request.binding.identity] = request.binding
        return access_service_pb2.SetBindingResponse(binding=request.binding)

    def ListBindings(self, request, context):
        self._take(request, context)
        return access_service_pb2.ListBindingsResponse(bindings=self.bindings.values())

    def DeleteBinding(self, request, context):
        self._take(request, context)
        if self.bindings.pop(request.identity, None) is None:
            code, name = grpc.StatusCode.NOT_FOUND, request.identity
            refuse(context, code, "ACCESS_NOT_FOUND", kind="binding", name=name)
        return access_service_pb2.DeleteBindingResponse()

    def SetRole(self, request, context):
        self._take(request, context)
        self.roles[request.role.name] = request.role
        return access_service_pb2.SetRoleResponse(role=request.role)

    def ListRoles(self, request, context):
        self._take(request, context)
        return access_service_pb2.ListRolesResponse(roles=self.roles.values())

    def DeleteRole(self, request, context):
        self._take(request, context)
        for binding in self.bindings.values():
            if any(grant.role == request.name for grant in binding.grants):
                code = grpc.StatusCode.FAILED_PRECONDITION
                used = {"kind": "role", "name": request.name, "used_by": binding.identity}
                refuse(context, code, "ACCESS_IN_USE", **used)
        self.roles.pop(request.name)
        return access_service_pb2.DeleteRoleResponse()

    def SetTenant(self, request, context):
        self._take(request, context)
        self.tenants[request.tenant.name] = request.tenant
        return access_service_pb2.SetTenantResponse(tenant=request.tenant)

    def ListTenants(self, request, context):
        self._take(request, context)
        return access_service_pb2.ListTenantsResponse(tenants=self.tenants.values())

    def DeleteTenant(self, request, context):
        self._take(request, context)
        self.tenants.pop(request.name)
        return access_service_pb2.DeleteTenantResponse()

    def GetUsage(self, request, context):
        self._take(request, context)
        response = access_service_pb2.GetUsageResponse(
            tenant=request.tenant or "default", project=request.project
        )
        response.usage.add(name="events_per_second", used=250.25, limit=1000, refused=3)
        response.usage.add(name="stored_bytes", used=3 << 20, limit=4 << 20)
        response.usage.add(name="agents", used=7)
        return response


class Projects(project_service_pb2_grpc.ProjectServiceServicer):
    """Projects of which the caller may see all, or the names alone."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def ListProjects(self, request, context):
        self._access._take(request, context)
        response = project_service_pb2.ListProjectsResponse()
        response.projects.add(project="shop", event_count=7, last_sequence="7-0", event_bytes=70)
        response.projects.add(project="other")
        return response

    def GetProject(self, request, context):
        self._access._take(request, context)
        response = project_service_pb2.GetProjectResponse(project=request.project, exists=True)
        if not self._access.hidden:
            response.stats.event_count = 7
        return response


class Matching(match_service_pb2_grpc.MatchServiceServicer):
    """How matching is doing."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def GetMatchingStatus(self, request, context):
        self._access._take(request, context)
        return match_service_pb2.GetMatchingStatusResponse(default_threshold=0.3)

    def Match(self, request, context):
        self._access._take(request, context)
        return match_service_pb2.MatchResponse(sequence="7-0")


class Agents(agent_service_pb2_grpc.AgentServiceServicer):
    """Streams that end as access changes.

    Attributes:
        ends: How the next Listen streams end after an event: code, reason, cause. Others go on.
        assigned_count: How many agents are given to an identity.
        before_end: Called before a Listen stream ends.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self.ends: list[tuple[grpc.StatusCode, str, str]] = []
        self.assigned_count = 3
        self.before_end: Callable[[], object] = lambda: None
        self.cursors: list[str] = []

    def AssignAgents(self, request, context):
        self._access._take(request, context)
        return agent_service_pb2.AssignAgentsResponse(assigned_count=self.assigned_count)

    def Listen(self, request, context):
        self._access._take(request, context)
        self.cursors.append(request.cursor)
        number = int(request.cursor.removeprefix("c") or 0) + 1
        message = agent_service_pb2.ListenResponse(cursor=f"c{number}")
        message.events.events.add().event.sequence = f"{number}-0"
        yield message
        if not self.ends:
            left = threading.Event()
            if context.add_callback(left.set):
                left.wait(30)
            return
        self.before_end()
        code, reason, cause = self.ends.pop(0)
        refuse(context, code, reason, cause=cause)


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, Access, Agents]]:
    """Its target, and what answers."""
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    access = Access()
    agents = Agents(access)
    access_service_pb2_grpc.add_AccessServiceServicer_to_server(access, server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, server)
    match_service_pb2_grpc.add_MatchServiceServicer_to_server(Matching(access), server)
    project_service_pb2_grpc.add_ProjectServiceServicer_to_server(Projects(access), server)
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", access, agents
    finally:
        server.stop(0).wait()

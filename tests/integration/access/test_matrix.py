"""Every RPC, role and place: allowed as its declaration says, or refused."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from contex_server.access.roles import BUILT_IN, Permission
from contex_server.access.rules import Reach, rule_of
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from tests.integration.access.support import Caller, Deployment, grant
from tests.integration.hostile.scene import METHODS
from tests.integration.support import DEADLINE_S, Refusal, event, own

OWN, OTHER, FOREIGN = "acme-shop", "acme-lab", "rival-shop"
TENANT = "acme"
BY_CONTENT = {"ListProjects", "WhoAmI", "ListRoles", "GetServerInfo", "GetUsage", "CheckAccess"}
"""What anybody may call: what they answer is tested elsewhere."""


def request_of(method: MethodDescriptor, project: str) -> bytes:
    """A request that names a project and nothing else; whoever may call is told what is missing."""
    request = GetMessageClass(method.input_type)()
    if "project" in method.input_type.fields_by_name:
        request.project = project
    for field in method.input_type.fields:
        message = field.message_type
        if message is not None and "project" in message.fields_by_name and not field.is_repeated:
            getattr(request, field.name).project = project
    return bytes(request.SerializeToString())


async def answer_of(caller: Caller, method: MethodDescriptor, request: bytes) -> Refusal | bytes:
    """The first answer, or why there is none."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel: Any = caller.channel
    call: Any
    try:
        if not method.server_streaming:
            return bytes(await channel.unary_unary(path)(request, timeout=DEADLINE_S))
        if method.client_streaming:
            call = channel.stream_stream(path)(timeout=DEADLINE_S)
            await call.write(request)
            await call.done_writing()
        else:
            call = channel.unary_stream(path)(request, timeout=DEADLINE_S)
        answer = await call.read()
        call.cancel()
        return b"" if answer is grpc.aio.EOF else bytes(answer)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)


def is_denied(method: MethodDescriptor, answer: Refusal | bytes) -> bool:
    if isinstance(answer, Refusal):
        return answer.reason == "PERMISSION_DENIED"
    return method.name == "PublishStream" and b"PERMISSION_DENIED" in answer  # of a batch


@pytest.fixture
async def tenants(deployment: Deployment) -> Deployment:
    """Two tenants, with a project or two."""
    await deployment.tenant("acme", "acme-*")
    await deployment.tenant("rival", "rival-*")
    for project in (OWN, OTHER, FOREIGN):
        await deployment.admin.publish(event("billing/x"), own(), project=project)
    return deployment


@pytest.mark.parametrize("role", BUILT_IN)
async def test_each_role_may_call_what_its_permissions_say(tenants: Deployment, role: str) -> None:
    caller = await tenants.caller("acme/one", grant(role, project=OWN), tenant=TENANT)
    narrow = await tenants.caller("acme/two", grant(role, "billing/*", project="*"), tenant=TENANT)
    may = BUILT_IN[role].permissions

    async def check(method: MethodDescriptor) -> None:
        rule = rule_of(method)
        allowed = not rule.permissions or bool(rule.permissions & may)
        asked = {place: request_of(method, place) for place in (OWN, OTHER, FOREIGN)}

        async def denied(who: Caller, place: str) -> bool:
            return is_denied(method, await answer_of(who, method, asked[place]))

        if method.name in BY_CONTENT:
            return
        if not rule.is_of_project:
            # A grant for one project, or some data keys, administers nothing.
            for one in (caller, narrow):
                refused = await answer_of(one, method, asked[OWN])
                assert isinstance(refused, Refusal), (method.name, refused)
            return
        assert await denied(caller, OWN) != allowed, method.name
        for place in (OTHER, FOREIGN):
            assert await denied(caller, place), (method.name, place)
        narrowed = allowed and rule.reach is not Reach.PROJECT
        assert await denied(narrow, OWN) != narrowed, method.name
        assert await denied(narrow, FOREIGN), method.name

    await asyncio.gather(*map(check, METHODS.values()))


async def test_nobody_is_answered_without_credentials(deployment: Deployment) -> None:
    nobody = deployment.with_key("")
    for method in METHODS.values():
        answer = await answer_of(nobody, method, request_of(method, OWN))
        assert isinstance(answer, Refusal), method.name
        assert (answer.code, answer.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")


def test_every_rpc_says_what_it_takes() -> None:
    for method in METHODS.values():
        rule = rule_of(method)
        assert rule.call_class, method.name
        assert rule.permissions <= set(Permission), method.name
        if rule.reach in (Reach.PROJECT, Reach.AGENT):
            assert rule.permissions, method.name

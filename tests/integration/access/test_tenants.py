"""Nothing of a tenant reaches another one, whatever of it is named."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from contex.v1 import access_service_pb2 as pb
from contex.v1.agent_service_pb2 import ListAgentsRequest
from contex.v1.audit_service_pb2 import AUDIT_ACTION_REFUSED, ListRecordsRequest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.access.support import Caller, Deployment, grant
from tests.integration.hostile.scene import METHODS
from tests.integration.support import DEADLINE_S, batches, event

REFUSED = AUDIT_ACTION_REFUSED
CANARY = "canary"
"""It is in all that is the rival's and no request, so that an answer can't just repeat it."""
SHOP = "rival-shop"


def messages(descriptor: Descriptor, texts: st.SearchStrategy[str], depth: int = 0) -> Any:
    """Requests with the rival's names in all fields."""

    @st.composite
    def made(draw: st.DrawFn) -> Message:
        message: Any = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if not draw(st.integers(0, 5)) or (depth > 3 and field.message_type):
                continue
            if field.name == "project":
                message.project = SHOP
            elif field.message_type is not None:
                if field.message_type.GetOptions().map_entry:
                    continue
                inner = draw(messages(field.message_type, texts, depth + 1))
                if field.is_repeated:
                    getattr(message, field.name).append(inner)
                else:
                    getattr(message, field.name).CopyFrom(inner)
            else:
                value: Any = draw(_value(field, texts))
                if field.is_repeated:
                    getattr(message, field.name).append(value)
                else:
                    setattr(message, field.name, value)
        return message

    return made()


def _value(field: FieldDescriptor, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return texts
        case FieldDescriptor.TYPE_BYTES:
            return st.just(b"1")
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_ENUM:
            return st.integers(0, 3)
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return st.sampled_from([0.5, 1.0])
    return st.sampled_from([0, 1, 100])


async def answer_of(caller: Caller, rpc: str, body: bytes) -> tuple[bytes, bool]:
    """All that comes back within a moment, and whether it was refused."""
    method = METHODS[rpc]
    channel: Any = caller.channel
    path = f"/{method.containing_service.full_name}/{rpc}"
    answers = b""
    try:
        if not method.server_streaming:
            return bytes(await channel.unary_unary(path)(body, timeout=DEADLINE_S)), False
        if method.client_streaming:
            call = channel.stream_stream(path)(iter([body]), timeout=DEADLINE_S)
        else:
            call = channel.unary_stream(path)(body, timeout=DEADLINE_S)
        while (answer := await call.read()) is not grpc.aio.EOF:
            answers += answer
    except grpc.aio.AioRpcError as error:
        trailers = repr(error.trailing_metadata()).encode()
        return answers + trailers + (error.details() or "").encode(), True
    return answers, False


async def test_nothing_of_a_rival_comes_back_or_is_changed(deployment: Deployment) -> None:
    for tenant in ("acme", "rival"):
        await deployment.tenant(tenant, f"{tenant}-*", description=f"{CANARY} of {tenant}")
    rival = await deployment.caller("rival/root", grant("admin"), tenant="rival")
    payload = f'"{CANARY} apples"'.encode()
    sequences = await rival.publish(
        *(event(f"k{n}", payload, description=f"apples {CANARY}") for n in range(3)), project=SHOP
    )
    cursor = (await rival.register("picker", f"apples {CANARY}", project=SHOP)).cursor
    await rival.register("other", f"apples {CANARY}", project=SHOP)
    made = pb.CreateKeyRequest(identity="rival/two", name=CANARY, grants=[grant("readonly")])
    key = (await rival.access.CreateKey(made, timeout=DEADLINE_S)).key
    one = {"page_size": 1}
    tokens = [
        (await rival.page(SHOP, **one)).next_page_token,
        (await rival.agents.ListAgents(ListAgentsRequest(project=SHOP, **one))).next_page_token,
        (await rival.access.ListKeys(pb.ListKeysRequest(**one))).next_page_token,
        (await rival.access.ListBindings(pb.ListBindingsRequest(**one))).next_page_token,
        cursor,
    ]
    assert all(tokens)
    secrets = [key.key_id, "GetState", *sequences, *tokens]
    texts = st.sampled_from(
        [SHOP, "rival", "rival/root", "rival/two", "rival-*", "*", "picker", "k0", *secrets]
    )
    callers = [
        await deployment.caller("acme/root", grant("admin"), tenant="acme"),
        await deployment.caller("acme/agent", grant("consumer"), tenant="acme"),
    ]
    await callers[0].publish(event("mine"), project="acme-shop")

    async def everything() -> list[bytes]:
        records = await rival.audits.ListRecords(ListRecordsRequest(project=SHOP))
        return [
            (await rival.page(SHOP)).SerializeToString(),
            *(repr(r).encode() for r in records.records if r.action != REFUSED),
            *(
                repr(b).encode()
                for b in (
                    await deployment.admin.access.ListBindings(
                        pb.ListBindingsRequest(tenant="rival")
                    )
                ).bindings
            ),
            *(
                repr(b).encode()
                for b in (
                    await deployment.admin.access.ListTenants(pb.ListTenantsRequest())
                ).tenants
            ),
        ]

    before = await everything()
    loop, attempts = asyncio.get_running_loop(), dict[str, int]()

    async def attempt(rpc: str, who: int, request: Message) -> None:
        attempts[rpc] = attempts.get(rpc, 0) + 1
        answer, refused = await answer_of(callers[who], rpc, request.SerializeToString())
        assert CANARY.encode() not in answer.replace(b"canary of acme", b""), (rpc, request)
        if "project" in METHODS[rpc].input_type.fields_by_name and rpc != "CheckAccess":
            silent = rpc in ("PublishStream", "GetUsage")
            assert refused or silent, (rpc, request)

    def attempted(rpcs: list[str]) -> None:
        some = [
            st.tuples(st.just(rpc), st.integers(0, 1), messages(METHODS[rpc].input_type, texts))
            for rpc in rpcs
        ]

        @settings(
            max_examples=18,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.tuples(*some))
        def attempt_each(each: tuple[tuple[str, int, Message], ...]) -> None:
            asyncio.run_coroutine_threadsafe(all_of(each), loop).result(DEADLINE_S)

        attempt_each()

    async def all_of(each: tuple[tuple[str, int, Message], ...]) -> None:
        await asyncio.gather(*(attempt(*one) for one in each))

    for rpcs in batches(sorted(METHODS), 4):
        await asyncio.to_thread(attempted, rpcs)
    assert sum(attempts.values()) >= 1_000
    assert min(attempts[rpc] for rpc in METHODS) > 5
    assert await everything() == before

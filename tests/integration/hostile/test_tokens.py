"""Cursors and page tokens of another call, and forged ones."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from contex.v1 import access_service_pb2 as access
from contex.v1 import access_service_pb2_grpc, event_pb2
from contex_server.api.shared.cursors import Token, encode_place, encode_position, fingerprint
from contex_server.kernel.model import Sequence
from google.protobuf.message import Message

from tests.integration.hostile.scene import AGENT, VALID, Scene
from tests.integration.hostile.table import EDGES, forged
from tests.integration.support import ListAgentsRequest, P, Refusal, event, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_tokens_that_were_handed_out_fit_no_other_call_order_or_project(
    scene: Scene,
) -> None:
    api = scene.api
    stub: Any = access_service_pb2_grpc.AccessServiceStub(api.channel)

    async def administer(rpc: str, request: Message) -> Any:
        return await getattr(stub, rpc)(request)

    for project in ("tokens", "else"):
        await api.publish(event("a"), event("b"), project=project)
        for agent_id in ("a", "b"):
            await api.register(agent_id, "a need", project=project)
        binding = access.Binding(identity=f"identity-{project}")
        await administer("SetBinding", access.SetBindingRequest(binding=binding))
        await administer("CreateKey", access.CreateKeyRequest(identity=f"identity-{project}"))

    async def keys(token: str) -> Any:
        return await administer("ListKeys", access.ListKeysRequest(page_size=1, page_token=token))

    async def bindings(token: str) -> Any:
        request = access.ListBindingsRequest(page_size=1, page_token=token)
        return await administer("ListBindings", request)

    backwards = event_pb2.ORDER_BACKWARDS
    agents = await api.agents.ListAgents(ListAgentsRequest(project="tokens", page_size=1))
    handed_out = {
        "events page": (await api.page("tokens", page_size=1)).next_page_token,
        "agents page": agents.next_page_token,
        "forwards": (await api.replay("tokens").to_end()).cursor,
        "backwards": (await api.replay("tokens", order=backwards).to_end()).cursor,
        "keys page": (await keys("")).next_page_token,
        "bindings page": (await bindings("")).next_page_token,
    }
    everywhere = ("keys page", "bindings page")  # They are of the deployment.

    def calls(project: str, token: str) -> dict[str, Any]:
        return {
            "events page": lambda: api.page(project, page_token=token),
            "agents page": lambda: api.agents.ListAgents(
                ListAgentsRequest(project=project, page_token=token)
            ),
            "forwards": lambda: api.replay(project, cursor=token).to_end(),
            "backwards": lambda: api.replay(project, cursor=token, order=backwards).to_end(),
            "keys page": lambda: keys(token),
            "bindings page": lambda: bindings(token),
        }

    for made_for, token in handed_out.items():
        assert token
        for project in ("tokens", "else"):
            for name, call in calls(project, token).items():
                if made_for == name and (project == "tokens" or name in everywhere):
                    await call()
                    continue
                refused = await refusal(call())
                assert refused.reason == "CURSOR_INVALID", (made_for, name, project)
        for stream in (api.subscribe("else", cursor=token), api.listen("a", "else", cursor=token)):
            assert (await stream.refusal()).reason == "CURSOR_INVALID"


async def reason_of(call: Awaitable[Any]) -> str:
    """Why a call was refused; empty if it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error).reason
    return ""


@pytest.mark.parametrize("place", EDGES, ids=str)
async def test_a_forged_token_with_a_right_checksum_is_no_defect(
    unharmed: Scene, place: Sequence
) -> None:
    api = unharmed.api
    cursor = encode_position(Token.CURSOR, P, place)
    back = encode_position(Token.BACKWARDS, P, place)
    page = encode_position(Token.EVENTS_PAGE, P, place)
    backwards = event_pb2.ORDER_BACKWARDS
    for call in (
        api.replay(cursor=cursor).to_end(),
        api.replay(cursor=back, order=backwards).to_end(),
        api.page(page_token=page),
        api.page(page_token=page, order=backwards),
        api.subscribe(cursor=cursor).live(),
        api.listen(AGENT, cursor=cursor).live(),
    ):
        assert await reason_of(call) in ("", "CURSOR_INVALID", "SEQUENCE_IN_FUTURE")


@pytest.mark.parametrize("place", EDGES, ids=str)
@pytest.mark.parametrize("key", ["", "k0", "~", "\0"])
async def test_a_forged_page_of_states_is_no_defect(
    unharmed: Scene, place: Sequence, key: str
) -> None:
    def page(rpc: str, token: Token, *numbers: int) -> Message:
        request: Any = type(VALID[rpc])()
        request.CopyFrom(VALID[rpc])
        request.page_token = encode_place(token, P, (fingerprint(request), *numbers), key)
        return request

    for rpc, request in (
        ("GetState", page("GetState", Token.STATE_PAGE, *place, 2**64 - 1, 2**64 - 1)),
        ("DiffStates", page("DiffStates", Token.DIFF_PAGE, *place, 0, *place, 2**64 - 1)),
        ("GetHistory", page("GetHistory", Token.HISTORY_PAGE, *place, 7, *place)),
        ("GetHistory", page("GetHistory", Token.HISTORY_PAGE, 1, 0, 7, *place)),
    ):
        reason = await reason_of(unharmed.call(rpc, request.SerializeToString()))
        assert reason in ("", "CURSOR_INVALID"), rpc


@pytest.mark.parametrize("text", [b"", b"\xff", b"\xed\xa0\x80", b"\0", b"x" * 100_000])
async def test_a_forged_page_of_agents_is_no_defect(unharmed: Scene, text: bytes) -> None:
    token = forged(Token.AGENTS_PAGE, text)
    request = ListAgentsRequest(project=P, page_token=token)
    reason = await reason_of(unharmed.api.agents.ListAgents(request))
    assert reason in ("", "CURSOR_INVALID")

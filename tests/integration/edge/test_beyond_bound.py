"""What was published under larger limits than the server has now."""

from __future__ import annotations

from contex.v1.server_service_pb2 import GetServerInfoRequest
from contex.v1.state_service_pb2 import GetStateRequest
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.integration.support import DEADLINE_S, Api, GetEventRequest, P, Words, event, refusal

MIB = 1024 * 1024


async def test_what_exceeds_the_bound_is_refused_and_can_be_passed(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    large = await start_server(valkey.url, embedder=Words(), limits={"payload_bytes": 5 * MIB})
    receives = ("grpc.max_receive_message_length", -1)
    async with Api.of(large, receives) as api:
        info = await api.server.GetServerInfo(GetServerInfoRequest(), timeout=DEADLINE_S)
        assert info.limits.response_message_bytes == 8 * MIB
        (beyond,) = await api.publish(event("beyond", b"1" * (5 * MIB), content_type="text/plain"))
        (fits,) = await api.publish(event("fits"))
        assert [e.sequence for e in await api.log()] == [beyond, fits]
    small = await start_server(valkey.url, embedder=Words())
    async with Api.of(small) as api:
        request = GetEventRequest(project=P, sequence=beyond)
        refused = await refusal(api.events.GetEvent(request, timeout=DEADLINE_S))
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "RESPONSE_TOO_LARGE")
        assert refused.metadata["limit_bytes"] == str(4 * MIB)
        assert int(refused.metadata["size_bytes"]) > 5 * MIB
        assert refused.metadata["sequence"] == beyond
        assert (await refusal(api.page())).reason == "RESPONSE_TOO_LARGE"
        for stream in (api.subscribe(), api.replay()):
            refused = await stream.refusal()
            assert refused.metadata["sequence"] == beyond
        rest = api.subscribe(cursor=refused.metadata["cursor"])
        await rest.count(1)
        assert rest.keys == ["fits"]
        await rest.cancel()
        state = await api.states.GetState(GetStateRequest(project=P), timeout=DEADLINE_S)
        assert [(d.data_key, d.payload_omitted) for d in state.data] == [("beyond", True)]

"""No message is larger than the server says, whatever it has to tell, and what is cut is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import orjson
import pytest
import pytest_asyncio
from contex.v1 import event_pb2
from contex.v1.agent_service_pb2 import (
    GetAgentContextRequest,
    ListDeliveriesRequest,
    Need,
    RegisterAgentResponse,
)
from contex.v1.audit_service_pb2 import (
    AUDIT_FORMAT_JSON_LINES,
    ExportRecordsRequest,
    ListRecordsRequest,
)
from contex.v1.event_pb2 import ContextFormat, Position
from contex.v1.match_service_pb2 import (
    BacktestRequest,
    ExplainRequest,
    ExportFeedbackRequest,
    MatchRequest,
    RecordFeedbackRequest,
)
from contex.v1.project_service_pb2 import (
    ACTIVITY_DIMENSION_NEED,
    GetActivityRequest,
    ListProjectsRequest,
    VerifyProjectRequest,
)
from contex.v1.server_service_pb2 import GetServerInfoRequest
from contex.v1.state_service_pb2 import (
    STATE_VIEW_KEYS,
    DiffStatesRequest,
    GetBlameRequest,
    GetHistoryRequest,
    GetRevisionRequest,
    GetStateRequest,
    StreamStateRequest,
)
from contex.v1.transfer_service_pb2 import ExportProjectRequest
from contex_server.kernel.config import Limits, Settings
from contex_server.server import Server
from google.protobuf.message import Message

from tests.conftest import running_store
from tests.integration.hostile.scene import METHODS, VALID
from tests.integration.support import (
    DEADLINE_S,
    Api,
    GetAgentRequest,
    GetEventRequest,
    ListAgentsRequest,
    ListenRequest,
    ListEventsRequest,
    NewEvent,
    P,
    RegisterAgentRequest,
    ReplayRequest,
    SubscribeRequest,
    UpdateAgentRequest,
    Words,
    event,
    refusal,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
MOST = 4 * MIB
"""What a client of gRPC receives that sets nothing."""
FORMATS = [form for form in ContextFormat.values() if form]

WIDE = "𝄞"
"""A character of four bytes."""
CONTROLS = b"\x01" * (MIB - 16)
"""As a JSON string it takes six times as much."""
HEAD = {
    "description": "alpha " + WIDE * 1_000,
    "metadata": {str(i): "m" * 120 for i in range(32)},
}
NEEDS = [Need(text=f"alpha {n} " + WIDE * (980 - 480 * (n > 15))) for n in range(32)]


def key(name: str) -> str:
    return name + WIDE * (256 - len(name))


def text(name: str, payload: bytes) -> NewEvent:
    return NewEvent(data_key=key(name), payload=payload, content_type="text/plain", **HEAD)


class Meter:
    """Calls over raw channels, and the size of what comes back."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.sizes: dict[str, int] = {}

    async def call(self, rpc: str, request: Message, until: int = 1_000) -> list[Any]:
        """Every answer, or the first few of a stream that does not end."""
        method = METHODS[rpc]
        path = f"/{method.containing_service.full_name}/{rpc}"
        raw, channel = request.SerializeToString(), self.api.channel
        answers: list[bytes] = []
        if method.client_streaming:
            stream: Any = channel.stream_stream(path)(timeout=DEADLINE_S)
            await stream.write(raw)
            await stream.done_writing()
        elif method.server_streaming:
            stream = channel.unary_stream(path)(raw, timeout=4 * DEADLINE_S)
        else:
            answers.append(await channel.unary_unary(path)(raw, timeout=4 * DEADLINE_S))
        while not answers or (method.server_streaming and len(answers) < until):
            answer = await stream.read()
            if answer is grpc.aio.EOF:
                break
            answers.append(answer)
        if method.server_streaming:
            stream.cancel()
        self.sizes[rpc] = max([self.sizes.get(rpc, 0), *map(len, answers)])
        parsed: Any = method.output_type._concrete_class
        return [parsed.FromString(answer) for answer in answers]

    async def pages(self, rpc: str, request: Any) -> list[Any]:
        """Every page."""
        found = []
        while True:
            (page,) = await self.call(rpc, request)
            found.append(page)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meter(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Meter]:
    """A project of the largest things that are allowed, on a server that others share."""
    directory = tmp_path_factory.mktemp("ctx")
    async with running_store(directory) as store:
        settings = Settings(port=0, data_dir=directory, match_threshold=0.02)
        server = await Server.start(settings, store.url, embedder=Words())
        try:
            # No option is set: the channel receives 4 MiB.
            async with Api.of(server) as api:
                await fill(api)
                yield Meter(api)
        finally:
            await server.stop()


async def fill(api: Api) -> None:
    for number in range(3):
        await api.publish(text(f"large {number}", CONTROLS), publisher=WIDE * 128)
    await api.publish(*[text(f"small {number}", b"alpha") for number in range(60)])
    for _ in range(2):
        beta = {**HEAD, "description": "beta " + WIDE * 1_000}
        often = [event(key("often"), b"%d" % n, **beta) for n in range(250)]
        await api.publish(*often)
    member = orjson.dumps({"~" * (MIB - 100): {"a": 1}})
    await api.publish(event("member", member, **HEAD), publisher=WIDE * 128)
    for number in range(20):
        excluded = [key(f"x{number} {n}")[:-1] for n in range(4)]
        needs = [Need(text=n.text, exclude_data_keys=excluded) for n in NEEDS]
        await api.agents.RegisterAgent(
            RegisterAgentRequest(project=P, agent_id=f"a{number}", needs=needs, max_matches=1),
            timeout=DEADLINE_S,
        )


def of_agent(**fields: Any) -> Any:
    return dict(project=P, agent_id="a0", **fields)


async def newest(meter: Meter, data_key: str) -> str:
    request = GetHistoryRequest(project=P, data_key=data_key, page_size=1, omit_payloads=True)
    (page,) = await meter.call("GetHistory", request)
    return str(page.revisions[0].event.sequence)


@pytest.mark.parametrize("form", FORMATS[:3])  # The fourth takes 5 s for each.
async def test_a_listener_gets_past_what_is_too_large_written_out(
    meter: Meter, form: ContextFormat
) -> None:
    await meter.api.register("l", "alpha", max_matches=1)
    edge = event_pb2.EDGE_BEGINNING
    stream = meter.api.agents.Listen(
        ListenRequest(project=P, agent_id="l", edge=edge, context_format=form)
    )
    large: list[event_pb2.MatchedEvent] = []
    async with asyncio.timeout(4 * DEADLINE_S):
        async for message in stream:
            for matched in message.events.events:
                assert bool(matched.context) is not matched.context_omitted
                if matched.event.data_key.startswith("large"):
                    assert matched.event.payload == CONTROLS
                    large.append(matched)
            if message.HasField("caught_up"):
                break
    stream.cancel()
    assert len(large) == 3
    fits = form == event_pb2.CONTEXT_FORMAT_MARKDOWN  # the only one that escapes nothing
    assert all(matched.context_omitted is not fits for matched in large)


async def test_an_answer_says_what_was_cut(meter: Meter) -> None:
    api = meter.api
    questions = [Need(text="alpha", max_matches=100)]
    asked: Any = {"project": P, "questions": questions, "max_context_tokens": 2_000}
    answer = await api.matches.Match(
        MatchRequest(context_format=event_pb2.CONTEXT_FORMAT_JSON, **asked), timeout=DEADLINE_S
    )
    context = answer.context
    assert context.tokens <= 2_000
    assert context.omitted_count == len(context.omitted)
    assert len(answer.data) + context.omitted_count == 64
    assert context.omitted_tokens == sum(datum.tokens for datum in context.omitted)
    assert answer.omitted_count == 0
    registered: RegisterAgentResponse = await api.agents.RegisterAgent(
        RegisterAgentRequest(project=P, agent_id="cut", needs=NEEDS, max_matches=100),
        timeout=DEADLINE_S,
    )
    whole = len(registered.data) + registered.omitted_count
    assert whole > len(registered.data) > 10
    # What was left out is not on record as sent.
    request = ListDeliveriesRequest(project=P, agent_id="cut", page_size=1_000)
    recorded = await api.agents.ListDeliveries(request, timeout=DEADLINE_S)
    assert len(recorded.deliveries) == len(registered.data)


async def test_what_a_change_of_needs_brings_is_cut(meter: Meter) -> None:
    api = meter.api
    quiet = RegisterAgentRequest(project=P, agent_id="n", needs=[Need(text="nothing")])
    await api.agents.RegisterAgent(quiet, timeout=DEADLINE_S)
    async with asyncio.timeout(4 * DEADLINE_S):
        stream = api.agents.Listen(
            ListenRequest(
                project=P,
                agent_id="n",
                edge=event_pb2.EDGE_END,
                context_format=event_pb2.CONTEXT_FORMAT_YAML,
            )
        )
        await stream.read()
        change = UpdateAgentRequest(project=P, agent_id="n", needs=NEEDS, max_matches=100)
        changed = await api.agents.UpdateAgent(change, timeout=DEADLINE_S)
        matched: list[event_pb2.MatchedEvent] = []
        while len(matched) <= len(changed.data) + changed.omitted_count - 1:
            message = await stream.read()
            assert message.ByteSize() <= MOST
            matched += message.events.events
    stream.cancel()
    assert changed.omitted_count > 0
    for datum in matched:
        assert bool(datum.context) is not datum.context_omitted
        assert datum.event.payload


async def test_needs_have_a_bound_together(meter: Meter) -> None:
    globs = [WIDE * 500 + str(n) for n in range(20)]
    needs = [Need(text=f"alpha {n}", exclude_data_keys=globs) for n in range(8)]
    for rpc, request in {
        "RegisterAgent": RegisterAgentRequest(project=P, agent_id="w", needs=needs),
        "Match": MatchRequest(project=P, questions=needs),
    }.items():
        refused = await refusal(meter.call(rpc, request))
        assert refused.reason == "INVALID_FIELD"
        assert refused.fields == ["needs" if rpc == "RegisterAgent" else "questions"]
        assert str(Limits().needs_bytes) in refused.message


async def test_an_error_fits_into_headers(meter: Meter) -> None:
    bad = [NewEvent(data_key=f"{n}\x01" + WIDE * 300, content_type="x" * 200) for n in range(50)]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await meter.api.publish(*bad)
    trailers = refused.value.trailing_metadata() or ()
    details = sum(len(name) + len(value) * 4 // 3 + 32 for name, value in trailers)
    message = len((refused.value.details() or "").encode()) * 3 + 32
    assert details + message < 8_192  # of Java and others
    assert len((await refusal(meter.api.publish(*bad))).fields) > 10


async def test_every_answer_fits(meter: Meter) -> None:
    call, pages = meter.call, meter.pages
    await pages("ListEvents", ListEventsRequest(project=P, page_size=1_000))
    await call("Replay", ReplayRequest(project=P))
    await call("Subscribe", SubscribeRequest(project=P, heartbeat_interval_ms=100), until=9)
    await call("GetEvent", GetEventRequest(project=P, sequence=await newest(meter, "member")))
    for form in (0, *FORMATS):
        asked: Any = {"context_format": form, "max_matches": 100}
        await call("Match", MatchRequest(project=P, questions=NEEDS, **asked))
    asked["context_format"] = 0
    await call("RegisterAgent", RegisterAgentRequest(**of_agent(needs=NEEDS, **asked)))
    asked["context_format"] = event_pb2.CONTEXT_FORMAT_JSON
    await call("UpdateAgent", UpdateAgentRequest(**of_agent(**asked)))
    await call(
        "Listen",
        ListenRequest(**of_agent(edge=event_pb2.EDGE_BEGINNING, heartbeat_interval_ms=100)),
        until=9,
    )
    agents = await pages("ListAgents", ListAgentsRequest(project=P, page_size=1_000))
    assert len(agents) > 1
    assert sum(len(page.agents) for page in agents) >= 20
    await call("GetAgent", GetAgentRequest(**of_agent()))
    for omit in (False, True):
        request = GetAgentContextRequest(**of_agent(near_misses=100, omit_payloads=omit))
        await call("GetAgentContext", request)
        request = GetAgentContextRequest(project=P, agent_id="a1", omit_payloads=omit)
        (knew,) = await call("GetAgentContext", request)
        assert knew.pending_omitted_count + knew.held_back_omitted_count > 0
        history = GetHistoryRequest(
            project=P, data_key=key("often"), page_size=1_000, omit_payloads=omit
        )
        revisions = [r for page in await pages("GetHistory", history) for r in page.revisions]
        assert len(revisions) == 500
    for of in ({"agent_id": "a0"}, {"sequence": await newest(meter, key("large 0"))}):
        await pages("ListDeliveries", ListDeliveriesRequest(project=P, page_size=1_000, **of))
    for view in (0, STATE_VIEW_KEYS):
        await pages("GetState", GetStateRequest(project=P, page_size=1_000, view=view))
        await call("StreamState", StreamStateRequest(project=P, view=view))
        base = Position(sequence="0")
        await pages("DiffStates", DiffStatesRequest(project=P, base=base, view=view))
    for data_key in (key("large 1"), "member"):
        await call("GetRevision", GetRevisionRequest(project=P, data_key=data_key, revision=1))
        (blame,) = await call("GetBlame", GetBlameRequest(project=P, data_key=data_key))
    assert blame.truncated
    explained = ExplainRequest(project=P, text=NEEDS[0].text, data_key=key("large 2"))
    await call("Explain", explained)
    await call("Backtest", BacktestRequest(project=P, needs=NEEDS))
    judged = await newest(meter, key("large 0"))
    await call("RecordFeedback", RecordFeedbackRequest(**of_agent(sequence=judged)))
    await call("ExportFeedback", ExportFeedbackRequest(project=P))
    await pages("ListRecords", ListRecordsRequest(project=P, page_size=1_000))
    await call("ExportRecords", ExportRecordsRequest(project=P, format=AUDIT_FORMAT_JSON_LINES))
    by_need = GetActivityRequest(project=P, dimension=ACTIVITY_DIMENSION_NEED, top=100)
    await call("GetActivity", by_need)
    await pages("ListProjects", ListProjectsRequest(page_size=1_000))
    await call("ExportProject", ExportProjectRequest(project=P))
    await call("VerifyProject", VerifyProjectRequest(project=P))
    (info,) = await call("GetServerInfo", GetServerInfoRequest())
    assert info.limits.response_message_bytes == MOST
    # What is left answers with a few numbers.
    small = {name: VALID[name] for name in METHODS if name not in meter.sizes}
    for name, request in small.items():
        with suppress(grpc.aio.AioRpcError):
            await call(name, request)
        assert meter.sizes.setdefault(name, 0) < 1_024, name
    assert meter.sizes.keys() == METHODS.keys()
    assert {name: size for name, size in meter.sizes.items() if size > MOST} == {}

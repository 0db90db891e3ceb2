"""A call with a restricted scope sees nothing else, by whatever method it asks."""

from __future__ import annotations

from typing import Any

import pytest
from contex.v1 import (
    agent_service_pb2,
    audit_service_pb2,
    audit_service_pb2_grpc,
    event_pb2,
    match_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
    transfer_service_pb2_grpc,
)
from contex_server import server as module
from contex_server.agents import visibility
from contex_server.edge import chain
from contex_server.edge.incoming import Incoming, Link, Rest
from contex_server.kernel.model import Agent
from contex_server.kernel.scope import Scope
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    Api,
    GetEventRequest,
    ListenRequest,
    ListEventsRequest,
    P,
    RegisterAgentRequest,
    ReplayRequest,
    Stream,
    SubscribeRequest,
    UpdateAgentRequest,
    Words,
    after,
    asked,
    event,
    refusal,
)

SEEN, HIDDEN = "public.apple", "secret.apple"
GUEST: dict[str, Any] = {"metadata": (("contex-identity", "guest"),), "timeout": DEADLINE_S}


ITS_SCOPE = Scope(frozenset({"public.*"}))


async def access(call: Incoming, rest: Rest) -> Any:
    """Link: what one that knows of rights would do."""
    if call.origin.identity == "guest":
        call.scope = ITS_SCOPE
    return await rest(call)


def standing(agent: Agent) -> tuple[str, Scope]:
    """Whose agents are: all are the guest's here."""
    return "guest", ITS_SCOPE


@pytest.fixture
async def api(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    words: Words,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A server with one link more, and a project in which a guest sees half."""

    def links(*given: Any) -> tuple[Link, ...]:
        return chain.links(*given[:-1], access, *given[-1:])

    monkeypatch.setattr(module, "links", links)
    monkeypatch.setattr(visibility, "standing", standing)
    server = await start_server(valkey.url, embedder=words)
    async with Api.of(server) as opened:
        for key in (SEEN, HIDDEN):
            for n in range(2):
                await opened.publish(event(key, b'"apples %d"' % n, description="apples"))
        yield opened


def keys(events: Any) -> set[str]:
    return {item.data_key for item in events}


async def found(call: Any) -> list[Any]:
    return [message async for message in call]


async def test_events(api: Api) -> None:
    page = await api.events.ListEvents(ListEventsRequest(project=P), **GUEST)
    assert keys(page.events) == {SEEN}
    assert keys((await api.page()).events) == {SEEN, HIDDEN}
    for backwards in (event_pb2.ORDER_FORWARDS, event_pb2.ORDER_BACKWARDS):
        request = ReplayRequest(project=P, order=backwards)
        replayed = await found(api.events.Replay(request, **GUEST))
        assert [keys(message.events.events) for message in replayed] == [{SEEN}]
    for of in await api.log():
        request = GetEventRequest(project=P, sequence=of.sequence)
        if of.data_key == SEEN:
            assert (await api.events.GetEvent(request, **GUEST)).event == of
        else:
            refused = await refusal(api.events.GetEvent(request, **GUEST))
            assert refused.reason == "EVENT_NOT_FOUND"


async def test_streams(api: Api) -> None:
    guest = Stream(api.events.Subscribe(SubscribeRequest(project=P), metadata=GUEST["metadata"]))
    other = await api.subscribe().live()
    await guest.live()
    await api.register("a", "apples", last_seen_sequence="0")
    listen = ListenRequest(project=P, agent_id="a")
    listener = await Stream(api.agents.Listen(listen, metadata=GUEST["metadata"])).live()
    assert keys(listener.events) == {SEEN}
    await api.publish(event(HIDDEN, b"1", description="apples"))
    (last,) = await api.publish(event(SEEN, b"1", description="apples"))
    for stream in (guest, listener, other):
        await stream.until(lambda stream: last in stream.sequences)
    assert keys(guest.events) == keys(listener.events) == {SEEN}
    assert (len(guest.events), len(listener.events)) == (3, 3)
    assert keys(other.events) == {SEEN, HIDDEN, ""}
    await api.agents.UpdateAgent(
        UpdateAgentRequest(project=P, agent_id="a", needs=asked("apples again")),
        timeout=DEADLINE_S,
    )
    await listener.until(lambda stream: stream.kinds[-1] == "needs_changed")
    assert keys(datum.event for datum in listener.messages[-1].needs_changed.data) <= {SEEN}
    for stream in (guest, listener, other):
        await stream.cancel()


async def test_states_and_histories(api: Api) -> None:
    state = await api.states.GetState(state_service_pb2.GetStateRequest(project=P), **GUEST)
    assert (keys(state.data), state.data_count) == ({SEEN}, 1)
    request = state_service_pb2.StreamStateRequest(project=P)
    (streamed,) = await found(api.states.StreamState(request, **GUEST))
    assert (keys(streamed.data), streamed.data_count) == ({SEEN}, 1)
    diff = state_service_pb2.DiffStatesRequest(project=P, base=after("0"))
    changed = await api.states.DiffStates(diff, **GUEST)
    assert (keys(changed.changes), changed.added_count) == ({SEEN}, 1)
    for method, message in (
        ("GetHistory", state_service_pb2.GetHistoryRequest),
        ("GetRevision", state_service_pb2.GetRevisionRequest),
        ("GetBlame", state_service_pb2.GetBlameRequest),
    ):
        one = {"revision": 1} if method == "GetRevision" else {}
        call = getattr(api.states, method)
        await call(message(project=P, data_key=SEEN, **one), **GUEST)
        await call(message(project=P, data_key=HIDDEN, **one), timeout=DEADLINE_S)
        refused = await refusal(call(message(project=P, data_key=HIDDEN, **one), **GUEST))
        assert refused.reason == "DATA_KEY_NOT_FOUND"


async def test_matches(api: Api) -> None:
    question = match_service_pb2.MatchRequest(
        project=P, questions=[agent_service_pb2.Need(text="apples")]
    )
    answer = await api.matches.Match(question, **GUEST)
    assert keys(datum.event for datum in answer.data) == {SEEN}
    both = await api.matches.Match(question, timeout=DEADLINE_S)
    assert keys(datum.event for datum in both.data) == {SEEN, HIDDEN}
    explain = match_service_pb2.ExplainRequest(project=P, text="apples", data_key=HIDDEN)
    assert (await refusal(api.matches.Explain(explain, **GUEST))).reason == "DATA_KEY_NOT_FOUND"
    (hidden,) = [e.sequence for e in await api.log() if e.data_key == HIDDEN][:1]
    explain = match_service_pb2.ExplainRequest(project=P, text="apples", sequence=hidden)
    told = await refusal(api.matches.Explain(explain, **GUEST))
    explain.sequence = "1-0"  # there is none
    absent = await refusal(api.matches.Explain(explain, **GUEST))
    assert told.reason == absent.reason == "EVENT_NOT_FOUND"
    assert told.message.replace(hidden, "1-0") == absent.message
    assert told.metadata == {"sequence": hidden}
    test = match_service_pb2.BacktestRequest(
        project=P, needs=[agent_service_pb2.Need(text="apples")]
    )
    parts = await found(api.matches.Backtest(test, **GUEST))
    matched = [m.event.data_key for part in parts for m in part.events.events]
    assert matched == [SEEN, SEEN]
    assert parts[-1].summary.events_judged == 2


async def test_agents(api: Api) -> None:
    request = RegisterAgentRequest(project=P, agent_id="a", needs=asked("apples"))
    registered = await api.agents.RegisterAgent(request, **GUEST)
    assert keys(datum.event for datum in registered.data) == {SEEN}
    context = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="a")
    knows = await api.agents.GetAgentContext(context, **GUEST)
    assert (keys(knows.known), keys(datum.event for datum in knows.pending)) == ({SEEN}, set())
    await api.register("b", "apples")
    deliveries = agent_service_pb2.ListDeliveriesRequest(project=P, agent_id="b")
    sent = await api.agents.ListDeliveries(deliveries, **GUEST)
    assert keys(sent.deliveries) == {SEEN}
    every = await api.agents.ListDeliveries(deliveries, timeout=DEADLINE_S)
    assert keys(every.deliveries) == {SEEN, HIDDEN}


async def test_audit_and_files(api: Api) -> None:
    audit: Any = audit_service_pb2_grpc.AuditServiceStub(api.channel)
    request = audit_service_pb2.ListRecordsRequest(project=P)
    records = await audit.ListRecords(request, **GUEST)
    assert keys(records.records) == {SEEN}
    transfer: Any = transfer_service_pb2_grpc.TransferServiceStub(api.channel)
    export = transfer_service_pb2.ExportProjectRequest(
        project=P, format=transfer_service_pb2.EXPORT_FORMAT_JSON_LINES
    )
    data = b"".join([piece.data for piece in await found(transfer.ExportProject(export, **GUEST))])
    assert SEEN.encode() in data
    assert HIDDEN.encode() not in data

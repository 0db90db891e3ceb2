"""Feedback and explanations are about the need that matched, whatever the needs have become."""

from __future__ import annotations

from typing import Any

import pytest
from contex import AsyncClient, InvalidArgument
from contex.v1.agent_service_pb2 import ListDeliveriesRequest
from contex.v1.event_pb2 import Match, Position
from contex.v1.match_service_pb2 import (
    AgentNeed,
    ExplainRequest,
    ExportFeedbackRequest,
    RecordFeedbackRequest,
)
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.integration.support import (
    Api,
    P,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    Words,
    asked,
    event,
    refusal,
)


async def judge(api: Api, sequence: str, index: int, need: str = "") -> tuple[str, int]:
    """Records feedback; returns the need that it is about, and its position."""
    request = RecordFeedbackRequest(
        project=P, agent_id="a", sequence=sequence, need_index=index, need=need, useful=True
    )
    recorded = await api.matches.RecordFeedback(request)
    call = api.matches.ExportFeedback(ExportFeedbackRequest(project=P))
    (judged,) = [j async for j in call if j.sequence == recorded.sequence]
    assert judged.need_match.need == judged.need
    return judged.need, judged.need_match.need_index


async def explained(api: Api, index: int, need: str = "", **fields: Any) -> Match:
    agent_need = AgentNeed(agent_id="a", need_index=index, need=need)
    request = ExplainRequest(project=P, agent_need=agent_need, **fields)
    match = (await api.matches.Explain(request)).need_match
    assert isinstance(match, Match)
    return match


async def change(api: Api, *needs: str, **fields: Any) -> Any:
    request = UpdateAgentRequest(project=P, agent_id="a", needs=asked(*needs), **fields)
    return await api.agents.UpdateAgent(request)


async def test_the_need_is_that_of_the_delivery(word_api: Api) -> None:
    api = word_api
    await api.register("a", "alpha", "beta", threshold=0.2)
    stream = await api.listen("a").live()
    (sequence,) = await api.publish(event("alpha.one"))
    match = (await stream.count(1)).matched[-1].matches[0]
    assert (match.need_index, match.need) == (0, "alpha")

    changed = await change(api, "beta", "alpha", threshold=0.3)
    (later,) = changed.data[0].matches
    assert (later.need_index, later.need) == (1, "alpha")

    # A position alone is one in the registration that sent the event for the need there.
    assert await judge(api, sequence, 0) == ("alpha", 0)
    assert await judge(api, sequence, 1) == ("alpha", 1)
    # With its text, the need of either match is found, as it was then.
    assert await judge(api, sequence, 0, "alpha") == ("alpha", 0)
    assert await judge(api, sequence, 1, "alpha") == ("alpha", 1)
    for index, threshold in ((0, 0.2), (1, 0.3)):
        told = await explained(api, index, "alpha", sequence=sequence)
        assert (told.need_index, told.need) == (index, "alpha")
        assert told.parts.threshold == pytest.approx(threshold)
    assert (await explained(api, 0, sequence=sequence)).need == "alpha"
    # The current needs, too, may be judged by.
    assert await judge(api, sequence, 0, "beta") == ("beta", 0)


async def test_a_text_at_another_place_is_refused(word_api: Api) -> None:
    api = word_api
    await api.register("a", "alpha", "beta")
    (sequence,) = await api.publish(event("alpha.one"))
    request = RecordFeedbackRequest(
        project=P, agent_id="a", sequence=sequence, need_index=1, need="alpha", useful=True
    )
    told = await refusal(api.matches.RecordFeedback(request))
    assert (told.reason, told.fields) == ("INVALID_FIELD", ["need"])
    assert told.message == "need: need 1 of agent 'a' is 'beta', not 'alpha', which is need 0"

    await change(api, "beta", "alpha")
    agent_need = AgentNeed(agent_id="a", need_index=0, need="alpha")
    explain = ExplainRequest(project=P, agent_need=agent_need, data_key="alpha.one")
    told = await refusal(api.matches.Explain(explain))
    assert (told.reason, told.fields) == ("INVALID_FIELD", ["agent_need.need"])
    assert told.message.endswith("need 0 of agent 'a' is 'beta', not 'alpha', which is need 1")
    agent_need.need_index, agent_need.need = 5, "gamma"
    explain.agent_need.CopyFrom(agent_need)
    told = await refusal(api.matches.Explain(explain))
    assert told.message.endswith("need 5 of agent 'a' does not exist (there are 2), not 'gamma'")


async def test_needs_are_as_of_the_moment_that_is_asked_about(word_api: Api) -> None:
    api = word_api
    (before,) = await api.publish(event("alpha.one"))
    await api.register("a", "alpha")
    (between,) = await api.publish(event("gamma.none"))
    await change(api, "beta", "alpha")

    as_of = {"data_key": "alpha.one", "as_of": Position(sequence=between)}
    assert (await explained(api, 0, **as_of)).need == "alpha"
    assert (await explained(api, 0, data_key="alpha.one")).need == "beta"
    # Never sent: the needs as of the event. Not registered then: the first needs.
    assert (await explained(api, 0, sequence=between)).need == "alpha"
    as_of["as_of"] = Position(sequence=before)
    assert (await explained(api, 0, **as_of)).need == "alpha"
    # Needs that came later, and a position that there was none at.
    request = RecordFeedbackRequest(
        project=P, agent_id="a", sequence=between, need_index=1, useful=True
    )
    told = await refusal(api.matches.RecordFeedback(request))
    assert (told.fields, told.message) == (["need_index"], "need_index: must be below 1, not 1")
    assert await judge(api, between, 1, "alpha") == ("alpha", 1)


async def test_what_was_missed_comes_by_the_needs_of_its_time(word_api: Api) -> None:
    api = word_api
    start = (await api.register("a", "alpha", "beta")).cursor
    (sequence,) = await api.publish(event("alpha.one"))
    await change(api, "beta", "alpha", max_context_tokens=1)  # too few for any datum
    match = (await api.listen("a", cursor=start).count(1)).matched[-1].matches[0]
    assert (match.need_index, match.need) == (0, "alpha")
    assert await judge(api, sequence, 0) == ("alpha", 0)


async def test_an_agent_that_took_the_id_of_another(word_api: Api) -> None:
    api = word_api
    await api.register("a", "alpha", "beta")
    await api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a"))
    (sequence,) = await api.publish(event("gamma.none"))
    await api.register("a", "beta", "alpha")
    assert (await explained(api, 0, sequence=sequence)).need == "beta"


async def test_registrations_of_the_same_moment_are_told_apart(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = word_api
    monkeypatch.setattr("time.time_ns", lambda: 1_800_000_000_000_000_000)
    (sequence,) = await api.publish(event("alpha.one"))
    await api.register("a", "alpha", "beta")
    await change(api, "beta", "alpha")
    request = ListDeliveriesRequest(project=P, agent_id="a")
    deliveries = (await api.agents.ListDeliveries(request)).deliveries
    needs = [(need.need_index, need.need) for sent in deliveries for need in sent.needs]
    assert needs == [(0, "alpha"), (1, "alpha")]
    assert await judge(api, sequence, 0, "alpha") == ("alpha", 0)
    assert await judge(api, sequence, 1, "alpha") == ("alpha", 1)


async def test_without_records_of_deliveries(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words(), delivery_records=False)
    async with Api.of(server) as api:
        await api.register("a", "alpha", "beta")
        (sequence,) = await api.publish(event("alpha.one"))
        await change(api, "beta", "alpha")
        assert await judge(api, sequence, 0) == ("alpha", 0)
        assert await judge(api, sequence, 0, "alpha") == ("alpha", 0)
        assert await judge(api, sequence, 1, "alpha") == ("alpha", 1)


async def test_the_client_takes_index_and_text_from_the_match(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words())
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        await client.publish(P, "alpha.one", {"n": 1})
        registration = await client.register_agent(P, "a", ["alpha", "beta"])
        (matched,) = registration.data
        await client.register_agent(P, "a", ["gamma", "beta", "alpha"])
        await client.record_feedback(P, "a", matched, useful=True)
        (judged,) = [judged async for judged in client.export_feedback(P)]
        assert (judged.need, judged.need_match.need_index) == ("alpha", 0)

        (match,) = matched.matches
        told = await client.explain(
            P,
            agent_id="a",
            need_index=match.need_index,
            need=match.need,
            sequence=matched.event.sequence,
        )
        assert (told.need_match.need, told.need_match.need_index) == ("alpha", 0)

        # Matches of a question or a backtest say where they are in its list, not in the agent's.
        (answered,) = (await client.match(P, ["delta", "alpha"])).data
        assert answered.matches[0].need_index == 1
        with pytest.raises(InvalidArgument, match="need 1 of agent 'a' is 'beta', not 'alpha'"):
            await client.record_feedback(P, "a", answered, useful=True)

"""Agents: their values, and the requests that register and acknowledge."""

from __future__ import annotations

from typing import Any

import pytest
from contex import Client, ContextFormat, MinDelta, Need, agents, events
from contex.v1 import agent_service_pb2, event_pb2

from tests.unit.client import fakes
from tests.unit.client.recording import RecordingChannel


def test_a_registration_groups_its_data_by_need() -> None:
    message = agent_service_pb2.RegisterAgentResponse(sequence="2-0", cursor="c")
    message.agent.needs.extend(agent_service_pb2.Need(text=need) for need in "abca")
    first = message.data.add(event=fakes.event(1))
    first.matches.add(need_index=0, need="a", score=0.5)
    second = message.data.add(event=fakes.event(2))
    second.matches.add(need_index=1, need="b", score=0.9)
    second.matches.add(need_index=0, need="a", score=0.6)
    second.matches.add(need_index=3, need="a", score=0.6)  # the same need once more
    registration = agents.registration(message)
    found = {
        need: [(datum.event.sequence, match.score) for datum, match in data]
        for need, data in registration.by_need().items()
    }
    assert found == {"a": [("2-0", 0.6), ("1-0", 0.5)], "b": [("2-0", 0.9)], "c": []}
    assert registration.data[1].score == 0.9


def test_a_position_is_an_event_a_sequence_or_a_cursor(
    recorder: Client, recorded: RecordingChannel
) -> None:
    def request(*given: Any, **options: Any) -> agent_service_pb2.AcknowledgeRequest:
        recorder.acknowledge("p", "a", *given, **options)
        return recorded.request

    matched = event_pb2.MatchedEvent(event=fakes.event(6))
    assert request("4-0").sequence == "4-0"
    assert request(events.event(fakes.event(5))).sequence == "5-0"
    assert request(events.matched_event(matched)).sequence == "6-0"
    assert request(cursor="c").cursor == "c"
    for given in ({}, {"position": "4-0", "cursor": "c"}):
        with pytest.raises(ValueError, match="exactly one"):
            request(**given)


@pytest.fixture
def register(recorder: Client, recorded: RecordingChannel) -> Any:
    def request(*needs: str | Need, **given: Any) -> agent_service_pb2.RegisterAgentRequest:
        recorder.register_agent("p", "a", needs, **given)
        return recorded.request

    return request


def test_a_need_may_be_a_text(register: Any) -> None:
    plain = register("a", "b")
    assert [need.text for need in plain.needs] == ["a", "b"]
    assert not any(map(plain.HasField, ("last_seen_sequence", "threshold", "min_delta")))
    mixed = register("a", Need("b", threshold=0.4, exclude_data_keys=("x*",)))
    first, second = mixed.needs
    assert (first.text, first.HasField("threshold")) == ("a", False)
    assert (second.text, second.threshold, second.HasField("max_matches")) == ("b", 0.4, False)
    assert list(second.exclude_data_keys) == ["x*"]


@pytest.mark.parametrize("needs", ["abc", [Need("x", exclude_data_keys="abc")]])  # type: ignore[arg-type]
def test_one_need_or_exclusion_is_not_several(recorder: Client, needs: Any) -> None:
    for ask in (recorder.backtest, recorder.match):
        with pytest.raises(TypeError, match="several"):
            ask("p", needs)


def test_a_budget_a_format_and_a_delta(
    recorder: Client, recorded: RecordingChannel, register: Any
) -> None:
    request = register(
        "a",
        min_delta=MinDelta(json_pointers=("/price",)),
        max_context_tokens=500,
        context_format=ContextFormat.TOON,
    )
    assert list(request.min_delta.json_pointers) == ["/price"]
    assert request.max_context_tokens == 500
    assert request.context_format == event_pb2.CONTEXT_FORMAT_TOON
    recorder.update_agent("p", "a", min_delta=MinDelta())
    cleared = recorded.request
    assert cleared.HasField("min_delta")
    assert not cleared.HasField("max_context_tokens")


def test_a_registration_with_all_there_is() -> None:
    message = agent_service_pb2.RegisterAgentResponse()
    message.agent.needs.add(text="a", threshold=0.4, exclude_data_keys=["x*"])
    message.agent.min_delta.payload_changed = True
    message.context.format = event_pb2.CONTEXT_FORMAT_YAML
    message.context.text, message.context.tokens = "- data_key: k", 9
    message.context.omitted.add(data_key="big", sequence="1-0", score=0.5, tokens=900)
    registration = agents.registration(message)
    assert registration.agent.needs == (Need("a", 0.4, None, ("x*",)),)
    assert registration.agent.min_delta == MinDelta(payload_changed=True)
    assert registration.context is not None
    assert registration.context.format is ContextFormat.YAML
    assert [omitted.data_key for omitted in registration.context.omitted] == ["big"]
    bare = agents.updated(agent_service_pb2.UpdateAgentResponse())
    assert (bare.context, bare.agent.min_delta, bare.agent.needs) == (None, None, ())


def test_a_format_of_a_newer_server_is_none() -> None:
    message = agent_service_pb2.UpdateAgentResponse()
    message.context.format = 99
    context = agents.updated(message).context
    assert context is not None
    assert context.format is None

"""Agents: their values, and the requests that register and acknowledge."""

from __future__ import annotations

from typing import Any

import pytest
from contex import (
    Client,
    ContextFormat,
    EventFilter,
    MatchedEvent,
    MatchKind,
    MinDelta,
    Need,
    agents,
    events,
)
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


def test_a_need_may_be_a_filter(register: Any) -> None:
    wanted = EventFilter(("t",), ["k*"], event_type_prefixes=("o.",), metadata={"a": "b"})  # type: ignore[arg-type]
    request = register(wanted, Need(filter=EventFilter(), max_matches=3, id="ignored"), "words")
    first, second, third = request.needs
    assert (list(first.filter.event_types), list(first.filter.data_keys)) == (["t"], ["k*"])
    assert list(first.filter.event_type_prefixes) == ["o."]
    assert dict(first.filter.metadata) == {"a": "b"}
    assert (first.text, second.text, second.max_matches, second.id) == ("", "", 3, "")
    assert (second.HasField("filter"), third.HasField("filter")) == (True, False)
    with pytest.raises(TypeError, match=r"needs\[0\].event_types: expected several"):
        register(EventFilter("abc"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"needs\[0\].filter: expected an EventFilter"):
        register(Need(filter={}))  # type: ignore[arg-type]


def test_filters_are_grouped_by_what_their_matches_say() -> None:
    message = agent_service_pb2.RegisterAgentResponse()
    message.agent.needs.add(id="0022264b").filter.event_types.append("order.paid")
    message.agent.needs.add(text="words")
    datum = message.data.add(event=fakes.event(5))
    datum.matches.add(need="type=order.paid", score=1, need_id="0022264b")
    registration = agents.registration(message)
    grouped = registration.by_need()
    assert [*grouped] == ["type=order.paid", "words"]
    (found,) = grouped["type=order.paid"]
    assert (found[1].score, found[1].need_id, found[1].scorer) == (1, "0022264b", "")
    # Where it came from makes no difference.
    assert registration.agent.needs[0] == Need(filter=EventFilter(("order.paid",)))


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


def test_muted_kinds_and_own_events(
    recorder: Client, recorded: RecordingChannel, register: Any
) -> None:
    plain = register("a")
    assert (list(plain.muted_kinds), plain.exclude_own) == ([], False)
    muted = register("a", muted_kinds=[MatchKind.UPDATED, MatchKind.EXPIRED], exclude_own=True)
    assert list(muted.muted_kinds) == [
        event_pb2.MATCH_KIND_UPDATED,
        event_pb2.MATCH_KIND_EXPIRED,
    ]
    assert muted.exclude_own
    recorder.update_agent("p", "a", threshold=0.4)
    assert not any(map(recorded.request.HasField, ("muted_kinds", "exclude_own")))
    recorder.update_agent("p", "a", muted_kinds=(), exclude_own=False)
    assert all(map(recorded.request.HasField, ("muted_kinds", "exclude_own")))
    recorder.update_agent("p", "a", muted_kinds=[MatchKind.LEFT])
    assert list(recorded.request.muted_kinds.kinds) == [event_pb2.MATCH_KIND_LEFT]


@pytest.mark.parametrize("kinds", [["gone"], [MatchKind.OTHER], [True], "left"])
def test_what_is_no_kind_is_not_muted(register: Any, kinds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="muted_kinds"):
        register("a", muted_kinds=kinds)


def delivery(kind: str | None, revision: int, key: str = "k") -> MatchedEvent:
    number = event_pb2.MatchKind.Value(f"MATCH_KIND_{kind}") if kind else 0
    event = event_pb2.Event(sequence=f"{revision}-0", data_key=key, revision=revision)
    return events.matched_event(event_pb2.MatchedEvent(event=event, kind=number))


@pytest.mark.parametrize(
    ("deliveries", "revision"),
    [
        (["MATCHED 1"], 1),
        (["MATCHED 1", "UPDATED 2"], 2),
        (["MATCHED 1", "LEFT 2"], None),
        (["MATCHED 1", "LEFT 1"], None),
        (["MATCHED 1", "DELETED 2", "MATCHED 3"], 3),
        (["MATCHED 1", "EXPIRED 2"], None),
        (["MATCHED 1", "UPDATED 2", "ERASED 1"], 2),
        (["MATCHED 1", "UPDATED 2", "ERASED 2"], None),
        (["LEFT 4"], None),
        (["MATCHED 1", "WITHHELD 1"], None),
        (["MATCHED 1", "WITHHELD 1", "MATCHED 2"], 2),
        (["MATCHED 1", "LEFT 2", "MATCHED 3", "MATCHED 1", "LEFT 2", "MATCHED 3"], 3),
    ],
)
def test_a_dict_is_kept_true(deliveries: list[str], revision: int | None) -> None:
    held: dict[str, MatchedEvent] = {}
    for one in deliveries:
        kind, number = one.split()
        delivery(kind, int(number)).apply_to(held)
    assert {key: value.event.revision for key, value in held.items()} == (
        {"k": revision} if revision else {}
    )


def test_an_answer_of_a_registration_can_be_applied_and_what_is_no_datum_is_not_held() -> None:
    held: dict[str, MatchedEvent] = {}
    delivery(None, 1).apply_to(held)
    delivery("MATCHED", 0, key="").apply_to(held)
    assert list(held) == ["k"]
    message = event_pb2.MatchedEvent(event=event_pb2.Event(data_key="k", revision=2), kind=99)
    newer = events.matched_event(message)
    assert newer.kind is MatchKind.OTHER
    newer.apply_to(held)
    assert held["k"].event.revision == 1


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

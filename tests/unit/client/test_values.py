from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from contex import ContextFormat, Durability, MinDelta, Need, NewEvent, requests, responses
from contex.v1 import agent_service_pb2, event_pb2, event_service_pb2

from tests.unit.client import fakes


def test_an_event_tells_its_value_and_time() -> None:
    event = responses.event(
        event_pb2.Event(sequence="1764000000123-4", payload=b'{"a":1}', metadata={"x": "y"})
    )
    assert event.value == {"a": 1}
    assert event.time == datetime(2025, 11, 24, 16, 0, 0, 123000, tzinfo=UTC)
    assert event.metadata == {"x": "y"}
    assert len({event}) == 1


def test_a_registration_groups_its_data_by_need() -> None:
    message = agent_service_pb2.RegisterAgentResponse(sequence="2-0", cursor="c")
    message.agent.needs.extend(["a", "b", "c"])
    first = message.data.add(event=fakes.event(1))
    first.matches.add(need_index=0, need="a", score=0.5)
    second = message.data.add(event=fakes.event(2))
    second.matches.add(need_index=1, need="b", score=0.9)
    second.matches.add(need_index=0, need="a", score=0.6)
    registration = responses.registered(message)
    found = {
        need: [(datum.event.sequence, match.score) for datum, match in data]
        for need, data in registration.by_need().items()
    }
    assert found == {"a": [("2-0", 0.6), ("1-0", 0.5)], "b": [("2-0", 0.9)], "c": []}
    assert registration.data[1].score == 0.9


@pytest.mark.parametrize(
    ("sent", "expected"), [(0, "FSYNC"), (1, "MEMORY"), (3, "REPLICATED"), (9, "REPLICATED")]
)
def test_durability_levels_of_other_versions_are_understood(sent: int, expected: str) -> None:
    response = event_service_pb2.PublishResponse(durability=sent)
    response.receipts.add(sequence="1-0")
    assert responses.receipts(response)[0].durability is Durability[expected]


def test_a_refused_batch_is_a_result_with_an_error() -> None:
    response = event_service_pb2.PublishStreamResponse(request_id="r")
    response.refused.code = 9
    response.refused.reason = 9
    response.refused.metadata["actual_revision"] = "3"
    response.refused.retry_delay_ms = 1500
    error = responses.batch_result(response).error
    assert error is not None
    assert (type(error).__name__, error.reason) == ("RevisionConflict", "REVISION_CONFLICT")
    assert (error.actual_revision, error.retry_after) == (3, 1.5)


def publish(event: NewEvent) -> event_service_pb2.NewEvent:
    return requests.publish("p", [event], publisher="me", durability=None, request_id=None).events[
        0
    ]


def test_a_tombstone_has_no_payload() -> None:
    event = publish(NewEvent("k", tombstone=True, expected_revision=0))
    assert (event.payload, event.content_type) == (b"", "")
    assert event.HasField("expected_revision")
    assert not publish(NewEvent("k")).HasField("expected_revision")
    assert publish(NewEvent("k")).payload == b"null"


def test_request_ids_are_fresh_unless_given() -> None:
    def request_id(given: str | None) -> str:
        return requests.publish(
            "p", [], publisher="", durability=Durability.MEMORY, request_id=given
        ).request_id

    assert request_id("mine") == "mine"
    assert request_id("") == ""
    assert len({request_id(None), request_id(None)}) == 2


def subscribe(**given: object) -> event_service_pb2.SubscribeRequest:
    arguments: dict[str, object] = {
        "start": None,
        "after_sequence": None,
        "from_time": None,
        "cursor": None,
        "event_types": (),
        "data_keys": (),
        "publishers": (),
        "heartbeat_interval_ms": 0,
    }
    return requests.subscribe("p", **(arguments | given))  # type: ignore[arg-type]


def test_start_positions() -> None:
    noon = datetime(2025, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert subscribe().WhichOneof("start") is None
    assert subscribe(start="beginning").from_beginning
    assert subscribe(start="end").from_end
    assert subscribe(after_sequence="0").after_sequence == "0"
    assert subscribe(from_time=noon).from_time.ToDatetime(tzinfo=UTC) == noon
    assert subscribe(cursor="c").cursor == "c"


@pytest.mark.parametrize(
    "given",
    [
        {"start": "middle"},
        {"start": "end", "cursor": "c"},
        {"from_time": datetime(2025, 1, 1)},
    ],
)
def test_ambiguous_start_positions_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        subscribe(**given)


def test_one_string_is_not_several() -> None:
    with pytest.raises(TypeError, match="several"):
        subscribe(data_keys="api_*")


def test_a_position_is_an_event_a_sequence_or_a_cursor() -> None:
    event = responses.event(fakes.event(5))
    matched = responses.matched_event(event_pb2.MatchedEvent(event=fakes.event(6)))
    assert requests.acknowledge("p", "a", "4-0", cursor=None).sequence == "4-0"
    assert requests.acknowledge("p", "a", event, cursor=None).sequence == "5-0"
    assert requests.acknowledge("p", "a", matched, cursor=None).sequence == "6-0"
    assert requests.acknowledge("p", "a", None, cursor="c").cursor == "c"
    with pytest.raises(ValueError):
        requests.acknowledge("p", "a", None, cursor=None)
    with pytest.raises(ValueError):
        requests.acknowledge("p", "a", "4-0", cursor="c")


def register(*needs: str | Need, **given: Any) -> agent_service_pb2.RegisterAgentRequest:
    arguments: dict[str, Any] = {
        "last_seen_sequence": None,
        "threshold": None,
        "max_matches": None,
        "min_delta": None,
        "max_context_tokens": None,
        "context_format": None,
    }
    return requests.register_agent("p", "a", needs, **(arguments | given))


def test_needs_go_out_as_lines_unless_one_has_options() -> None:
    plain = register("a", "b")
    assert (list(plain.needs), len(plain.need_specs)) == (["a", "b"], 0)
    assert not any(map(plain.HasField, ("last_seen_sequence", "threshold", "min_delta")))
    mixed = register("a", Need("b", threshold=0.4, exclude_data_keys=("x*",)))
    assert not mixed.needs
    first, second = mixed.need_specs
    assert (first.text, first.HasField("threshold")) == ("a", False)
    assert (second.text, second.threshold, second.HasField("max_matches")) == ("b", 0.4, False)
    assert list(second.exclude_data_keys) == ["x*"]


@pytest.mark.parametrize("needs", ["abc", [Need("x", exclude_data_keys="abc")]])  # type: ignore[arg-type]
def test_one_need_or_exclusion_is_not_several(needs: Any) -> None:
    with pytest.raises(TypeError, match="several"):
        requests.backtest(
            "p",
            needs,
            threshold=None,
            since=None,
            until=None,
            min_delta=None,
            summary_only=False,
        )


def test_a_budget_a_format_and_a_delta() -> None:
    request = register(
        "a",
        min_delta=MinDelta(json_pointers=("/price",)),
        max_context_tokens=500,
        context_format=ContextFormat.TOON,
    )
    assert list(request.min_delta.json_pointers) == ["/price"]
    assert request.max_context_tokens == 500
    assert request.context_format == event_pb2.CONTEXT_FORMAT_TOON
    cleared = requests.update_agent(
        "p",
        "a",
        needs=None,
        threshold=None,
        max_matches=None,
        min_delta=MinDelta(),
        max_context_tokens=None,
        context_format=None,
    )
    assert cleared.HasField("min_delta")
    assert not cleared.HasField("max_context_tokens")


def test_a_registration_with_all_there_is() -> None:
    message = agent_service_pb2.RegisterAgentResponse()
    message.agent.needs.append("a")
    message.agent.need_specs.add(text="a", threshold=0.4, exclude_data_keys=["x*"])
    message.agent.min_delta.payload_changed = True
    message.context.format = event_pb2.CONTEXT_FORMAT_YAML
    message.context.text, message.context.tokens = "- data_key: k", 9
    message.context.omitted.add(data_key="big", sequence="1-0", score=0.5, tokens=900)
    registration = responses.registered(message)
    assert registration.agent.need_specs == (Need("a", 0.4, None, ("x*",)),)
    assert registration.agent.min_delta == MinDelta(payload_changed=True)
    assert registration.context is not None
    assert registration.context.format is ContextFormat.YAML
    assert [omitted.data_key for omitted in registration.context.omitted] == ["big"]
    bare = responses.updated(agent_service_pb2.UpdateAgentResponse())
    assert (bare.context, bare.agent.min_delta, bare.agent.need_specs) == (None, None, ())


def test_a_format_of_a_newer_server_is_none() -> None:
    message = agent_service_pb2.UpdateAgentResponse()
    message.context.format = 99
    context = responses.updated(message).context
    assert context is not None
    assert context.format is None


def test_a_match_tells_its_parts() -> None:
    message = fakes.matched(1, "n")
    match = message.matches[0]
    match.path, match.passage, match.parts.standing = "/a", "words", 2.5
    match.parts.background_sequence, match.parts.scorer = "7-0", "s1"
    found = responses.matched_event(message).matches[0]
    assert (found.path, found.passage, found.standing) == ("/a", "words", 2.5)
    assert (found.background_sequence, found.scorer) == ("7-0", "s1")
    # Every part of the message has a field: none is forgotten when one is added.
    parts = {field.name for field in event_pb2.ScoreParts.DESCRIPTOR.fields}
    own = {field.name for field in event_pb2.Match.DESCRIPTOR.fields} - {"parts"}
    assert {field.name for field in fields(found)} == parts | own


@pytest.mark.parametrize(
    "given",
    [
        {"need": "n", "agent_id": "a", "data_key": "k"},
        {"data_key": "k"},
        {"need": "n"},
        {"need": "n", "data_key": "k", "sequence": "1-0"},
    ],
)
def test_an_explanation_is_of_one_need_and_one_datum(given: dict[str, str]) -> None:
    arguments: dict[str, Any] = dict.fromkeys(
        ("need", "agent_id", "data_key", "sequence", "threshold", "as_of")
    )
    with pytest.raises(ValueError, match="give a"):
        requests.explain("p", need_index=0, **(arguments | given))


def test_feedback_is_about_the_best_match_unless_told() -> None:
    message = event_pb2.MatchedEvent(event=fakes.event(6))
    message.matches.add(need_index=3, score=0.9)
    message.matches.add(need_index=0, score=0.4)
    matched = responses.matched_event(message)

    def asked(event: Any, need_index: int | None = None) -> tuple[str, int]:
        request = requests.record_feedback(
            "p", "a", event, need_index=need_index, useful=True, comment="", request_id=None
        )
        assert len(request.request_id) == 32
        return request.sequence, request.need_index

    assert asked(matched) == ("6-0", 3)
    assert asked(matched, 0) == ("6-0", 0)
    assert asked(matched.event) == ("6-0", 0)
    assert asked("4-0", 2) == ("4-0", 2)

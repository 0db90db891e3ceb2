from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from contex import Durability, NewEvent, requests, responses
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

"""Events: their values, and the requests that publish and read them."""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from contex import Client, Durability, NewEvent, Unavailable, events
from contex.v1 import event_pb2, event_service_pb2

from tests.unit.client import fakes
from tests.unit.client.recording import RecordingChannel


def test_an_event_tells_its_value_and_time() -> None:
    event = events.event(
        event_pb2.Event(sequence="1764000000123-4", payload=b'{"a":1}', metadata={"x": "y"})
    )
    assert event.value == {"a": 1}
    assert event.time == datetime(2025, 11, 24, 16, 0, 0, 123000, tzinfo=UTC)
    assert event.metadata == {"x": "y"}
    assert len({event}) == 1


@pytest.mark.parametrize(
    ("sent", "expected"), [(0, "FSYNC"), (1, "MEMORY"), (3, "REPLICATED"), (9, "REPLICATED")]
)
def test_durability_levels_of_other_versions_are_understood(sent: int, expected: str) -> None:
    response = event_service_pb2.PublishResponse(durability=sent)
    response.receipts.add(sequence="1-0")
    assert events.receipts(response)[0].durability is Durability[expected]


def test_a_refused_batch_is_a_result_with_an_error() -> None:
    response = event_service_pb2.PublishStreamResponse(request_id="r")
    response.refused.code = 9
    response.refused.reason = "REVISION_CONFLICT"
    response.refused.metadata["actual_revision"] = "3"
    response.refused.retry_delay_ms = 1500
    error = events.batch_result(response).error
    assert error is not None
    assert (type(error).__name__, error.reason) == ("RevisionConflict", "REVISION_CONFLICT")
    assert (error.actual_revision, error.retry_after) == (3, 1.5)


def test_a_tombstone_has_no_payload() -> None:
    message = events.to_new_event(NewEvent("k", tombstone=True, expected_revision=0))
    assert (message.payload, message.content_type) == (b"", "")
    assert message.HasField("expected_revision")
    assert not events.to_new_event(NewEvent("k")).HasField("expected_revision")
    assert events.to_new_event(NewEvent("k")).payload == b"null"


def test_request_ids_are_fresh_unless_given(recorder: Client, recorded: RecordingChannel) -> None:
    def request_id(given: str | None) -> str:
        recorder.publish_batch("p", [], durability=Durability.MEMORY, request_id=given)
        assert recorded.request.durability == event_pb2.DURABILITY_MEMORY
        return recorded.request.request_id

    assert request_id("mine") == "mine"
    assert request_id("") == ""
    assert len({request_id(None), request_id(None)}) == 2


def test_start_positions(recorder: Client, recorded: RecordingChannel) -> None:
    def request(**given: Any) -> event_service_pb2.SubscribeRequest:
        with (
            pytest.raises(Unavailable),
            recorder.subscribe("p", reconnect=False, **given) as stream,
        ):
            next(stream)
        return recorded.request

    noon = datetime(2025, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert request().WhichOneof("start") is None
    assert request(start="beginning").edge == event_pb2.EDGE_BEGINNING
    assert request(start="end").edge == event_pb2.EDGE_END
    assert request(after_sequence="0").after_sequence == "0"
    assert request(from_time=noon).from_time.ToDatetime(tzinfo=UTC) == noon
    assert request(cursor="c").cursor == "c"


@pytest.mark.parametrize(
    "given",
    [
        {"start": "middle"},
        {"start": "end", "cursor": "c"},
        {"from_time": datetime(2025, 1, 1)},
    ],
)
def test_ambiguous_start_positions_are_refused(recorder: Client, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        recorder.subscribe("p", **given)


@pytest.mark.parametrize("read", [Client.subscribe, Client.list_events, Client.replay])
def test_one_string_is_not_several(recorder: Client, read: Any) -> None:
    with pytest.raises(TypeError, match="several"):
        read(recorder, "p", data_keys="api_*")


def test_a_match_tells_its_parts() -> None:
    message = fakes.matched(1, "n")
    match = message.matches[0]
    match.path, match.passage, match.parts.standing = "/a", "words", 2.5
    match.parts.background_sequence, match.parts.scorer = "7-0", "s1"
    found = events.matched_event(message).matches[0]
    assert (found.path, found.passage, found.standing) == ("/a", "words", 2.5)
    assert (found.background_sequence, found.scorer) == ("7-0", "s1")
    # Every part of the message has a field: none is forgotten when one is added.
    parts = {field.name for field in event_pb2.ScoreParts.DESCRIPTOR.fields}
    own = {field.name for field in event_pb2.Match.DESCRIPTOR.fields} - {"parts"}
    assert {field.name for field in fields(found)} == parts | own


def test_how_long_a_fact_is_valid() -> None:
    until = datetime(2030, 1, 31, 10, tzinfo=UTC)
    message = events.to_new_event(NewEvent("k", valid_until=until))
    assert message.valid_until.ToDatetime(tzinfo=UTC) == until
    for length in (90, 90.0, timedelta(minutes=1, seconds=30)):
        message = events.to_new_event(NewEvent("k", valid_for=length))
        assert message.valid_for.ToTimedelta() == timedelta(seconds=90)
    assert events.to_new_event(NewEvent("k")).WhichOneof("validity") is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"valid_for": 1, "valid_until": datetime.now(UTC)}, "^valid_for: not together with"),
        ({"valid_for": True}, "^valid_for: expected seconds or a timedelta, not bool True"),
        ({"valid_for": "1h"}, "^valid_for: expected seconds or a timedelta, not str '1h'"),
        ({"valid_for": math.nan}, "^valid_for: nan s is no length of time"),
        ({"valid_for": math.inf}, "^valid_for: inf s is no length of time"),
        ({"valid_for": 1e300}, "^valid_for: 1e\\+300 s is no length of time"),
        ({"valid_until": datetime(2030, 1, 31)}, "^valid_until: a datetime needs a time zone"),
        ({"valid_until": 5}, "^valid_until: expected a datetime, not int 5"),
    ],
)
def test_what_is_no_validity(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=problem):
        events.to_new_event(NewEvent("k", **fields))

from __future__ import annotations

import grpc
import pytest
from contex.backoff import PROMISED_WINDOW_S, safe_s
from contex.errors import Internal, InvalidArgument, Unavailable
from contex.publish_window import PublishWindow
from contex.v1 import event_service_pb2
from hypothesis import given
from hypothesis import strategies as st

UNAVAILABLE = Unavailable("gone", grpc.StatusCode.UNAVAILABLE)


def request(number: int) -> event_service_pb2.PublishStreamRequest:
    return event_service_pb2.PublishStreamRequest(
        publish=event_service_pb2.PublishRequest(request_id=f"r{number}")
    )


def answer(request_id: str) -> event_service_pb2.PublishStreamResponse:
    return event_service_pb2.PublishStreamResponse(
        request_id=request_id, published=event_service_pb2.PublishResponse()
    )


@given(st.integers(1, 4), st.integers(1, 10), st.data())
def test_every_batch_is_appended_once_and_answered_in_order(
    size: int, total: int, data: st.DataObject
) -> None:
    window = PublishWindow(size)
    appended: list[str] = []
    results: list[str] = []
    added = sent = 0
    in_flight: list[str] = []
    while len(results) < total:
        assert window.end - window.first <= size
        possible = {
            "answer": bool(in_flight),
            "send": sent < window.end,
            "add": added < total and window.has_room,
            "break": True,
        }
        match data.draw(st.sampled_from([act for act, can in possible.items() if can])):
            case "answer":
                results.append(window.on_response(answer(in_flight.pop(0))).request_id)
            case "send":
                request_id = window.get(sent).publish.request_id
                if request_id not in appended:
                    appended.append(request_id)
                in_flight.append(request_id)
                sent += 1
            case "add":
                window.add(request(added))
                added += 1
            case "break":
                window.on_break(UNAVAILABLE)
                sent = window.first
                in_flight = []
    assert appended == results == [f"r{number}" for number in range(total)]
    assert window.is_empty


def test_the_answer_to_another_batch_is_an_error() -> None:
    window = PublishWindow(2)
    with pytest.raises(Internal):
        window.on_response(answer("r0"))
    window.add(request(0))
    window.add(request(1))
    with pytest.raises(Internal):
        window.on_response(answer("r1"))


def test_a_window_has_room_for_one_at_least() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PublishWindow(0)


def test_batches_are_not_sent_again_after_the_server_may_have_forgotten_them() -> None:
    now = 0.0
    window = PublishWindow(2, clock=lambda: now)
    window.add(request(0))
    now = safe_s(PROMISED_WINDOW_S) - 10
    window.on_break(UNAVAILABLE)
    now = safe_s(PROMISED_WINDOW_S) + 1
    with pytest.raises(Unavailable):
        window.on_break(UNAVAILABLE)
    assert window.reconnects == 1
    window.window_s = 2 * PROMISED_WINDOW_S
    window.on_break(UNAVAILABLE)
    assert window.reconnects == 2


def test_an_error_that_stays_raises() -> None:
    with pytest.raises(InvalidArgument):
        PublishWindow(1).on_break(InvalidArgument("no", grpc.StatusCode.INVALID_ARGUMENT))

"""The state of a resumable stream against a simulated server."""

from __future__ import annotations

from functools import partial

import grpc
import pytest
from contex import Need, NeedsChanged, events
from contex.errors import ContexError, NotFound, Unavailable
from contex.resume import ResumableStream, StreamRequest
from contex.v1 import agent_service_pb2, event_pb2, event_service_pb2
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client import fakes

event_stream = partial(ResumableStream, decode=events.event)
match_stream = partial(ResumableStream, decode=events.matched_event)

UNAVAILABLE = Unavailable("gone", grpc.StatusCode.UNAVAILABLE)


class SimulatedServer:
    """Streams events 1 … total in batches, and between them the other messages."""

    def __init__(self, total: int, choices: st.DataObject) -> None:
        self._log = [fakes.event(number) for number in range(1, total + 1)]
        self._choices = choices

    def open(self, request: StreamRequest):
        assert isinstance(request, event_service_pb2.SubscribeRequest)
        assert request.project == "p"
        assert list(request.filter.data_keys) == ["k"]
        position = int(request.cursor or 0)
        while position < len(self._log):
            message = event_service_pb2.SubscribeResponse()
            kind = self._choices.draw(
                st.sampled_from(["events", "heartbeat", "checkpoint", "fell_behind", "caught_up"])
            )
            if kind == "events":
                size = self._choices.draw(st.integers(1, 4))
                message.events.events.extend(self._log[position : position + size])
                position += len(message.events.events)
            else:
                getattr(message, kind).SetInParent()
            message.cursor = str(position)
            yield message


@given(st.integers(1, 12), st.data())
def test_no_break_makes_a_duplicate_or_a_gap(total: int, data: st.DataObject) -> None:
    request = event_service_pb2.SubscribeRequest(project="p", edge=event_pb2.EDGE_BEGINNING)
    request.filter.data_keys.append("k")
    stream = event_stream(request, reconnect=True)
    server = SimulatedServer(total, data)
    call = None
    seen: list[str] = []
    breaks = 0
    while len(seen) < total:
        item = stream.take()
        if item is not None:
            seen.append(item.sequence)
            assert stream.position == item.sequence
            # Who stored the cursor now would resume after what was handed out, or earlier.
            assert int(stream.cursor or 0) <= len(seen)
            continue
        call = call or server.open(stream.request)
        match data.draw(st.sampled_from(["read"] * 4 + ["error", "end", "silence"])):
            case "read":
                message = next(call, None)
                if message is not None:
                    stream.on_message(message)
                    continue
                delay = stream.on_end()
            case "error":
                delay = stream.on_error(UNAVAILABLE)
            case "end":
                delay = stream.on_end()
            case _:
                delay = stream.on_silence()
        assert delay is not None
        assert 0 <= delay <= 5
        assert not stream.caught_up
        breaks += 1
        call = None
    assert seen == [f"{number}-0" for number in range(1, total + 1)]
    assert stream.reconnects == breaks


def subscribe_response(
    cursor: str, *events: int, kind: str = ""
) -> event_service_pb2.SubscribeResponse:
    message = event_service_pb2.SubscribeResponse(cursor=cursor)
    if kind:
        getattr(message, kind).SetInParent()
    message.events.events.extend(map(fakes.event, events)) if events else None
    return message


def test_the_cursor_moves_when_a_message_is_handed_out_whole() -> None:
    stream = event_stream(event_service_pb2.SubscribeRequest(), reconnect=True)
    assert stream.cursor is None
    stream.on_message(subscribe_response("c1", kind="caught_up"))
    assert (stream.cursor, stream.caught_up) == ("c1", True)
    stream.on_message(subscribe_response("c2", 1, 2))
    stream.take()
    assert (stream.cursor, stream.position) == ("c1", "1-0")
    stream.take()
    assert (stream.cursor, stream.position) == ("c2", "2-0")
    assert stream.take() is None
    stream.on_message(subscribe_response("c2", kind="fell_behind"))
    assert (stream.fell_behind, stream.caught_up) == (1, False)


def test_a_message_of_an_unknown_kind_only_moves_the_cursor() -> None:
    stream = event_stream(event_service_pb2.SubscribeRequest(), reconnect=True)
    stream.on_message(subscribe_response("c1"))
    assert (stream.take(), stream.cursor) == (None, "c1")


def listen_response(cursor: str, *numbers: int) -> agent_service_pb2.ListenResponse:
    message = agent_service_pb2.ListenResponse(cursor=cursor)
    message.events.events.extend(fakes.matched(number, "n") for number in numbers)
    return message


def needs_changed(cursor: str) -> agent_service_pb2.ListenResponse:
    message = agent_service_pb2.ListenResponse(cursor=cursor)
    message.needs_changed.agent.needs.add(text="n")
    return message


def test_what_a_registration_brings_moves_no_position_back() -> None:
    told: list[NeedsChanged] = []
    stream = match_stream(
        agent_service_pb2.ListenRequest(), reconnect=True, on_needs_changed=told.append
    )
    stream.on_message(listen_response("c1", 7))
    assert stream.take() is not None
    assert (stream.position, stream.handed_out) == ("7-0", ("c1", None))

    stream.on_message(needs_changed("c2"))
    assert [changed.agent.needs for changed in told] == [(Need("n"),)]
    assert stream.needs_changed is told[0]
    assert (stream.take(), stream.cursor) == (None, "c2")

    stream.on_message(listen_response("c3", 3, 5, 10, 11))
    for sequence, position, handed_out in (
        ("3-0", "7-0", ("c2", None)),
        ("5-0", "7-0", ("c2", None)),
        ("10-0", "10-0", ("c2", "10-0")),
        ("11-0", "11-0", ("c3", None)),
    ):
        item = stream.take()
        assert item is not None
        assert item.event.sequence == sequence
        assert (stream.position, stream.handed_out) == (position, handed_out)


def test_a_replay_backwards_moves_the_position_back() -> None:
    stream = event_stream(event_service_pb2.ReplayRequest(), reconnect=True, ends=True)
    stream.on_message(subscribe_response("c", 2, 1))
    stream.take_all()
    assert stream.position == "1-0"


def test_a_break_within_a_message_loses_and_repeats_nothing() -> None:
    stream = match_stream(agent_service_pb2.ListenRequest(agent_id="a"), reconnect=True)
    stream.on_message(listen_response("c1", 1, 2))
    assert stream.take() is not None
    stream.on_error(UNAVAILABLE)
    assert stream.handed_out == (None, "1-0")
    assert stream.take() is not None
    assert stream.handed_out == ("c1", None)
    assert stream.request == agent_service_pb2.ListenRequest(agent_id="a", cursor="c1")


def test_a_change_of_needs_that_brings_nothing_is_told() -> None:
    stream = match_stream(agent_service_pb2.ListenRequest(), reconnect=True)
    stream.on_message(needs_changed("c1"))
    assert stream.take() is None
    assert stream.cursor == "c1"
    assert stream.needs_changed is not None


def test_resuming_adds_only_the_cursor() -> None:
    first = agent_service_pb2.ListenRequest(
        project="p", agent_id="a", after_sequence="0", heartbeat_interval_ms=200
    )
    stream = match_stream(first, reconnect=True)
    assert stream.request is first
    assert stream.silence_limit_s == pytest.approx(0.6)
    stream.on_message(agent_service_pb2.ListenResponse(cursor="c"))
    resumed = agent_service_pb2.ListenRequest(
        project="p", agent_id="a", after_sequence="0", cursor="c", heartbeat_interval_ms=200
    )
    assert stream.request == resumed
    assert not first.cursor


def test_the_end_of_a_replay_is_its_end() -> None:
    stream = event_stream(event_service_pb2.ReplayRequest(), reconnect=True, ends=True)
    assert stream.silence_limit_s == 45
    assert stream.on_end() is None
    assert stream.finished


def test_without_reconnect_the_first_break_raises() -> None:
    stream = event_stream(event_service_pb2.SubscribeRequest(), reconnect=False)
    for break_it in (lambda: stream.on_error(UNAVAILABLE), stream.on_end, stream.on_silence):
        with pytest.raises(Unavailable):
            break_it()


def test_what_a_new_connection_would_not_mend_raises() -> None:
    stream = event_stream(event_service_pb2.SubscribeRequest(), reconnect=True)
    gone = NotFound("no", grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
    with pytest.raises(NotFound):
        stream.on_error(gone)


def test_a_missing_server_is_waited_for_without_limit_but_a_defect_is_not() -> None:
    stream = event_stream(event_service_pb2.SubscribeRequest(), reconnect=True)
    for _ in range(1000):
        stream.on_error(UNAVAILABLE)
    stream.on_message(subscribe_response("c"))
    defect = ContexError("boom", grpc.StatusCode.UNKNOWN)
    for _ in range(5):
        stream.on_error(defect)
    with pytest.raises(ContexError):
        stream.on_error(defect)


def test_retry_info_is_honoured() -> None:
    stream = event_stream(event_service_pb2.SubscribeRequest(), reconnect=True)
    asked = Unavailable("later", grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_after=3.0)
    assert 3.0 <= stream.on_error(asked) <= 3.05

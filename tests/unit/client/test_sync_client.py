"""The blocking client against grpcio-testing's fake channel."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import grpc
import grpc_testing
import pytest
from contex import (
    Client,
    ContextFormat,
    NeedsChanged,
    NewEvent,
    NotFound,
    RevisionConflict,
    SequenceTrimmed,
    Unavailable,
)
from contex.v1 import (
    agent_service_pb2,
    event_pb2,
    event_service_pb2,
    match_service_pb2,
    server_service_pb2,
)

from tests.unit.client import fakes

EVENTS = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]
AGENTS = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
SERVER = server_service_pb2.DESCRIPTOR.services_by_name["ServerService"]
MATCHING = match_service_pb2.DESCRIPTOR.services_by_name["MatchService"]
PUBLISH = EVENTS.methods_by_name["Publish"]
PUBLISH_STREAM = EVENTS.methods_by_name["PublishStream"]
GET_SERVER_INFO = SERVER.methods_by_name["GetServerInfo"]
SUBSCRIBE = EVENTS.methods_by_name["Subscribe"]
REPLAY = EVENTS.methods_by_name["Replay"]
LIST_EVENTS = EVENTS.methods_by_name["ListEvents"]
GET_EVENT = EVENTS.methods_by_name["GetEvent"]
REGISTER = AGENTS.methods_by_name["RegisterAgent"]
LISTEN = AGENTS.methods_by_name["Listen"]
UNREGISTER = AGENTS.methods_by_name["UnregisterAgent"]

Run = Callable[[Callable[[], object]], Future[object]]


@pytest.fixture
def channel() -> grpc_testing.Channel:
    descriptors = [EVENTS, AGENTS, MATCHING, SERVER]
    return grpc_testing.channel(descriptors, grpc_testing.strict_real_time())


@pytest.fixture
def client(channel: grpc_testing.Channel) -> Iterator[Client]:
    with Client(channel=channel, publisher="me", timeout=5.0) as client:
        yield client


@pytest.fixture
def run() -> Run:
    """Runs the client in a thread; the test is the server."""

    def start(function: Callable[[], object]) -> Future[object]:
        future: Future[object] = Future()

        def target() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        # A daemon, so that a client that hangs fails its test and not the whole run.
        threading.Thread(target=target, daemon=True).start()
        return future

    return start


def published(*sequences: str) -> event_service_pb2.PublishResponse:
    response = event_service_pb2.PublishResponse(durability=2)
    for revision, sequence in enumerate(sequences, 1):
        response.receipts.add(sequence=sequence, revision=revision)
    return response


def fail(call, code: grpc.StatusCode, **details) -> None:
    status = fakes.rich_status(code, **details)
    if hasattr(call, "send_response"):
        call.terminate(fakes.trailers(status), code, "no")
    else:
        call.terminate(None, fakes.trailers(status), code, "no")


def succeed(call, response) -> None:
    call.terminate(response, (), grpc.StatusCode.OK, "")


def batch(cursor: str, *numbers: int) -> event_service_pb2.SubscribeResponse:
    message = event_service_pb2.SubscribeResponse(cursor=cursor)
    message.events.events.extend(map(fakes.event, numbers))
    return message


def test_publish(channel, client: Client, run: Run) -> None:
    future = run(lambda: client.publish("p", "k", {"a": 1}, description="d", expected_revision=0))
    _, request, call = channel.take_unary_unary(PUBLISH)
    succeed(call, published("1-0"))
    receipt = future.result(10)
    assert (receipt.sequence, receipt.revision, receipt.durability.name) == ("1-0", 1, "FSYNC")
    assert (request.project, request.publisher, len(request.request_id)) == ("p", "me", 32)
    event = request.events[0]
    assert (event.data_key, event.payload, event.description) == ("k", b'{"a":1}', "d")
    assert event.expected_revision == 0


@pytest.mark.parametrize(
    "failure",
    [
        {"code": grpc.StatusCode.UNAVAILABLE},
        {"code": grpc.StatusCode.DEADLINE_EXCEEDED},
        {
            "code": grpc.StatusCode.RESOURCE_EXHAUSTED,
            "reason": "OVERLOADED",
            "retry_after": 0.05,
        },
    ],
)
def test_a_publish_is_repeated_with_its_request_id(
    channel, client: Client, run: Run, failure: dict
) -> None:
    future = run(lambda: client.publish_batch("p", [NewEvent("a", 1), NewEvent("b", 2)]))
    seen = []
    for _ in range(3):
        _, request, call = channel.take_unary_unary(PUBLISH)
        seen.append(request)
        fail(call, **failure)
    _, request, call = channel.take_unary_unary(PUBLISH)
    succeed(call, published("1-0", "1-1"))
    assert [receipt.sequence for receipt in future.result(10)] == ["1-0", "1-1"]
    assert all(earlier == request for earlier in seen)


def test_a_conflict_is_not_repeated(channel, client: Client, run: Run) -> None:
    future = run(lambda: client.delete("p", "k", expected_revision=3))
    _, request, call = channel.take_unary_unary(PUBLISH)
    assert request.events[0].tombstone
    fail(
        call,
        grpc.StatusCode.FAILED_PRECONDITION,
        reason="REVISION_CONFLICT",
        metadata={"data_key": "k", "actual_revision": "4"},
    )
    with pytest.raises(RevisionConflict) as caught:
        future.result(10)
    assert caught.value.actual_revision == 4


def test_publishing_gives_up_when_the_wait_would_be_too_long(
    channel, client: Client, run: Run
) -> None:
    future = run(lambda: client.publish("p", "k", 1))
    _, _, call = channel.take_unary_unary(PUBLISH)
    fail(call, grpc.StatusCode.UNAVAILABLE, reason="STORE_UNAVAILABLE", retry_after=60.0)
    with pytest.raises(Unavailable) as caught:
        future.result(10)
    assert caught.value.retry_after == 60.0


def test_an_ambiguous_unregister_is_not_repeated(channel, client: Client, run: Run) -> None:
    future = run(lambda: client.unregister_agent("p", "a"))
    _, _, call = channel.take_unary_unary(UNREGISTER)
    fail(call, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable):
        future.result(10)


def test_get_event_raises_not_found(channel, client: Client, run: Run) -> None:
    future = run(lambda: client.get_event("p", "9-0"))
    _, _, call = channel.take_unary_unary(GET_EVENT)
    fail(call, grpc.StatusCode.NOT_FOUND, reason="EVENT_NOT_FOUND")
    with pytest.raises(NotFound) as caught:
        future.result(10)
    assert caught.value.reason == "EVENT_NOT_FOUND"


def test_list_events_walks_the_pages(channel, client: Client, run: Run) -> None:
    future = run(lambda: [event.sequence for event in client.list_events("p", page_size=2)])
    for numbers, token, after in (([1, 2], "t1", ""), ([], "t2", "t1"), ([3], "", "t2")):
        _, request, call = channel.take_unary_unary(LIST_EVENTS)
        assert (request.page_token, request.page_size) == (after, 2)
        page = event_service_pb2.ListEventsResponse(
            events=map(fakes.event, numbers), next_page_token=token
        )
        succeed(call, page)
    assert future.result(10) == ["1-0", "2-0", "3-0"]


def test_register_agent(channel, client: Client, run: Run) -> None:
    future = run(lambda: client.register_agent("p", "a", ["need"], threshold=0.4))
    _, request, call = channel.take_unary_unary(REGISTER)
    assert (request.threshold, request.HasField("last_seen_sequence")) == (0.4, False)
    response = agent_service_pb2.RegisterAgentResponse(sequence="5-0", cursor="c")
    response.agent.agent_id = "a"
    succeed(call, response)
    assert (future.result(10).sequence, future.result(10).cursor) == ("5-0", "c")


def test_a_subscription_resumes_without_a_duplicate_or_a_gap(
    channel, client: Client, run: Run
) -> None:
    subscription = client.subscribe("p", start="beginning", data_keys=["k"])

    def read() -> list[str]:
        with subscription:
            return [next(subscription).sequence for _ in range(6)]

    future = run(read)
    _, request, call = channel.take_unary_stream(SUBSCRIBE)
    assert request.edge == event_pb2.EDGE_BEGINNING
    call.send_response(batch("c1", 1, 2))
    # The fake drops what is unread when a call fails; a real one hands it out first.
    while subscription.cursor != "c1":
        pass
    fail(call, grpc.StatusCode.UNAVAILABLE)

    _, request, call = channel.take_unary_stream(SUBSCRIBE)
    assert (request.cursor, list(request.filter.data_keys)) == ("c1", ["k"])
    call.send_response(batch("c2", 3, 4))
    call.terminate((), grpc.StatusCode.OK, "")  # a clean end

    _, request, call = channel.take_unary_stream(SUBSCRIBE)
    assert request.cursor == "c2"
    checkpoint = event_service_pb2.SubscribeResponse(cursor="c3")
    checkpoint.checkpoint.last = True
    call.send_response(checkpoint)
    while subscription.cursor != "c3":
        pass
    fail(call, grpc.StatusCode.UNAVAILABLE, reason="SHUTTING_DOWN", retry_after=0.01)

    _, request, call = channel.take_unary_stream(SUBSCRIBE)
    assert request.cursor == "c3"
    call.send_response(batch("c4", 5, 6))
    assert future.result(10) == [f"{number}-0" for number in range(1, 7)]
    call.cancelled()
    assert (subscription.reconnects, subscription.position) == (3, "6-0")


def test_a_silent_subscription_is_broken(channel, client: Client, run: Run) -> None:
    subscription = client.subscribe("p", heartbeat_interval_ms=100)
    future = run(lambda: next(subscription))
    _, _, silent = channel.take_unary_stream(SUBSCRIBE)
    silent.send_response(event_service_pb2.SubscribeResponse(cursor="c1"))
    _, request, call = channel.take_unary_stream(SUBSCRIBE)
    silent.cancelled()
    assert request.cursor == "c1"
    call.send_response(batch("c2", 1))
    assert future.result(10).sequence == "1-0"
    subscription.close()


def test_a_trimmed_position_raises(channel, client: Client, run: Run) -> None:
    with client.subscribe("p", after_sequence="1-0") as subscription:
        future = run(lambda: next(subscription))
        _, _, call = channel.take_unary_stream(SUBSCRIBE)
        fail(
            call,
            grpc.StatusCode.OUT_OF_RANGE,
            reason="SEQUENCE_TRIMMED",
            metadata={"earliest_sequence": "5-0"},
        )
        with pytest.raises(SequenceTrimmed) as caught:
            future.result(10)
    assert caught.value.earliest_sequence == "5-0"


def test_without_reconnect_a_break_raises(channel, client: Client, run: Run) -> None:
    future = run(lambda: client.listen("p", "a", reconnect=False))
    _, _, call = channel.take_unary_stream(LISTEN)
    fail(call, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable):
        future.result(10)


def test_closing_from_another_thread_ends_the_iteration(channel, client: Client, run: Run) -> None:
    subscription = client.listen("p", "a", cursor="c")
    future = run(lambda: list(subscription))
    _, request, call = channel.take_unary_stream(LISTEN)
    assert request.cursor == "c"
    client.close()
    call.cancelled()
    assert future.result(10) == []
    with pytest.raises(RuntimeError, match="closed"):
        client.publish("p", "k", 1)


def test_a_change_of_needs_is_told(channel, client: Client, run: Run) -> None:
    told: list[NeedsChanged] = []
    subscription = client.listen(
        "p", "a", cursor="b", context_format=ContextFormat.JSON, on_needs_changed=told.append
    )
    future = run(lambda: next(subscription))
    _, request, call = channel.take_unary_stream(LISTEN)
    assert request.context_format == event_pb2.CONTEXT_FORMAT_JSON
    message = agent_service_pb2.ListenResponse(cursor="c")
    message.needs_changed.agent.needs.add(text="n")
    call.send_response(message)
    message = agent_service_pb2.ListenResponse(cursor="d")
    message.events.events.append(fakes.matched(5, "n"))
    call.send_response(message)
    assert future.result(10).event.sequence == "5-0"
    assert told == [subscription.needs_changed]
    assert (subscription.position, subscription.cursor) == ("5-0", "d")
    subscription.close()


def test_messages_are_there_raw(channel, client: Client, run: Run) -> None:
    subscription = client.subscribe("p")

    def read() -> list[str | None]:
        messages = subscription.messages()
        return [next(messages).WhichOneof("message") for _ in range(3)]

    future = run(read)
    _, _, call = channel.take_unary_stream(SUBSCRIBE)
    for kind in ("events", "caught_up", "heartbeat"):
        message = event_service_pb2.SubscribeResponse(cursor=kind)
        getattr(message, kind).SetInParent()
        call.send_response(message)
    assert future.result(10) == ["events", "caught_up", "heartbeat"]
    assert (subscription.caught_up, subscription.cursor) == (True, "heartbeat")
    subscription.close()


def test_a_replay_ends_by_itself(channel, client: Client, run: Run) -> None:
    future = run(lambda: [event.sequence for event in client.replay("p", until="2-0")])
    _, request, call = channel.take_unary_stream(REPLAY)
    assert request.until.sequence == "2-0"
    message = event_service_pb2.ReplayResponse(cursor="c")
    message.events.events.extend(map(fakes.event, [1, 2]))
    call.send_response(message)
    call.terminate((), grpc.StatusCode.OK, "")
    assert future.result(10) == ["1-0", "2-0"]


def test_a_publish_stream_sends_unanswered_batches_again(channel, client: Client, run: Run) -> None:
    batches = [[NewEvent("k", number)] for number in range(3)]

    def publish() -> list[str]:
        with client.publish_stream("p", batches, window=2) as results:
            return [result.receipts[0].sequence for result in results]

    def answer(request, sequence: str) -> event_service_pb2.PublishStreamResponse:
        return event_service_pb2.PublishStreamResponse(
            request_id=request.publish.request_id, published=published(sequence)
        )

    future = run(publish)
    _, call = channel.take_stream_stream(PUBLISH_STREAM)
    first, second = call.take_request(), call.take_request()
    call.send_response(answer(first, "1-0"))
    third = call.take_request()  # sent only after an answer made room
    _, _, info = channel.take_unary_unary(GET_SERVER_INFO)
    fail(info, grpc.StatusCode.UNIMPLEMENTED)  # an older server
    fail(call, grpc.StatusCode.UNAVAILABLE)

    _, call = channel.take_stream_stream(PUBLISH_STREAM)
    assert [call.take_request(), call.take_request()] == [second, third]
    call.send_response(answer(second, "2-0"))
    call.requests_closed()
    call.send_response(answer(third, "3-0"))
    assert future.result(10) == ["1-0", "2-0", "3-0"]


def test_what_the_source_of_a_publish_stream_raises_comes_after_the_results(
    channel, client: Client, run: Run
) -> None:
    def source() -> Iterator[list[NewEvent]]:
        yield [NewEvent("k", 1)]
        raise LookupError("source")

    results = client.publish_stream("p", source())
    future = run(lambda: next(results))
    _, call = channel.take_stream_stream(PUBLISH_STREAM)
    request = call.take_request()
    call.send_response(
        event_service_pb2.PublishStreamResponse(
            request_id=request.publish.request_id, published=published("1-0")
        )
    )
    assert future.result(10).receipts[0].sequence == "1-0"
    with pytest.raises(LookupError):
        next(results)


def test_a_closed_client_says_so_whatever_was_used_before() -> None:
    client = Client("127.0.0.1:9")
    listed = client.list_events("p")
    client.close()
    for call in (lambda: client.stats("p"), lambda: list(listed), lambda: client.subscribe("p")):
        with pytest.raises(RuntimeError, match="the client is closed"):
            call()


def test_a_stream_that_nobody_closes_leaves_no_thread(channel, client: Client, run: Run) -> None:
    def read() -> None:
        stream = client.subscribe("p")
        next(stream)

    # Those of earlier tests may end meanwhile.
    before = set(threading.enumerate())

    def watchdogs() -> int:
        started = set(threading.enumerate()) - before
        return sum(thread.name == "contex-watchdog" for thread in started)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 30
        while watchdogs() != count and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert watchdogs() == count

    future = run(read)
    _, _, call = channel.take_unary_stream(SUBSCRIBE)
    wait_for(1)
    call.send_response(batch("c", 1))
    future.result(timeout=30)
    wait_for(0)

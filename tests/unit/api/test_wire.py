"""Joined bytes mean what the real parser reads in them."""

from __future__ import annotations

from sys import getrefcount

from contex.v1 import agent_service_pb2, event_pb2, event_service_pb2
from contex_server.api.agents.messages import listen_responses
from contex_server.api.events.servicer import subscribe_response
from contex_server.api.match.messages import BatchRoom
from contex_server.api.shared import wire
from contex_server.api.shared.cursors import Token, decode_position
from contex_server.events.feed import Chunk, Delivery
from contex_server.events.stream import Kind, Message
from contex_server.kernel import event_codec
from contex_server.kernel.model import BEGINNING, Entry, Match, Sequence
from contex_server.matching.context import ContextFormat
from hypothesis import given
from hypothesis import strategies as st

events = st.builds(
    event_pb2.Event,
    event_type=st.text(max_size=10),
    data_key=st.text(max_size=10),
    payload=st.binary(max_size=5_000),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    revision=st.integers(0, 2**63),
)
numbered = st.lists(st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), events))


def entry(ms: int, n: int, event: event_pb2.Event) -> Entry:
    return Entry(f"{ms}-{n}".encode(), event.SerializeToString())


@given(numbered)
def test_a_joined_batch_is_a_batch(rows: list[tuple[int, int, event_pb2.Event]]) -> None:
    entries = [entry(*row) for row in rows]
    batch = event_pb2.EventBatch.FromString(wire.batch_bytes(entries))
    for (ms, n, event), read in zip(rows, batch.events, strict=True):
        event.sequence = f"{ms}-{n}"
        assert read == event


@given(numbered.filter(bool), st.integers(0, 2**32))
def test_a_joined_response_is_a_response(
    rows: list[tuple[int, int, event_pb2.Event]], position: int
) -> None:
    deliveries = [Delivery(Sequence(ms, n), entry(ms, n, e)) for ms, n, e in rows]
    chunk = Chunk(deliveries, Sequence(position, 0))
    raw = subscribe_response("p", Message(Kind.EVENTS, chunk.position, chunk))
    response = event_service_pb2.SubscribeResponse.FromString(raw)
    assert response.WhichOneof("message") == "events"
    assert len(response.events.events) == len(rows)
    assert decode_position(Token.CURSOR, "p", response.cursor, "cursor") == chunk.position
    assert response.server_time.seconds > 1_700_000_000


def test_matches_travel_with_their_event() -> None:
    match = Match(
        need_index=1,
        need="a need",
        score=0.5,
        passage=0,
        cosine=0.25,
        standing=2.5,
        lexical=0.75,
        share=-1.5,
        mean=0.0625,
        deviation=0.03125,
        threshold=0.125,
        model="model",
        scorer="scorer",
        background_passages=7,
        background_as_of=Sequence(7, 0),
        path="/a",
        passage_text="words",
    )
    event = event_pb2.Event(data_key="k", payload=b"x" * 300)
    chunk = Chunk([Delivery(Sequence(7, 1), entry(7, 1, event), (match,))], Sequence(9, 0))
    message = Message(Kind.EVENTS, chunk.position, chunk)
    room = BatchRoom(1_000, 1_000)
    ((places, raw),) = listen_responses("p", message, ContextFormat.UNSPECIFIED, room, BEGINNING)
    assert places == [(7, 1)]
    (matched,) = agent_service_pb2.ListenResponse.FromString(raw).events.events
    assert matched.event.sequence == "7-1"
    assert matched.event.payload == event.payload
    (read,) = matched.matches
    assert (read.need_index, read.need, read.score) == (1, "a need", 0.5)
    parts = read.parts
    assert (read.path, read.passage) == ("/a", "words")
    assert (parts.cosine, parts.threshold, parts.model) == (0.25, 0.125, "model")
    assert (parts.standing, parts.lexical, parts.share) == (2.5, 0.75, -1.5)
    assert (parts.background_mean, parts.background_deviation) == (0.0625, 0.03125)
    assert (parts.background_passages, parts.background_sequence) == (7, "7-0")
    assert parts.scorer == "scorer"


def test_what_was_sent_goes_with_its_last_reader() -> None:
    body = event_pb2.Event(data_key="k", payload=b"x" * 300)
    deliveries = [Delivery(Sequence(7, n), entry(7, n, body), rendered={}) for n in (1, 2)]
    chunk = Chunk(deliveries, Sequence(9, 0))
    held = getrefcount(chunk), getrefcount(deliveries[0])
    room = BatchRoom(1_000, 1_000)
    told = []
    for shared in (chunk, Chunk(deliveries, Sequence(9, 0))):
        message = Message(Kind.EVENTS, chunk.position, shared)
        told += listen_responses("p", message, ContextFormat.UNSPECIFIED, room, BEGINNING)
    assert told[0][1] is told[1][1]  # Made once.
    del message, shared
    # Without waiting for the garbage collector, which comes late: these are few, but may be large.
    assert (getrefcount(chunk), getrefcount(deliveries[0])) == held


def test_what_is_written_out_is_split_and_cut() -> None:
    def delivery(n: int, payload: bytes) -> Delivery:
        event = event_pb2.Event(data_key="k", payload=payload, content_type="text/plain")
        return Delivery(Sequence(n, 0), entry(n, 0, event))

    deliveries = [delivery(1, b"a" * 100), delivery(2, b"b" * 100), delivery(3, b"\x01" * 300)]
    chunk = Chunk(deliveries, Sequence(9, 0))
    message = Message(Kind.EVENTS, chunk.position, chunk)
    room = BatchRoom(400, 1_000)
    parts = listen_responses("p", message, ContextFormat.JSON, room, BEGINNING)
    read = [agent_service_pb2.ListenResponse.FromString(raw) for _, raw in parts]
    assert [r.events.events[0].context_omitted for r in read] == [False, False, True]
    positions = [decode_position(Token.CURSOR, "p", r.cursor, "cursor") for r in read]
    assert positions == [(1, 0), (2, 0), (9, 0)]
    assert [places for places, _ in parts] == [[(1, 0)], [(2, 0)], [(3, 0)]]
    assert (
        listen_responses("p", message, ContextFormat.JSON, BatchRoom(400, 1_000), BEGINNING)
        == parts
    )


def test_every_kind_of_message_parses() -> None:
    at = Sequence(5, 0)
    for message, expected in (
        (Message(Kind.CAUGHT_UP, at), "caught_up"),
        (Message(Kind.FELL_BEHIND, at, tail=Sequence(8, 1)), "fell_behind"),
        (Message(Kind.CHECKPOINT, at, last=True), "checkpoint"),
        (Message(Kind.HEARTBEAT, at), "heartbeat"),
    ):
        raw = subscribe_response("p", message)
        response = event_service_pb2.SubscribeResponse.FromString(raw)
        assert response.WhichOneof("message") == expected
        assert response.checkpoint.last == (expected == "checkpoint")
        assert response.fell_behind.tail_sequence == ("8-1" if message.tail else "")


def test_a_chunk_is_rendered_once() -> None:
    chunk = Chunk([Delivery(Sequence(1, 0), Entry(b"1-0", b""))], Sequence(1, 0))
    message = Message(Kind.EVENTS, chunk.position, chunk)
    first = subscribe_response("p", message)
    assert subscribe_response("p", message) is first


def test_the_codec_reads_what_the_store_adds() -> None:
    body = event_pb2.Event(data_key="k", revision=3, previous_sequence="4-5").SerializeToString()
    event = event_codec.decode(Entry(b"6-7", body))
    assert (event.sequence, event.revision, event.previous_sequence) == ((6, 7), 3, (4, 5))

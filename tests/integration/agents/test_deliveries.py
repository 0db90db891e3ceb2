"""What agents are sent is on record: every event, once a send, and what they acknowledge."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from contex.v1 import agent_service_pb2, event_pb2, event_service_pb2
from contex_server.kernel.errors import ContexError, Reason, store_unavailable
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.inboxes import ShardDecisions
from contex_server.log.redis import client
from contex_server.log.redis.key_names import key
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    P,
    Stream,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    Words,
    after,
    asked,
    event,
    eventually,
    ms,
    refusal,
)

STREAM = agent_service_pb2.DELIVERY_KIND_STREAM
ANSWER = agent_service_pb2.DELIVERY_KIND_ANSWER
NEEDS_CHANGED = agent_service_pb2.DELIVERY_KIND_NEEDS_CHANGED
BACKWARDS = event_pb2.ORDER_BACKWARDS
ListDeliveriesRequest = agent_service_pb2.ListDeliveriesRequest


async def page(api: Api, **fields: Any) -> agent_service_pb2.ListDeliveriesResponse:
    request = ListDeliveriesRequest(project=P, **fields)
    response = await api.agents.ListDeliveries(request, timeout=DEADLINE_S)
    assert isinstance(response, agent_service_pb2.ListDeliveriesResponse)
    return response


async def sent(api: Api, **fields: Any) -> list[agent_service_pb2.Delivery]:
    """All pages."""
    found: list[agent_service_pb2.Delivery] = []
    token = ""
    while True:
        response = await page(api, page_token=token, **fields)
        found += response.deliveries
        token = response.next_page_token
        if not token:
            return found


def received(stream: Stream) -> list[tuple[str, int, list[tuple[int, str, float]]]]:
    return [
        (
            m.event.sequence,
            m.event.revision,
            [(x.need_index, x.need, round(x.score, 6)) for x in m.matches],
        )
        for m in stream.matched
    ]


def recorded(
    deliveries: list[agent_service_pb2.Delivery],
) -> list[tuple[str, int, list[tuple[int, str, float]]]]:
    return [
        (d.sequence, d.revision, [(n.need_index, n.need, n.score) for n in d.needs])
        for d in deliveries
    ]


async def test_what_a_stream_brings_is_on_record_when_it_comes(word_api: Api) -> None:
    api = word_api
    await api.register("a", "red apples", "green pears")
    stream = await api.listen("a").live()
    for n in range(5):
        await api.publish(event(f"k{n}", description="red green" if n % 2 else "apples"))
        await stream.count(n + 1)
        # Written before it was sent, so it must be there already.
        assert recorded(await sent(api, agent_id="a")) == received(stream)
    first = (await sent(api, agent_id="a"))[0]
    assert (first.agent_id, first.data_key, first.kind) == ("a", "k0", STREAM)
    assert not first.resend
    assert first.position == stream.matched[0].event.sequence
    assert first.stream_id
    assert {d.stream_id for d in await sent(api, agent_id="a")} == {first.stream_id}
    await stream.cancel()


async def test_an_event_tells_who_was_sent_it_and_for_which_need(word_api: Api) -> None:
    api = word_api
    streams = []
    for agent_id, need in (("b", "apples"), ("a", "red apples"), ("c", "pears")):
        await api.register(agent_id, need)
        streams.append(await api.listen(agent_id).live())
    (sequence,) = await api.publish(event(description="red apples"))
    await asyncio.gather(streams[0].count(1), streams[1].count(1))
    found = await sent(api, sequence=sequence)
    assert [(d.agent_id, d.needs[0].need) for d in found] == [("a", "red apples"), ("b", "apples")]
    assert all(ms(sequence) <= d.time.ToMilliseconds() <= ms(sequence) + 30_000 for d in found)
    one = [d.agent_id async for d in _paged(api, sequence=sequence, page_size=1)]
    assert one == ["a", "b"]
    for stream in streams:
        await stream.cancel()


async def _paged(api: Api, **fields: Any) -> Any:
    token = ""
    while True:
        response = await page(api, page_token=token, **fields)
        for delivery in response.deliveries:
            yield delivery
        token = response.next_page_token
        if not token:
            return


async def test_a_resend_is_marked(word_api: Api) -> None:
    api = word_api
    await api.register("a", "apples")
    every = await api.publish(*(event(f"k{n}", description="apples") for n in range(4)))
    first = await api.listen("a").count(4)
    await first.cancel()
    again = await api.listen("a", after_sequence=every[1]).count(2)
    await api.publish(event("k4", description="apples"))
    await again.count(3)
    found = await sent(api, agent_id="a")
    assert [(d.data_key, d.resend) for d in found] == [
        ("k0", False),
        ("k1", False),
        ("k2", False),
        ("k3", False),
        ("k2", True),
        ("k3", True),
        ("k4", False),
    ]
    assert len({d.stream_id for d in found}) == 2
    both = await sent(api, sequence=every[2])
    assert [d.resend for d in both] == [False, True]
    await again.cancel()


async def test_answers_and_changes_of_needs_are_deliveries(word_api: Api) -> None:
    api = word_api
    await api.publish(event("apple", description="apples"), event("pear", description="pears"))
    answer = await api.register("a", "apples")
    assert [d.event.data_key for d in answer.data] == ["apple"]
    stream = await api.listen("a").live()
    update = UpdateAgentRequest(project=P, agent_id="a", needs=asked("apples", "pears"))
    await api.agents.UpdateAgent(update, timeout=DEADLINE_S)
    await stream.until(lambda s: "pear" in s.keys)
    found = await sent(api, agent_id="a")
    told = [(d.kind, d.data_key) for d in found]
    # Which of the update's answer and the stream came first is left open.
    assert sorted(told) == sorted(
        [
            *((ANSWER, key) for key in ("apple", "apple", "pear")),
            *((STREAM, key) for key in ("apple", "pear")),
        ]
    )
    matched = event_pb2.MATCH_KIND_MATCHED
    assert {d.kind: d.change for d in found} == {ANSWER: 0, STREAM: matched}
    assert {d.needs[0].need for d in found if d.data_key == "pear"} == {"pears"}
    await stream.cancel()


async def test_pages_in_both_directions_hold_everything_once(
    short_journals: None, word_api: Api
) -> None:
    api = word_api
    await api.register("a", "apples")
    stream = await api.listen("a").live()
    for n in range(200):
        # One by one, so that many messages are noted, beyond a checkpoint of the journal.
        await api.publish(event(f"k{n % 7}", description="apples"), durability=1)
    await stream.count(200)
    whole = await sent(api, agent_id="a", page_size=1_000)
    assert [d.sequence for d in whole] == stream.sequences
    assert await sent(api, agent_id="a", page_size=33) == whole
    back = await sent(api, agent_id="a", page_size=50, order=BACKWARDS)
    assert sorted(d.sequence for d in back) == sorted(stream.sequences)
    assert back[0].time.ToMilliseconds() >= back[-1].time.ToMilliseconds()
    half = whole[100].time.ToMilliseconds()
    since = await sent(api, agent_id="a", since=event_pb2.Position(unix_ms=half))
    until = await sent(api, agent_id="a", until=event_pb2.Position(unix_ms=half - 1))
    assert until + since == whole
    await stream.cancel()


async def test_needs_are_told_by_the_registration_of_the_time(word_api: Api) -> None:
    api = word_api
    await api.register("a", "apples", "pears")
    stream = await api.listen("a").live()
    (early,) = await api.publish(event("x", description="pears"))
    await stream.count(1)
    for n in range(3):
        update = UpdateAgentRequest(project=P, agent_id="a", needs=asked(f"plums {n}", "cherries"))
        await api.agents.UpdateAgent(update, timeout=DEADLINE_S)
    (late,) = await api.publish(event("y", description="cherries"))
    await stream.until(lambda s: late in s.sequences)
    first, left = await sent(api, sequence=early)
    assert [need.need for need in first.needs] == ["pears"]
    assert (left.change, [*left.needs]) == (event_pb2.MATCH_KIND_LEFT, [])
    assert [d.needs[0].need for d in await sent(api, sequence=late)] == ["cherries"]
    await stream.cancel()


async def test_records_outlive_the_server(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    first = await start_server(valkey.url, embedder=Words())
    async with Api.of(first) as api:
        await api.register("a", "apples")
        stream = await api.listen("a").live()
        await api.publish(event(description="apples"))
        await stream.count(1)
        before = await sent(api, agent_id="a")
    await first.stop()
    second = await start_server(valkey.url, embedder=Words())
    async with Api.of(second) as api:
        assert await sent(api, agent_id="a") == before


async def test_without_records_nothing_is_written(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words(), delivery_records=False)
    async with Api.of(server) as api:
        await api.register("a", "apples")
        stream = await api.listen("a").live()
        (sequence,) = await api.publish(event(description="apples"))
        await stream.count(1)
        assert await sent(api, agent_id="a") == []
        assert await sent(api, sequence=sequence) == []
        await stream.cancel()


async def test_records_are_kept_for_their_time(
    start_server: StartServer, valkey: EmbeddedValkey, store: Any
) -> None:
    server = await start_server(valkey.url, embedder=Words(), delivery_retention_days=2)
    async with Api.of(server) as api:
        await api.register("a", "apples")
        stream = await api.listen("a").live()
        (sequence,) = await api.publish(event(description="apples"))
        await stream.count(1)
        await stream.cancel()
        for kind in ("journal:a", "inbox:a"):
            assert await store.pttl(key(P, kind)) == -1
        await api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id="a"))
        for kind in ("journal:a", "inbox:a"):
            assert 0 < await store.pttl(key(P, kind)) <= 2 * 24 * 3_600_000
        assert [d.sequence for d in await sent(api, agent_id="a")] == [sequence]
        await api.register("a", "pears")
        assert await store.pttl(key(P, "journal:a")) == -1


async def test_what_is_asked_for_must_be_there(word_api: Api) -> None:
    api = word_api
    (sequence,) = await api.publish(event())
    assert await sent(api, sequence=sequence) == []
    for fields, reason in (
        ({}, "INVALID_FIELD"),
        ({"sequence": "1-1"}, "EVENT_NOT_FOUND"),
        ({"sequence": "one"}, "INVALID_FIELD"),
        ({"agent_id": "nobody"}, "AGENT_NOT_FOUND"),
        ({"sequence": sequence, "since": after(sequence)}, "INVALID_FIELD"),
        ({"sequence": sequence, "page_token": "x"}, "CURSOR_INVALID"),
        ({"agent_id": "a", "page_token": "x"}, "CURSOR_INVALID"),
    ):
        assert (await refusal(page(api, **fields))).reason == reason, fields


async def test_agents_that_listen_twice_have_both_sends_on_record(word_api: Api) -> None:
    api = word_api
    await api.register("a", "apples")
    streams = [await api.listen("a").live() for _ in range(2)]
    (sequence,) = await api.publish(event(description="apples"))
    for stream in streams:
        await stream.count(1)
    found = await sent(api, sequence=sequence)
    assert sorted(d.resend for d in found) == [False, True]
    assert len({d.stream_id for d in found}) == 2
    for stream in streams:
        await stream.cancel()


async def test_a_stream_waits_for_its_records_while_the_store_is_away(
    word_server: Server, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Api.of(word_server) as api:
        await api.register("a", "apples")
        (sequence,) = await api.publish(event(description="apples"))
        note, calls = word_server.rooms.storage.store.journals.note_sending, 0

        async def lossy(project: str, messages: Any, *, repeated: bool) -> None:
            nonlocal calls
            several = list(messages)
            calls += bool(several)
            if calls == 1:
                raise store_unavailable("never reached")
            await note(project, several, repeated=repeated)
            if calls == 2:
                raise store_unavailable("the answer was lost")

        monkeypatch.setattr(word_server.rooms.storage.store.journals, "note_sending", lossy)
        stream = api.listen("a")
        await stream.count(1)
        assert calls == 3
        # Noted once, though it was tried again.
        assert [d.resend for d in await sent(api, sequence=sequence)] == [False]
        await stream.cancel()


@pytest.mark.parametrize("lost", [False, True])
async def test_what_is_decided_for_live_streams_is_noted_with_the_decision(
    word_server: Server, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    store = word_server.rooms.storage.store
    decide, note, alone = store.inboxes.decide, store.journals.note_sending, []

    async def decided(project: str, owner: str, decisions: dict[int, ShardDecisions]) -> bool:
        nonlocal lost
        done = await decide(project, owner, decisions)
        if lost and any(decided.sendings for decided in decisions.values()):
            lost = False
            raise store_unavailable("the answer was lost")
        return done

    async def noted(project: str, messages: Any, *, repeated: bool) -> None:
        several = list(messages)
        alone.extend(several)
        await note(project, several, repeated=repeated)

    async with Api.of(word_server) as api:
        await api.register("a", "apples")
        streams = [await api.listen("a").live() for _ in range(2)]
        monkeypatch.setattr(store.journals, "note_sending", noted)
        monkeypatch.setattr(store.inboxes, "decide", decided)
        was_lost = lost
        sequences = [(await api.publish(event(description="apples")))[0] for _ in range(3)]
        for stream in streams:
            assert (await stream.count(3)).sequences == sequences
        assert bool(alone) == was_lost
        for sequence in sequences:
            # To one of the two it is sent first.
            found = await sent(api, sequence=sequence)
            assert [d.resend for d in sorted(found, key=lambda d: d.resend)] == [False, True]
        for stream in streams:
            await stream.cancel()


def begin_with(monkeypatch: pytest.MonkeyPatch, function: str, lines: str) -> None:
    """Lets one of the store's functions begin with these lines."""
    text, head = client._FUNCTIONS, f"local function {function}(keys, args)\n"
    assert head in text
    monkeypatch.setattr(client, "_FUNCTIONS", text.replace(head, head + lines))


async def test_a_stream_misses_nothing_that_could_not_be_noted_with_the_decision(
    start_server: StartServer, valkey: EmbeddedValkey, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The store may be full, or another process decide, between a decision and its notes.
    refuses = "  if redis.call('EXISTS', 'taken') == 1 then return 0 end\n"
    refuses += (
        "  if redis.call('EXISTS', 'full') == 1 then return redis.error_reply('OOM no') end\n"
    )
    begin_with(monkeypatch, "sending_decided_upto", refuses)
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await api.register("a", "apples")
        stream = await api.listen("a").live()
        sequences = []
        for state in ("full", "taken", "well"):
            await store.set(state, 1)
            for _ in range(2):
                sequences += await api.publish(event(description="apples"))
                assert (await stream.count(len(sequences))).sequences == sequences
                found = await sent(api, agent_id="a")
                assert [(d.sequence, d.resend) for d in found] == [(s, False) for s in sequences]
            await store.delete(state)
        await stream.cancel()


@pytest.mark.parametrize("conflate", [False, True])
async def test_what_a_full_store_left_unrecorded_is_noted_with_what_comes_next(
    word_server: Server, monkeypatch: pytest.MonkeyPatch, conflate: bool
) -> None:
    journals, is_full = word_server.rooms.storage.store.journals, True
    note = journals.note_sending

    async def noted(project: str, messages: Any, *, repeated: bool) -> None:
        if is_full:
            raise ContexError(Reason.STORE_FULL, "full")
        await note(project, messages, repeated=repeated)

    async with Api.of(word_server) as api:
        await api.register("a", "apples")
        sequences = await api.publish(event("k1", description="apples"))
        with monkeypatch.context() as patch:
            patch.setattr(journals, "note_sending", noted)
            stream = await api.listen("a", conflate=conflate).live()
            for key in ("k2", "k3"):
                sequences += await api.publish(event(key, description="apples"))
                await stream.count(len(sequences))
            assert await sent(api, agent_id="a") == []
            is_full = False
            sequences += await api.publish(event("k4", description="apples"))
            assert (await stream.count(4)).sequences == sequences
        found = await sent(api, agent_id="a")
        assert [(d.sequence, d.resend) for d in found] == [(s, False) for s in sequences]
        await stream.cancel()


async def test_a_decision_that_is_refused_leaves_nothing_on_record(
    start_server: StartServer, valkey: EmbeddedValkey, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A large call may be too much for a store that has room for the notes which follow it.
    refuses = "  if redis.call('EXISTS', 'full') == 1 then\n"
    refuses += "    redis.call('INCR', 'full')\n    return redis.error_reply('OOM no')\n  end\n"
    begin_with(monkeypatch, "decide_in_order", refuses)
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await api.register("a", "apples")
        stream = await api.listen("a").live()
        await store.set("full", 0)
        sequences = await api.publish(event(description="apples"))
        await eventually(partial(_is_above, store, "full", 2))
        assert await sent(api, agent_id="a") == []
        await store.delete("full")
        assert (await stream.count(1)).sequences == sequences
        found = await sent(api, agent_id="a")
        assert [(d.sequence, d.resend) for d in found] == [(s, False) for s in sequences]
        await stream.cancel()


async def _is_above(store: Any, name: str, count: int) -> bool:
    return int(await store.get(name)) > count


async def test_acknowledgements_move_only_forward_on_record(word_api: Api, store: Any) -> None:
    api = word_api
    await api.register("a", "apples")
    every = await api.publish(*(event(f"k{n}", description="apples") for n in range(3)))
    for sequence in (every[2], every[0]):
        request = AcknowledgeRequest(project=P, agent_id="a", sequence=sequence)
        await api.agents.Acknowledge(request, timeout=DEADLINE_S)
    notes = await store.xrange(key(P, "journal:a"))
    said = [fields[b"a"].split(b"\t")[0].decode() for _, fields in notes if b"a" in fields]
    assert said == [f"{every[2]} {every[2]}", f"{every[0]} {every[2]}"]


async def test_who_calls_is_known_by_name_address_and_client(
    word_server: Server, store: Any
) -> None:
    async with Api.of(word_server, ("grpc.primary_user_agent", "tests/1.2")) as api:
        await api.register("a", "apples")
        metadata = (("contex-identity", "ops"),)
        call = api.agents.Listen(
            agent_service_pb2.ListenRequest(project=P, agent_id="a"), metadata=metadata
        )
        stream = await Stream(call).live()
        notes = await store.xrange(key(P, "journal:a"))
        (opened,) = [fields[b"o"] for _, fields in notes if b"o" in fields]
        _, identity, peer, client = opened.decode().split("\t")
        assert identity == "ops"
        assert peer.startswith("ipv4:127.0.0.1:")
        assert client.startswith("tests/1.2 grpc-python-asyncio/")
        await stream.cancel()

        async def closed() -> bool:
            notes = await store.xrange(key(P, "journal:a"))
            return any(b"c" in fields for _, fields in notes)

        async with asyncio.timeout(DEADLINE_S):
            while not await closed():
                await asyncio.sleep(0.02)
        bad = api.agents.GetAgent(
            agent_service_pb2.GetAgentRequest(project=P, agent_id="a"),
            metadata=(("contex-identity", "o%0Aps"),),
        )
        assert (await refusal(bad)).fields == ["contex-identity"]


async def test_a_publisher_is_named_by_its_connection(word_api: Api) -> None:
    api = word_api
    for publisher, expected in (("", "ops"), ("me", "me")):
        request = event_service_pb2.PublishRequest(project=P, events=[event()], publisher=publisher)
        response = await api.events.Publish(request, metadata=(("contex-identity", "ops"),))
        got = await api.events.GetEvent(
            event_service_pb2.GetEventRequest(project=P, sequence=response.receipts[0].sequence)
        )
        assert got.event.publisher == expected

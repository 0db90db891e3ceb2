"""Listen: what reaches an agent, live and from the log; updates; outages of the model."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import grpc
import pytest
from contex.v1 import agent_service_pb2, event_pb2
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.embedded import EmbeddedValkey
from contex_server.match import project_matcher
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    EDGE_END,
    AcknowledgeRequest,
    Api,
    P,
    Refusal,
    RegisterAgentRequest,
    Stream,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    Words,
    asked,
    event,
    order,
    own,
    refusal,
)


async def update(api: Api, agent_id: str = "a", **fields: Any) -> None:
    await api.agents.UpdateAgent(UpdateAgentRequest(project=P, agent_id=agent_id, **fields))


async def unregister(api: Api, agent_id: str = "a") -> None:
    await api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id=agent_id))


async def acknowledge(api: Api, agent_id: str = "a", **position: str) -> None:
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id=agent_id, **position))


def deliveries(stream: Stream) -> list[tuple[str, list[tuple[int, float]]]]:
    """What was delivered, and why."""
    return [
        (m.event.sequence, [(x.need_index, round(x.score, 4)) for x in m.matches])
        for m in stream.matched
    ]


async def test_the_default_model_delivers_what_is_meant(api: Api) -> None:
    await api.register("a", "reading zip archives", "secure sockets with TLS")
    stream = await api.listen("a").live()
    await api.publish(event("zipfile", description="Read and write ZIP archives"))
    await api.publish(event("calendar", description="Print calendars of months and years"))
    await api.publish(event("ssl", description="TLS encryption for sockets"))
    await stream.count(2)
    assert stream.keys == ["zipfile", "ssl"]
    assert [m.matches[0].need_index for m in stream.matched] == [0, 1]


async def test_a_key_nobody_knew_reaches_the_agent_whole_and_explained(word_api: Api) -> None:
    registered = await word_api.register("a", "beta", "alpha")
    stream = await word_api.listen("a").live()
    (sequence,) = await word_api.publish(
        event("alpha.new", b'"text"', metadata={"m": "x"}), publisher="somebody"
    )
    await stream.count(1)
    (delivered,) = stream.matched
    assert delivered.event == (await word_api.log())[-1]
    assert delivered.event.sequence == sequence
    (match,) = delivered.matches
    assert (match.need_index, match.need) == (1, "alpha")
    assert match.score > 0.9
    assert match.parts.cosine == pytest.approx(1 / 2.5**0.5, abs=0.06)
    assert match.parts.background_sequence == "0"
    assert match.passage == "alpha new. text"
    assert match.parts.threshold == registered.agent.threshold
    assert match.parts.model == "words@1#2"
    assert not delivered.payload_omitted


async def test_what_does_not_match_only_moves_the_cursor(word_api: Api) -> None:
    await word_api.register("a", "alpha")
    stream = await word_api.listen("a", heartbeat_interval_ms=100).live()
    before = stream.cursor
    await word_api.publish(event("beta"), own("gamma"), event("delta.words.many"))
    await stream.until(lambda s: "checkpoint" in s.kinds)
    assert stream.cursor != before
    assert stream.events == []
    fresh = await word_api.publish(event("alpha"))
    rest = await word_api.listen("a", cursor=stream.cursor).live()
    assert rest.sequences == fresh


async def test_a_deletion_reaches_whom_the_datum_reached(word_api: Api) -> None:
    await word_api.register("a", "alpha words")
    stream = await word_api.listen("a").live()
    await word_api.publish(event("k", b'"alpha words"'))
    await word_api.publish(event("k", b"", tombstone=True))
    await word_api.publish(event("other", b"", tombstone=True))
    await word_api.publish(event("k", b'"alpha words"'))
    await stream.count(3)
    assert [e.event_type for e in stream.events] == [
        "data_published",
        "data_deleted",
        "data_published",
    ]
    assert stream.told == ["MATCHED", "DELETED", "MATCHED"]
    assert [len(m.matches) for m in stream.matched] == [1, 0, 1]


async def test_an_event_about_no_datum_reaches_the_agent_too(word_api: Api) -> None:
    await word_api.register("a", "sale")
    stream = await word_api.listen("a").live()
    await word_api.publish(own("sale"))
    await stream.count(1)
    assert stream.events[0].event_type == "sale"


async def test_registrations_never_match(word_api: Api) -> None:
    await word_api.register("a", "agent registered needs alpha")
    stream = await word_api.listen("a", after_sequence="0").live()
    await word_api.register("b", "agent registered needs alpha")
    await stream.quiet(0.2)
    assert stream.events == []


async def test_new_needs_take_effect_on_a_live_stream(word_api: Api) -> None:
    await word_api.register("a", "alpha")
    stream = await word_api.listen("a").live()
    await word_api.publish(event("alpha"), event("beta"))
    await update(word_api, needs=asked("beta"))
    await word_api.publish(event("alpha"), event("beta"))
    await stream.count(4)
    await update(word_api, threshold=0.99999)
    many = "some beta among apples, pears, plums, figs, dates, nuts, grapes, melons and more words"
    unsure = event("k", description=many)
    await word_api.publish(unsure, event("beta"))
    await word_api.register("a", "gamma")
    await word_api.publish(event("beta"), event("gamma"))
    await stream.count(7)
    assert [*zip(stream.keys, stream.told, strict=True)] == [
        ("alpha", "MATCHED"),
        ("alpha", "LEFT"),
        ("beta", "MATCHED"),
        ("beta", "UPDATED"),
        ("beta", "UPDATED"),
        ("beta", "LEFT"),
        ("gamma", "MATCHED"),
    ]
    assert stream.matched[4].matches[0].parts.threshold == 0.99999


async def test_needs_are_never_older_than_the_events_they_are_matched_with(
    word_server: Server,
) -> None:
    needs = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    async with Api.of(word_server) as api, Api.of(word_server) as other:
        await api.register("a", "first")
        stream = await api.listen("a").live()
        every = [event(need) for need in needs]
        for need in needs:
            await asyncio.gather(
                other.publish(*every), update(api, needs=asked(need)), other.publish(*every)
            )
        await update(api, needs=asked("last"))
        await api.publish(*every, event("last"))
        await stream.until(lambda s: "last" in s.keys)
        changes = [order(e.sequence) for e in await api.log() if e.event_type == "agent_registered"]
        for delivered, kind in zip(stream.events[:-1], stream.told, strict=False):
            replaced = changes[needs.index(delivered.data_key) + 2]
            assert kind == "LEFT" or order(delivered.sequence) < replaced
        assert "fell_behind" not in stream.kinds


async def test_unregistering_ends_the_streams(word_api: Api) -> None:
    await word_api.register("a", "alpha")
    await word_api.register("b", "alpha")
    streams = [await word_api.listen("a").live() for _ in range(3)]
    other = await word_api.listen("b").live()
    await word_api.publish(event("alpha.last"))
    await unregister(word_api)
    for stream in streams:
        refused = await stream.refusal()
        assert (refused.code, refused.reason) == ("NOT_FOUND", "AGENT_NOT_FOUND")
        assert stream.keys == ["alpha.last"]
    await word_api.publish(event("alpha.later"))
    await other.count(2)


async def test_what_was_not_acknowledged_comes_again(word_api: Api) -> None:
    await word_api.register("a", "alpha")
    s = [(await word_api.publish(event("alpha")))[0] for _ in range(6)]
    first = await word_api.listen("a").live()
    assert first.sequences == s
    await first.cancel()
    assert (await word_api.listen("a").live()).sequences == s
    await acknowledge(word_api, sequence=s[3])
    assert (await word_api.listen("a").live()).sequences == s[4:]
    await acknowledge(word_api, cursor=first.cursor)
    last = await word_api.listen("a").live()
    assert last.sequences == []
    fresh = await word_api.publish(event("alpha"))
    assert (await last.count(1)).sequences == fresh


async def test_two_streams_of_an_agent_both_get_everything(word_server: Server) -> None:
    async with Api.of(word_server) as one, Api.of(word_server) as two:
        await one.register("a", "alpha")
        first, second = await one.listen("a").live(), await two.listen("a").live()
        s = [(await one.publish(event(f"alpha.{i}")))[0] for i in range(20)]
        assert (await first.count(20)).sequences == s
        await first.cancel()
        s += await two.publish(event("alpha.more"))
        assert (await second.count(21)).sequences == s
        assert deliveries(first) == deliveries(second)[:20]


async def test_caught_up_is_said_once_and_in_its_place(word_api: Api) -> None:
    await word_api.register("a", "alpha", last_seen_sequence="0")
    for _ in range(3):
        await word_api.publish(*(event(f"{'alpha' if n % 2 else 'beta'}.{n}") for n in range(300)))
    stream = await word_api.listen("a").live()
    assert len(stream.events) == 450
    assert set(stream.kinds[:-1]) == {"events"}
    for i in range(10):
        await word_api.publish(event(f"alpha.{i}"))
    await stream.count(460)
    assert stream.kinds.count("caught_up") == 1


async def test_a_burst_that_fits_the_feed_leaves_nobody_behind(word_server: Server) -> None:
    async with Api.of(word_server) as api:
        await api.register("a", "alpha")
        stream = await api.listen("a").live()
        payload = b'"%s"' % (b"1" * 20_000)
        for _ in range(3):
            await api.publish(*(event(f"alpha.{i}", payload) for i in range(40)))
        await stream.count(120)
        assert "fell_behind" not in stream.kinds


async def test_agents_join_while_others_publish(word_server: Server) -> None:
    async with Api.of(word_server) as writer:
        writing = True

        async def write() -> None:
            n = 0
            while writing:
                n += 1
                await writer.publish(event(f"alpha.{n % 20}"), event(f"beta.{n % 20}"))

        async def join(number: int) -> None:
            need = "alpha" if number % 2 else "beta"
            async with Api.of(word_server) as api:
                await asyncio.sleep(0.05 * number)
                answer = await api.register(f"a{number}", need, max_matches=100)
                registered = answer.agent.acknowledged_sequence
                stream = await api.listen(f"a{number}").live()
                await written.wait()
                (last,) = await api.publish(event(need, b'"last"'))
                await stream.until(lambda s: last in s.sequences)
                expected = [
                    e.sequence
                    for e in await api.log()
                    if e.data_key.startswith(need) and order(e.sequence) > order(registered)
                ]
                # First what there is of the data when it is registered, then everything.
                data = len(answer.data)
                assert set(stream.told[:data]) <= {"MATCHED"}
                found = [s for s in stream.sequences if order(s) > order(registered)]
                assert found[: expected.index(last) + 1] == expected[: expected.index(last) + 1]
                assert stream.kinds.count("caught_up") == 1

        written = asyncio.Event()
        writer_task = asyncio.create_task(write())
        readers = [asyncio.create_task(join(n)) for n in range(12)]
        await asyncio.sleep(1.0)
        writing = False
        await writer_task
        written.set()
        await asyncio.gather(*readers)


# -- two servers on one store ------------------------------------------------------


async def test_servers_on_one_store_are_one_service(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    here = await start_server(valkey.url, embedder=words)
    there = await start_server(valkey.url, embedder=Words())
    async with Api.of(here) as one, Api.of(there) as two:
        answer = await one.register("a", "alpha")
        plain = await two.subscribe().live()
        agent = await two.listen("a", cursor=answer.cursor).live()
        s = await one.publish(event("alpha.one"))
        s += await two.publish(event("alpha.two"))
        assert (await agent.count(2)).sequences == s
        await plain.count(3)
        assert plain.sequences[1:] == s
        # What one embedded, the other reads.
        await one.publish(event("alpha.one", b'{"n": 1}'))
        await agent.count(3)
        await update(one, needs=asked("beta"))
        await one.publish(event("alpha.one"), event("beta.one"))
        await agent.count(6)
        assert agent.told[2:] == ["UPDATED", "LEFT", "LEFT", "MATCHED"]
        assert agent.keys[5] == "beta.one"
        both = await one.listen("a", cursor=agent.cursor).live()
        await two.publish(event("beta.two"))
        assert (await both.count(1)).keys == (await agent.count(7)).keys[6:] == ["beta.two"]
        data = await two.register("b", "beta")
        assert sorted(d.event.data_key for d in data.data) == ["beta.one", "beta.two"]
        await unregister(one)
        for stream in (agent, both):
            assert (await stream.refusal()).reason == "AGENT_NOT_FOUND"


async def test_a_text_is_embedded_once(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    here = await start_server(valkey.url, embedder=words)
    there = await start_server(valkey.url, embedder=(other := Words()))
    async with Api.of(here) as one, Api.of(there) as two:
        await one.register("a", "alpha")
        stream = await two.listen("a").live()
        for i in range(10):
            await one.publish(event("alpha", b'{"gauge": %d}' % i))
            await two.publish(event("alpha", b'{"gauge": %d}' % i))
        await stream.count(20)
    # The need, and the datum without and with its outline.
    embedded = [t for t in words.embedded + other.embedded if t.startswith("alpha")]
    assert sorted(embedded) == ["alpha", "alpha", "alpha. gauge"]


# -- the model fails ----------------------------------------------------------------


async def test_while_the_model_is_away_publishes_are_taken_and_agents_get_them_afterwards(
    word_server: Server, word_api: Api, words: Words
) -> None:
    api = word_api
    await api.register("a", "alpha")
    agent, plain = await api.listen("a").live(), await api.subscribe(edge=EDGE_END).live()
    await api.publish(event("alpha.before"))
    await agent.count(1)
    words.down = True
    during = [
        (await api.publish(event(f"{'alpha' if i % 2 else 'beta'}.{'abcdefgh'[i]}")))[0]
        for i in range(8)
    ]
    await plain.count(9)
    assert plain.sequences[1:] == during
    await agent.quiet(0.3)
    refused = await refusal(api.register("b", "gamma"))
    assert (refused.code, refused.reason) == ("UNAVAILABLE", "EMBEDDER_UNAVAILABLE")
    assert refused.retry_after_ms
    refused = await refusal(update_call(api, needs=asked("gamma")))
    assert refused.reason == "EMBEDDER_UNAVAILABLE"
    # Nothing of the refused registration is left.
    assert [e.event_type for e in await api.log()].count("agent_registered") == 1
    words.down = False
    await agent.count(5)
    after = await api.publish(event("alpha.after"))
    await agent.count(6)
    assert agent.sequences[1:] == during[1::2] + after
    assert "fell_behind" not in agent.kinds
    again = await api.listen("a").live()
    assert again.sequences == agent.sequences
    await api.register("b", "gamma")


def update_call(api: Api, **fields: Any) -> Any:
    return api.agents.UpdateAgent(UpdateAgentRequest(project=P, agent_id="a", **fields))


async def test_a_slow_model_delays_a_publish_only_so_long(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, embed_timeout_ms=100)
    async with Api.of(server) as api:
        await api.register("a", "alpha")
        stream = await api.listen("a").live()
        words.delay_s = 1.5
        started = time.monotonic()
        (sequence,) = await api.publish(event("alpha.late"))
        assert time.monotonic() - started < 1.2
        assert (await stream.count(1)).sequences == [sequence]


async def test_a_stream_over_a_past_without_vectors_embeds_it(word_api: Api, words: Words) -> None:
    await word_api.register("a", "alpha", last_seen_sequence="0")
    words.down = True
    s = [(await word_api.publish(event(f"alpha.{name}")))[0] for name in "abc"]
    await word_api.publish(event("alpha.a", b"", tombstone=True))
    # Deciding waits for the model, and so does whoever listens.
    stream = word_api.listen("a", heartbeat_interval_ms=100)
    await stream.quiet(0.5)
    assert "caught_up" not in stream.kinds
    words.down = False
    await stream.live()
    assert stream.sequences[:3] == s
    assert stream.events[3].event_type == "data_deleted"
    found = await word_api.register("b", "alpha")
    assert sorted(d.event.data_key for d in found.data) == ["alpha.b", "alpha.c"]


async def test_who_waits_for_matching_that_is_held_up_is_told(
    word_server: Server, word_api: Api, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_matcher, "_PATIENCE_S", 0.3)
    api = word_api
    await api.register("a", "alpha")
    stream = await api.listen("a").live()
    words.down = True
    await api.publish(event("alpha.late"))
    # The need is known already, but the data can't be told as of now.
    refused = await refusal(api.register("b", "alpha"))
    assert (refused.code, refused.reason) == ("UNAVAILABLE", "EMBEDDER_UNAVAILABLE")
    words.down = False
    await stream.count(1)
    answer = await api.register("b", "alpha")
    assert [d.event.data_key for d in answer.data] == ["alpha.late"]


# -- the store fails ------------------------------------------------------------------


@pytest.mark.own_store
async def test_streams_outlive_a_store_that_was_killed(
    valkey: EmbeddedValkey, word_server: Server, word_api: Api
) -> None:
    api = word_api
    await api.register("a", "alpha")
    agent, plain = await api.listen("a").live(), await api.subscribe(edge=EDGE_END).live()
    filtered = await api.subscribe(edge=EDGE_END, data_keys=["beta*"]).live()
    published: list[str] = []
    for round_ in range(3):
        published += await api.publish(event(f"alpha.{round_}"), event(f"beta.{round_}"))
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGKILL)
        while True:
            try:
                published += await api.publish(
                    event("alpha.again"), event("beta.again"), request_id=f"r{round_}"
                )
                break
            except grpc.aio.AioRpcError as error:
                if Refusal.of(error).reason != "STORE_UNAVAILABLE":
                    raise
                await asyncio.sleep(0.1)
    await plain.count(len(published))
    await agent.count(len(published) // 2)
    await filtered.count(len(published) // 2)
    assert plain.sequences == published
    assert agent.sequences == published[::2]
    assert filtered.sequences == published[1::2]
    assert [e.sequence for e in await api.log()][1:] == published
    for stream in (agent, plain, filtered):
        assert "fell_behind" not in stream.kinds


async def test_a_page_of_an_inbox_is_bounded_in_bytes(word_server: Server) -> None:
    async with Api.of(word_server) as api:
        needs = [agent_service_pb2.Need(filter=event_pb2.EventFilter(data_keys=["k/*"]))]
        request = RegisterAgentRequest(project=P, agent_id="a", needs=needs)
        await api.agents.RegisterAgent(request)
        sizes = [10, *[300_000] * 9, 900_000, *[20] * 100, *[300_000] * 9]
        events = [event(f"k/{n}", b'"%s"' % (b"x" * size)) for n, size in enumerate(sizes)]
        sequences = [(await api.publish(each))[0] for each in events]
        stream = await (await api.listen("a", after_sequence="0").live()).count(len(sizes))
        assert stream.sequences == sequences
        reader = word_server.rooms.inbox.reader
        subscriber = await reader.subscriber(P, "a")
        assert subscriber is not None
        position: Sequence = BEGINNING
        found = 0
        while True:
            page = await reader.page(P, "a", subscriber.agent.registered_ms, position, 1_000)
            found += len(page.deliveries)
            assert len(page.deliveries) == 1 or sum(d.size for d in page.deliveries) < 1_100_000
            if page.last:
                break
            position = page.position
        assert found == len(sizes)

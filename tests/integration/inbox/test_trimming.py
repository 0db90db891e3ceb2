"""Inboxes that let go of what was acknowledged long ago, or of what there is too much of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from contex.v1 import agent_service_pb2, event_pb2, project_service_pb2
from contex_server.inbox import deciders, ledger, trimming
from contex_server.inbox.decider import ProjectDecider
from contex_server.inbox.trimming import Trimmer
from contex_server.kernel.inbox_ids import last_place
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis import inboxes
from contex_server.log.redis.inboxes import RedisInboxes

from tests.conftest import StartServer
from tests.integration.groups.worker import Worker
from tests.integration.logs import archive
from tests.integration.support import (
    AcknowledgeRequest,
    Api,
    P,
    RegisterAgentRequest,
    Stream,
    Words,
    event,
    eventually,
    own,
    refusal,
)

FILTER = event_pb2.EventFilter(data_keys=["k/*"], event_types=["note"])
LEAST = 20
Start = Callable[..., Awaitable[Api]]


@pytest.fixture
async def start(
    start_server: StartServer, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Starts a server that looks at its inboxes all the time; returns its services."""
    monkeypatch.setattr(trimming, "_LOOK_S", 0.02)
    monkeypatch.setattr(trimming, "_LEAST", LEAST)

    async def start(**settings: object) -> Api:
        server = await start_server(valkey.url, embedder=Words(), **settings)
        return await Api.of(server).__aenter__()

    return start


async def register(api: Api, *filters: event_pb2.EventFilter) -> None:
    needs = [agent_service_pb2.Need(filter=each) for each in filters]
    await api.agents.RegisterAgent(RegisterAgentRequest(project=P, agent_id="a", needs=needs))


async def trimmed(api: Api, after: str = "0") -> Stream:
    """A stream from an event on, once the inbox is trimmed there."""
    while True:
        stream = await api.listen("a", after_sequence=after).live()
        if "resync" in stream.kinds:
            return stream
        stream.call.cancel()
        await asyncio.sleep(0.02)


def left_out(stream: Stream) -> list[agent_service_pb2.Resync]:
    """What a stream was told is left out: more than once if it is trimmed while it reads."""
    return [message.resync for message in stream.messages if message.HasField("resync")]


def held(stream: Stream) -> dict[str, bytes]:
    """What a reader holds who keeps the latest delivery of each key."""
    found: dict[str, bytes] = {}
    for kind, item in zip(stream.told, stream.matched, strict=True):
        if kind in ("MATCHED", "UPDATED"):
            found[item.event.data_key] = item.event.payload
        else:
            found.pop(item.event.data_key, None)
    return found


async def known(api: Api) -> dict[str, bytes]:
    request = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="a")
    context = await api.agents.GetAgentContext(request)
    return {datum.data_key: datum.event.payload for datum in context.known}


async def test_what_was_acknowledged_is_let_go_of(start: Start) -> None:
    api = await start(delivery_records=False)
    await register(api, event_pb2.EventFilter(data_keys=["k/*"]))
    sequences = []
    for n in range(LEAST):
        sequences += await api.publish(event(f"k/{n % 4}", b"%d" % n))
    await api.publish(event("k/0", b"", tombstone=True))
    stream = await (await api.listen("a").live()).count(LEAST + 1)
    assert not stream.messages[0].HasField("resync")
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", cursor=stream.cursor))
    await api.publish(event("k/4", b'"new"'))
    again = await trimmed(api)
    assert again.messages[0].resync == agent_service_pb2.Resync()
    assert [item.event.data_key for item in again.matched] == ["k/1", "k/2", "k/3", "k/0", "k/4"]
    assert again.told == ["UPDATED", "UPDATED", "UPDATED", "DELETED", "MATCHED"]
    # A reader from amid of what is gone gets the rest; and one that has it all, nothing anew.
    part = await api.listen("a", after_sequence=sequences[-3]).live()
    assert [item.event.data_key for item in part.matched] == ["k/2", "k/3", "k/0", "k/4"]
    whole = await api.listen("a").live()
    assert whole.kinds == ["events", "caught_up"]
    # It goes on so, and what was trimmed before is trimmed with it.
    for n in range(LEAST):
        await api.publish(event("k/1", b"[%d]" % n))
    await whole.count(LEAST + 1)
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", cursor=whole.cursor))
    await api.publish(event("k/5", b'"newest"'))
    while (last := await trimmed(api)).told.count("UPDATED") > 3:
        await asyncio.sleep(0.02)
    assert held(last) == held(whole) | {
        "k/2": b"18",
        "k/3": b"19",
        "k/5": b'"newest"',
    }


async def test_too_large_an_inbox_is_summed_up(start: Start) -> None:
    api = await start(inbox_bytes=64 * 1024)
    await register(api, event_pb2.EventFilter(data_keys=["k/*"]), FILTER)
    truth: dict[str, bytes] = {}
    for n in range(60):
        data = [event(f"k/{(n + i) % 97}", b"[%d,%d]" % (n, i)) for i in range(50)]
        truth |= {datum.data_key: datum.payload for datum in data}
        await api.publish(*data)
    await api.publish(event("k/1", b"", tombstone=True))
    del truth["k/1"]
    stream = await trimmed(api)
    first_told, *more = left_out(stream)
    assert first_told.superseded_count > 500
    counted = sum(told.superseded_count for told in (first_told, *more)) + len(stream.matched)
    assert counted == 3_001 if not more else counted >= 3_001
    assert held(stream) == truth
    # All of it is what it knows now; what it knew amid of it, nobody can say.
    assert await known(api) == truth


async def test_an_erasure_of_an_earlier_revision_replaces_none_of_later_ones(start: Start) -> None:
    api = await start(delivery_records=False)
    await register(api, event_pb2.EventFilter(data_keys=["k/*"]))
    await api.publish(event("k/1", metadata={"subject": "ben"}))
    for _ in range(LEAST):
        await api.publish(event("k/1", metadata={"subject": "anna"}))
    for subject in ("anna", "ben"):
        request = project_service_pb2.EraseDataRequest(
            project=P, subject=subject, request_id=subject, reason="a test"
        )
        await api.projects.EraseData(request)
    stream = await (await api.listen("a").live()).count(LEAST + 3)
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", cursor=stream.cursor))
    await api.publish(event("k/2"))
    again = await trimmed(api)
    told = zip(again.told, [item.event.revision for item in again.matched], strict=True)
    assert [*told][:3] == [("UPDATED", LEAST + 1), ("ERASED", LEAST + 1), ("ERASED", 1)]


async def test_what_an_agent_knew_is_not_made_up(start: Start) -> None:
    api = await start(inbox_bytes=64 * 1024)
    await register(api, event_pb2.EventFilter(data_keys=["k/*"]))
    await api.publish(event("k/1", b'"first"'))
    stream = await (await api.listen("a").live()).count(1)
    moment = event_pb2.Position()
    moment.time.GetCurrentTime()
    stream.call.cancel()
    for _ in range(60):
        await api.publish(*[event(f"k/{i}", b"%d" % i) for i in range(100)])
    (await trimmed(api, after="1-0")).call.cancel()
    request = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="a", as_of=moment)
    assert (await refusal(api.agents.GetAgentContext(request))).reason == "RECORDS_EXPIRED"


async def test_events_without_a_key_are_counted_that_are_gone(start: Start) -> None:
    api = await start(inbox_bytes=64 * 1024)
    await register(api, event_pb2.EventFilter(event_types=["note"]))
    (first, *_) = [(await api.publish(*[own() for _ in range(100)]))[0] for _ in range(50)]
    stream = await trimmed(api)
    # Whoever is trimmed has not passed what is gone, whether anything is left of it or not.
    wait = agent_service_pb2.WaitForAgentRequest(
        project=P, agent_id="a", sequence=first, timeout_ms=0
    )
    assert not (await api.agents.WaitForAgent(wait)).passed
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", sequence=first))
    wait.timeout_ms = 10_000
    assert (await api.agents.WaitForAgent(wait)).passed
    first_told, *more = left_out(stream)
    assert first_told.dropped_count > 500
    counted = sum(told.dropped_count for told in (first_told, *more)) + len(stream.matched)
    assert counted == 5_000 if not more else counted >= 5_000
    assert not any(told.superseded_count for told in (first_told, *more))


async def test_the_latest_of_each_key_is_to_be_had(start: Start) -> None:
    api = await start()
    await register(api, event_pb2.EventFilter(data_keys=["k/*"]), FILTER)
    for n in range(30):
        await api.publish(event(f"k/{n % 3}", b"%d" % n), own())
    await api.publish(event("k/0", b"", tombstone=True))
    stream = await api.listen("a", conflate=True).live()
    assert stream.messages[0].resync.superseded_count == 28
    data = [item for item in stream.matched if item.event.data_key]
    assert [(i.event.data_key, i.event.payload) for i in data] == [
        ("k/1", b"28"),
        ("k/2", b"29"),
        ("k/0", b""),
    ]
    assert len(stream.matched) == 3
    await api.publish(event("k/1", b'"live"'), event("k/1", b'"more"'))
    await stream.count(5)
    assert await known(api) == {"k/1": b'"more"', "k/2": b"29"}
    await api.agents.Acknowledge(AcknowledgeRequest(project=P, agent_id="a", cursor=stream.cursor))
    assert (await api.listen("a", conflate=True).live()).kinds == ["caught_up"]


async def test_what_was_removed_undecided_is_made_up_for(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    """An agent is told what events led to that the log lost before its decider came to them."""
    words = Words()
    server = await start_server(valkey.url, embedder=words, segment_events=10)
    async with Api.of(server) as api:
        for name in ("changed", "same", "gone", "left"):
            await api.publish(event(name, b'"alpha"'))
        await api.register("a", "alpha")
        stream = await (await api.listen("a").live()).count(4)
        ack = AcknowledgeRequest(project=P, agent_id="a", cursor=stream.cursor)
        await api.agents.Acknowledge(ack)
        words.down = True
        await api.publish(event("changed", b'"alpha beta"'), event("new", b'"alpha gamma"'))
        await api.publish(event("left", b'"delta"'), event("gone", b"", tombstone=True))
        sequences = []
        for n in range(40):
            sequences += await api.publish(event("filler", b'"delta %d"' % n))
        await archive(server)
        remove = project_service_pb2.RemoveEventsRequest(project=P, reason="a test")
        remove.before.sequence = sequences[-1]
        assert (await api.projects.RemoveEvents(remove)).removed_count >= 40
    await server.stop()
    server = await start_server(valkey.url, embedder=Words(), segment_events=10)
    async with Api.of(server) as api:
        stream = await (await api.listen("a").live()).count(4)
        await api.publish(event("changed", b'"alpha later"'))
        await stream.count(5)
        told = zip(stream.told, [item.event.data_key for item in stream.matched], strict=True)
        assert sorted(told) == [
            ("DELETED", "gone"),
            ("LEFT", "left"),
            ("MATCHED", "new"),
            ("UPDATED", "changed"),
            ("UPDATED", "changed"),
        ]


async def test_what_is_not_decided_yet_is_not_let_go_of(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a decider that stopped has written it."""
    stops, goes_on = False, asyncio.Event()
    goes_on.set()
    looked = list[Trimmer]()

    async def decide(self: RedisInboxes, *args: Any, commit: bool) -> bool:
        nonlocal stops
        if stops and commit:
            stops = False
            goes_on.clear()
            raise ledger.Fenced
        return await decides(self, *args, commit=commit)

    async def follow(self: ProjectDecider) -> None:
        await goes_on.wait()
        await follows(self)

    async def look(self: Trimmer, agent_ids: list[str]) -> None:
        self._bound = 0
        await looks(self, agent_ids)
        if not goes_on.is_set():
            looked.append(self)

    decides, follows, looks = RedisInboxes._decide, ProjectDecider._follow, Trimmer._look
    monkeypatch.setattr(RedisInboxes, "_decide", decide)
    monkeypatch.setattr(ProjectDecider, "_follow", follow)
    monkeypatch.setattr(Trimmer, "_look", look)
    monkeypatch.setattr(inboxes, "_ENTRIES", 2)
    monkeypatch.setattr(deciders, "_LOOK_S", 0.02)
    api = await start()
    await register(api, event_pb2.EventFilter(data_keys=["k/*"]))
    await api.publish(event("k/0"))
    stream = await (await api.listen("a").live()).count(1)
    stops = True
    await api.publish(*[event(f"k/{n}") for n in range(1, 6)])
    await eventually(lambda: looked)
    end = await looked[0]._reader.store.inbox_end(P, "a")
    assert end.last > last_place(end.position) >= end.trimmed.upto
    goes_on.set()
    await stream.count(6)
    assert stream.keys == [f"k/{n}" for n in range(6)]


async def test_consumers_that_are_behind_get_the_latest_and_are_told(start: Start) -> None:
    api = await start(inbox_bytes=64 * 1024)
    notes_too = event_pb2.EventFilter(event_types=["note"])
    await register(api, event_pb2.EventFilter(data_keys=["k/*"]), notes_too)
    await api.publish(event("k/0", b'"first"'))
    async with Worker(api, "slow", max_outstanding_messages=1) as slow:
        (first,) = await slow.count(1)
        truth: dict[str, bytes] = {}
        for n in range(60):
            truth |= {f"k/{i}": b'"%d"' % n for i in range(1, 40)}
            facts = [event(f"k/{i}", b'"%d"' % n) for i in range(1, 40)]
            await api.publish(*facts, own("note", payload=b"%d" % n))
        await (await trimmed(api)).cancel()
        got: dict[str, list[bytes]] = {}
        async with Worker(api, "quick", max_outstanding_messages=1_000) as quick:
            seen = notes = count = 0
            while not (seen and quick.messages[seen - 1].HasField("idle")):
                await quick.until(lambda: len(quick.messages) > seen)  # noqa: B023
                for message in quick.messages[seen:]:
                    for each in message.deliveries.deliveries:
                        count += 1
                        key = each.matched.event.data_key
                        notes += not key
                        got.setdefault(key, []).append(each.matched.event.payload)
                some = quick.messages[seen:]
                seen = len(quick.messages)
                ids = [d.delivery_id for m in some for d in m.deliveries.deliveries]
                if ids:
                    assert await quick.ack(*ids) == []
        # Nothing is left out without a word, and of each datum the latest is there.
        told = [message.missed for message in slow.messages]
        superseded = sum(each.superseded_count for each in told)
        dropped = sum(each.dropped_count for each in told)
        assert superseded + dropped + count == 60 * 40
        assert dropped + notes == 60
        assert min(superseded, dropped) > 0
        assert {key: several[-1] for key, several in got.items() if key} == truth
        # What was outstanding when it was let go of can still be settled.
        assert await slow.ack(first.delivery_id) == []

"""How a server follows its store: few connections, no gap, and no other log taken for the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import StartupError
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.connections import CONNECTIONS, connect, execute
from contex_server.log.redis.key_names import key
from contex_server.log.redis.store import open_store
from contex_server.server import Server
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.conftest import StartServer
from tests.integration.support import Api, P, event, eventually

EVENTS = key(P, "events")


@pytest.fixture
async def store(valkey: EmbeddedValkey) -> AsyncIterator[Any]:
    async with Redis.from_url(valkey.url) as client:
        yield client


async def clients(store: Any) -> int:
    """Connections to the store, but for that of the test."""
    return len(await store.client_list()) - 1


@pytest.mark.own_store
async def test_hundreds_of_projects_take_a_handful_of_connections(
    server: Server, api: Api, store: Any
) -> None:
    async with AsyncExitStack() as stack:
        projects = [f"p{i}" for i in range(300)]
        for project in projects:
            await stack.enter_async_context(server.rooms.events.hub.channel(project))
        streams = [await api.subscribe(project).live() for project in projects[::15]]
        for durability in (event_pb2.DURABILITY_FSYNC, event_pb2.DURABILITY_REPLICATED):
            publishes = (
                api.publish(event(), project=project, durability=durability)
                for project in projects[::15]
            )
            await asyncio.gather(*publishes)
        for stream in streams:
            await stream.count(2)
        assert await clients(store) <= CONNECTIONS


@pytest.mark.own_store
async def test_a_store_that_takes_too_few_connections_is_refused(
    valkey: EmbeddedValkey, store: Any
) -> None:
    await store.config_set("maxclients", CONNECTIONS)
    with capture_logs() as logs:
        opened = await open_store(valkey.url)
    (warning,) = [log for log in logs if log["event"] == "store_connections"]
    assert (warning["maxclients"], warning["needed"]) == (CONNECTIONS, CONNECTIONS)
    await opened.events.close()
    with pytest.raises(StartupError, match=f"takes {CONNECTIONS} .* needs .* {2 * CONNECTIONS} in"):
        await open_store(valkey.url, Settings(workers=2))


async def test_events_of_any_size_arrive_in_order(api: Api) -> None:
    stream = await api.subscribe().live()
    sizes = [10, 100_000, 10, 20_000, *[10] * 30, 600_000, *[3_000] * 10]
    sent = [(await api.publish(event(payload=b'"%s"' % (b"x" * n))))[0] for n in sizes]
    batches = [[event(payload=b'"%s"' % (b"y" * n)) for n in sizes[:4]] for _ in range(5)]
    for sequences in await asyncio.gather(*(api.publish(*batch) for batch in batches)):
        sent += sequences
    assert (await stream.count(len(sent))).sequences == [e.sequence for e in await api.log()]


async def test_what_nobody_announced_arrives_a_little_later(api: Api, store: Any) -> None:
    (first,) = await api.publish(event("a"))
    stream = await api.subscribe().live()
    body = (await store.xrange(EVENTS))[0][1][b"e"]
    added = []
    for _ in range(2):  # As functions of an older version do.
        added.append((await store.xadd(EVENTS, {"e": body})).decode())
        await store.hincrby(key(P, "stats"), "bytes", len(body))
    (last,) = await api.publish(event("b"))
    assert (await stream.count(4)).sequences == [first, *added, last]
    await store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    (after,) = await api.publish(event("c"))
    assert (await stream.count(5)).sequences == [first, *added, last, after]


@pytest.mark.own_store
async def test_an_account_that_may_not_use_channels_does_without(
    start_server: StartServer, valkey: EmbeddedValkey, store: Any
) -> None:
    await store.execute_command(
        "ACL", "SETUSER", "contex", "on", ">word", "+@all", "~*", "resetchannels"
    )
    url = valkey.url.replace("unix://", "unix://contex:word@")
    with capture_logs() as logs:
        server = await start_server(url)
        async with Api.of(server) as api:
            stream = await api.subscribe().live()
            sent = [(await api.publish(event()))[0] for _ in range(3)]
            assert (await stream.count(3)).sequences == sent
    assert [log["event"] for log in logs if log["event"] == "appends_unannounced"]


async def changed(stream: Any, position: str, tail: str) -> None:
    refused = await stream.refusal()
    assert (refused.code, refused.reason) == ("DATA_LOSS", "LOG_CHANGED")
    assert refused.metadata["sequence"] == position
    assert refused.metadata["tail_sequence"] == tail


async def copied(store: Any) -> dict[bytes, bytes]:
    """A copy of the store's keys, to be restored later."""
    return {name: await store.dump(name) for name in await store.keys("*")}


async def restore(store: Any, copy: dict[bytes, bytes]) -> None:
    await store.flushall()
    for name, value in copy.items():
        await store.restore(name, 0, value, replace=True)


async def test_a_store_that_lost_everything_ends_the_streams(word_api: Api, store: Any) -> None:
    api = word_api
    await api.register("agent", "alpha")
    (last,) = await api.publish(event("alpha"))
    subscribed, listening = await api.subscribe().live(), await api.listen("agent").live()
    await store.flushall()
    async with asyncio.timeout(5):  # Though nothing is published.
        await changed(subscribed, last, "0-0")
        await changed(listening, last, "0-0")
    # Who comes later finds the new log, and an index of it.
    await api.register("agent", "alpha")
    listening = await api.listen("agent").live()
    (first,) = await api.publish(event("alpha"))
    assert (await api.subscribe().live()).sequences[-1] == first
    assert (await listening.until(lambda s: s.events)).sequences == [first]


async def test_a_store_that_lost_everything_and_was_written_to_again(api: Api, store: Any) -> None:
    for _ in range(3):
        await api.publish(event("k"))
    stream = await api.subscribe().live()
    last = stream.sequences[-1]
    await store.flushall()
    for _ in range(6):
        await api.publish(event("k"))
    async with asyncio.timeout(5):
        refused = await stream.refusal()
    assert refused.reason == "LOG_CHANGED"
    assert refused.metadata["sequence"] >= last


@pytest.mark.parametrize("grown", [0, 1, 5])
async def test_a_store_of_an_older_copy_is_another_one(api: Api, store: Any, grown: int) -> None:
    await api.publish(event("a"))
    copy = await copied(store)
    (last,) = await api.publish(event("b"))
    stream = await api.subscribe().live()
    await restore(store, copy)
    for _ in range(grown):
        await api.publish(event("c"))
    async with asyncio.timeout(5):
        refused = await stream.refusal()
    assert refused.reason == "LOG_CHANGED"
    if not grown:
        assert refused.metadata["sequence"] == last
    await api.publish(event("d"))
    assert (await api.subscribe().live()).keys[-1] == "d"


async def test_an_event_that_became_another_is_noticed_after_an_outage(
    api: Api, store: Any
) -> None:
    stream = await api.subscribe().live()
    (last,) = await api.publish(event("a"))
    await stream.count(1)
    ((_, fields),) = await store.xrange(EVENTS)
    async with store.pipeline(transaction=True) as both:
        both.delete(EVENTS)
        both.xadd(EVENTS, {b"e": fields[b"e"].replace(b"\x1a\x01a", b"\x1a\x01b")}, id=last)
        await both.execute()
    await store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(10):
        await changed(stream, last, last)


async def test_the_same_events_after_an_outage_are_no_others(api: Api, store: Any) -> None:
    await api.publish(event("a"))
    stream = await api.subscribe().live()
    for _ in range(2):
        await store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await api.publish(event("b"))
    assert (await stream.count(3)).keys == ["a", "b", "b"]


async def test_what_was_archived_ahead_of_a_follower_is_read_from_the_archive(
    small_server: Server, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = small_server.rooms.events.hub
    async with Api.of(small_server) as api:
        sent = await api.publish(*(event(f"k{i}") for i in range(5)))
        stream = await api.subscribe().live()
        (tailer,) = hub.tailers.values()
        poll = tailer._follower.poll
        away = asyncio.Event()

        async def waiting(positions: Any) -> Any:
            await away.wait()
            return await poll(positions)

        monkeypatch.setattr(tailer._follower, "poll", waiting)
        tailer._follower.wake()
        await asyncio.sleep(0.1)
        sent += await api.publish(*(event(f"l{i}") for i in range(25)))
        await small_server.rooms.projects.archiver.archive_all(P)
        await store.xtrim(EVENTS, maxlen=0, approximate=False)
        sent += await api.publish(event("m"))
        away.set()
        assert (await stream.count(31)).sequences == sent
        sent += await api.publish(event("n"))
        assert (await stream.count(32)).sequences == sent


@pytest.mark.own_store
async def test_a_connection_that_has_gone_silent_is_opened_anew(
    api: Api, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contex_server.log.redis.follower.TIMEOUT_S", 1.0)
    (first,) = await api.publish(event("a"))
    stream = await api.subscribe().live()
    (tailer,) = server.rooms.events.hub.tailers.values()
    follower: Any = tailer._follower
    await eventually(lambda: follower._below._links)
    (link,) = follower._below._links.values()
    link._listening._writer.transport.pause_reading()
    # Read by and by, until another connection listens.
    sent = [first]
    async with asyncio.timeout(20):
        while link in follower._below._links.values():
            sent += await api.publish(event("b"))
            await stream.count(len(sent))
    assert stream.sequences == sent


@pytest.mark.own_store
async def test_a_connection_in_use_as_another_server_may_take_over_is_not_used_again(
    valkey: EmbeddedValkey, store: Any
) -> None:
    connections = connect(valkey.url)
    async with connections.lease(0) as first:
        pass
    async with connections.lease(0) as connection:
        assert connection is first
        await connections.topology_changed()
    assert not connection.is_connected
    async with connections.lease(0) as connection:
        assert connection is not first
        await execute(connection, ("PING",))
        await connections.close()
        assert await clients(store) == 1
    await eventually(partial(_are, store, 0))


async def _are(store: Any, count: int) -> bool:
    return await clients(store) == count


@pytest.mark.own_store
async def test_who_gives_up_on_a_reply_leaves_it_to_nobody(valkey: EmbeddedValkey) -> None:
    connections = connect(valkey.url)

    async def asks(n: int) -> None:
        async with connections.lease(0) as connection:
            assert await execute(connection, ("ECHO", n), ("ECHO", -n)) == [b"%d" % n, b"%d" % -n]

    for start in range(0, 2_000, 40):
        tasks = [asyncio.create_task(asks(n)) for n in range(start, start + 40)]
        for turns in range(20):
            tasks[2 * turns].cancel()
            await asyncio.sleep(0)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
    await connections.close()

"""A reader that is slower than the log grows: bounded memory, and nothing lost."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from contex_server.events.feed import Feed
from contex_server.kernel.config import KIB, MIB
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.server import Server
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.integration.support import EDGE_END, Api, P, Stream, Words, after, event, order
from tests.thorough import one_of

SMALL_WINDOW = ("grpc.http2.bdp_probe", 0)
"""Without it a fast loopback lets gRPC itself buffer for a reader that does not read."""


def feeds(server: Server) -> list[Feed]:
    channels = server.rooms.events.hub.channels.values()
    return [f for c in channels for f in c._feeds.values()] + server.rooms.inbox.hub.feeds


async def grow(api: Api, server: Server, megabytes: float, size: int) -> tuple[list[str], int]:
    """Publishes so much; returns the sequences and the most that was ever buffered."""
    sequences: list[str] = []
    most = 0
    payload = b'"%s"' % (b"1" * size)
    batch = max(1, min(200, 400_000 // size))
    while len(sequences) * size < megabytes * MIB:
        sequences += await api.publish(*(event(f"alpha.{i % 7}", payload) for i in range(batch)))
        most = max([most, *(feed.buffered_bytes for feed in feeds(server))])
    return sequences, most


def fell_behind_ago(stream: Stream) -> int:
    return stream.kinds[::-1].index("fell_behind")


def told_where_it_lags(stream: Stream) -> None:
    """Every FellBehind stands at the place up to which all was delivered."""
    seen = "0-0"
    for message in stream.messages:
        if message.WhichOneof("message") == "events":
            seen = _last(message)
        if message.WhichOneof("message") == "fell_behind":
            assert order(message.fell_behind.tail_sequence) > order(seen)


def _last(message: Any) -> str:
    item = message.events.events[-1]
    return str(getattr(item, "event", item).sequence)


@pytest.mark.parametrize(
    ("feed_bytes", "size"),
    one_of((64 * KIB, 100_000), (64 * KIB, 300), (MIB, 5_000), (4 * MIB, 60_000)),
)
async def test_ten_megabytes_behind_everything_comes_once(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words, feed_bytes: int, size: int
) -> None:
    server = await start_server(valkey.url, embedder=words, feed_bytes=feed_bytes)
    async with Api.of(server, SMALL_WINDOW) as slow, Api.of(server) as fast:
        stream = await slow.subscribe(edge=EDGE_END).live()
        watcher = await fast.subscribe(edge=EDGE_END).live()
        sequences, most = await grow(fast, server, 10 if size > 1_000 else 3, size)
        assert most <= feed_bytes + size + 1_000
        await stream.count(len(sequences))
        assert stream.sequences == sequences
        assert "fell_behind" in stream.kinds
        told_where_it_lags(stream)
        await stream.until(lambda s: s.kinds[::-1].index("caught_up") < fell_behind_ago(s))
        turns = [kind for kind in stream.kinds if kind in ("caught_up", "fell_behind")]
        assert ("caught_up", "caught_up") not in pairwise(turns)
        # It is live again, and a reader that kept up was not disturbed.
        await watcher.count(len(sequences))
        assert watcher.sequences == sequences
        fresh = await fast.publish(event("alpha.fresh"))
        assert (await stream.count(len(sequences) + 1)).sequences[-1:] == fresh
        await stream.quiet(0.1)


async def test_a_slow_agent_gets_everything_once(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, feed_bytes=256 * KIB)
    async with Api.of(server, SMALL_WINDOW) as slow, Api.of(server) as fast:
        await fast.register("a", "alpha")
        stream = await slow.listen("a").live()
        sequences, most = await grow(fast, server, 5, 20_000)
        assert most <= 256 * KIB + 21_000
        await stream.count(len(sequences))
        assert stream.sequences == sequences
        assert "fell_behind" in stream.kinds
        told_where_it_lags(stream)
        fresh = await fast.publish(event("alpha.fresh"))
        assert (await stream.count(len(sequences) + 1)).sequences[-1:] == fresh


async def test_who_falls_behind_can_resume_from_there(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, feed_bytes=64 * KIB)
    async with Api.of(server, SMALL_WINDOW) as slow, Api.of(server) as fast:
        stream = await slow.subscribe(edge=EDGE_END).live()
        sequences, _ = await grow(fast, server, 4, 20_000)
        await stream.until(lambda s: "fell_behind" in s.kinds)
        received = stream.sequences
        await stream.cancel()
        rest = await fast.subscribe(cursor=stream.cursor).live()
        assert received + rest.sequences == sequences


async def test_readers_of_different_speed_do_not_disturb_each_other(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words, feed_bytes=256 * KIB)
    apis = [Api.of(server, SMALL_WINDOW) for _ in range(8)]
    writer = Api.of(server)
    await writer.register("a", "alpha")
    streams = [await api.subscribe(edge=EDGE_END, heartbeat_interval_ms=100).live() for api in apis]
    agent = await writer.listen("a").live()

    async def read(stream: Stream, pause_s: float) -> Stream:
        while len(stream.events) < len(sequences) or not sequences:
            await stream.read()
            await asyncio.sleep(pause_s)
        return stream

    sequences: list[str] = []
    reading = [asyncio.create_task(read(s, 0.02 * n)) for n, s in enumerate(streams)]
    published, most = await grow(writer, server, 6, 10_000)
    sequences += published
    done = [*await asyncio.gather(*reading), await agent.count(len(sequences))]
    assert all(stream.sequences == sequences for stream in done)
    assert most <= 256 * KIB + 11_000
    for api in [*apis, writer]:
        await api.channel.close()


@pytest.mark.parametrize("reader", ["subscribe", "replay", "live"])
async def test_a_log_that_is_trimmed_in_front_of_a_slow_reader_makes_no_gap(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words, reader: str
) -> None:
    server = await start_server(valkey.url, embedder=words, feed_bytes=64 * KIB)
    async with Api.of(server, SMALL_WINDOW) as slow, Api.of(server) as fast:
        await fast.register("a", "alpha", last_seen_sequence="0")
        live = await slow.subscribe(edge=EDGE_END).live()
        sequences, _ = await grow(fast, server, 6, 50_000)
        stream = {
            "subscribe": lambda: slow.subscribe(after_sequence=sequences[0]),
            "replay": lambda: slow.replay(since=after(sequences[0])),
            "live": lambda: live,
        }[reader]()
        await stream.read()
        async with Redis(unix_socket_path=valkey.url.removeprefix("unix://")) as store:
            await store.xtrim(key(P, "events"), maxlen=5, approximate=False)
        refused = await stream.refusal()
        assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_TRIMMED")
        assert refused.metadata == {"earliest_sequence": sequences[-5]}
        # Up to there all has come.
        assert len(stream.events) > 1
        start = sequences.index(stream.sequences[0])
        assert stream.sequences == sequences[start : start + len(stream.events)]
        assert start in (0, 1)


async def test_an_agent_is_told_of_events_that_were_removed_before_it_came_to_them(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    server = await start_server(valkey.url, embedder=words)
    async with Api.of(server) as api:
        await api.register("a", "alpha")
        sequences = await api.publish(*(event(f"alpha.{n}") for n in range(10)))
        await api.listen("a").live()  # By now it is decided.
        async with Redis(unix_socket_path=valkey.url.removeprefix("unix://")) as store:
            await store.xtrim(key(P, "events"), maxlen=3, approximate=False)
        stream = await api.listen("a").live()
        assert stream.sequences == sequences
        assert stream.keys == [f"alpha.{n}" for n in range(10)]
        assert [m.payload_omitted for m in stream.matched] == [True] * 7 + [False] * 3
        assert all(m.matches[0].need == "alpha" for m in stream.matched)

"""What groups.lua takes for granted of the store's consumer groups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from contex_server.log.embedded import EmbeddedValkey
from redis.asyncio import Redis

S, G = "stream", "group"


@pytest.fixture
async def redis(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A store with a stream of three entries, of which a consumer has two."""
    async with Redis.from_url(valkey.url) as client:
        await client.xgroup_create(S, G, "0", mkstream=True)
        for place in ("1-0", "2-0", "3-0"):
            await client.xadd(S, {"d": "x"}, id=place)
        await client.xreadgroup(G, "a", {S: ">"}, count=2)
        yield client


async def pending(redis: Redis) -> list[tuple[str, str, int]]:
    """What is outstanding: id, consumer, attempts."""
    rows = await redis.xpending_range(S, G, "-", "+", 10)
    return [
        (row["message_id"].decode(), row["consumer"].decode(), row["times_delivered"])
        for row in rows
    ]


async def claim(redis: Redis, consumer: str, place: str, **options: Any) -> list[Any]:
    found: list[Any] = await redis.xclaim(S, G, consumer, 0, [place], **options)
    return found


async def test_a_claim_counts_as_an_attempt_unless_the_count_is_given(redis: Redis) -> None:
    assert len(await claim(redis, "b", "1-0")) == 1
    assert await claim(redis, "~", "2-0", retrycount=0, justid=True) == [b"2-0"]
    assert await pending(redis) == [("1-0", "b", 2), ("2-0", "~", 0)]
    await claim(redis, "b", "2-0")
    assert await pending(redis) == [("1-0", "b", 2), ("2-0", "b", 1)]


async def test_what_was_removed_stays_outstanding_until_somebody_claims_it(redis: Redis) -> None:
    await redis.xtrim(S, minid="2-0", approximate=False)
    assert [row[0] for row in await pending(redis)] == ["1-0", "2-0"]
    summary = await redis.xpending(S, G)
    assert (summary["pending"], summary["min"]) == (2, b"1-0")
    assert await claim(redis, "b", "1-0") == []
    assert [row[0] for row in await pending(redis)] == ["2-0"]
    await redis.xdel(S, "2-0")
    assert await claim(redis, "~", "2-0", retrycount=5, justid=True) == []
    assert await pending(redis) == []


async def test_what_was_removed_can_be_acknowledged(redis: Redis) -> None:
    await redis.xdel(S, "1-0")
    assert await redis.xack(S, G, "1-0") == 1
    assert [row[0] for row in await pending(redis)] == ["2-0"]


async def test_what_is_claimed_that_nobody_had_stays_so(redis: Redis) -> None:
    assert await claim(redis, "b", "3-0") == []
    await redis.xack(S, G, "1-0")
    assert await claim(redis, "b", "1-0") == []
    assert [row[0] for row in await pending(redis)] == ["2-0"]


async def test_a_reader_of_what_it_has_is_noted_and_given_nothing_new(redis: Redis) -> None:
    await asyncio.sleep(0.03)

    async def idle_ms(name: bytes) -> int:
        rows = await redis.xinfo_consumers(S, G)
        return next(int(row["idle"]) for row in rows if row["name"] == name)

    assert await idle_ms(b"a") >= 30
    end = "18446744073709551615-0"
    await redis.execute_command("XREADGROUP", "GROUP", G, "a", "COUNT", 1, "STREAMS", S, end)
    assert await idle_ms(b"a") < 30
    # Also one that has never been there.
    await redis.execute_command("XREADGROUP", "GROUP", G, "new", "COUNT", 1, "STREAMS", S, end)
    assert await idle_ms(b"new") < 30
    assert [row[0] for row in await pending(redis)] == ["1-0", "2-0"]


async def test_a_group_can_be_moved_and_keeps_what_is_outstanding(redis: Redis) -> None:
    await redis.xgroup_setid(S, G, "3-0")
    assert await redis.xreadgroup(G, "a", {S: ">"}, count=5) == []
    assert [row[0] for row in await pending(redis)] == ["1-0", "2-0"]


async def test_whoever_leaves_takes_along_what_it_has(redis: Redis) -> None:
    """So that a consumer is let go of only when it has nothing."""
    assert await redis.xgroup_delconsumer(S, G, "a") == 2
    assert await pending(redis) == []
    found = await redis.xreadgroup(G, "b", {S: ">"}, count=5)
    assert [row[0] for row in found[0][1]] == [b"3-0"]


async def test_a_take_over_of_what_was_removed_names_it(redis: Redis) -> None:
    await redis.xdel(S, "1-0")
    _, claimed, gone = await redis.xautoclaim(S, G, "b", 0)
    assert ([row[0] for row in claimed], gone) == ([b"2-0"], [b"1-0"])

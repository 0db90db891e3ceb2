"""Appends as servers before called for them, and packed: the store answers and keeps the same."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import hiredis
import pytest
from contex_server.kernel.config import Settings
from contex_server.kernel.model import (
    DATA_DELETED,
    DATA_PUBLISHED,
    Append,
    Lane,
    NewEvent,
    Origin,
)
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.appender import append_command
from contex_server.log.redis.client import fcall
from contex_server.log.redis.connections import Command
from contex_server.log.redis.key_names import COUNTED, key, vectors_kind
from contex_server.log.redis.packing import packed
from contex_server.log.redis.store import open_store
from redis.asyncio import Redis

AHEAD_MS = 4_000_000_000_000
"""Sequences follow from this one, not from the clock, so that they are the same."""
NAMES = (*(f"k{n}" for n in range(12)), "ä" * 100)
SETTINGS = Settings()
KINDS = (
    *(*COUNTED, "state", vectors_kind("m"), "requests:0", "requests:1", "matching"),
    "descriptions",
)


def flat(project: str, appends: list[Append]) -> Command:
    """The call with an argument for each field."""
    vectors = dict(chain.from_iterable(a.vectors.items() for a in appends))
    lanes: dict[int, int] = {}
    publishes: list[Any] = []
    for a in appends:
        lane: Any = "" if a.lane is None else lanes.setdefault(id(a.lane), len(lanes))
        publishes += (a.request_id, str(a.origin), a.publisher, len(a.events), lane)
        for e in a.events:
            expected: Any = e.expected_revision
            if expected is None:
                expected = e.expected_state
            publishes += (e.data_key, expected, "T" if e.tombstone else "", e.digest)
            publishes += (e.event_type, e.body, e.was, e.described, e.validity)
    return fcall(
        *(project, "contex1_append_after", KINDS, SETTINGS.request_window_s),
        *(SETTINGS.audit_retention_ms, "m" if vectors else "", len(vectors)),
        *chain.from_iterable(vectors.items()),
        *publishes,
        "",
    )


def some_event(chosen: random.Random) -> NewEvent:
    name = chosen.choice((*NAMES, "", f"u{chosen.randrange(3_000)}"))
    # Nothing that is taken for sealed.
    body = b"\n" + chosen.randbytes(chosen.choice((2, 30, 31, 254, 255, 2_999)))
    event = NewEvent(body, name)
    event.digest = chosen.choice((b"", b"d" * 16, chosen.randbytes(16)))
    event.event_type = chosen.choice((DATA_PUBLISHED, DATA_PUBLISHED, "order.paid"))
    if not name:
        return event
    event.described = chosen.choice(("", "?", "Tone", "Ttwo", "T" + "x" * 300, "Dabc"))
    event.was = chosen.choice(("*",) * 12 + ("=", "=", "", "Tone", "@1-1"))
    event.expected_revision = chosen.choice((None,) * 20 + (0, 1, 2))
    if event.expected_revision is None:
        event.expected_state = chosen.choice(("",) * 20 + ("absent", "present", "deleted"))
    if chosen.random() < 0.2:
        event.tombstone, event.event_type, event.digest = True, DATA_DELETED, b""
    elif chosen.random() < 0.1:
        event.validity = chosen.choice((f"{AHEAD_MS + 5}", "=1000", f"={AHEAD_MS}"))
    return event


def some_appends(project: str, chosen: random.Random) -> list[Append]:
    lanes = (None, None, Lane(), Lane())
    return [
        Append(
            project,
            [some_event(chosen) for _ in range(chosen.choice((1, 1, 3, 70)))],
            chosen.choice(("", f"r{chosen.randrange(100)}")),
            publisher=chosen.choice(("", "bob")),
            origin=Origin("me", chosen.choice(("one", "other")), "client"),
            vectors={chosen.randbytes(16): b"v" for _ in range(chosen.choice((0, 0, 90)))},
            model="m",
            lane=chosen.choice(lanes),
        )
        for _ in range(chosen.choice((1, 2, 150)))
    ]


async def kept(store: Redis, project: str) -> dict[str, Any]:
    """What is kept of a project, without the times of records."""
    found: dict[str, Any] = {}
    start = key(project, "")
    async for name in store.scan_iter(match=f"{start}*"):
        kind = name.decode().removeprefix(start)
        match (await store.type(name)).decode():
            case "stream":
                rows = await store.xrange(name)
                found[kind] = rows if kind == "events" else [fields for _, fields in rows]
            case "hash":
                found[kind] = await store.hgetall(name)
            case "zset":
                found[kind] = sorted(await store.zrange(name, 0, -1, withscores=True))
            case "set":
                found[kind] = await store.smembers(name)
    return found


def answer(reply: Any) -> Any:
    """Without the store's time."""
    return reply.split()[0] if isinstance(reply, bytes) and reply[:1] == b"<" else reply


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_as_before(valkey: EmbeddedValkey, seed: int) -> None:
    store = await open_store(valkey.url)
    met: set[bytes] = set()
    async with Redis.from_url(valkey.url) as client:
        for project in ("flat", "pack"):
            await client.xadd(key(project, "events"), {"e": b""}, id=f"{AHEAD_MS}-1")
        for step in range(6):
            answers = []
            for project, command_of in (("flat", flat), ("pack", append_packed)):
                appends = some_appends(project, random.Random(f"{seed} {step}"))
                replies = await client.execute_command(*command_of(project, appends))
                answers.append([answer(reply) for reply in replies])
            assert answers[0] == answers[1]
            met |= {(a[0] if isinstance(a, list) else a)[:1] for a in answers[0]}
        first, second = await kept(client, "flat"), await kept(client, "pack")
        assert first.keys() == second.keys()
        for kind, content in first.items():
            assert content == second[kind], kind
    await store.events.close()
    assert met >= {b"!", b"?", b"4"}


def append_packed(project: str, appends: list[Append]) -> Command:
    return append_command(project, appends, SETTINGS)


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 2_047, 2_048, 65_535, 65_536])
async def test_bodies_of_every_size(valkey: EmbeddedValkey, size: int) -> None:
    store = await open_store(valkey.url)
    await store.events.append(Append("p", [NewEvent(b"x" * size)]))
    async with Redis.from_url(valkey.url) as client:
        ((_, fields),) = await client.xrange(key("p", "events"))
    assert fields[b"e"] == b"x" * size
    await store.events.close()


def test_what_many_share_is_sent_once() -> None:
    origin = Origin("me", "ipv4:10.0.0.1:50000", "client")
    texts = [NewEvent(b"", "key", described="T" + "text" * 100) for _ in range(100)]
    many = packed([Append("p", [event], origin=origin) for event in texts], "")
    assert many.count(b"texttext" * 50) == many.count(str(origin).encode()) == 1
    assert len(many) < 1_600


def test_an_argument_for_all() -> None:
    command = append_command("p", [Append("p", [NewEvent(b"")] * 1_000)], SETTINGS)
    assert len(command) == len(append_command("p", [Append("p", [NewEvent(b"")])], SETTINGS))
    assert len(hiredis.pack_command(command)) < 8_000


async def test_what_is_sealed_with_a_key_that_is_gone_is_refused(valkey: EmbeddedValkey) -> None:
    """Alone: what is beside it, and what is sealed with a key that is there, is appended."""
    store = await open_store(valkey.url, SETTINGS)
    await store.keys.project_key("p", b"a" * 16, b"Kwrapped", 1, 10, 1_000)
    sealed = [b"\x72\x20" + key_id * 16 + b"c" * 16 for key_id in (b"a", b"b")]
    long = b"\x72\x80\x02" + b"b" * 16 + b"c" * 240
    bodies = [[sealed[0]], [b"\n", sealed[1]], [b"\n"], [long], [sealed[0]]]
    appends = [Append("p", [NewEvent(body) for body in some]) for some in bodies]
    async with Redis.from_url(valkey.url) as client:
        replies = await client.execute_command(*append_command("p", appends, SETTINGS))
        assert [reply == b"~" for reply in replies] == [False, True, False, True, False]
        assert await client.xlen(key("p", "events")) == 3
    await store.events.close()

"""Counts of minutes are added up to hours when the hour is over, and nothing is counted twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.projects import Dimension, ProjectStore, Tier
from contex_server.log.redis.key_names import key
from contex_server.log.redis.store import open_store
from contex_server.server import Server

from tests.integration.support import Api, P, event, ms


def read(value: bytes) -> Counter[int]:
    counts: Counter[int] = Counter()
    for part in value.split(b" "):
        slot, _, count = part.partition(b":")
        counts[int(slot)] += int(count)
    return counts


@pytest.fixture
async def projects(valkey: EmbeddedValkey) -> AsyncIterator[ProjectStore]:
    opened = await open_store(valkey.url)
    yield opened.projects
    await opened.events.close()


@pytest.mark.parametrize("interrupted", [False, True])
async def test_an_hour_that_is_over(
    server: Server, api: Api, store: Any, projects: ProjectStore, interrupted: bool
) -> None:
    every = [await api.publish(event(f"k{n % 3}"), publisher="me") for n in range(10)]
    hour = ms(every[-1][0]) // 3_600_000
    if ms(every[0][0]) // 3_600_000 != hour:
        pytest.skip("the hour ended meanwhile")
    await server.stop()  # it adds up such hours by itself
    assert await projects.roll_up(P) == 0
    # As if it had been three hours ago, in a day that may be another.
    past = hour - 3
    await store.rename(key(P, f"activity:{hour}"), key(P, f"activity:{past}"))
    await store.srem(key(P, "activity-open"), hour)
    await store.sadd(key(P, "activity-open"), past)

    async def hours(dimension: Dimension) -> dict[bytes, Counter[int]]:
        (day,) = await projects.activity(P, dimension, Tier.HOURS, [past // 24])
        return {name: read(value) for name, value in day.items()}

    expected = {
        Dimension.DATA_KEY: {b"k0": 4, b"k1": 3, b"k2": 3},
        Dimension.EVENT_TYPE: {b"data_published": 10},
        Dimension.PUBLISHER: {b"me": 10},
        Dimension.NEED: {},
    }

    async def check() -> None:
        for dimension, names in expected.items():
            assert await hours(dimension) == {
                name: Counter({past % 24: count}) for name, count in names.items()
            }
            (minutes,) = await projects.activity(P, dimension, Tier.MINUTES, [past])
            assert {name: read(v).total() for name, v in minutes.items()} == names

    await check()
    assert await projects.roll_up(P) == 1
    await check()
    assert await store.smembers(key(P, "activity-open")) == set()
    assert 7 < await store.ttl(key(P, f"activity:{past}")) / 86_400 <= 8
    if interrupted:
        # The day has it already, and the hour is still open: it is not added again.
        await store.sadd(key(P, "activity-open"), past)
        await check()
        assert await projects.roll_up(P) == 1
        await check()

"""The archive on a real S3 server that is slow, away, or cut off in the middle of an upload."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server

from tests.conftest import StartServer
from tests.faults.proxy import Proxy
from tests.faults.s3 import BUCKET, S3, environment, has_go
from tests.integration.logs import listed, state, stats
from tests.integration.projects.test_verification import verify
from tests.integration.support import Api, Words, event, refusal

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.skipif(not has_go(), reason="needs Go"),
    pytest.mark.timeout(900),
]


@pytest.fixture
async def s3(tmp_path: Path) -> AsyncIterator[S3]:
    server = S3(tmp_path / "s3")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def proxy(s3: S3) -> AsyncIterator[Proxy]:
    opened = Proxy(s3.port)
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def here(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> Server:
    for name, value in environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    return await start_server(
        valkey.url,
        embedder=Words(),
        archive_url=f"s3://{BUCKET}/some/prefix",
        segment_events=50,
        snapshot_events=50,
        store_events=60,
        # What is read is fetched each time.
        archive_cache_bytes=8 << 20,
    )


@pytest.fixture
async def api(here: Server) -> AsyncIterator[Api]:
    async with Api.of(here) as opened:
        yield opened


async def publish(api: Api, count: int = 250) -> list[event_pb2.Event]:
    for n in range(0, count, 10):
        # What doesn't compress.
        await api.publish(*[event(f"k{n % 7}", b'"%s"' % os.urandom(400).hex().encode())] * 10)
    return await listed(api)


async def settled(api: Api) -> None:
    async with asyncio.timeout(100):
        while (await stats(api)).store_event_count >= 110:
            await asyncio.sleep(0.05)


async def forget(server: Server) -> None:
    """Drops what the archive has at hand, so that the storage is asked."""
    archive: Any = server.rooms.storage.archive
    for cache in (archive._indexes, archive._packed, archive._blocks):
        cache.clear()


async def test_the_archive_in_a_bucket(s3: S3, here: Server, api: Api) -> None:
    events = await publish(api)
    await settled(api)
    segments = list(s3.objects.rglob("*.seg"))
    assert len(segments) == (await stats(api)).segment_count >= 3
    assert all("some/prefix/shop" in str(path) for path in segments)
    await forget(here)
    assert await listed(api) == events
    assert await listed(api, order=event_pb2.ORDER_BACKWARDS) == events[::-1]
    assert (await verify(api))[0] == []


async def test_an_upload_that_is_cut_off(s3: S3, proxy: Proxy, here: Server, api: Api) -> None:
    proxy.cut_after = 2_000
    events = await publish(api)
    async with asyncio.timeout(100):
        while proxy.open:
            await asyncio.sleep(0.02)
    # Publishing goes on, and nothing is trimmed that is not safely there.
    more = await publish(api, 50)
    assert more[: len(events)] == events
    assert (await stats(api)).store_event_count == len(more)
    assert not list(s3.objects.rglob("*.seg"))
    async with asyncio.timeout(100):
        while "no events are moved" not in " ".join((await stats(api)).warnings):
            await asyncio.sleep(0.1)
    proxy.cut_after, proxy.open = None, True
    await settled(api)
    async with asyncio.timeout(100):
        while (await stats(api)).warnings:
            await asyncio.sleep(0.1)
    await forget(here)
    assert await listed(api) == more
    assert (await verify(api))[0] == []


async def test_a_storage_that_is_away(proxy: Proxy, here: Server, api: Api) -> None:
    events = await publish(api)
    await settled(api)
    await forget(here)
    proxy.close()
    refused = await refusal(listed(api))
    assert (refused.code, refused.reason) == ("UNAVAILABLE", "ARCHIVE_UNAVAILABLE")
    # What is in the store is read, and publishing goes on.
    receipt = await api.publish(event("k1", b'"new"'))
    assert receipt
    after = event_pb2.Position(sequence=events[-1].sequence)
    assert [e.payload for e in await listed(api, since=after)] == [b'"new"']
    proxy.open = True
    assert (await listed(api))[:-1] == events


async def test_slow_answers(proxy: Proxy, here: Server, api: Api) -> None:
    proxy.delay_s = 0.1
    events = await publish(api)
    loop = asyncio.get_running_loop()
    slowest = 0.0
    for n in range(100):
        started = loop.time()
        await api.publish(event(f"k{n % 7}", b'"%d"' % n))
        slowest = max(slowest, loop.time() - started)
    await settled(api)
    assert slowest < 5.0  # nothing waits for the storage
    await forget(here)
    now = await listed(api)
    assert now[: len(events)] == events
    assert len(now) == len(events) + 100
    middle = now[len(now) // 2].sequence
    await forget(here)
    found = await state(api, middle)
    assert set(found) <= {f"k{n}" for n in range(7)}

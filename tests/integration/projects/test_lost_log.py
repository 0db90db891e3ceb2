"""A store that lost what is archived is not published to until somebody has decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import LOG_HEALTH, Server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import StartServer, fresh_store
from tests.integration.events.test_changed_log import copied, put_back
from tests.integration.logs import archive, listed, story
from tests.integration.projects.test_verification import verify
from tests.integration.support import Api, Words, event, eventually, refusal


@pytest.fixture
async def lost(
    small_api: Api, small_server: Server, start_server: StartServer
) -> AsyncIterator[tuple[Api, list[Any]]]:
    """A server on an empty store with the archive of a project; and the archived events."""
    await story(small_api, 12)
    await archive(small_server)
    events = await listed(small_api)
    await small_server.stop()
    async with fresh_store() as fresh:
        server = await start_server(
            fresh.url, embedder=Words(), segment_events=10, snapshot_events=10
        )
        async with Api.of(server) as api:
            yield api, events
        await server.stop()


async def is_health(api: Api, expected: str) -> bool:
    return await health(api) == expected


async def health(api: Api) -> str:
    request = health_pb2.HealthCheckRequest(service=LOG_HEALTH)
    stub: Any = health_pb2_grpc.HealthStub(api.channel)
    answer = await stub.Check(request)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def admitted(api: Api) -> None:
    """A project that is refused is looked at again within a second."""
    await asyncio.sleep(1.1)
    await api.publish(event("k"))


async def test_a_lost_store_is_not_begun_anew(lost: tuple[Api, list[Any]]) -> None:
    api, events = lost
    assert await health(api) == "SERVING"
    for _ in range(2):
        refused = await refusal(api.publish(event("k")))
        assert (refused.code, refused.reason) == ("DATA_LOSS", "LOG_CHANGED")
        assert refused.metadata == {"tail_sequence": events[-1].sequence}
        assert "verify --repair" in refused.message
    await api.publish(event("k"), project="another")
    await eventually(partial(is_health, api, "NOT_SERVING"))
    found, _ = await verify(api, repair=True)
    assert found[0][0] == "ARCHIVE_AHEAD"
    await admitted(api)
    assert (await listed(api))[:-1] == events
    await eventually(partial(is_health, api, "SERVING"))


async def test_a_lost_store_is_begun_anew_where_somebody_says_so(
    lost: tuple[Api, list[Any]], tmp_path: Path
) -> None:
    api, _ = lost
    before = {path.read_bytes() for path in (tmp_path / "archive").rglob("*.seg")}
    found, _ = await verify(api, set_aside=True)
    assert [kind for kind, _ in found] == ["ARCHIVE_AHEAD"]
    await admitted(api)
    assert [e.revision for e in await listed(api)] == [1]
    assert (await verify(api))[0] == []
    kept = {path.read_bytes() for path in (tmp_path / "archive").rglob("*.aside")}
    assert kept == before


@pytest.mark.own_store
async def test_an_older_copy_goes_on_only_from_where_it_ends(
    small_api: Api,
    small_server: Server,
    store: Any,
    start_server: StartServer,
    valkey: EmbeddedValkey,
) -> None:
    await story(small_api, 5)
    await archive(small_server)
    copy = await copied(store)
    await story(small_api, 12)
    await archive(small_server)
    everything = await listed(small_api)
    await small_server.stop()
    await put_back(store, copy)

    async def started(**more: Any) -> Server:
        sizes = {"segment_events": 10, "snapshot_events": 10}
        return await start_server(valkey.url, embedder=Words(), **sizes, **more)

    server = await started()
    async with Api.of(server) as api:
        assert (await refusal(api.publish(event("k")))).reason == "LOG_CHANGED"
    await server.stop()
    # One that can't see the archive publishes, and the logs part.
    server = await started(archive_url="none")
    async with Api.of(server) as api:
        await api.publish(event("k"))
    await server.stop()
    server = await started()
    async with Api.of(server) as api:
        assert (await refusal(api.publish(event("k")))).reason == "LOG_CHANGED"
        found, _ = await verify(api, repair=True)
        assert found[0][0] == "ARCHIVE_AHEAD"
        assert (await refusal(api.publish(event("k")))).reason == "LOG_CHANGED"
        await verify(api, set_aside=True)
        await admitted(api)
        after = await listed(api)
        parted = next(n for n, e in enumerate(after) if e != everything[n])
        assert [e.revision for e in after[parted:]] == [1, 2]
        await archive(server)
        assert await listed(api) == after
        assert (await verify(api))[0] == []
    await server.stop()


@pytest.mark.own_store
async def test_a_copy_from_before_its_last_events_were_archived_is_restored(
    small_api: Api,
    small_server: Server,
    store: Any,
    start_server: StartServer,
    valkey: EmbeddedValkey,
) -> None:
    await story(small_api, 5)
    await archive(small_server)
    await story(small_api, 12)
    copy = await copied(store)
    await archive(small_server)
    await story(small_api, 12)
    await archive(small_server)
    everything = await listed(small_api)
    await small_server.stop()
    await put_back(store, copy)
    server = await start_server(valkey.url, embedder=Words(), segment_events=10, snapshot_events=10)
    async with Api.of(server) as api:
        assert (await refusal(api.publish(event("k")))).reason == "LOG_CHANGED"
        found, _ = await verify(api, repair=True)
        assert found[0][0] == "ARCHIVE_AHEAD"
        await admitted(api)
        assert (await listed(api))[:-1] == everything
        await archive(server)
        assert (await verify(api))[0] == []
    await server.stop()


async def test_without_the_archive_publishing_goes_on(
    small_api: Api, small_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = small_server.rooms.projects.admission
    assert admission is not None

    async def away(_prefix: str) -> dict[str, int]:
        from contex_server.tiers.objects import archive_unavailable

        raise archive_unavailable("a test")

    monkeypatch.setattr(admission._recovery._archive.objects, "list", away)
    await small_api.publish(event("k"))
    await small_api.publish(event("k"))

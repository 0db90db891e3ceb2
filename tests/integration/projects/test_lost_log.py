"""A store that lost what is archived is not published to until somebody has decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from contex.v1 import event_pb2, project_service_pb2
from contex_server.kernel.errors import ContexError
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.projects.unrecorded import STAGED
from contex_server.server import LOG_HEALTH, Server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import StartServer, fresh_store
from tests.integration.events.test_changed_log import copied, put_back
from tests.integration.logs import archive, listed, story
from tests.integration.projects.test_verification import verify
from tests.integration.support import Api, P, Words, event, eventually, refusal


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


@dataclass(frozen=True, slots=True)
class Older:
    """A store that is what it was before some of its events were archived, and more came.

    Attributes:
        everything: The events that it had.
        archive: Where its archive is.
    """

    api: Api
    server: Server
    store: Any
    everything: list[Any]
    archive: Path


Restarted = Callable[..., Awaitable[Older]]


@pytest.fixture
async def older(
    small_api: Api,
    small_server: Server,
    store: Any,
    start_server: StartServer,
    valkey: EmbeddedValkey,
    tmp_path: Path,
) -> AsyncIterator[Restarted]:
    """Makes one; `later` happens in between."""
    await story(small_api, 5)
    await archive(small_server)
    await story(small_api, 5)
    copy = await copied(store)
    async with AsyncExitStack() as stack:

        async def make(
            later: Callable[[], Awaitable[object]] | None = None, **settings: Any
        ) -> Older:
            await archive(small_server)
            await story(small_api, 12)
            await archive(small_server)
            everything = await listed(small_api)
            if later is not None:
                await later()
            await small_server.stop()
            await put_back(store, copy)
            sizes = {"segment_events": 10, "snapshot_events": 10}
            server = await start_server(valkey.url, embedder=Words(), **sizes, **settings)
            stack.push_async_callback(server.stop)
            api = await stack.enter_async_context(Api.of(server))
            return Older(api, server, store, everything, tmp_path / "archive")

        yield make


def segments(older: Older) -> set[Path]:
    return set(older.archive.rglob("*.seg"))


@pytest.mark.own_store
async def test_a_copy_from_before_its_last_events_were_archived_is_restored(
    older: Restarted,
) -> None:
    a = await older()
    before = segments(a)
    assert (await refusal(a.api.publish(event("k")))).reason == "LOG_CHANGED"
    # Neither does the archiver go on with it, nor delete what the copy has events of.
    with pytest.raises(ContexError, match="archive has events"):
        await archive(a.server)
    with pytest.raises(grpc.aio.AioRpcError, match="archive has events"):
        await erase(a.api)
    assert segments(a) == before
    found, _ = await verify(a.api, repair=True)
    assert found[0][0] == "ARCHIVE_AHEAD"
    await admitted(a.api)
    assert (await listed(a.api))[:-1] == a.everything
    await archive(a.server)
    assert (await verify(a.api))[0] == []


@pytest.mark.timeout(120)
@pytest.mark.own_store
async def test_nothing_of_an_older_copy_is_archived_or_deleted_by_itself(older: Restarted) -> None:
    a = await older(store_days=0.000_02)
    before = segments(a)

    async def said() -> bool:
        return bool(await a.store.get(key(P, "trouble")))

    await eventually(said, 90)  # By the look at all projects, once a minute, at the latest.
    assert segments(a) == before
    assert (await refusal(a.api.publish(event("k")))).reason == "LOG_CHANGED"


@pytest.mark.own_store
@pytest.mark.parametrize("how", ["erased", "removed", "damaged"])
async def test_what_does_not_continue_the_copy_is_not_overlooked(
    older: Restarted, small_api: Api, tmp_path: Path, how: str
) -> None:
    async def later() -> None:
        if how == "erased":
            await erase(small_api)
        elif how == "removed":
            last = (await listed(small_api))[-15].sequence
            await small_api.projects.RemoveEvents(
                project_service_pb2.RemoveEventsRequest(
                    project=P, before=event_pb2.Position(sequence=last), reason="a test"
                )
            )
        else:
            damaged = sorted((tmp_path / "archive").rglob("*.seg"))[-3]
            damaged.write_bytes(damaged.read_bytes()[:-5])

    a = await older(later)
    before = segments(a)
    for _ in range(2):
        assert (await refusal(a.api.publish(event("k")))).reason == "LOG_CHANGED"
        with pytest.raises(ContexError, match=r"of the archive is damaged|archive has events"):
            await archive(a.server)
        found, _ = await verify(a.api)
        assert {kind for kind, _ in found} & {"ARCHIVE_AHEAD", "SEGMENT"}
    assert segments(a) == before
    await verify(a.api, set_aside=True)
    await admitted(a.api)


async def erase(api: Api) -> None:
    await api.projects.EraseData(
        project_service_pb2.EraseDataRequest(
            project=P, data_key="k1", request_id="r", reason="a test"
        )
    )


@pytest.mark.own_store
async def test_a_store_that_is_emptied_under_a_server_is_not_begun_anew(
    small_api: Api, small_server: Server, store: Any
) -> None:
    await story(small_api, 5)
    await archive(small_server)
    stream = await small_api.subscribe().live()
    await store.flushall()
    assert (await stream.refusal()).reason == "LOG_CHANGED"
    assert (await refusal(small_api.publish(event("k")))).reason == "LOG_CHANGED"


async def test_many_that_come_first_look_once(
    small_api: Api, small_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = small_server.rooms.projects.admission
    assert admission is not None
    looked: list[str] = []
    whole = admission._unrecorded.archive.objects.list

    async def counted(prefix: str) -> dict[str, int]:
        looked.append(prefix)
        await asyncio.sleep(0.05)
        return await whole(prefix)

    monkeypatch.setattr(admission._unrecorded.archive.objects, "list", counted)
    await asyncio.gather(*(small_api.publish(event("k")) for _ in range(50)))
    assert looked.count(f"{P}/") == 1


async def test_without_the_archive_publishing_goes_on(
    small_api: Api, small_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = small_server.rooms.projects.admission
    assert admission is not None

    async def away(_prefix: str) -> dict[str, int]:
        from contex_server.tiers.objects import archive_unavailable

        raise archive_unavailable("a test")

    monkeypatch.setattr(admission._unrecorded.archive.objects, "list", away)
    await small_api.publish(event("k"))
    await small_api.publish(event("k"))


async def test_a_mark_that_a_commit_left_behind_goes(
    small_api: Api, small_server: Server, tmp_path: Path
) -> None:
    """The process died as a staged directory became the project's own."""
    await story(small_api, 5)
    await archive(small_server)
    (segment, *_) = (tmp_path / "archive").rglob("*.seg")
    mark = segment.with_name(STAGED)
    mark.touch()
    task = small_server.rooms.projects.archiver.task  # type: ignore[union-attr]
    task._swept.clear()
    await small_api.publish(event("k"))
    await archive(small_server)
    assert not mark.exists()
    assert segment.exists()

"""Each limit of a tenant and of a project, hit by way of two servers on one store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from contex.v1 import (
    agent_service_pb2,
    event_service_pb2,
    match_service_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)
from contex_server.log.embedded import EmbeddedValkey
from contex_server.quota.limits import NAMES, UNLIMITED, Bounds, Limits
from contex_server.quota.stored import READ_S
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    EDGE_END,
    Api,
    Refusal,
    Words,
    asked,
    event,
    eventually,
    in_stream,
    own,
    refusal,
)

SHOP, OTHER, FREE = "acme-shop", "acme-other", "free"
TEXT = b'"%s"' % (b"x" * 998)


@dataclass
class Plain:
    """Tenants by the first part of a project's name."""

    limits: dict[str, tuple[Limits, Limits]] = field(default_factory=dict)

    def limits_of(self, project: str) -> Bounds:
        return self.limits_of_tenant(project.partition("-")[0])

    def limits_of_tenant(self, tenant: str) -> Bounds:
        return Bounds(tenant, *self.limits.get(tenant, (UNLIMITED, UNLIMITED)))

    def tenant(self, **limits: int) -> None:
        self.limits["acme"] = Limits(**limits), UNLIMITED

    def project(self, **limits: int) -> None:
        self.limits["acme"] = UNLIMITED, Limits(**limits)

    def none(self) -> None:
        self.limits.clear()


@dataclass
class Scene:
    """Two servers on a store, and a client of each."""

    limits: Plain
    servers: list[Server]
    one: Api
    two: Api

    async def usage(self, project: str = "") -> dict[str, Any]:
        for server in self.servers:
            await server.rooms.quota.keeper.tick()
        bounds = self.limits.limits_of(project or SHOP)
        return {
            used.name: used for used in await self.servers[1].rooms.quota.usage(bounds, project)
        }


@pytest.fixture
async def scene(
    start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> AsyncIterator[Scene]:
    limits = Plain()
    servers = [
        await start_server(valkey.url, embedder=words, quotas=limits, access=False)
        for _ in range(2)
    ]
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(Api.of(server)) for server in servers]
        yield Scene(limits, servers, one, two)


Call = Callable[[], Coroutine[Any, Any, Any]]


async def until_refused(*calls: Call) -> tuple[int, Refusal]:
    """Calls by turns until one is refused; how many were not."""
    for count in range(10_000):
        try:
            await calls[count % len(calls)]()
        except grpc.aio.AioRpcError as error:
            return count, Refusal.of(error)
    raise AssertionError("nothing was refused")


def of_limit(refused: Refusal, limit: str, value: int, project: str = "") -> None:
    assert refused.code == "RESOURCE_EXHAUSTED"
    assert refused.reason == "QUOTA_EXCEEDED"
    expected = {"limit": limit, "value": str(value), "tenant": "acme"}
    assert refused.metadata == {**expected, **({"project": project} if project else {})}
    assert (refused.retry_after_ms is not None) == limit.endswith("_per_second")


@pytest.mark.parametrize("project", ["", SHOP])
@pytest.mark.parametrize("kind", ["write", "read", "admin"])
async def test_calls(scene: Scene, kind: str, project: str) -> None:
    await scene.one.publish(event(), project=SHOP)
    limit = f"{kind}_calls_per_second"
    (scene.limits.project if project else scene.limits.tenant)(**{limit: 20})

    def call(api: Api, project: str = SHOP) -> Call:
        match kind:
            case "write":
                return lambda: api.publish(own(), project=project)
            case "read":
                return lambda: refusal_of_missing(api, project)
            case _:
                set_to = project_service_pb2.SetRetentionRequest(project=project)
                return lambda: api.projects.SetRetention(set_to, timeout=DEADLINE_S)

    async def refusal_of_missing(api: Api, project: str) -> None:
        stats = project_service_pb2.GetStatsRequest(project=project)
        await api.projects.GetStats(stats, timeout=DEADLINE_S)

    start = time.monotonic()
    count, refused = await until_refused(call(scene.one), call(scene.two))
    of_limit(refused, limit, 20, project)
    # The burst, what came back meanwhile, and what each server may have taken ahead.
    assert 19 - 4 <= count <= 20 * (time.monotonic() - start + 1 + 0.4) + 1
    await scene.one.publish(event(), project=FREE)  # Not theirs.
    assert refused.retry_after_ms is not None
    assert refused.retry_after_ms <= 1_002
    await asyncio.sleep(refused.retry_after_ms / 1000)
    await call([scene.one, scene.two][count % 2])()
    if project:
        await scene.one.publish(event(), project=OTHER)
        await call(scene.one, OTHER)()


@pytest.mark.parametrize("limit", ["events_per_second", "bytes_per_second"])
async def test_a_publish_is_counted_whole_or_not_at_all(scene: Scene, limit: str) -> None:
    batch = [event(f"k{n}", TEXT) for n in range(8)]
    size = event_service_pb2.PublishRequest(project=SHOP, events=batch).ByteSize()
    most = 20 if limit == "events_per_second" else size * 5 // 2
    scene.limits.tenant(**{limit: most})
    sequences: list[str] = []

    async def publish(api: Api) -> None:
        sequences.extend(await api.publish(*batch, project=SHOP))

    count, refused = await until_refused(lambda: publish(scene.one), lambda: publish(scene.two))
    of_limit(refused, limit, most)
    assert count in (2, 3)
    stored = [e.sequence for e in await scene.two.log(SHOP) if e.data_key]
    assert stored == sequences
    assert refused.retry_after_ms is not None
    await asyncio.sleep(refused.retry_after_ms / 1000)
    await publish([scene.one, scene.two][count % 2])


async def test_a_batch_of_more_than_a_second_passes_when_the_bucket_is_full(scene: Scene) -> None:
    scene.limits.project(events_per_second=5)
    await scene.one.publish(*(own() for _ in range(8)), project=SHOP)
    refused = await refusal(scene.two.publish(own(), project=SHOP))
    of_limit(refused, "events_per_second", 5, SHOP)
    assert 700 <= (refused.retry_after_ms or 0) <= 802


async def test_a_batch_of_a_stream_is_refused_and_the_stream_goes_on(scene: Scene) -> None:
    scene.limits.tenant(write_calls_per_second=10)
    call = scene.one.events.PublishStream(timeout=DEADLINE_S)
    receipts, refusals = [], []
    for _ in range(15):
        await call.write(in_stream(project=SHOP, events=[own()]))
        answer = await call.read()
        if answer.WhichOneof("outcome") == "published":
            receipts += [receipt.sequence for receipt in answer.published.receipts]
        else:
            refusals.append(answer.refused)
    await call.write(in_stream(project=FREE, events=[own()]))  # Another tenant's batch.
    assert (await call.read()).WhichOneof("outcome") == "published"
    await call.done_writing()
    assert 9 <= len(receipts) < 15
    assert {r.reason for r in refusals} == {"QUOTA_EXCEEDED"}
    assert refusals[0].metadata["limit"] == "write_calls_per_second"
    assert refusals[0].retry_delay_ms > 0
    assert [e.sequence for e in await scene.two.log(SHOP)] == receipts


@pytest.mark.parametrize("project", ["", SHOP])
async def test_open_streams(scene: Scene, project: str) -> None:
    await scene.one.publish(own(), project=SHOP)
    (scene.limits.project if project else scene.limits.tenant)(open_streams=5)
    opened = [
        await [scene.one, scene.two][n % 2].subscribe(SHOP, edge=EDGE_END).live() for n in range(5)
    ]
    for api in (scene.one, scene.two):
        of_limit(await api.subscribe(SHOP).refusal(), "open_streams", 5, project)
    publishing = scene.two.events.PublishStream(timeout=DEADLINE_S)
    await publishing.write(in_stream(project=SHOP, events=[own()]))
    of_limit(await refusal(publishing.read()), "open_streams", 5, project)
    assert (await scene.usage())["open_streams"].used == 5
    await scene.one.subscribe(FREE, edge=EDGE_END).live()
    await opened.pop().cancel()
    await eventually(lambda: fits(scene.two))
    for stream in opened:
        await scene.one.publish(own(), project=SHOP)
        await stream.count(1)
        await stream.cancel()


async def fits(api: Api) -> bool:
    """Whether one more stream can be opened."""
    stream = api.subscribe(SHOP, edge=EDGE_END)
    if not await passes(stream.live()):
        return False
    await stream.cancel()
    return True


async def passes(call: Coroutine[Any, Any, Any]) -> bool:
    """Whether a call is not refused for a limit."""
    (answer,) = await asyncio.gather(call, return_exceptions=True)
    if not isinstance(answer, grpc.aio.AioRpcError):
        return True
    assert Refusal.of(answer).reason == "QUOTA_EXCEEDED"
    return False


async def is_refused(call: Coroutine[Any, Any, Any]) -> bool:
    return not await passes(call)


async def test_streams_of_a_server_that_died_count_no_longer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contex_server.quota.streams.LEASE_S", 0.3)
    scene.limits.tenant(open_streams=2)
    streams = scene.servers[0].rooms.quota.keeper.streams.of("acme")
    bounds = scene.limits.limits_of(SHOP)
    assert await streams.open(bounds, SHOP) is None
    assert await streams.open(bounds, SHOP) is None
    assert not await fits(scene.two)
    # It tells no more, as if it were dead.
    monkeypatch.setattr(streams, "tell", lambda: asyncio.sleep(0))
    await eventually(lambda: fits(scene.two))
    streams.close(SHOP)
    streams.close(SHOP)


@pytest.mark.parametrize("project", ["", SHOP])
async def test_stored_events(scene: Scene, project: str) -> None:
    (scene.limits.project if project else scene.limits.tenant)(stored_events=10)
    count, refused = await until_refused(
        lambda: scene.one.publish(own(), own(), own(), project=SHOP)
    )
    of_limit(refused, "stored_events", 10, project)
    assert count == 3
    # Another server knows of it with its next reading.
    await eventually(lambda: is_refused(scene.two.publish(own(), own(), project=SHOP)))
    assert len(await scene.one.log(SHOP)) <= 12
    if not project:
        of_limit(await refusal(scene.one.publish(own(), own(), project=OTHER)), "stored_events", 10)
    await scene.one.publish(own(), project=FREE)
    request = project_service_pb2.DeleteProjectRequest(project=SHOP, request_id="d", reason="test")
    await scene.one.projects.DeleteProject(request, timeout=DEADLINE_S)
    await eventually(lambda: passes(scene.one.publish(own(), own(), project=SHOP)))


async def test_stored_bytes(scene: Scene) -> None:
    scene.limits.project(stored_bytes=5_600)
    count, refused = await until_refused(lambda: scene.one.publish(own(payload=TEXT), project=SHOP))
    of_limit(refused, "stored_bytes", 5_600, SHOP)
    assert count == 5
    await scene.one.publish(own(payload=TEXT), project=OTHER)


async def test_agents(scene: Scene) -> None:
    scene.limits.tenant(agents=3)
    numbers = iter(range(10))
    count, refused = await until_refused(
        lambda: scene.one.register(f"a{next(numbers)}", "one", project=SHOP)
    )
    of_limit(refused, "agents", 3)
    assert count == 3
    await scene.one.register("a1", "other", project=SHOP)  # One that there is.
    of_limit(await refusal(scene.one.register("b", "one", project=OTHER)), "agents", 3)
    await scene.one.register("b", "one", project=FREE)
    listed = await scene.two.agents.ListAgents(agent_service_pb2.ListAgentsRequest(project=SHOP))
    assert len(listed.agents) == 3


async def test_needs(scene: Scene) -> None:
    scene.limits.project(needs=5)
    await scene.one.register("a", "one", "two", "three", project=SHOP)
    await scene.one.register("a", "one", "two", project=SHOP)
    refused = await refusal(scene.one.register("b", "1", "2", "3", "4", project=SHOP))
    of_limit(refused, "needs", 5, SHOP)
    update = agent_service_pb2.UpdateAgentRequest(project=SHOP, agent_id="a")
    update.needs.extend(agent_service_pb2.Need(text=f"need {n}") for n in range(6))
    of_limit(await refusal(scene.one.agents.UpdateAgent(update)), "needs", 5, SHOP)
    get = agent_service_pb2.GetAgentRequest(project=SHOP, agent_id="a")
    assert len((await scene.two.agents.GetAgent(get)).agent.needs) == 2


async def test_an_import_counts_as_what_it_brings(scene: Scene) -> None:
    await scene.one.publish(*(own() for _ in range(8)), project=FREE)
    request = transfer_service_pb2.ExportProjectRequest(project=FREE)
    file = b"".join([m.data async for m in scene.one.transfers.ExportProject(request) if m.data])
    scene.limits.tenant(stored_events=5)
    start = transfer_service_pb2.ImportStart(project=SHOP, import_id="one")

    async def run() -> Any:
        call = scene.one.transfers.ImportProject(timeout=DEADLINE_S)
        await call.write(transfer_service_pb2.ImportProjectRequest(start=start))
        first = await call.read()
        await call.write(
            transfer_service_pb2.ImportProjectRequest(data=file[first.resume_offset :])
        )
        await call.read()
        await call.write(transfer_service_pb2.ImportProjectRequest(finish={}))
        return await call.read()

    of_limit(await refusal(run()), "stored_events", 5)
    assert not await scene.two.exists(SHOP)
    scene.limits.tenant(stored_events=8)  # What was sent is kept.
    await asyncio.sleep(READ_S)
    await run()
    assert len(await scene.two.log(SHOP)) == 8


async def test_work_is_owed_by_the_next_call(scene: Scene) -> None:
    for _ in range(3):
        await scene.one.publish(*(event(f"k{n}") for n in range(100)), project=SHOP)
    scene.limits.tenant(work_per_second=100)
    request = state_service_pb2.GetStateRequest(project=SHOP)
    await scene.one.states.GetState(request, timeout=DEADLINE_S)  # Looks at 300, and is not cut.
    refused = await refusal(scene.one.states.GetState(request, timeout=DEADLINE_S))
    of_limit(refused, "work_per_second", 100)
    await eventually(
        lambda: is_refused(scene.two.states.GetState(request, timeout=DEADLINE_S)), timeout=1
    )
    match = match_service_pb2.MatchRequest(project=SHOP, questions=asked("x"))
    of_limit(await refusal(scene.one.matches.Match(match)), "work_per_second", 100)
    await scene.one.publish(own(), project=SHOP)  # Not metered.
    scene.limits.none()
    await scene.one.states.GetState(request, timeout=DEADLINE_S)


async def test_a_long_stream_waits_between_pages(
    scene: Scene, start_server: StartServer, valkey: EmbeddedValkey, words: Words
) -> None:
    for _ in range(10):
        await scene.one.publish(*(own() for _ in range(100)), project=SHOP)
    scene.limits.project(work_per_second=500)
    server = await start_server(
        valkey.url, embedder=words, quotas=scene.limits, access=False, replay_page_events=100
    )
    async with Api.of(server) as api:
        start = time.monotonic()
        assert len((await api.replay(SHOP).to_end()).events) == 1_000
        # The rate, less the burst and the last page.
        assert time.monotonic() - start >= 0.75


async def test_usage_says_what_is_used(scene: Scene) -> None:
    scene.limits.limits["acme"] = Limits(events_per_second=1_000), Limits(agents=1)
    for _ in range(6):
        await scene.one.publish(own(), own(), project=SHOP)
        await scene.two.publish(own(), project=OTHER)
    await scene.one.register("a", "one", "two", project=SHOP)
    assert await is_refused(scene.one.register("b", "one", project=SHOP))
    await scene.one.subscribe(SHOP, edge=EDGE_END).live()
    used = await scene.usage()
    assert tuple(used) == NAMES
    assert used["events_per_second"] == ("events_per_second", 18 / 60, 1_000, 0)
    assert used["write_calls_per_second"].used == 14 / 60
    of_shop = await scene.usage(SHOP)
    assert of_shop["events_per_second"].used == 12 / 60
    assert of_shop["agents"] == ("agents", 1, 1, 1)
    assert of_shop["needs"].used == 2
    assert of_shop["open_streams"].used == 1
    assert of_shop["stored_events"].used >= 12
    _, refused, _ = scene.servers[0].rooms.quota.keeper.totals()
    assert refused == {("acme", "agents"): 1}


async def test_nothing_acknowledged_is_lost_under_a_flood(scene: Scene) -> None:
    scene.limits.tenant(events_per_second=200, write_calls_per_second=150)
    acknowledged: list[str] = []
    refused: list[Refusal] = []

    async def flood(api: Api) -> None:
        for _ in range(60):
            try:
                acknowledged.extend(await api.publish(own(), own(), project=SHOP))
            except grpc.aio.AioRpcError as error:
                refused.append(Refusal.of(error))  # type: ignore[arg-type]

    start = time.monotonic()
    await asyncio.gather(*(flood(api) for api in (scene.one, scene.two) for _ in range(4)))
    took = time.monotonic() - start
    assert {r.reason for r in refused} == {"QUOTA_EXCEEDED"}
    assert len(acknowledged) <= 200 * (took + 1 + 0.4)
    stored = [e.sequence for e in await scene.two.log(SHOP)]
    assert sorted(stored) == sorted(acknowledged)
    keeper = scene.servers[0].rooms.quota.keeper
    assert keeper.rates.of("acme").asked <= 2 * (took / 0.1 + 2)

"""A primary dies, a slot moves: publishing and following go on, and nothing confirmed is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from contex.v1 import event_pb2
from contex_server.log.buckets import bucket_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.crc import key_slot

from tests.conftest import StartServer
from tests.faults.stores import SERVICE, Cluster, Replicated, running, until
from tests.integration.support import Api, P, Stream, Words, event

REPLICATED = event_pb2.DURABILITY_REPLICATED
PASSWORD, SENTINELS = "p@ss:w/rd?#%", "an+other&one"


class Traffic:
    """Publishes to projects, one event after the other in each, and follows them.

    Attributes:
        acknowledged: The sequences, by project, that a receipt called replicated.
        refused: What publishing said instead.
    """

    def __init__(self, api: Api, *projects: str) -> None:
        self._api = api
        self.acknowledged: dict[str, list[str]] = {project: [] for project in projects}
        self.refused: list[str] = []
        self._streams: dict[str, Stream] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    async def start(self) -> None:
        for project in self.acknowledged:
            await self._api.publish(event("first"), project=project)
            self._streams[project] = await self._api.subscribe(project=project).live()
            self._tasks.append(asyncio.create_task(self._publish(project)))

    async def _publish(self, project: str) -> None:
        number = 0
        while not self._stopped:
            number += 1
            try:
                await self._publish_one(project, f"{project}-{number}")
            except grpc.aio.AioRpcError as error:
                self.refused.append(error.details() or "")
            await asyncio.sleep(0.01)

    async def _publish_one(self, project: str, key: str) -> None:
        request = {"project": project, "request_id": key, "durability": REPLICATED}
        sequences = await self._api.publish(event(key), **request)
        self.acknowledged[project] += sequences

    async def goes_on(self, count: int = 5) -> None:
        """Returns once each project has so many events more."""
        before = {project: len(found) for project, found in self.acknowledged.items()}

        async def grown() -> bool:
            return all(
                len(found) >= before[project] + count
                for project, found in self.acknowledged.items()
            )

        await until(grown)

    async def check(self) -> None:
        """Ends it: what was acknowledged is in the logs, and whoever followed has it, once."""
        self._stopped = True
        await asyncio.gather(*self._tasks)
        for project, sequences in self.acknowledged.items():
            log = (await self._api.replay(project=project).to_end()).sequences
            assert set(sequences) <= set(log)
            stream = self._streams[project]
            await stream.until(lambda s, last=log[-1]: s.sequences and s.sequences[-1] == last)
            assert stream.sequences == log[len(log) - len(stream.sequences) :]
            assert set(sequences) <= set(stream.sequences)


@pytest.fixture
async def replicated(tmp_path: Path) -> AsyncIterator[Replicated]:
    """Outlives the servers, which are started later."""
    store = Replicated(tmp_path / "store", password=PASSWORD, sentinel_password=SENTINELS)
    async with running(store):
        yield store


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Likewise."""
    async with running(Cluster(tmp_path / "cluster")) as store:
        yield store


async def test_a_primary_that_dies(replicated: Replicated, start_server: StartServer) -> None:
    url = replicated.url.replace("//", f"//:{quote(PASSWORD, safe='')}@")
    url += f"?sentinel_password={quote(SENTINELS, safe='')}"
    server = await start_server(url, embedder=Words())
    async with Api.of(server) as api:
        traffic = Traffic(api, "shop", "news")
        await traffic.start()
        await traffic.goes_on()
        old = await replicated.primary()
        await old.kill()
        await replicated.new_primary(old)
        await traffic.goes_on()
        # It comes back as a replica, which takes no writes.
        await old.start()
        await traffic.goes_on()
        await traffic.check()
        # What was sent when it died may or may not have been done.
        assert len(traffic.refused) <= 2
        health = health_pb2_grpc.HealthStub(api.channel)

        async def serves() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await until(serves)  # The store is looked at from time to time.


async def test_a_primary_that_is_replaced_while_it_answers(
    tmp_path: Path, start_server: StartServer
) -> None:
    """It takes writes for some ten seconds more, all of which are lost: nothing goes there."""
    async with running(Replicated(tmp_path / "store", replicas=1)) as store:
        server = await start_server(store.url, embedder=Words())
        async with Api.of(server) as api:
            await api.publish(event("before"))
            old = await store.primary()
            await store.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
            new = await store.new_primary(old)
            await asyncio.sleep(2)
            assert (await old.info("replication"))["role"] == "master"
            await api.publish(event("after"))
            assert await new.client.xlen(f"ctx:{{{bucket_of(P)}}}:p:{P}:events") == 2


@pytest.mark.thorough
async def test_a_cluster_that_loses_a_node_and_moves_slots(
    cluster: Cluster, start_server: StartServer
) -> None:
    projects = ("shop", "news", "a", "b", "c", "d")
    server = await start_server(cluster.url, embedder=Words())
    async with Api.of(server) as api:
        traffic = Traffic(api, *projects)
        await traffic.start()
        await traffic.goes_on()
        slots = [key_slot(f"{{{bucket_of(project)}}}".encode()) for project in projects[:3]]
        for slot in slots:
            source = await cluster.primary_of(slot)
            target = next(server for server in cluster.servers[:3] if server is not source)
            await cluster.move(range(slot, slot + 1), target)
            await traffic.goes_on()
        assert traffic.refused == []
        dead = await cluster.primary_of(slots[0])
        await dead.kill()
        await traffic.goes_on(2)
        await traffic.check()

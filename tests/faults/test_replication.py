"""What a receipt claims of replicas is true, and publishing goes on after a failover."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex.v1.event_service_pb2 import PublishRequest
from contex_server.log.buckets import bucket_of
from contex_server.log.redis import appender

from tests.conftest import StartServer
from tests.faults.stores import Replicated, running
from tests.integration.support import DEADLINE_S, Api, P, Words, event

REPLICATED, FSYNC = event_pb2.DURABILITY_REPLICATED, event_pb2.DURABILITY_FSYNC


@pytest.fixture
async def replicated(tmp_path: Path) -> AsyncIterator[Replicated]:
    async with running(Replicated(tmp_path / "store", replicas=1, sentinels=1)) as store:
        yield store


async def _publish(api: Api, key: str) -> Any:
    request = PublishRequest(project=P, events=[event(key)], request_id=key, durability=REPLICATED)
    return await api.events.Publish(request, timeout=DEADLINE_S)


async def test_a_repeated_publish_claims_what_was_confirmed_of_its_events(
    replicated: Replicated, start_server: StartServer
) -> None:
    servers = [
        await start_server(replicated.url, embedder=Words(), replication_timeout_ms=300)
        for _ in range(2)
    ]
    replica = replicated.servers[1]
    async with Api.of(servers[0]) as one, Api.of(servers[1]) as other:
        assert (await _publish(one, "before")).durability == REPLICATED
        replica.pause()
        first = await _publish(one, "a")
        # On a connection that has written nothing yet, too.
        for api in (one, other):
            again = await _publish(api, "a")
            assert (again.duplicate, again.durability) == (True, FSYNC)
            assert again.receipts == first.receipts
        replica.go_on()
        for api in (one, other):
            again = await _publish(api, "a")
            assert (again.duplicate, again.durability) == (True, REPLICATED)
        held = await replica.client.xlen(f"ctx:{{{bucket_of(P)}}}:p:{P}:events")
        assert held == 2


async def test_as_many_replicas_confirm_as_have_to(
    replicated: Replicated, start_server: StartServer
) -> None:
    server = await start_server(
        replicated.url, embedder=Words(), replication_timeout_ms=300, confirming_replicas=2
    )
    async with Api.of(server) as api:
        assert (await _publish(api, "a")).durability == FSYNC


async def test_the_fsync_policy_is_that_of_the_store_as_it_is_now(
    replicated: Replicated, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_POLICY_S", 0.0)
    server = await start_server(replicated.url, embedder=Words())
    async with Api.of(server) as api:
        answer = await api.events.Publish(PublishRequest(project=P, events=[event("a")]))
        assert answer.durability == FSYNC
        await replicated.servers[0].client.config_set("appendonly", "no")
        answer = await api.events.Publish(PublishRequest(project=P, events=[event("a")]))
        assert answer.durability == event_pb2.DURABILITY_MEMORY


async def test_a_store_that_confirms_before_it_has_synced_is_not_believed(
    replicated: Replicated, start_server: StartServer
) -> None:
    await replicated.servers[0].client.config_set("appendfsync", "everysec")
    server = await start_server(replicated.url, embedder=Words())
    async with Api.of(server) as api:
        answer = await api.events.Publish(PublishRequest(project=P, events=[event("a")]))
        assert answer.durability == event_pb2.DURABILITY_MEMORY
        assert (await _publish(api, "b")).durability == REPLICATED
        replicated.servers[1].pause()
        assert (await _publish(api, "c")).durability == event_pb2.DURABILITY_MEMORY
        replicated.servers[1].go_on()


async def test_replicas_that_cannot_be_asked_are_asked_once(
    replicated: Replicated, start_server: StartServer
) -> None:
    """WAITAOF is an error without an append-only file, which the server has not noticed yet."""
    primary = replicated.servers[0]
    server = await start_server(replicated.url, embedder=Words())
    async with Api.of(server) as api:
        assert (await _publish(api, "a")).durability == REPLICATED
        await primary.client.config_set("appendonly", "no")
        await primary.client.config_resetstat()
        assert (await _publish(api, "b")).durability == event_pb2.DURABILITY_MEMORY
        asked = (await primary.info("commandstats"))["cmdstat_waitaof"]
        assert asked["calls"] == 1
        # The next one knows.
        assert (await _publish(api, "c")).durability == event_pb2.DURABILITY_MEMORY
        asked = (await primary.info("commandstats"))["cmdstat_waitaof"]
        assert asked["calls"] == 1


@pytest.mark.parametrize("appendonly", ["yes", "no"])
async def test_a_feed_waits_for_replicas_where_it_is_to(
    replicated: Replicated, start_server: StartServer, appendonly: str
) -> None:
    for each in replicated.servers:
        await each.client.config_set("appendonly", appendonly)
    server = await start_server(replicated.url, embedder=Words(), feed_after="replicated")
    replica = replicated.servers[1]
    async with Api.of(server) as api:
        await api.register("agent", "alpha")
        (first,) = await api.publish(event("alpha.0"))
        subscribed, listening = await api.subscribe().live(), await api.listen("agent").live()
        (second,) = await api.publish(event("alpha.1"))
        await subscribed.until(lambda s: s.keys[-1:] == ["alpha.1"])
        await listening.until(lambda s: s.keys[-1:] == ["alpha.1"])
        replica.pause()
        (third,) = await api.publish(event("alpha.2"))
        # Nor does one get it that reads up to the end of the log.
        late = await api.subscribe(after_sequence=first).live()
        assert late.sequences == [second]
        for stream in (subscribed, listening, late):
            await stream.quiet(1.0)
        replica.go_on()
        for stream in (subscribed, listening, late):
            await stream.until(lambda s: s.sequences[-1:] == [third])


async def test_a_feed_begins_with_what_is_replicated(
    replicated: Replicated, start_server: StartServer
) -> None:
    server = await start_server(replicated.url, embedder=Words(), feed_after="replicated")
    replica = replicated.servers[1]
    async with Api.of(server) as api:
        replica.pause()
        sent = await api.publish(event("a"))
        stream = api.subscribe()
        with pytest.raises(TimeoutError):
            await stream.read(1.0)
        replica.go_on()
        assert (await stream.live()).sequences == sent

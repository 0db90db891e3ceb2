"""What a project uses of what it may is said before it bites."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.store import open_store
from contex_server.log.store import Store
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.projects.usage import Limit, Usage, UsageMonitor, UsageReader
from contex_server.projects.usage_metrics import UsageMetrics
from contex_server.server import Server
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from structlog.testing import capture_logs

from tests.conftest import StartServer
from tests.integration.logs import stats
from tests.integration.support import Api, P, Words, event

NONE = Retention(0, 0, 0, 0)


@pytest.fixture
async def server(start_server: StartServer, valkey: EmbeddedValkey) -> Server:
    """A server without an archive: what is published stays in the store."""
    return await start_server(valkey.url, embedder=Words(), archive_url="none")


@pytest.fixture
async def store(valkey: EmbeddedValkey) -> AsyncIterator[Store]:
    opened = await open_store(valkey.url)
    yield opened
    await opened.events.close()


def usages(store: Store, retention: Retention, *, events: int = 10) -> UsageReader:
    """As of a server with an archive that it can't reach."""
    return UsageReader(
        store,
        RetentionStore(store.projects, retention),
        archived=True,
        segment_events=events,
        segment_bytes=1_000,
    )


def limits(usage: Usage) -> dict[str, Limit]:
    return {limit.name: limit for limit in usage.limits}


async def test_a_store_that_grows_beyond_its_limit_is_warned_of(
    server: Server, store: Store
) -> None:
    async with Api.of(server) as api:
        for n in range(40):
            await api.publish(event(f"k{n}", b"%d" % 10**99))
    by_events = await usages(store, Retention(0, 20, 0, 0)).of(P)
    assert limits(by_events) == {"store_events": Limit("store_events", 40, 20)}  # A segment more.
    by_events = await usages(store, Retention(0, 20, 0, 0), events=9).of(P)
    assert by_events.warnings == [
        "the store holds 40 events and should hold 20: is the archive reachable?"
    ]
    by_bytes = await usages(store, Retention(0, 0, 2_000, 0)).of(P)
    assert limits(by_bytes)["store_bytes"].used > 4_000
    assert "bytes of events and should hold 2,000" in by_bytes.warnings[0]
    roomy = await usages(store, Retention(0, 100, 10**6, 0)).of(P)
    assert [limit.name for limit in roomy.limits] == ["store_events", "store_bytes"]
    assert not roomy.warnings


async def test_without_an_archive_nothing_should_leave_the_store(server: Server) -> None:
    async with Api.of(server) as api:
        await api.publish(event("k"))
        assert not (await stats(api)).warnings


async def test_what_begins_and_ceases_to_be_too_much_is_logged_once(
    server: Server, store: Store
) -> None:
    async with Api.of(server) as api:
        for n in range(40):
            await api.publish(event(f"k{n}"))
    seen: list[dict[str, Usage]] = []
    retentions = RetentionStore(store.projects, Retention(0, 20, 0, 0))
    watched = UsageReader(store, retentions, archived=True, segment_events=1, segment_bytes=1)
    watch = UsageMonitor(store.projects, watched, seen.append)
    with capture_logs() as logs:
        await watch.look()
        await watch.look()
        retentions.defaults = NONE
        await watch.look()
        await watch.look()
    assert [(line["event"], line["project"], line["limit"]) for line in logs] == [
        ("limit_near", P, "store_events"),
        ("limit_kept", P, "store_events"),
    ]
    assert [len(found[P].warnings) for found in seen] == [1, 1, 0, 0]


async def test_metrics_tell_it_too(server: Server, store: Store) -> None:
    async with Api.of(server) as api:
        for n in range(40):
            await api.publish(event(f"k{n}"))
    metrics = UsageMetrics()
    registry = CollectorRegistry()
    registry.register(metrics)
    assert 'project="p"' not in generate_latest(registry).decode()
    await UsageMonitor(store.projects, usages(store, Retention(0, 16, 0, 0)), metrics.used).look()
    text = generate_latest(registry).decode().splitlines()
    label = f'project="{P}"'
    assert f"contex_store_events{{{label}}} 40.0" in text
    assert f"contex_archive_events{{{label}}} 0.0" in text
    assert f"contex_archiving_failing{{{label}}} 0.0" in text
    assert f'contex_limit_used_ratio{{limit="store_events",{label}}} 2.5' in text
    assert f'contex_limit_warning{{limit="store_events",{label}}} 1.0' in text

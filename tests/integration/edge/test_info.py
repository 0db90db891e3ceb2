"""What the server says of itself is what it does."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import contex
import pytest
from contex.v1 import server_service_pb2 as pb
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    Api,
    EventFilter,
    Words,
    event,
    refusal,
)


async def info_of(server: Server) -> pb.GetServerInfoResponse:
    async with Api.of(server) as api:
        request = pb.GetServerInfoRequest()
        answer: pb.GetServerInfoResponse = await api.server.GetServerInfo(
            request, timeout=DEADLINE_S
        )
        return answer


async def test_it_says_what_it_is(server: Server) -> None:
    info = await info_of(server)
    assert info.version == version("contex-server")
    assert info.api_revision >= 1
    assert info.request_window_seconds == 600
    assert info.min_ping_interval_ms == 5_000
    assert info.heartbeat_interval_ms == 15_000
    assert (info.min_heartbeat_interval_ms, info.max_heartbeat_interval_ms) == (100, 60_000)
    assert all(value for _, value in info.limits.ListFields())
    assert len(info.limits.ListFields()) == len(pb.ServerLimits.DESCRIPTOR.fields)
    assert {*info.features} >= {pb.FEATURE_MATCHING, pb.FEATURE_AUDIT, pb.FEATURE_DELIVERIES}
    assert {pb.FEATURE_ARCHIVE, pb.FEATURE_SEALING} <= {*info.features}


async def test_it_follows_the_settings(start_server: StartServer, valkey: EmbeddedValkey) -> None:
    server = await start_server(
        valkey.url,
        embedder=Words(),
        redis_url=valkey.url,  # a store that is not built in has neither archive nor master key
        delivery_records=False,
        request_window_s=1_200,
        heartbeat_interval_ms=500,
        limits={"payload_bytes": 1_000},
    )
    info = await info_of(server)
    absent = {pb.FEATURE_ARCHIVE, pb.FEATURE_SEALING, pb.FEATURE_DELIVERIES}
    assert not absent & {*info.features}
    assert (info.request_window_seconds, info.heartbeat_interval_ms) == (1_200, 500)
    assert info.limits.payload_bytes == 1_000


def annotations(count: int) -> dict[str, str]:
    return {str(number): "" for number in range(count)}


@pytest.mark.parametrize(
    ("limit", "make"),
    [
        ("data_key_chars", lambda n: {"events": [event("k" * n)]}),
        ("event_type_chars", lambda n: {"events": [event("k", event_type="t" * n)]}),
        ("publisher_chars", lambda n: {"events": [event("k")], "publisher": "p" * n}),
        ("request_id_chars", lambda n: {"events": [event("k")], "request_id": "r" * n}),
        ("project_chars", lambda n: {"events": [event("k")], "project": "p" * n}),
        ("description_bytes", lambda n: {"events": [event("k", description="d" * n)]}),
        ("content_type_chars", lambda n: {"events": [event("k", content_type="a/" + n * "b")]}),
        ("metadata_entries", lambda n: {"events": [event("k", metadata=annotations(n))]}),
        ("metadata_key_chars", lambda n: {"events": [event("k", metadata={"m" * n: ""})]}),
        ("metadata_bytes", lambda n: {"events": [event("k", metadata={"m": "v" * (n - 1)})]}),
        ("events_per_batch", lambda n: {"events": [event("k")] * n}),
        ("payload_bytes", lambda n: {"events": [event("k", b'"' + b"x" * (n - 2) + b'"')]}),
    ],
)  # fmt: skip
async def test_what_it_says_is_the_limit(api: Api, server: Server, limit: str, make: Any) -> None:
    bound = getattr((await info_of(server)).limits, limit)
    bound -= 2 * (limit == "content_type_chars")  # "a/"
    arguments = make(bound)
    await api.publish(*arguments.pop("events"), **arguments)
    arguments = make(bound + 1)
    refused = await refusal(api.publish(*arguments.pop("events"), **arguments))
    assert refused.reason in ("INVALID_FIELD", "PAYLOAD_TOO_LARGE")


async def test_the_limits_of_filters(api: Api, server: Server) -> None:
    await api.publish(event("k"))
    limits = (await info_of(server)).limits
    for make in (
        lambda extra: EventFilter(event_types=["t"] * (limits.filter_entries + extra)),
        lambda extra: EventFilter(data_keys=["k" * (limits.glob_chars + extra)]),
    ):
        await api.page(filter=make(0))
        assert (await refusal(api.page(filter=make(1)))).reason == "INVALID_FIELD"
    await api.page(page_size=limits.page_size)
    assert (await refusal(api.page(page_size=limits.page_size + 1))).reason == "INVALID_FIELD"


async def test_the_client_asks_once_for_the_window(
    start_server: StartServer, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(valkey.url, embedder=Words(), request_window_s=7_200)
    target = f"127.0.0.1:{server.port}"
    windows: list[float] = []
    receive = contex.PublishStream._receive

    async def noting(stream: Any) -> Any:
        response = await receive(stream)
        windows.append(stream._window.window_s)
        return response

    monkeypatch.setattr(contex.PublishStream, "_receive", noting)

    def asked() -> int:
        calls = server.counts.totals().calls
        return sum(n for call, n in calls.items() if "GetServerInfo" in call)

    async with contex.AsyncClient(target) as client:
        await client.publish("shop", "k", 1)
        assert asked() == 0  # a call that ends before ten minutes doesn't need it
        for _ in range(2):
            batches = [[contex.NewEvent("k", n)] for n in range(3)]
            async with client.publish_stream("shop", batches, window=1) as stream:
                assert len([result async for result in stream]) == 3
        assert asked() == 1
    assert windows == [600, 7_200, 7_200] * 2

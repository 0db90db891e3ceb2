"""A peer that vanishes without a word is noticed in the time that the documentation names."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import contex.channel
import contex_server.server
import grpc
import pytest
from contex.channel import channel_options
from contex_server.kernel.config import Limits, Settings
from contex_server.log.embedded import EmbeddedValkey

from tests.conftest import StartServer
from tests.faults.proxy import Proxy
from tests.integration.support import DEADLINE_S, Api, P, SubscribeRequest, Words, event
from tests.thorough import one_of

MARGIN_S = 8.0
"""Of a busy machine; without the options, it takes a minute and more."""


async def test_each_end_notices_that_the_other_is_gone(
    start_server: StartServer, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (contex_server.server, contex.channel):
        monkeypatch.setattr(module, "_PING_AFTER_MS", 1_000)
        monkeypatch.setattr(module, "_PING_TIMEOUT_MS", 500)
    server = await start_server(valkey.url, embedder=Words())
    proxy = Proxy(server.port)
    await proxy.start()
    options = [*channel_options(target="127.0.0.1"), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}", options=options) as channel:
        stream = Api(channel).events.Subscribe(
            SubscribeRequest(project=P, heartbeat_interval_ms=60_000)
        )
        await asyncio.wait_for(stream.read(), DEADLINE_S)
        assert server.calls.active == 1
        proxy.silent = True
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await asyncio.wait_for(stream.read(), DEADLINE_S)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        while server.calls.active:
            await asyncio.sleep(0.02)
            assert time.monotonic() - began < MARGIN_S
        assert time.monotonic() - began < MARGIN_S
    await proxy.stop()


@pytest.mark.parametrize("limit_ms", one_of(500, Limits().ping_interval_ms))
async def test_an_idle_client_that_pings_is_not_cut_off(
    start_server: StartServer, valkey: EmbeddedValkey, limit_ms: int
) -> None:
    server = await start_server(
        valkey.url, embedder=Words(), limits=Limits(ping_interval_ms=limit_ms)
    )
    target, ping_ms = f"127.0.0.1:{server.port}", limit_ms * 11 // 10
    options = [
        ("grpc.keepalive_time_ms", ping_ms),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    # Local pools: two connections, one of them with no call at all.
    options.append(("grpc.use_local_subchannel_pool", 1))
    async with (
        grpc.aio.insecure_channel(target, options=options) as channel,
        grpc.aio.insecure_channel(target, options=options) as resting,
    ):
        async with asyncio.timeout(10):
            await resting.channel_ready()
        stream = Api(channel).events.Subscribe(
            SubscribeRequest(project="p", heartbeat_interval_ms=60_000)
        )
        assert (await stream.read()).WhichOneof("message") == "caught_up"
        # Four pings: the third too early one would have been answered with GOAWAY.
        reading = asyncio.create_task(stream.read())
        done, _ = await asyncio.wait({reading}, timeout=4.2 * ping_ms / 1000)
        assert not done
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        assert resting.get_state() is grpc.ChannelConnectivity.READY
        await Api(resting).publish(event("k"), project="p")
        assert (await reading).WhichOneof("message") == "events"
        stream.cancel()


def test_the_settings_are_those_of_the_documentation() -> None:
    server = dict(contex_server.server._options(Settings()))
    client = dict(contex.channel.channel_options())
    for options, total_ms in ((server, 80_000), (client, 40_000)):
        timeout_ms = options["grpc.keepalive_timeout_ms"]
        assert options["grpc.http2.ping_timeout_ms"] == timeout_ms
        assert options["grpc.keepalive_time_ms"] + timeout_ms == total_ms
    root = Path(__file__).parents[3]
    assert "within 80 s" in (root / "ARCHITECTURE.md").read_text()
    assert "for 80 s" in (root / "docs/operations/running.md").read_text()
    assert "40 seconds after" in (root / "docs/guide/writing-a-client.md").read_text()

"""Proxies of the environment: not for targets on this machine, and named where they are used."""

from __future__ import annotations

import asyncio
import sys

import pytest
from contex import AsyncClient, Client, Unavailable, channel_options
from contex.channel import is_local, proxy_of

from tests.unit.client.fakes import FakeEvents, serving

NOWHERE = "http://user:secret@127.0.0.1:9"
VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


@pytest.fixture(params=VARIABLES)
def variable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in (*VARIABLES, "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(request.param, NOWHERE)
    return request.param


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("dns:///localhost:1", True),
        ("dns://9.9.9.9/127.0.0.1:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:1", True),
        ("unix:/run/c.sock", True),
        ("unix-abstract:c", True),
        ("128.0.0.1:1", False),
        ("localhost.example.com:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("[2001:db8::1]:1", False),
    ],
)
def test_what_is_on_this_machine(target: str, local: bool) -> None:
    assert is_local(target) is local
    assert dict(channel_options(target=target))["grpc.enable_http_proxy"] == int(not local)


async def test_this_machine_is_reached_directly(variable: str) -> None:
    async with serving(FakeEvents()) as port:
        for target in (f"127.0.0.1:{port}", f"localhost:{port}", f"ipv4:127.0.0.1:{port}"):
            async with AsyncClient(target) as client:
                assert await client.health() == "SERVING"
        command = (sys.executable, "-m", "contex_cli", "health", "--target", f"127.0.0.1:{port}")
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0


def test_a_failure_names_the_target_and_its_proxy(variable: str) -> None:
    if variable == "all_proxy":
        pytest.skip("gRPC does not read it")
    with Client("bus.example.com:50051") as client:
        for call in (client.health, lambda: next(client.subscribe("p", reconnect=False))):
            with pytest.raises(Unavailable) as caught:
                call()
            assert caught.value.message.startswith(
                f"no answer from bus.example.com:50051 through the proxy 127.0.0.1:9 ({variable}): "
            )
            assert "secret" not in caught.value.message


def test_what_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", NOWHERE)
    assert proxy_of("bus.example.com:1") == "127.0.0.1:9 (grpc_proxy)"
    monkeypatch.setenv("no_proxy", "example.com")
    assert proxy_of("bus.example.com:1") == ""

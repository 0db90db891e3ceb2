"""`contex serve --metrics-port`: for Prometheus to fetch."""

from __future__ import annotations

import asyncio
import re
import signal
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import pytest
from contex import AsyncClient, InvalidArgument

from tests.process.conftest import NewServer


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text: str = response.read().decode()
    return text


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one process", "two workers"])
async def test_one_process_serves_what_all_projects_use(
    new_server: NewServer, flags: tuple[str, ...]
) -> None:
    server = new_server(*flags)
    await server.start()
    async with AsyncClient(server.target) as client:
        for n in range(7):
            await client.publish("shop", f"k{n}", n)
    await server.end()  # The first look is at the start, the next 15 s later.
    server = new_server(*flags, "--metrics-port", "0")
    await server.start()
    port = (await server.logged("metrics"))["port"]
    async with asyncio.timeout(90):
        while 'contex_store_events{project="shop"} 7.0' not in await asyncio.to_thread(fetch, port):
            await asyncio.sleep(0.05)
    text = await asyncio.to_thread(fetch, port)
    assert 'contex_limit_warning{limit="store_events",project="shop"} 0.0' in text
    assert (await server.end())[0] == 0


def calls(text: str) -> Counter[tuple[str, str, str]]:
    """Calls of EventService by method, code and reason."""
    sample = re.compile(
        r'contex_calls_total\{code="(\w+)",method="(\w+)",reason="(\w*)",'
        r'service="contex.v1.EventService"\} (\S+)'
    )
    return Counter({(m, code, why): int(float(n)) for code, m, why, n in sample.findall(text)})


async def until_counted(port: int, *expected: tuple[str, str, str, int]) -> str:
    """Fetches until the counts are those; workers report once a second."""
    wanted = {(method, code, why): count for method, code, why, count in expected}
    text = ""
    async with asyncio.timeout(90):
        while not wanted.items() <= calls(text).items():
            await asyncio.sleep(0.05)
            text = await asyncio.to_thread(fetch, port)
    return text


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one process", "two workers"])
async def test_every_call_is_counted_whichever_process_serves_it(
    new_server: NewServer, flags: tuple[str, ...]
) -> None:
    server = new_server(*flags, "--metrics-port", "0")
    await server.start()
    port = (await server.logged("metrics"))["port"]
    for n in range(6):
        # A connection each, so that both workers serve some.
        async with AsyncClient(server.target) as client:
            await client.publish("shop", f"k{n}", n)
            with pytest.raises(InvalidArgument):
                await client.publish("not a project", "k", n)
    ok, refused = ("Publish", "OK", "", 6), ("Publish", "INVALID_ARGUMENT", "INVALID_FIELD", 6)
    text = await until_counted(port, ok, refused)
    labels = 'method="Publish",service="contex.v1.EventService"'
    assert f"contex_call_seconds_count{{{labels}}} 12.0" in text
    if flags:
        # A worker that dies takes no counts along.
        workers = [
            child
            for child in psutil.Process(server.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        assert len(workers) == 2
        workers[0].send_signal(signal.SIGKILL)
        await server.logged("worker_died")
        async with AsyncClient(server.target) as client:
            await client.publish("shop", "k", 0)
        await until_counted(port, ("Publish", "OK", "", 7), refused)
    assert (await server.end())[0] == 0


async def test_a_metrics_port_in_use_is_refused(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--metrics-port", "0")
    await server.start()
    port = (await server.logged("metrics"))["port"]
    other = new_server("--metrics-port", str(port), directory=tmp_path / "other")
    with pytest.raises(AssertionError, match="can't serve metrics"):
        await other.start()
    assert (await other.end())[0] == 1

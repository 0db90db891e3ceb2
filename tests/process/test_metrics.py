"""`contex serve --metrics-port`: for Prometheus to fetch."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest
from contex import AsyncClient

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
    async with asyncio.timeout(30):
        while 'contex_store_events{project="shop"} 7.0' not in await asyncio.to_thread(fetch, port):
            await asyncio.sleep(0.05)
    text = await asyncio.to_thread(fetch, port)
    assert 'contex_limit_warning{limit="store_events",project="shop"} 0.0' in text
    assert (await server.end())[0] == 0


async def test_a_metrics_port_in_use_is_refused(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--metrics-port", "0")
    await server.start()
    port = (await server.logged("metrics"))["port"]
    other = new_server("--metrics-port", str(port), directory=tmp_path / "other")
    with pytest.raises(AssertionError, match="can't serve metrics"):
        await other.start()
    assert (await other.end())[0] == 1

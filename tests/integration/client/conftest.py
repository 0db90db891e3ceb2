from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from contex import AsyncClient, Client
from contex_server.server import Server

InThread = Callable[[Callable[[Client], Any]], Awaitable[Any]]
"""Does some work with a blocking client, while the server goes on."""


@pytest.fixture
async def client(small_server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{small_server.port}", publisher="ops") as opened:
        yield opened


@pytest.fixture
def in_thread(small_server: Server) -> InThread:
    def run(work: Callable[[Client], Any]) -> Any:
        with Client(f"127.0.0.1:{small_server.port}", publisher="sync") as client:
            return work(client)

    return lambda work: asyncio.to_thread(run, work)

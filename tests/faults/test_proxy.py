"""The proxy does what the tests of faults rely on."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.faults.proxy import Proxy


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1_000):
        writer.write(piece)
        await writer.drain()
    await _closed(writer)


async def test_it_passes_delays_cuts_and_closes() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    proxy.delay_s = 0.1
    started = asyncio.get_running_loop().time()
    writer.write(b"slow")
    assert await reader.readexactly(4) == b"slow"
    assert asyncio.get_running_loop().time() - started >= 0.2
    proxy.cut_after = 3
    writer.write(b"too much")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(8)
    assert not proxy.open
    await _closed(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    await _closed(writer)
    await proxy.stop()
    server.close()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from contex_server.kernel.errors import StartupError
from contex_server.kernel.model import Append, NewEvent, Range
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.store import open_store


async def append(store: EmbeddedValkey, count: int) -> None:
    log = (await open_store(store.url)).events
    for _ in range(count):
        await log.append(Append("p", [NewEvent(b"x", "k")]))
    await log.close()


async def length(store: EmbeddedValkey) -> int:
    log = (await open_store(store.url)).events
    entries = await log.read("p", Range(), 1_000)
    await log.close()
    return len(entries)


async def test_data_survive_a_stop(data_dir: Path) -> None:
    for expected in (3, 6):
        store = EmbeddedValkey(data_dir)
        await store.start()
        await append(store, 3)
        assert await length(store) == expected
        await store.stop()


@pytest.mark.own_store
async def test_a_directory_has_one_server(data_dir: Path, valkey: EmbeddedValkey) -> None:
    with pytest.raises(StartupError, match=str(data_dir)):
        await EmbeddedValkey(data_dir).start()
    await append(valkey, 1)


@pytest.mark.own_store
async def test_a_valkey_that_dies_is_started_again(valkey: EmbeddedValkey) -> None:
    await append(valkey, 5)
    first = valkey.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while valkey.pid == first:
            await asyncio.sleep(0.02)
        while True:
            try:
                assert await length(valkey) == 5
                break
            except Exception:
                await asyncio.sleep(0.05)


SERVER = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from contex_server.log import embedded

    async def main():
        # As on a system that does not end children with their parent.
        embedded._launched = lambda binary: [binary]
        store = embedded.EmbeddedValkey(Path(sys.argv[1]))
        await store.start()
        print(store.pid, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
""")


@pytest.mark.parametrize("stopped", [False, True])
async def test_an_orphan_is_ended_before_another_starts(data_dir: Path, stopped: bool) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    line = await asyncio.to_thread(server.stdout.readline)
    while not line.strip().isdigit():
        line = await asyncio.to_thread(server.stdout.readline)
    orphan = int(line)
    server.kill()
    server.wait()
    server.stdout.close()
    if stopped:
        os.kill(orphan, signal.SIGSTOP)  # It will answer nothing, ever.
    store = EmbeddedValkey(data_dir)
    async with asyncio.timeout(60):
        await store.start()
    assert store.pid != orphan
    await append(store, 1)
    assert await length(store) == 1
    await store.stop()

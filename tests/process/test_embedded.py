from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from urllib.parse import quote

import pytest
from contex_server.kernel import waiting
from contex_server.kernel.errors import StartupError
from contex_server.kernel.model import Append, NewEvent, Range
from contex_server.log import embedded
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.start import reach
from contex_server.log.redis.store import open_store
from redis.asyncio import Redis
from structlog.testing import capture_logs


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


@pytest.mark.parametrize(
    "name",
    ["a#b?c%20d", "a b", "100%", "Grüße-日本", "'\"", "a\nb", os.fsdecode(b"\xff"), "long" * 30],
)
async def test_a_directory_of_any_name(data_dir: Path, name: str) -> None:
    for expected in (1, 2):
        store = EmbeddedValkey(data_dir / name)
        await store.start()
        await append(store, 1)
        assert await length(store) == expected
        await store.stop()
    assert [path.name for path in data_dir.iterdir()] == [name]
    assert (data_dir / name / "valkey" / "appendonlydir").is_dir()


async def test_no_place_for_a_socket(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = data_dir / ("long" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    for _ in range(2):
        with pytest.raises(StartupError, match=f"{deep}/d nor TMPDIR is short enough"):
            await EmbeddedValkey(deep / "d").start()
    assert [path.name for path in deep.iterdir()] == ["d"]


async def test_a_start_says_how_much_is_loaded(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddedValkey(data_dir)
    await store.start()
    async with Redis.from_url(store.url) as client, client.pipeline(transaction=False) as many:
        for n in range(15_000):
            many.set(f"k{n}", n)
        await many.execute()
    await store.stop()
    launched = embedded._launched
    slowly = ["--key-load-delay", "100"]  # Microseconds for each command.
    monkeypatch.setattr(embedded, "_launched", lambda binary: [*launched(binary), *slowly])
    monkeypatch.setattr(waiting, "_AGAIN_S", 0.2)
    store = EmbeddedValkey(data_dir)
    with capture_logs() as logs:
        await store.start()
    await store.stop()
    said = [line["waits_for"] for line in logs if line["event"] == "start_waits"]
    loading = re.compile(rf"the bundled store in {data_dir}/valkey to load its data: \d+ % done")
    assert any(map(loading.fullmatch, said)), said


async def test_a_start_says_that_there_is_no_store_yet(data_dir: Path) -> None:
    directory = data_dir / "a#b?c%20d"
    store = EmbeddedValkey(directory)
    place = f"{directory}/valkey/valkey.sock"
    with capture_logs() as logs:
        reached = asyncio.create_task(reach(f"unix://{quote(place)}"))
        await asyncio.sleep(1)
        assert not reached.done()
        await store.start()
        await reached
    await store.stop()
    (said,) = [line["waits_for"] for line in logs if line["event"] == "start_waits"]
    unavailable = "the store is unavailable: Error 2 connecting to"
    assert said.startswith(f"the store unix://{quote(place)}: {unavailable} {place}")


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

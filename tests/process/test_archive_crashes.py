"""kill -9 at each step of archiving, removing, erasing, exporting and importing, of the server
and of the store: nothing is lost, nothing is there twice, and the project is sound.

`make test` has one of each kind: the server while it archives, compacts, erases, imports and
deletes a project, and the store while it is archived.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from contex import (
    AsyncClient,
    ContexError,
    Event,
    ExportFormat,
    FindingKind,
    ImportMode,
    NewEvent,
    ProjectNotFound,
    Retention,
)
from contex.errors import is_transient
from contex_server.kernel.model import Sequence
from contex_server.log.embedded import EmbeddedValkey
from redis.asyncio import Redis

from tests.process.conftest import NewServer
from tests.process.servers import ServerProcess, eventually, healthy
from tests.thorough import one_of

P = "p"
ARCHIVING = (
    "archive-recorded",
    "archive-storing",
    "archive-stored",
    "archive-recording",
    "archive-trimmed",
)

IMPORTING = (
    "import-staged",
    "import-staging",
    "import-archived",
    "import-checked",
    "import-committed",
)

EXPORTED = 20_000
"""Events: an export of them takes more than four pieces."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of ten events, and twenty in the store."""
    monkeypatch.setenv("CONTEX_SEGMENT_EVENTS", "10")
    monkeypatch.setenv("CONTEX_STORE_EVENTS", "20")
    monkeypatch.setenv("CONTEX_SNAPSHOT_EVENTS", "10")


class Crashing:
    """A server that is killed at a place, or kills its store there."""

    def __init__(self, server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self._monkeypatch = monkeypatch

    async def start(self, place: str, pid: int = 0) -> None:
        self._monkeypatch.setenv("CONTEX_FAILPOINT", f"{place}={pid}")
        await self.server.start()
        self._monkeypatch.delenv("CONTEX_FAILPOINT")

    async def ended(self) -> None:
        """Waits until it has been killed."""
        async with asyncio.timeout(60):
            assert await self.server.ended() == -9

    async def died_and_restarted(self) -> None:
        await self.ended()
        await self.server.start()


@pytest.fixture
async def crashing(new_server: NewServer, small: None, monkeypatch: pytest.MonkeyPatch) -> Crashing:
    return Crashing(new_server(), monkeypatch)


@pytest.fixture
async def stored(
    crashing: Crashing, tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> Crashing:
    """The same on a store that outlives it, or is killed in its stead."""
    crashing.server.flags += ("--redis-url", valkey.url)
    monkeypatch.setenv("CONTEX_ARCHIVE_URL", (tmp_path / "archive").as_uri())
    return crashing


def pid_of(valkey: EmbeddedValkey) -> int:
    assert valkey.pid is not None
    return valkey.pid


async def killed_and_restarted(valkey: EmbeddedValkey) -> None:
    """Waits until the store has been killed, and starts it again."""
    pid = pid_of(valkey)
    await eventually(lambda: not _alive(pid))
    await valkey.stop()
    await valkey.start()


async def log(client: AsyncClient, project: str = P) -> list[Event]:
    return [event async for event in client.list_events(project, page_size=1_000)]


async def publish(
    client: AsyncClient, receipts: dict[str, str] | None = None, count: int = 60
) -> dict[str, str]:
    """What was acknowledged: sequences by payload."""
    receipts = {} if receipts is None else receipts
    for n in range(count):
        receipt = await client.publish(P, f"k{n % 7}", n, request_id=f"r{n}")
        receipts[str(n)] = receipt.sequence
    return receipts


async def read_on(client: AsyncClient, receipts: dict[str, str]) -> None:
    """Reads forwards, backwards and a state, again and again: what is acknowledged is there,
    in its place, whatever dies meanwhile."""
    while True:
        known = list(receipts.items())
        try:
            events = await log(client)
            newest = [e async for e in client.list_events(P, backwards=True, page_size=25)]
            states = {d.data_key: d.event async for d in client.stream_state(P)}
        except ProjectNotFound:
            assert not known
            await asyncio.sleep(0.01)
            continue
        except ContexError as error:
            if not is_transient(error):
                raise
            continue
        assert [e.payload.decode() for e in events] == [str(n) for n in range(len(events))]
        assert [(e.payload.decode(), e.sequence) for e in events[: len(known)]] == known
        assert newest[len(newest) - len(events) :] == events[::-1]
        for n in range(max(0, len(known) - 7), len(known)):
            latest = states[f"k{n % 7}"]
            assert latest is not None
            assert int(latest.payload) >= n
        await asyncio.sleep(0.05)


async def sound(client: AsyncClient, project: str = P) -> None:
    steps = [step async for step in client.verify(project)]
    found = [step.finding for step in steps if step.finding]
    # Vectors that a file does not hold are computed when they are needed.
    assert [f for f in found if f.kind is not FindingKind.VECTOR] == []
    assert steps[-1].summary is not None


async def settled(client: AsyncClient) -> None:
    """Waits until everything that is over the limit has been archived."""
    async with asyncio.timeout(60):
        while (await client.stats(P)).store_event_count >= 30:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("place", one_of(*ARCHIVING))
async def test_a_server_that_is_killed_while_it_archives(crashing: Crashing, place: str) -> None:
    await crashing.start(place)
    async with AsyncClient(crashing.server.target, timeout=60) as client:
        acknowledged: dict[str, str] = {}
        reading = asyncio.create_task(read_on(client, acknowledged))
        publishing = asyncio.create_task(publish(client, acknowledged))
        await crashing.died_and_restarted()
        await publishing
        await stopped(reading)
        await client.publish(P, "last", 60, request_id="last")
        await settled(client)
        events = await log(client)
        assert {e.payload.decode(): e.sequence for e in events[:-1]} == acknowledged
        assert len(events) == 61
        await sound(client)
        # What was stored and never recorded is gone when the next has taken the task up.
        segments = list((crashing.server.data_dir / "archive").rglob("*.seg"))
        assert len(segments) == (await client.stats(P)).segment_count


@pytest.mark.own_store
@pytest.mark.parametrize("place", one_of("archive-recorded", "archive-storing", "archive-trimmed"))
async def test_a_store_that_is_killed_while_it_is_archived(
    stored: Crashing, place: str, valkey: EmbeddedValkey
) -> None:
    await stored.start(place, pid_of(valkey))
    async with AsyncClient(stored.server.target, timeout=60) as client:
        acknowledged: dict[str, str] = {}
        reading = asyncio.create_task(read_on(client, acknowledged))
        publishing = asyncio.create_task(publish(client, acknowledged))
        await killed_and_restarted(valkey)
        await publishing
        await stopped(reading)
        await client.publish(P, "last", 60, request_id="last")
        # A process kills only once: the place is reached again, and the pid is nobody's.
        await eventually(lambda: stored.server.log)
        await stored.server.kill()
        await stored.server.start()
        await healthy(client)
        await client.publish(P, "last", 61)
        await settled(client)
        events = await log(client)
        assert {e.payload.decode(): e.sequence for e in events[:-2]} == acknowledged
        assert len(events) == 62
        await sound(client)
    await stored.server.end()


async def stopped(reading: asyncio.Task[None]) -> None:
    """Ends it; raises what it found."""
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.thorough
@pytest.mark.parametrize("place", one_of("removal-recorded", "removal-recording"))
async def test_a_server_that_is_killed_while_it_removes(crashing: Crashing, place: str) -> None:
    await crashing.server.start()
    async with AsyncClient(crashing.server.target, timeout=60) as client:
        await publish(client)
        await settled(client)
        before = await log(client)
        await crashing.server.kill()
        await crashing.start(place)
        await healthy(client)
        with pytest.raises(ContexError):
            await client.remove_events(P, before[25].sequence, reason="a test")
        await crashing.died_and_restarted()
        await healthy(client)
        events = await log(client)
        assert events in (before, before[20:])
        assert (events == before) == (place == "removal-recording")
        await sound(client)
        await client.remove_events(P, before[25].sequence, reason="a test")
        assert await log(client) == before[20:]
        await sound(client)


@pytest.mark.parametrize("place", one_of("erasing", "erasing-segment"))
async def test_a_server_that_is_killed_while_it_erases(crashing: Crashing, place: str) -> None:
    await crashing.start(place)
    async with AsyncClient(crashing.server.target, timeout=60) as client:
        await publish(client, count=25)
        erasing = asyncio.create_task(
            client.erase(P, data_key="k3", reason="a test", request_id="once")
        )
        await crashing.died_and_restarted()
        erased = await erasing
        assert erased.sequence
        events = await log(client)
        assert [e.event_type for e in events].count("data_erased") == 1
        for event in events:
            assert (event.erased is not None) == (event.data_key == "k3")
        await sound(client)


@pytest.mark.parametrize("place", one_of("compacted-segment", "compacting-segment"))
async def test_a_server_that_is_killed_while_it_compacts(crashing: Crashing, place: str) -> None:
    await crashing.server.start()
    async with AsyncClient(crashing.server.target, timeout=60) as client:
        await publish(client)
        await settled(client)
        before = await log(client)
        await crashing.server.kill()
        await crashing.start(place)
        await healthy(client)
        with contextlib.suppress(ContexError):
            await client.set_retention(P, Retention(keep_revisions=3))
        await crashing.died_and_restarted()
        await healthy(client)
        # It goes on where it was stopped, and what was removed is removed and counted once.
        archived = Sequence.parse((await client.stats(P)).archived_sequence)
        newest = {event.data_key: event.revision for event in before}
        gone = {
            event.sequence
            for event in before
            if event.revision <= newest[event.data_key] - 3
            and Sequence.parse(event.sequence) <= archived
        }
        async with asyncio.timeout(60):
            while {e.sequence for e in await log(client) if e.erased is not None} != gone:
                await asyncio.sleep(0.1)
        events = await log(client)
        assert [event for event in events if event.sequence not in gone] == [
            event for event in before if event.sequence not in gone
        ]
        stats = await client.stats(P)
        assert stats.compacted_event_count == len(gone) > 0
        await sound(client)
        segments = list((crashing.server.data_dir / "archive").rglob("*.seg"))
        assert len(segments) == stats.segment_count


@pytest.mark.parametrize("place", one_of("project-deleted", "project-purging"))
async def test_a_server_that_is_killed_while_it_deletes_a_project(
    stored: Crashing, place: str, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    await stored.start(place)
    async with AsyncClient(stored.server.target, timeout=60) as client:
        await publish(client)
        await eventually(lambda: any((tmp_path / "archive").rglob("*.seg")))
        deleting = asyncio.create_task(client.delete_project(P, reason="a test", request_id="once"))
        await stored.died_and_restarted()
        deleted = await deleting
        assert deleted.duplicate
        assert deleted.deletion.event_count == 60
        assert not (await client.project(P)).exists
        async with Redis.from_url(valkey.url) as store:
            left = {name.decode() for name in await store.keys("ctx:*:p:[^~]*")}
        assert {name.rpartition(":")[2] for name in left} == {"audit", "deletions", "events"}
        assert not any((tmp_path / "archive").rglob("*.seg"))
        await client.publish(P, "new", 1)
        assert [event.data_key for event in await log(client)] == ["new"]
        await sound(client)


@pytest.mark.parametrize("place", one_of(*IMPORTING))
async def test_a_server_that_is_killed_while_it_imports(
    crashing: Crashing, place: str, tmp_path: Path
) -> None:
    await crashing.server.start()
    path = tmp_path / "p.jsonl"
    async with AsyncClient(crashing.server.target, timeout=60) as client:
        for n in range(0, 1_500, 500):
            await client.publish_batch(P, _batch(n, 500))
        events = await log(client)
        await client.export_to(P, path, ExportFormat.JSON_LINES)
        await crashing.server.kill()
        await crashing.start(place)
        await healthy(client)
        importing = asyncio.create_task(client.import_from("copy", path))
        await crashing.ended()
        await crashing.server.start()
        await healthy(client)
        if not importing.done() and (await client.project("copy")).exists:
            assert await log(client, "copy") == events
        report = await importing
        assert report.imported_count + report.present_count == len(events)
        assert await log(client, "copy") == events
        await sound(client, "copy")


def _batch(start: int, count: int) -> list[Any]:
    """Few different texts: embedding them would take most of the time."""
    return [NewEvent(f"k{n % 50}", {"n": n % 5}) for n in range(start, start + count)]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("place", "mode"),
    one_of(("import-added", ImportMode.EXACT), ("import-replayed", ImportMode.REPLAY)),
)
async def test_a_server_that_is_killed_while_an_import_becomes_visible(
    crashing: Crashing, place: str, mode: ImportMode, tmp_path: Path
) -> None:
    await crashing.server.start()
    async with AsyncClient(crashing.server.target, timeout=60) as client:
        for n in range(0, 1_500, 500):
            await client.publish_batch(P, _batch(n, 500))
        events = await log(client)
        await client.export_to(P, tmp_path / "early.ctx", until=events[99].sequence)
        await client.export_to(P, tmp_path / "late.ctx")
        if mode is ImportMode.EXACT:
            await client.import_from("copy", tmp_path / "early.ctx")
        await crashing.server.kill()
        await crashing.start(place)
        await healthy(client)
        importing = asyncio.create_task(
            client.import_from("copy", tmp_path / "late.ctx", mode=mode)
        )
        await crashing.died_and_restarted()
        await importing
        copied = await log(client, "copy")
        if mode is ImportMode.EXACT:
            assert copied == events
        else:
            assert [e.metadata["original_sequence"] for e in copied] == [e.sequence for e in events]
        await sound(client, "copy")


@pytest.mark.thorough
@pytest.mark.own_store
@pytest.mark.parametrize(
    ("place", "mode"),
    one_of(
        *((place, ImportMode.EXACT) for place in IMPORTING),
        ("import-added", ImportMode.EXACT),
        ("import-replayed", ImportMode.REPLAY),
    ),
)
async def test_a_store_that_is_killed_while_something_is_imported(
    stored: Crashing, place: str, mode: ImportMode, tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    await stored.server.start()
    async with AsyncClient(stored.server.target, timeout=60) as client:
        for n in range(0, 1_500, 500):
            await client.publish_batch(P, _batch(n, 500))
        events = await log(client)
        await client.export_to(P, tmp_path / "early.ctx", until=events[99].sequence)
        await client.export_to(P, tmp_path / "late.ctx")
        if place == "import-added":
            await client.import_from("copy", tmp_path / "early.ctx")
        await stored.server.kill()
        await stored.start(place, pid_of(valkey))
        await healthy(client)
        importing = asyncio.create_task(
            client.import_from("copy", tmp_path / "late.ctx", mode=mode)
        )
        await killed_and_restarted(valkey)
        await importing
        copied = await log(client, "copy")
        if mode is ImportMode.EXACT:
            assert copied == events
        else:
            assert [e.metadata["original_sequence"] for e in copied] == [e.sequence for e in events]
        await sound(client, "copy")
        await sound(client)
    await stored.server.end()


@pytest.mark.thorough
@pytest.mark.own_store
async def test_a_store_that_is_killed_while_something_is_exported(
    stored: Crashing, tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEX_SEGMENT_EVENTS", "500")
    await stored.server.start()
    async with AsyncClient(stored.server.target, timeout=60) as client:
        await client.set_retention(P, Retention(store_events=15_000))
        for n in range(0, EXPORTED, 1_000):
            await client.publish_batch(P, _batch(n, 1_000))
        pieces = 0
        with (tmp_path / "p.ctx").open("wb") as file:
            async with client.export(P) as export:
                async for piece in export:
                    file.write(piece.data)
                    pieces += 1
                    if pieces in (2, 4):
                        os.kill(pid_of(valkey), signal.SIGKILL)
                        await valkey.stop()
                        await valkey.start()
        assert pieces > 4
        await healthy(client)
        report = await client.import_from("copy", tmp_path / "p.ctx")
        assert report.imported_count == EXPORTED
        assert await log(client, "copy") == await log(client)
    await stored.server.end()


@pytest.mark.thorough
async def test_a_server_that_is_killed_while_it_exports(
    crashing: Crashing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEX_SEGMENT_EVENTS", "500")
    await crashing.server.start()
    async with AsyncClient(crashing.server.target, timeout=60) as client:
        await client.set_retention(P, Retention(store_events=2_000))
        for n in range(0, EXPORTED, 1_000):
            await client.publish_batch(P, _batch(n, 1_000))
        pieces = 0
        restarting: list[asyncio.Task[None]] = []

        async def restart() -> None:
            await crashing.server.kill()
            await crashing.server.start()

        with (tmp_path / "p.ctx").open("wb") as file:
            async with client.export(P) as export:
                async for piece in export:
                    file.write(piece.data)
                    pieces += 1
                    if pieces in (2, 4):
                        restarting.append(asyncio.create_task(restart()))
                        await asyncio.sleep(0)
                        await restarting[-1]
        assert len(restarting) == 2
        await healthy(client)
        report = await client.import_from("copy", tmp_path / "p.ctx")
        assert report.imported_count == EXPORTED
        assert await log(client, "copy") == await log(client)

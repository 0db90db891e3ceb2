"""Both Python clients export, import, clone, keep and erase, on a real server."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import contex
import pytest
from contex import (
    AsyncClient,
    Client,
    ExportFormat,
    ExportPart,
    ImportMode,
    Redaction,
    RedactionAction,
    Retention,
)
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.client.conftest import InThread
from tests.integration.support import Words

P = "moving"


async def story(client: AsyncClient, count: int = 60) -> list[contex.Event]:
    for n in range(count):
        await client.publish(P, f"k{n % 7}", {"n": n, "mail": f"u{n}@x"})
    return await log(client, P)


async def log(client: AsyncClient, project: str) -> list[contex.Event]:
    return [event async for event in client.list_events(project)]


async def test_files_go_out_and_come_in(
    in_thread: InThread, client: AsyncClient, tmp_path: Path
) -> None:
    events = await story(client)
    seen: list[Any] = []
    summary = await client.export_to(P, tmp_path / "a.ctx", progress=seen.append)
    assert summary.event_count == len(events)
    assert seen[-1].byte_count == (tmp_path / "a.ctx").stat().st_size
    assert sorted(p.name for p in tmp_path.glob("a.ctx*")) == ["a.ctx"]
    heard: list[Any] = []
    report = await client.import_from("copy", tmp_path / "a.ctx", progress=heard.append)
    assert (report.imported_count, report.format) == (len(events), ExportFormat.NATIVE)
    assert heard[-1].event_count == len(events)
    assert await log(client, "copy") == events

    def blocking(sync: Client) -> Any:
        sync.export_to(P, tmp_path / "b.jsonl", ExportFormat.JSON_LINES, compress=True)
        with (tmp_path / "b.jsonl").open("rb") as file:
            return sync.import_from("copy-2", file, dry_run=True), sync.import_from(
                "copy-3", tmp_path / "b.jsonl"
            )

    dry, real = await in_thread(blocking)
    assert (dry.dry_run, dry.imported_count, real.imported_count) == (True, 60, 60)
    assert not (await client.project("copy-2")).exists
    assert await log(client, "copy-3") == events


@pytest.mark.parametrize(
    ("name", "start", "form"),
    [
        ("a.jsonl", b"{", ExportFormat.JSON_LINES),
        ("A.JSONL.zst", b"\x28\xb5\x2f\xfd", ExportFormat.JSON_LINES),
        ("a.ce.jsonl", b"{", ExportFormat.CLOUD_EVENTS),
        ("a.parquet", b"PAR1", ExportFormat.PARQUET),
        ("a.ctx", b"", ExportFormat.NATIVE),
        ("jsonl", b"", ExportFormat.NATIVE),
    ],
)
async def test_a_files_suffix_tells_its_format(
    client: AsyncClient, tmp_path: Path, name: str, start: bytes, form: ExportFormat
) -> None:
    await client.publish(P, "k", 1)
    await client.export_to(P, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    if form is not ExportFormat.PARQUET:
        assert (await client.import_from("copy", tmp_path / name, dry_run=True)).format is form


async def test_an_export_goes_on_where_it_was_left(client: AsyncClient, tmp_path: Path) -> None:
    events = await story(client)
    path = tmp_path / "a.ctx"

    def stop_after_two(piece: contex.ExportPiece) -> None:
        if piece.event_count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await client.export_to(P, path, progress=stop_after_two)
    assert not path.exists()
    assert (tmp_path / "a.ctx.part.resume").exists()
    await client.publish(P, "later", 1)
    await client.export_to(P, path)
    assert [p.name for p in tmp_path.glob("a.ctx*")] == ["a.ctx"]
    report = await client.import_from("copy", path)
    assert report.imported_count == len(events)
    assert await log(client, "copy") == events


async def test_a_damaged_file_is_refused(in_thread: InThread, client: AsyncClient) -> None:
    await story(client, 5)
    data = b"".join([piece.data async for piece in client.export(P)])
    with pytest.raises(contex.InvalidArgument, match="truncated") as error:
        await client.import_from("copy", io.BytesIO(data[:-10]))
    assert error.value.reason == "IMPORT_MALFORMED"

    def blocking(sync: Client) -> None:
        with pytest.raises(contex.InvalidArgument, match="byte"):
            sync.import_from("copy", io.BytesIO(data[:50] + b"x" + data[51:]))
        assert sync.import_from("copy", io.BytesIO(data)).imported_count == 5

    await in_thread(blocking)


async def test_a_project_is_cloned(
    in_thread: InThread, client: AsyncClient, start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    events = await story(client)
    await client.register_agent(P, "a", ["apples"])
    other = await start_server(valkey.url, embedder=Words())
    async with AsyncClient(f"127.0.0.1:{other.port}") as target:
        hide = Redaction("/mail", RedactionAction.HASH)
        report = await client.clone(P, "clone", target, redactions=[hide])
        assert report.imported_count == len(events) + 1
        assert report.redacted_count == len(events)
        cloned = await log(target, "clone")
        assert [e.sequence for e in cloned][:-1] == [e.sequence for e in events]
        assert not any(b"@" in e.payload for e in cloned)
        assert (await target.get_agent("clone", "a")).agent_id == "a"
    part = await in_thread(
        lambda sync: sync.clone(P, "part", since=events[49].sequence, data_keys=["k*"])
    )
    assert part.imported_count == 10
    replayed = await client.import_from(
        "again",
        io.BytesIO(b"".join([p.data async for p in client.export(P)])),
        mode=ImportMode.REPLAY,
        remap_keys={"k": "key-"},
    )
    assert replayed.remapped_count == len(events)
    include = [ExportPart.SETTINGS]
    await client.set_retention(P, Retention(store_events=5))
    await client.clone(P, "settings", include=include)
    assert (await client.retention("settings")).own.store_events == 5


async def test_retention_removal_and_erasure(
    small_server: Server, in_thread: InThread, client: AsyncClient
) -> None:
    events = await story(client)
    info = await client.retention(P)
    assert (info.own, info.has_archive) == (Retention(), True)
    effective = await client.set_retention(P, Retention(store_events=20, legal_hold=True))
    assert (effective.store_events, effective.archive_seconds) == (20, 0)
    assert small_server.rooms.projects.archiver is not None
    await small_server.rooms.projects.archiver.archive_all(P)
    with pytest.raises(contex.FailedPrecondition, match="legal hold"):
        await client.remove_events(P, events[30].sequence, reason="space")

    def blocking(sync: Client) -> Any:
        assert sync.retention(P).own == Retention(store_events=20, legal_hold=True)
        sync.set_retention(P, Retention())
        removed = sync.remove_events(P, events[30].sequence, reason="space")
        return removed, sync.erase(P, data_key="k1", reason="asked", request_id="r1")

    removed, erased = await in_thread(blocking)
    assert (removed.removed_count, removed.first_sequence) == (30, events[30].sequence)
    assert (erased.duplicate, erased.erased_count > 3) == (False, True)
    again = await client.erase(P, data_key="k1", reason="asked", request_id="r1")
    assert again.duplicate
    assert again.sequence == erased.sequence
    gone = [e for e in await log(client, P) if e.data_key == "k1"]
    assert all(e.erased is not None and e.erased.request_id == "r1" for e in gone)
    assert (await client.erase(P, subject="nobody", reason="asked")).erased_count == 0
    with pytest.raises(ValueError, match="exactly one of subject, data_key"):
        await client.erase(P, reason="asked")
    stats = await client.stats(P)
    assert stats.removed_event_count == 30
    assert stats.archive_event_count >= 30


async def test_a_project_is_verified(in_thread: InThread, client: AsyncClient) -> None:
    await story(client)
    steps = [step async for step in client.verify(P)]
    assert steps[-1].summary is not None
    assert steps[-1].summary.event_count == 60
    assert not [step.finding for step in steps if step.finding]
    again = await in_thread(lambda sync: list(sync.verify(P, repair=True)))
    # Snapshots are taken meanwhile.
    count = again[-1].summary.snapshot_count
    assert again[-1].summary == replace(steps[-1].summary, snapshot_count=count)

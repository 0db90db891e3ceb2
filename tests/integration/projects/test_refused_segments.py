"""A segment that holds what no import could bring is not restored; what is before it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contex_server.kernel import event_codec
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.server import Server
from contex_server.tiers.segment import SegmentBuilder

from tests.conftest import StartServer, fresh_store
from tests.integration.logs import archive, listed, story
from tests.integration.projects.test_verification import verify
from tests.integration.support import Api, P, Words, event, refusal

FAR = Sequence(10**15, 0)


async def spoil(server: Server, root: Path, change: dict[str, Any]) -> tuple[str, int]:
    """Changes the last event of a project's last segment; the object, and how many events are
    before it."""
    storage = server.rooms.storage
    assert storage.archive is not None
    records = await storage.store.archive.segments(P, BEGINNING, 100)
    last = records[-1]
    entries = [entry async for page in storage.archive.entries(last) for entry in page]
    entries[-1] = event_codec.entry(replace(event_codec.decode(entries[-1]), **change))
    builder = SegmentBuilder(P, last.ordinal, records[-2].digest)
    builder.add(entries, list(map(event_codec.contents, entries)))
    (root / last.name).write_bytes(builder.seal().data)
    return last.name, sum(record.events for record in records[:-1])


@pytest.mark.parametrize(
    "change",
    [{"sequence": FAR}, {"revision": 2**60}, {"previous_sequence": FAR}],
    ids=["sequence", "revision", "previous sequence"],
)
async def test_a_segment_that_breaks_the_rules(
    small_api: Api,
    small_server: Server,
    start_server: StartServer,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    events = await story(small_api, 12)
    await archive(small_server)
    name, kept = await spoil(small_server, tmp_path / "archive", change)
    await small_server.stop()
    async with fresh_store() as fresh:
        server = await start_server(
            fresh.url, embedder=Words(), segment_events=10, snapshot_events=10
        )
        async with Api.of(server) as api:
            found, _ = await verify(api, repair=True)
            assert found[:2] == [("ARCHIVE_AHEAD", found[0][1]), ("SEGMENT", name)]
            assert 0 < kept < len(events)
            assert await listed(api) == events[:kept]
            assert (await verify(api))[0] == [("SEGMENT", name)]
            assert (await refusal(api.publish(event("k")))).reason == "LOG_CHANGED"
            assert (await verify(api, set_aside=True))[0][1:] == [("SEGMENT", name)]
            await asyncio.sleep(1.1)
            for key in {e.data_key for e in events if e.data_key}:
                await api.publish(event(key))
            assert (await listed(api))[:kept] == events[:kept]
            assert (await verify(api))[0] == []
            assert (tmp_path / "archive" / f"{name}.aside").exists()
        await server.stop()

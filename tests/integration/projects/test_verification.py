"""Differences are found and repaired; a project that the store has lost is taken over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from contex.v1 import (
    audit_service_pb2,
    project_service_pb2,
)
from contex.v1.project_service_pb2 import VerifyProjectRequest
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Sequence
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key, vectors_kind
from contex_server.server import Server
from google.protobuf.duration_pb2 import Duration

from tests.conftest import StartServer, fresh_store
from tests.integration.logs import archive, exported, fold, imported, listed, state, story
from tests.integration.support import DEADLINE_S, Api, P, Words, event, eventually, refusal


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


async def verify(
    api: Api, repair: bool = False, set_aside: bool = False
) -> tuple[list[tuple[str, str]], Any]:
    """The kinds and places of what was found, and the summary."""
    call = api.projects.VerifyProject(
        VerifyProjectRequest(project=P, repair=repair, set_aside=set_aside), timeout=DEADLINE_S
    )
    found, summary = [], None
    async for step in call:
        if step.HasField("finding"):
            name = project_service_pb2.FindingKind.Name(step.finding.kind)
            assert step.finding.detail
            aside = set_aside and name.endswith("AHEAD")
            assert step.finding.repaired == (aside or (repair and step.finding.repairable))
            found.append((name.removeprefix("FINDING_KIND_"), step.finding.place))
        if step.HasField("summary"):
            summary = step.summary
    assert summary is not None
    assert summary.finding_count == len(found)
    return found, summary


async def no_snapshot_is_due(server: Server) -> bool:
    """The snapshotter, which would read what a test falsifies, has done its work."""
    newest = await server.rooms.storage.snapshots.before(P, END_OF_TIME)
    counters = await server.rooms.storage.store.projects.counters(P)
    return newest is not None and counters.events - newest.events < 10


@pytest.mark.parametrize("archived", [False, True])
async def test_a_sound_project(api: Api, small_server: Server, archived: bool) -> None:
    events = await story(api)
    if archived:
        await archive(small_server)
        await api.publish(event("k1"))
    found, summary = await verify(api)
    assert found == []
    assert summary.event_count == len(events) + archived
    assert summary.data_key_count == 6
    assert summary.segment_count == (13 if archived else 0)
    if archived:
        request = project_service_pb2.RemoveEventsRequest(project=P, reason="a test")
        request.before.sequence = events[57].sequence
        assert (await api.projects.RemoveEvents(request)).removed_count == 50
        assert (await verify(api))[0] == []
        request = project_service_pb2.EraseDataRequest(
            project=P, data_key="k1", request_id="r", reason="a test"
        )
        assert (await api.projects.EraseData(request)).erased_count
        assert (await verify(api))[0] == []


async def test_what_is_derived_is_repaired(api: Api, small_server: Server, store: Any) -> None:
    events = await story(api)
    await eventually(lambda: no_snapshot_is_due(small_server))
    model = await small_server.rooms.storage.store.match.model(P)
    await store.hset(key(P, "state"), "k1", b"99 1-1 L")
    await store.hdel(key(P, "state"), "often")
    await store.hset(key(P, "state"), "ghost", b"1 1-1 L")
    await store.hset(key(P, "stats"), "deleted", 7)
    await store.delete(key(P, vectors_kind(model)))
    snapshots = await store.hkeys(key(P, "snapshot-data"))
    await store.hset(key(P, "snapshot-data"), snapshots[0], b"\x01nonsense")
    found, _ = await verify(api)
    expected = [
        ("SNAPSHOT", snapshots[0].decode()),
        ("STATE", "ghost"),
        ("STATE", "k1"),
        ("STATE", "often"),
        ("COUNTER", "deleted_key_count"),
    ]
    assert [f for f in found if f[0] != "VECTOR"] == expected
    assert sum(kind == "VECTOR" for kind, _ in found) > 0
    repaired, summary = await verify(api, repair=True)
    assert repaired == found
    assert summary.repaired_count == len(found)
    assert (await verify(api))[0] == []
    assert await state(api, events[-1].sequence) == fold(events)


async def test_when_facts_expire_is_repaired(api: Api, store: Any) -> None:
    year = Duration(seconds=365 * 24 * 3600)
    await api.publish(
        *(event(k, valid_for=year) for k in ("sound", "lost", "other")), event("lasts")
    )
    _, lost, other, lasts = await listed(api)
    place = key(P, "expiring")
    before = await store.zrange(place, 0, -1, withscores=True)
    await store.zrem(place, f"{lost.sequence} lost")
    await store.zadd(place, {f"{other.sequence} other": 5e12, f"{lasts.sequence} lasts": 5e12})
    found, _ = await verify(api)
    assert found == [("STATE", "lasts"), ("STATE", "lost"), ("STATE", "other")]
    assert (await verify(api, repair=True))[0] == found
    assert await store.zrange(place, 0, -1, withscores=True) == before
    assert (await verify(api))[0] == []


async def test_a_damaged_archive_is_told(api: Api, small_server: Server, tmp_path: Path) -> None:
    await story(api)
    await archive(small_server)
    objects = sorted((tmp_path / "archive").rglob("*.seg"))
    data = bytearray(objects[2].read_bytes())
    data[100] ^= 1
    objects[2].write_bytes(data)
    objects[5].unlink()
    found, _ = await verify(api, repair=True)
    places = [str(o.relative_to(tmp_path / "archive")) for o in (objects[2], objects[5])]
    assert found == [("SEGMENT", place) for place in places]


async def test_a_store_that_is_lost(
    api: Api, small_server: Server, start_server: StartServer, tmp_path: Path
) -> None:
    """The recovery drill of docs/operations/recovery.md."""
    await api.register("reader", "apples")
    await api.publish(event("fruit", b'"apples"'))
    for subject in ("anna", "bert"):
        await api.publish(
            event(subject, b'"of %s"' % subject.encode(), metadata={"subject": subject})
        )
    await api.projects.EraseData(
        project_service_pb2.EraseDataRequest(
            project=P, subject="bert", request_id="r", reason="a test"
        )
    )
    events = await story(api)
    early = await exported(api, include=[1, 2, 3])
    await archive(small_server)
    await api.projects.EraseData(
        project_service_pb2.EraseDataRequest(
            project=P, subject="anna", request_id="r2", reason="a test"
        )
    )
    await archive(small_server)
    await api.publish(event("carl", b'"of carl"', metadata={"subject": "carl"}))
    await archive(small_server)
    more = [*await listed(api)]
    for n in range(7):
        await api.publish(event(f"late-{n}"))
    late = await exported(api, include=[1, 2, 3])
    everything = await listed(api)
    reader = await api.listen("reader", after_sequence="0").live()
    await reader.cancel()
    states = {at: await state(api, everything[at].sequence) for at in (40, 90, len(everything) - 1)}
    await small_server.stop()
    async with fresh_store() as fresh:
        server = await start_server(
            fresh.url, embedder=Words(), segment_events=10, snapshot_events=10
        )
        async with Api.of(server) as again:
            assert (await refusal(listed(again))).reason == "PROJECT_NOT_FOUND"
            found, summary = await verify(again)
            assert [kind for kind, _ in found] == ["ARCHIVE_AHEAD"]
            assert summary.event_count == 0
            found, summary = await verify(again, repair=True)
            assert [kind for kind, _ in found] == ["ARCHIVE_AHEAD", *["VECTOR"] * (len(found) - 1)]
            assert await listed(again) == more
            (record,) = (
                await again.audits.ListRecords(audit_service_pb2.ListRecordsRequest(project=P))
            ).records
            assert record.detail.startswith("taken over from the archive")
            texts = {e.data_key: (e.payload, e.HasField("erased")) for e in more}
            assert texts["anna"] == texts["bert"] == (b"", True)
            assert texts["carl"] == (b'"of carl"', False)
            assert await state(again, everything[40].sequence) == states[40]
            # What was not archived yet comes from the last export.
            report = await imported(again, late, P)
            assert report.present_count == len(more)
            assert report.imported_count == len(everything) - len(more)
            assert await listed(again) == everything
            for at, expected in states.items():
                assert await state(again, everything[at].sequence) == expected
            # Its agents are told what they were told, and of what becomes of that.
            stream = await again.listen("reader", after_sequence="0").live()
            assert stream.matched == reader.matched
            await again.publish(event("fruit", b'"pears"'))
            everything = await listed(again)
            await stream.count(2)
            assert stream.told == ["MATCHED", "LEFT"]
            await stream.cancel()
            assert (await verify(again))[0] == []
            # It goes on: new events come after, and are archived.
            await again.publish(event("k1"))
            await archive(server)
            await again.publish(event("k1"))
            after = await listed(again)
            assert after[: len(everything)] == everything
            assert after[-1].revision == after[-2].revision + 1
            assert (await verify(again))[0] == []
            refused = await refusal(imported(again, early, P))
            assert refused.reason == "PROJECT_NOT_EMPTY"
        await server.stop()
    assert len(events) == len(more) - 2


async def test_a_store_that_was_brought_back_from_an_older_copy(
    api: Api, small_server: Server, start_server: StartServer
) -> None:
    await api.publish(event("year", valid_for=Duration(seconds=365 * 24 * 3600)))
    await story(api, 10)
    await archive(small_server)
    await story(api, 10)
    await archive(small_server)
    everything = await listed(api)
    await small_server.stop()
    async with fresh_store() as fresh:
        # Just the first segments are known, as an older copy of the store would.
        server = await start_server(
            fresh.url, embedder=Words(), segment_events=10, snapshot_events=10
        )
        async with Api.of(server) as again:
            await verify(again, repair=True)
            assert await listed(again) == everything
            (due,) = await server.rooms.storage.store.expiry.times(P)
            assert due == ("year", Sequence.parse(everything[0].sequence))
        async with _forgotten(fresh, 2) as kept:
            assert kept < len(everything)
            async with Api.of(server) as again:
                found, _ = await verify(again, repair=True)
                assert found[0][0] == "ARCHIVE_AHEAD"
                assert await listed(again) == everything
                assert (await verify(again))[0] == []
        await server.stop()


def _forgotten(valkey: EmbeddedValkey, segments: int) -> Any:
    """Lets a store forget all but its first segments, and what came after them."""
    from contextlib import asynccontextmanager

    from contex_server.log.redis.store import open_store
    from redis.asyncio import Redis

    @asynccontextmanager
    async def forget() -> AsyncIterator[int]:
        async with Redis.from_url(valkey.url) as client:
            opened = await open_store(valkey.url)
            records = await opened.archive.segments(P, BEGINNING, 100)
            rows = await client.xrange(key(P, "segments"))
            last = records[segments - 1]
            for row_id, _ in rows[segments:]:
                await client.xdel(key(P, "segments"), row_id)
            # The stream's own end moves back too.
            await client.delete(key(P, "events"))
            kept = sum(r.events for r in records[:segments])
            await client.execute_command(
                "XADD", key(P, "events"), "MAXLEN", 0, str(last.last), "e", ""
            )
            await client.execute_command(
                "XSETID",
                key(P, "events"),
                str(last.last),
                "ENTRIESADDED",
                kept,
                "MAXDELETEDID",
                str(last.last),
            )
            await client.delete(key(P, "segments"))
            for row_id, fields in rows[:segments]:
                await client.xadd(key(P, "segments"), fields, id=row_id)
            await client.hset(
                key(P, "archive"),
                mapping={
                    "segments": segments,
                    "events": kept,
                    "last": str(last.last),
                    "digest": last.digest,
                },
            )
            await opened.events.close()
        yield kept

    return forget()

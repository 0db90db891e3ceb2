"""Moving events to the archive and removing them, over the wire."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from contex.v1 import (
    audit_service_pb2,
    event_pb2,
    state_service_pb2,
)
from contex.v1.project_service_pb2 import (
    GetRetentionRequest,
    RemoveEventsRequest,
    Retention,
    SetRetentionRequest,
)
from contex_server.kernel.model import EventFilter, Range
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.log.redis.store import open_store
from contex_server.server import Server
from contex_server.tiers.archive import Archive, Segment

from tests.conftest import StartServer
from tests.integration.logs import archive, fold, listed, state, stats, story
from tests.integration.support import (
    DEADLINE_S,
    EDGE_BEGINNING,
    Api,
    GetEventRequest,
    P,
    Words,
    event,
    eventually,
    own,
    refusal,
)

FORWARDS, BACKWARDS = event_pb2.ORDER_FORWARDS, event_pb2.ORDER_BACKWARDS


async def set_retention(api: Api, **limits: Any) -> Any:
    request = SetRetentionRequest(project=P, retention=Retention(**limits))
    return (await api.projects.SetRetention(request, timeout=DEADLINE_S)).effective


async def remove(api: Api, before: str, reason: str = "a test") -> Any:
    request = RemoveEventsRequest(
        project=P, before=event_pb2.Position(sequence=before), reason=reason
    )
    return await api.projects.RemoveEvents(request, timeout=DEADLINE_S)


async def test_what_is_over_the_limit_moves(small_api: Api) -> None:
    before = await story(small_api)
    effective = await set_retention(small_api, store_events=25)
    assert effective.store_events == 25
    assert effective.archive_seconds == 0

    async def moved() -> bool:
        now = await stats(small_api)
        return now.store_event_count < 25 + 10

    await eventually(moved)
    now = await stats(small_api)
    assert now.event_count == len(before)
    assert now.store_event_count + now.archive_event_count == len(before)
    assert now.segment_count == now.archive_event_count // 10
    assert now.first_sequence == before[0].sequence
    assert now.archived_sequence == before[now.archive_event_count - 1].sequence
    assert now.archive_bytes > 0
    assert not now.warnings
    assert await listed(small_api) == before
    assert await listed(small_api, order=event_pb2.ORDER_BACKWARDS) == before[::-1]


async def test_an_older_store_that_takes_the_place_of_another_is_read_as_it_is(
    small_server: Server, small_api: Api, store: Any
) -> None:
    """As after a failover to a replica that was behind: it has archived less than was known."""
    events = await story(small_api, 10)
    names = await store.keys(key(P, "*"))
    # A claim may be given back meanwhile.
    older = {name: value for name in names if (value := await store.dump(name)) is not None}
    await archive(small_server)
    middle = events[len(events) // 2].sequence
    until = event_pb2.Position(sequence=middle)
    before = await listed(small_api, until=until, order=BACKWARDS)
    assert before[0].sequence == middle
    await store.delete(*await store.keys(key(P, "*")))
    for name, value in older.items():
        await store.restore(name, 0, value)
    assert await listed(small_api, until=until, order=BACKWARDS) == before
    request = GetEventRequest(project=P, sequence=middle)
    assert (await small_api.events.GetEvent(request, timeout=DEADLINE_S)).event == before[0]
    assert await listed(small_api) == events


async def test_a_pace_reaches_whoever_appends(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    """Another process archives the project, and can't keep up."""
    server = await start_server(valkey.url, embedder=Words())
    store = await open_store(valkey.url)
    await store.projects.put_pace(P, 40, 60_000)
    async with Api.of(server) as api:
        await api.publish(event("a"))
        await asyncio.sleep(0.5)  # It asks in the background.
        await api.publish(*(event(f"k{n}") for n in range(20)))
        began = time.monotonic()
        await api.publish(event("b"))
        assert time.monotonic() - began > 0.3
        assert len(await listed(api)) == 22
    await store.events.close()


async def test_what_is_wrong_with_one_project_keeps_no_other_from_being_archived(
    small_api: Api, store: Any
) -> None:
    await set_retention(small_api, store_events=25)
    await store.hset(key("bad", "archive"), "segments", b"what no version wrote")

    async def moved() -> bool:
        # Told of both, the archiver looks at both each time.
        await small_api.publish(event("k"), project="bad")
        await small_api.publish(event("k"))
        now = await stats(small_api)
        return bool(now.event_count >= 60 and now.store_event_count < 25 + 20)

    await eventually(moved)

    async def said() -> bool:
        return bool(await store.get(key("bad", "trouble")))

    await eventually(said)
    await store.delete(key("bad", "archive"))
    assert (
        "no events are moved to the archive: an internal"
        in (await stats(small_api, "bad")).warnings[0]
    )


async def test_what_is_too_old_moves_though_it_fills_no_segment(
    small_server: Server, small_api: Api
) -> None:
    before = await listed_after(small_api, 3)
    await set_retention(small_api, store_seconds=1)

    async def moved() -> bool:
        assert small_server.rooms.projects.archiver is not None
        await small_server.rooms.projects.archiver.archive_due(P)  # it does so once a minute
        return bool((await stats(small_api)).store_event_count == 0)

    await eventually(moved)
    assert await listed(small_api) == before


async def listed_after(api: Api, count: int) -> list[event_pb2.Event]:
    await api.publish(*[event(f"k{n}") for n in range(count)])
    return await listed(api)


async def test_readers_do_not_notice(small_server: Server, small_api: Api) -> None:
    await small_api.register("agent", "apples")
    await small_api.publish(event("apples", description="apples"), event("pears"))
    events = await story(small_api)
    await archive(small_server)
    assert (await stats(small_api)).store_event_count == 0
    for one in (events[0], events[7], events[-1]):
        request = GetEventRequest(project=P, sequence=one.sequence)
        assert (await small_api.events.GetEvent(request, timeout=DEADLINE_S)).event == one
    for at in (0, 11, 57, len(events) - 1):
        assert await state(small_api, events[at].sequence) == fold(events[: at + 1])
    request = state_service_pb2.GetHistoryRequest(project=P, data_key="often", page_size=100)
    history = await small_api.states.GetHistory(request, timeout=DEADLINE_S)
    assert [r.event for r in history.revisions] == [
        e for e in reversed(events) if e.data_key == "often"
    ]
    # A subscriber catches up out of the archive and goes on live.
    stream = await small_api.subscribe(edge=EDGE_BEGINNING).live()
    await small_api.publish(event("apples", b"2", description="apples"))
    await stream.count(len(events) + 1)
    assert stream.events[:-1] == events
    await stream.cancel()
    # And so does an agent.
    matches = await small_api.listen("agent", after_sequence="0").live()
    assert matches.sequences == [e.sequence for e in stream.events if e.data_key == "apples"]
    await matches.cancel()


async def test_filtered_reads_touch_what_they_need(
    small_server: Server, small_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(60):
        # Some six of these fill a block, of which a segment of ten has two.
        payload = b'"%d %s"' % (n, b"x" * 50_000)
        await small_api.publish(event("rare" if n in (7, 9, 31) else f"k{n % 5}", payload))
        if n == 20:
            await small_api.publish(own("note"))
    await archive(small_server)
    await small_api.publish(event("k1"), event("rare"), event("k2"))
    events = await listed(small_api)
    touched: set[tuple[str, int]] = set()
    block = Archive._block

    async def spied(archive: Archive, segment: Segment, at: int, **options: Any) -> Any:
        touched.add((segment.record.name, at))
        return await block(archive, segment, at, **options)

    monkeypatch.setattr(Archive, "_block", spied)
    for wanted, blocks in (
        ({"data_keys": ["rare"]}, 3),
        ({"data_keys": ["r?r*", "nothing"]}, 3),
        ({"data_keys": ["nothing"]}, 0),
        ({"event_types": ["note"]}, 2),
        ({"event_types": ["nothing"]}, 0),
        ({"data_keys": ["k3", "rare"]}, 12),
        ({"publishers": ["nobody"]}, 13),
    ):
        expected = [
            e
            for e in events
            if EventFilter(**{name: frozenset(some) for name, some in wanted.items()}).passes(e)
        ]
        touched.clear()
        assert (await small_api.replay(**wanted).to_end()).events == expected
        assert len(touched) <= blocks
        backwards = await small_api.replay(order=BACKWARDS, **wanted).to_end()
        assert backwards.events == expected[::-1]
        assert len(touched) <= blocks
        for order in (FORWARDS, BACKWARDS):
            found: list[event_pb2.Event] = []
            page = await small_api.page(page_size=2, order=order, **wanted)
            found += page.events
            while page.next_page_token:
                token = page.next_page_token
                page = await small_api.page(page_size=2, order=order, page_token=token, **wanted)
                found += page.events
            assert found == expected[:: 1 if order == FORWARDS else -1]
        assert len(touched) <= blocks
        if expected:
            stream = await small_api.subscribe(edge=EDGE_BEGINNING, **wanted).live()
            assert stream.events == expected
            await stream.cancel()
            assert len(touched) <= blocks


async def test_removal_moves_the_earliest_sequence_and_keeps_the_state(
    small_server: Server, small_api: Api
) -> None:
    events = await story(small_api)
    await archive(small_server)
    answer = await remove(small_api, events[57].sequence)
    assert answer.removed_count == 50
    assert answer.first_sequence == events[50].sequence
    kept = events[50:]
    assert await listed(small_api) == kept
    now = await stats(small_api)
    assert (now.event_count, now.removed_event_count) == (len(kept), 50)
    assert now.first_sequence == events[50].sequence
    for at in (50, 51, 60, len(events) - 1):
        assert await state(small_api, events[at].sequence) == fold(events[: at + 1])
    # The latest event of each key is there, however old.
    for sequence, payload in fold(events).values():
        request = GetEventRequest(project=P, sequence=sequence)
        assert (await small_api.events.GetEvent(request)).event.payload == payload
    refused = await small_api.subscribe(after_sequence=events[20].sequence).refusal()
    assert refused.reason == "SEQUENCE_TRIMMED"
    assert refused.metadata["earliest_sequence"] == events[50].sequence
    refused = await refusal(state(small_api, events[20].sequence))
    assert refused.reason == "SEQUENCE_TRIMMED"
    assert refused.metadata["earliest_sequence"] == events[50].sequence
    # Once more, from what remained; and all that is archived.
    assert (await remove(small_api, events[85].sequence)).removed_count == 30
    assert await listed(small_api) == events[80:]
    assert await state(small_api, events[80].sequence) == fold(events[:81])
    await small_api.publish(event("new"))
    everything = await remove(small_api, (await stats(small_api)).last_sequence)
    assert everything.removed_count == len(events) - 80
    assert [e.data_key for e in await listed(small_api)] == ["new"]
    last = await listed(small_api)
    assert await state(small_api, last[0].sequence) == fold(events + last)
    revision = await small_api.publish(event("often"))
    assert revision
    assert (await listed(small_api))[-1].revision == 41


async def test_removal_is_an_audited_act(small_server: Server, small_api: Api) -> None:
    events = await story(small_api, 10)
    await archive(small_server)
    await set_retention(small_api, store_events=100)
    await remove(small_api, events[15].sequence, "by request 4711")
    request = audit_service_pb2.ListRecordsRequest(
        project=P,
        filter=audit_service_pb2.AuditFilter(actions=[audit_service_pb2.AUDIT_ACTION_ADMINISTERED]),
    )
    records = (await small_api.audits.ListRecords(request, timeout=DEADLINE_S)).records
    details = sorted(record.detail for record in records)
    assert details == [
        f"removed 10 events before {events[10].sequence}: by request 4711",
        "set the retention: store_events 100",
    ]
    assert {r.count for r in records} == {0, 10}


async def test_a_legal_hold_keeps_everything(small_server: Server, small_api: Api) -> None:
    events = await story(small_api, 10)
    await archive(small_server)
    await set_retention(small_api, legal_hold=True, archive_seconds=1)
    refused = await refusal(remove(small_api, events[-1].sequence))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "LEGAL_HOLD")
    assert small_server.rooms.projects.archiver is not None
    await asyncio.sleep(1.2)
    await small_server.rooms.projects.archiver.archive_due(P)
    assert await listed(small_api) == events
    assert "legal hold" in (await stats(small_api)).warnings[0]
    await set_retention(small_api, archive_seconds=1)
    await small_api.publish(event("new"))
    archiver = small_server.rooms.projects.archiver

    async def only_the_new_is_left() -> bool:
        await archiver.archive_due(P)  # It does nothing while the archiver is at it by itself.
        return [e.data_key for e in await listed(small_api)] == ["new"]

    await eventually(only_the_new_is_left)


async def test_without_an_archive(start_server: StartServer, valkey: EmbeddedValkey) -> None:
    server = await start_server(valkey.url, embedder=Words(), archive_url="none")
    async with Api.of(server) as api:
        answer = await api.projects.GetRetention(GetRetentionRequest(project=P))
        assert not answer.has_archive
        assert not answer.retention.HasField("store_events")
        assert answer.effective.store_events == 1_000_000
        await api.publish(event())
        refused = await refusal(remove(api, "0"))
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "ARCHIVE_DISABLED")


async def test_a_missing_segment_is_told(
    small_server: Server, small_api: Api, tmp_path: Path
) -> None:
    events = await story(small_api)
    await archive(small_server)
    objects = sorted((tmp_path / "archive").rglob("*.seg"))
    objects[3].unlink()
    refused = await refusal(listed(small_api))
    assert (refused.code, refused.reason) == ("DATA_LOSS", "ARCHIVE_DAMAGED")
    assert refused.metadata["first_sequence"] == events[30].sequence
    assert refused.metadata["last_sequence"] == events[39].sequence
    assert refused.metadata["object"].endswith(objects[3].name)
    after = event_pb2.Position(sequence=events[39].sequence)
    assert await listed(small_api, since=after) == events[40:]


async def test_a_segment_that_was_changed_is_told(
    small_server: Server, small_api: Api, tmp_path: Path
) -> None:
    await story(small_api, 10)
    await archive(small_server)
    name = sorted((tmp_path / "archive").rglob("*.seg"))[1]
    data = bytearray(name.read_bytes())
    data[40] ^= 1
    name.write_bytes(data)
    refused = await refusal(listed(small_api))
    assert refused.reason == "ARCHIVE_DAMAGED"


async def test_what_was_stored_and_never_recorded_is_swept(
    small_server: Server,
    small_api: Api,
    tmp_path: Path,
    start_server: StartServer,
    valkey: EmbeddedValkey,
) -> None:
    await story(small_api, 10)
    await archive(small_server)
    segment = sorted((tmp_path / "archive").rglob("*.seg"))[0]
    orphan = segment.with_name("00000009-0badcafe.seg")
    orphan.write_bytes(segment.read_bytes())
    other = await start_server(valkey.url, embedder=Words(), segment_events=10)
    await small_api.publish(*[event("k") for _ in range(12)])
    await archive(other)
    assert not orphan.exists()
    assert len(await other.rooms.storage.log.read(P, Range(), 1_000)) == len(
        await listed(small_api)
    )

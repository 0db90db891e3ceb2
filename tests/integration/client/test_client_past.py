"""Both Python clients ask a real server about the past."""

from __future__ import annotations

import asyncio
import inspect
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import contex
import grpc
import pytest
from contex import (
    ActivityDimension,
    AsyncClient,
    AuditAction,
    AuditFormat,
    ChangeKind,
    Client,
    DeliveryKind,
    HeldBackReason,
    NewEvent,
    PatchOmitted,
)
from contex.state import StateProgress
from contex_server.server import Server

from tests.integration.client.conftest import InThread

P = "past"


async def story(client: AsyncClient) -> list[str]:
    """Three revisions of a JSON datum, a text, bytes, one that is deleted; their sequences."""
    receipts = [
        await client.publish(P, "config", {"a": 1, "b": [1, 2]}, description="apples"),
        await client.publish(P, "config", {"a": 2, "b": [1, 2]}, description="apples"),
        await client.publish(P, "notes", "one\ntwo\n", content_type="text/plain"),
        await client.publish(P, "notes", "one\nzwei\n", content_type="text/plain"),
        await client.publish(P, "blob", b"\xff\x00", content_type="image/png"),
        await client.publish(P, "blob", b"\xff\x01", content_type="image/png"),
        await client.publish(P, "gone", 1),
        await client.delete(P, "gone"),
        await client.publish(P, "config", {"a": 2, "b": [1, 2, 3], "c": None}),
    ]
    return [receipt.sequence for receipt in receipts]


async def test_states(in_thread: InThread, client: AsyncClient) -> None:
    every = await story(client)
    state = await client.get_state(P)
    assert [datum.data_key for datum in state] == ["blob", "config", "notes"]
    assert len(state) == 3
    assert state["config"].event is not None
    assert state["config"].event.value == {"a": 2, "b": [1, 2, 3], "c": None}
    assert state.as_of.sequence == every[-1]
    with pytest.raises(KeyError):
        state["gone"]
    early = await client.get_state(P, as_of=every[0])
    assert [(d.data_key, d.revision) for d in early] == [("config", 1)]
    at = datetime.fromtimestamp(int(every[3].split("-")[0]) / 1000, timezone(timedelta(hours=2)))
    for moment in (at, at.isoformat(timespec="milliseconds"), round(at.timestamp() * 1000)):
        then = await client.get_state(P, as_of=moment)
        assert then.as_of.time == at.astimezone(UTC)
        assert then["notes"].revision >= 1
    brief = await client.get_state(P, keys_only=True, include_deleted=True, prefix="g")
    assert [(d.data_key, d.deleted, d.event) for d in brief] == [("gone", True, None)]

    def same(sync: Client) -> Any:
        with sync.stream_state(P, data_keys=["c*"]) as data:
            found = list(data)
            return sync.get_state(P), sync.get_state(P, as_of=every[0]), found, data.as_of

    now, then, streamed, moment = await in_thread(same)
    assert now.data == state.data
    assert then.data == early.data
    assert streamed == [state["config"]]
    assert moment.sequence == every[-1]
    async with client.stream_state(P) as data:
        with pytest.raises(RuntimeError):
            assert data.as_of
        assert [datum async for datum in data] == list(state)
        assert data.data_count == 3


async def test_more_than_a_page(in_thread: InThread, client: AsyncClient) -> None:
    for start in range(0, 2_500, 500):
        batch = [
            NewEvent(event_type="note", data_key=f"k{n:04}") for n in range(start, start + 500)
        ]
        await client.publish_batch(P, batch)
    keys = [f"k{n:04}" for n in range(2_500)]
    assert [datum.data_key for datum in await client.get_state(P, keys_only=True)] == keys
    diff = await client.diff_states(P, "0", keys_only=True)
    assert [change.data_key for change in diff.changes] == keys
    assert (diff.added, diff.removed, diff.changed) == (2_500, 0, 0)
    found = await in_thread(lambda c: c.diff_states(P, "0", keys_only=True))
    assert found.changes == diff.changes


async def test_a_stream_of_a_state_survives_a_lost_connection(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        await client.publish(P, f"k{n:02}", "x" * 100_000, content_type="text/plain")
    broken = 0

    def breaking(self: Any, message: Any) -> Any:
        nonlocal broken
        found = list(take(self, message))
        if broken < 2:
            broken += 1
            raise_at.append(len(found))
        return iter(found)

    raise_at: list[int] = []
    take = StateProgress.take
    monkeypatch.setattr(StateProgress, "take", breaking)
    seen: list[str] = []
    async with client.stream_state(P) as data:
        async for datum in data:
            seen.append(datum.data_key)
            if len(seen) == raise_at[-1] and broken == 1:
                # The connection breaks under the stream.
                data._reader.drop()
                data._reader._call = _Broken()
    assert seen == [f"k{n:02}" for n in range(40)]


class _Broken:
    """A call whose connection was lost."""

    def cancel(self) -> bool:
        return False

    async def read(self) -> Any:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "lost"
        )


async def test_differences(in_thread: InThread, client: AsyncClient) -> None:
    every = await story(client)
    diff = await client.diff_states(P, every[0], every[-1])
    kinds = {change.data_key: change.kind for change in diff.changes}
    assert kinds == {
        "blob": ChangeKind.ADDED,
        "config": ChangeKind.CHANGED,
        "notes": ChangeKind.ADDED,
    }
    config = next(change for change in diff.changes if change.data_key == "config")
    assert config.before is not None
    assert config.after is not None
    assert (config.before.revision, config.after.revision) == (1, 3)
    assert config.patch is not None
    assert {operation["path"] for operation in config.patch.operations} == {"/a", "/b/2", "/c"}
    back = await client.diff_states(P, every[-1], every[0], omit_patches=True)
    assert {change.kind for change in back.changes} == {ChangeKind.REMOVED, ChangeKind.CHANGED}
    assert all(change.patch is None or change.patch.json_patch is None for change in back.changes)
    same = await in_thread(lambda c: c.diff_states(P, every[0], every[-1]))
    assert same == diff


async def test_histories(in_thread: InThread, client: AsyncClient) -> None:
    every = await story(client)
    revisions = [revision async for revision in client.history(P, "config", page_size=2)]
    assert [revision.event.revision for revision in revisions] == [3, 2, 1]
    assert revisions[0].patch is not None
    assert len(revisions[0].patch.operations) == 2
    assert revisions[2].patch is None
    assert revisions[0].time.tzinfo is not None
    assert revisions == await in_thread(lambda c: list(c.history(P, "config")))
    text = [revision async for revision in client.history(P, "notes")]
    assert text[0].patch is not None
    assert "+zwei" in (text[0].patch.unified_diff or "")
    blob = [revision async for revision in client.history(P, "blob")]
    assert blob[0].patch is not None
    assert blob[0].patch.omitted is PatchOmitted.BINARY
    gone = [revision.event.event_type async for revision in client.history(P, "gone")]
    assert gone == ["data_deleted", "data_published"]
    second = await client.get_revision(P, "config", 2)
    assert second.event.sequence == every[1]
    assert second == await in_thread(lambda c: c.get_revision(P, "config", 2))
    with pytest.raises(contex.RevisionNotFound) as missing:
        await client.get_revision(P, "config", 9)
    assert missing.value.actual_revision == 3
    with pytest.raises(contex.DataKeyNotFound):
        await anext(client.history(P, "never"))
    blame = await client.blame(P, "config")
    parts = {part.path: (part.revision, part.publisher) for part in blame.parts}
    assert parts == {
        "/a": (2, "ops"),
        "/b/0": (1, "ops"),
        "/b/1": (1, "ops"),
        "/b/2": (3, "ops"),
        "/c": (3, "ops"),
    }
    assert not blame.truncated
    assert (await in_thread(lambda c: c.blame(P, "config"))).parts == blame.parts


async def test_what_an_agent_knew(in_thread: InThread, client: AsyncClient) -> None:
    await client.register_agent(P, "a", ["apples"])
    async with client.listen(P, "a") as matches:
        await client.publish(P, "k", {"n": 1}, description="apples")
        matched = await anext(matches)
        await client.acknowledge(P, "a", matched)
    await asyncio.sleep(0.05)
    before = round(time.time() * 1000)
    await asyncio.sleep(0.05)
    receipt = await client.publish(P, "k", {"n": 2}, description="apples")
    context = await client.agent_context(P, "a", near_misses=3)
    (known,) = context.known
    assert (known.revision, known.stale, known.acknowledged, known.latest_revision) == (
        1,
        True,
        True,
        2,
    )
    assert known.event is not None
    assert known.event.value == {"n": 1}
    assert known.needs[0].need == "apples"
    (pending,) = context.pending
    assert pending.event.sequence == receipt.sequence
    assert context.streams[0].closed_time is not None
    assert context.last_sent_sequence == matched.event.sequence
    assert all(held.reason in HeldBackReason for held in context.held_back)
    earlier = await client.agent_context(P, "a", as_of=before)
    assert not earlier.known[0].stale
    assert earlier.pending == ()
    assert earlier == await in_thread(lambda c: c.agent_context(P, "a", as_of=before))
    (delivery,) = [d async for d in client.deliveries(P, agent_id="a")]
    assert (delivery.kind, delivery.resend, delivery.sequence) == (
        DeliveryKind.STREAM,
        False,
        matched.event.sequence,
    )
    found = await in_thread(lambda c: list(c.deliveries(P, sequence=matched.event.sequence)))
    assert found == [delivery]
    with pytest.raises(ValueError, match="exactly one of sequence, agent_id"):
        client.deliveries(P)
    with pytest.raises(contex.TimeInFuture):
        await client.agent_context(P, "a", as_of=datetime(2100, 1, 1, tzinfo=UTC))


async def test_the_audit(in_thread: InThread, client: AsyncClient) -> None:
    every = await story(client)
    records = [r async for r in client.audit(P, actions=[AuditAction.PUBLISHED], page_size=3)]
    assert [r.sequence for r in records] == [s for n, s in enumerate(every) if n != 7]
    assert {r.actor for r in records} == {"ops"}
    assert all(r.client.startswith("contex-python/") for r in records)
    assert (
        await in_thread(
            lambda c: list(c.audit(P, actions=[AuditAction.PUBLISHED], backwards=True)),
        )
        == records[::-1]
    )
    async with client.export_audit(P, AuditFormat.CSV, data_keys=["gone"]) as pieces:
        table = b"".join([piece.data async for piece in pieces]).decode()
    assert [line.split(",")[1] for line in table.splitlines()] == ["action", "PUBLISHED", "DELETED"]

    def export(sync: Client) -> tuple[bytes, int]:
        published = [AuditAction.PUBLISHED, AuditAction.DELETED]
        with sync.export_audit(
            P, AuditFormat.JSON_LINES, actors=["ops"], actions=published
        ) as pieces:
            found = list(pieces)
        return b"".join(piece.data for piece in found), found[-1].record_count

    lines, count = await in_thread(export)
    assert lines.count(b"\n") == count == 9


async def test_stats_and_activity(in_thread: InThread, client: AsyncClient) -> None:
    await story(client)
    stats = await client.stats(P)
    assert (stats.event_count, stats.data_key_count, stats.deleted_key_count) == (9, 3, 1)
    activity = await client.activity(P, ActivityDimension.DATA_KEY, top=1, bucket_seconds=60)
    assert [(s.name, s.total) for s in activity.series] == [("config", 3)]
    assert activity.name_count == 4
    assert activity.total.total == sum(activity.peak_hours) == 9
    seen = await in_thread(
        lambda c: (c.stats(P), c.activity(P, ActivityDimension.PUBLISHER, names=["o*"])),
    )
    assert seen[0].event_count == 9
    assert [s.name for s in seen[1].series] == ["ops"]


async def test_identity_goes_with_every_call(client: AsyncClient) -> None:
    await client.register_agent(P, "a", ["apples"])
    async with client.listen(P, "a") as matches:
        await client.publish(P, "k", 1, description="apples")
        await anext(matches)
    names = {
        r.action: r.actor
        async for r in client.audit(P)
        if r.action in (AuditAction.REGISTERED, AuditAction.SUBSCRIBED)
    }
    assert names == {AuditAction.REGISTERED: "ops", AuditAction.SUBSCRIBED: "ops"}


async def test_identity_goes_with_streamed_publishes(
    in_thread: InThread, client: AsyncClient
) -> None:
    async with client.publish_stream(P, [[NewEvent("k1", 1)]]) as acks:
        assert [ack async for ack in acks]
    assert await in_thread(lambda blocking: list(blocking.publish_stream(P, [[NewEvent("k2", 2)]])))
    published = [r async for r in client.audit(P) if r.action is AuditAction.PUBLISHED]
    assert {r.actor for r in published} == {"ops", "sync"}


async def test_a_publisher_of_any_language(small_server: Server) -> None:
    name = "Zo\u00eb & Müller, 東京 100 %"
    async with AsyncClient(f"127.0.0.1:{small_server.port}", publisher=name) as client:
        await client.publish(P, "k", 1)
        events = [event async for event in client.list_events(P, publishers=[name])]
        assert [event.publisher for event in events] == [name]
        assert [r.actor async for r in client.audit(P, actors=[name])] == [name]


async def test_a_publisher_that_is_no_name(small_server: Server) -> None:
    address = f"127.0.0.1:{small_server.port}"
    async with AsyncClient(address, publisher="Zo\u00eb\n") as client:
        with pytest.raises(contex.InvalidArgument, match="contex-identity"):
            await client.stats(P)

    def blocking() -> None:
        with (
            Client(address, publisher="Zo\u00eb\n") as client,
            pytest.raises(contex.InvalidArgument, match="contex-identity"),
        ):
            client.stats(P)

    await asyncio.to_thread(blocking)


def test_both_clients_have_the_same_methods() -> None:
    def methods(of: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(of, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(AsyncClient) == methods(Client)

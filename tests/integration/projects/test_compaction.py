"""Keeping the last revisions of each data key, over the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contex.v1 import agent_service_pb2, audit_service_pb2, event_pb2, state_service_pb2
from contex.v1.project_service_pb2 import (
    EraseDataRequest,
    GetRetentionRequest,
    RemoveEventsRequest,
    Retention,
    SetRetentionRequest,
    VerifyProjectRequest,
)
from contex_server.kernel import event_codec
from contex_server.kernel.model import END_OF_TIME, Erasure, Sequence
from contex_server.log.archive import Archived, Compaction
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.projects.compaction import next_pass
from contex_server.projects.retention import Retention as Rules
from contex_server.projects.usage_metrics import UsageMetrics
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.logs import archive, exported, imported, listed, state, stats
from tests.integration.support import (
    DEADLINE_S,
    EDGE_BEGINNING,
    Api,
    P,
    Words,
    event,
    own,
    refusal,
)

RULE = "retention: keeps the last 3 revisions"
KEYS = ("apples", "pears", "plums")


async def set_retention(api: Api, **limits: Any) -> Any:
    request = SetRetentionRequest(project=P, retention=Retention(**limits))
    return (await api.projects.SetRetention(request, timeout=DEADLINE_S)).effective


async def revise(api: Api, rounds: int = 10) -> list[event_pb2.Event]:
    """Revisions of several data; the log that they make."""
    for n in range(rounds):
        some = [event(name, b'{"kept":1,"n":%d}' % n, description=f"the {name}") for name in KEYS]
        await api.publish(*some, own("note"))
    return await listed(api)


async def compact(server: Server, rounds: int = 100) -> None:
    """Lets the archiver look at the project until there is nothing to do."""
    projects = server.rooms.projects
    assert projects.archiver is not None
    for _ in range(rounds):
        await projects.archiver.archive_due(P)
        archived = await server.rooms.storage.store.archive.archived(P)
        if next_pass(archived, await projects.retentions.of(P)) is None:
            return
    raise AssertionError("it does not end")


def check(before: list[event_pb2.Event], now: list[event_pb2.Event]) -> None:
    """Everything is in its place, and exactly the superseded payloads are gone."""
    for was, is_now in zip(before, now, strict=True):
        if was.data_key not in KEYS or was.revision > 7:
            assert was == is_now
            continue
        assert is_now.erased.reason == RULE
        assert not is_now.erased.request_id
        assert len(is_now.erased.payload_digest) == 32
        expected = event_pb2.Event()
        expected.CopyFrom(was)
        for field in ("payload", "description", "text_digest"):
            expected.ClearField(field)
        expected.erased.CopyFrom(is_now.erased)
        assert is_now == expected


async def verified(api: Api) -> list[Any]:
    request = VerifyProjectRequest(project=P)
    answers = [a async for a in api.projects.VerifyProject(request, timeout=DEADLINE_S)]
    return [answer.finding for answer in answers if answer.HasField("finding")]


async def registered(api: Api) -> list[agent_service_pb2.Agent]:
    """The registrations, without how far agents are and when they were in contact."""
    request = agent_service_pb2.ListAgentsRequest(project=P)
    agents = list((await api.agents.ListAgents(request, timeout=DEADLINE_S)).agents)
    for agent in agents:
        agent.ClearField("progress")
        agent.ClearField("last_contact_time")
    return agents


async def test_the_last_revisions_stay(
    small_server: Server, small_api: Api, start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    await small_api.register("agent", "apples")
    await small_api.register("other", "pears")
    before = await revise(small_api)
    newest = await state(small_api, before[-1].sequence)
    agents = await registered(small_api)
    await archive(small_server)
    assert (await set_retention(small_api, keep_revisions=3)).keep_revisions == 3
    await compact(small_server)
    now = await listed(small_api)
    check(before, now)
    figures = await stats(small_api)
    assert figures.compacted_event_count == 21
    assert figures.removed_event_count == 0
    assert figures.event_count == len(before)
    metrics = UsageMetrics()
    metrics.used({P: await small_server.rooms.projects.usage.of(P)})
    samples = {s.name: s.value for family in metrics.collect() for s in family.samples}
    assert samples["contex_compacted_events"] == 21
    assert samples["contex_removed_events"] == 0
    assert await verified(small_api) == []

    other = await start_server(valkey.url, embedder=Words(), segment_events=10)
    async with Api.of(other) as elsewhere:
        for api in (small_api, elsewhere):
            assert await listed(api) == now
            assert await registered(api) == agents
            assert await listed(api, order=event_pb2.ORDER_BACKWARDS) == now[::-1]
            assert (await api.replay().to_end()).events == now
            stream = await api.subscribe(edge=EDGE_BEGINNING).live()
            assert stream.events == now
            await stream.cancel()
            assert await state(api, before[-1].sequence) == newest
            # Of a moment before, it says what is missing.
            then = state_service_pb2.GetStateRequest(
                project=P, as_of=event_pb2.Position(sequence=before[15].sequence)
            )
            data = (await api.states.GetState(then, timeout=DEADLINE_S)).data
            assert [d.event.erased.reason for d in data] == [RULE] * 3
            request = state_service_pb2.GetHistoryRequest(project=P, data_key="pears", page_size=10)
            revisions = (await api.states.GetHistory(request, timeout=DEADLINE_S)).revisions
            assert [r.event.erased.reason for r in revisions] == [""] * 3 + [RULE] * 7
            assert [r.event.revision for r in revisions] == list(range(10, 0, -1))
            omitted = [r.patch.omitted for r in revisions]
            assert omitted == [0, 0] + [state_service_pb2.PATCH_OMITTED_ERASED] * 7 + [0]
            blame = state_service_pb2.GetBlameRequest(project=P, data_key="pears")
            blamed = await api.states.GetBlame(blame, timeout=DEADLINE_S)
            assert [(p.path, p.revision) for p in blamed.parts] == [("/kept", 8), ("/n", 10)]
            assert blamed.truncated
            # Agents get the same as before, without what is gone.
            matches = await api.listen("agent", after_sequence="0").live()
            assert [e.revision for e in matches.events] == list(range(1, 11))
            assert [e.HasField("erased") for e in matches.events] == [True] * 7 + [False] * 3
            await matches.cancel()
    await small_api.publish(event("pears", b'{"n":10}'))
    assert (await listed(small_api))[-1].revision == 11


async def test_it_is_audited(small_server: Server, small_api: Api) -> None:
    await revise(small_api)
    await archive(small_server)
    await set_retention(small_api, keep_revisions=3)
    await compact(small_server)
    request = audit_service_pb2.ListRecordsRequest(
        project=P,
        filter=audit_service_pb2.AuditFilter(actions=[audit_service_pb2.AUDIT_ACTION_ADMINISTERED]),
    )
    records = (await small_api.audits.ListRecords(request, timeout=DEADLINE_S)).records
    removals = [r for r in records if r.count]
    assert sum(r.count for r in removals) == 21
    for record in removals:
        assert record.detail == (
            f"removed the payloads of {record.count} events up to {record.sequence}: {RULE}"
        )
    assert "set the retention: keep_revisions 3" in [r.detail for r in records]


async def test_what_is_in_the_store_stays(small_server: Server, small_api: Api) -> None:
    before = await revise(small_api)
    await set_retention(small_api, keep_revisions=1)
    await compact(small_server)
    assert await listed(small_api) == before


async def test_deletions_stay_and_count_as_revisions(small_server: Server, small_api: Api) -> None:
    for name in ("back", "gone"):
        for n in range(3):
            await small_api.publish(event(name, b"%d" % n))
        await small_api.publish(event(name, b"", tombstone=True))
    await small_api.publish(event("back", b"4"))
    before = await listed(small_api)
    await archive(small_server)
    await set_retention(small_api, keep_revisions=2)
    await compact(small_server)
    now = await listed(small_api)
    assert [e.HasField("erased") for e in now] == [True] * 3 + [False] + [True, True] + [False] * 3
    assert [e for e in now if not e.HasField("erased")] == [before[at] for at in (3, 6, 7, 8)]
    assert await verified(small_api) == []


async def test_a_pass_follows_as_the_archive_grows(
    small_server: Server, small_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await revise(small_api)
    await archive(small_server)
    await set_retention(small_api, keep_revisions=3)
    await compact(small_server)
    await small_api.publish(*(event("apples", b"%d" % n) for n in range(10)))
    await compact(small_server)
    assert (await stats(small_api)).compacted_event_count == 21
    await archive(small_server)
    await compact(small_server)
    now = await listed(small_api)
    kept = [e.revision for e in now if e.data_key == "apples" and e.payload]
    assert kept == [18, 19, 20]
    assert (await stats(small_api)).compacted_event_count == 21 + 10
    # A smaller number begins anew, a larger one brings nothing back.
    await set_retention(small_api, keep_revisions=1)
    await compact(small_server)
    assert [e.revision for e in await listed(small_api) if e.payload and e.revision] == [10, 10, 20]
    await set_retention(small_api, keep_revisions=5)
    await compact(small_server)
    now = await listed(small_api)
    assert [e.revision for e in now if e.payload and e.revision] == [10, 10, 20]
    assert await verified(small_api) == []


def test_when_a_pass_is_due() -> None:
    rules = Rules(keep_revisions=3)
    archived = Archived(segments=40, events=100)
    assert next_pass(archived, Rules(keep_revisions=0)) is None
    assert next_pass(archived, Rules(keep_revisions=3, legal_hold=True)) is None
    assert next_pass(Archived(), rules) is None
    assert next_pass(archived, rules) == Compaction(3, 40)
    halfway = Compaction(3, 40, 7, Sequence(5, 0))
    assert next_pass(archived._replace(compaction=halfway), rules) == halfway
    over = archived._replace(compaction=Compaction(3, 40, 40, END_OF_TIME))
    assert next_pass(over, rules) is None
    assert next_pass(over._replace(segments=44), rules) is None
    assert next_pass(over._replace(segments=45), rules) == Compaction(3, 45)
    assert next_pass(over, Rules(keep_revisions=2)) == Compaction(2, 40)


async def test_a_legal_hold_keeps_everything(
    small_server: Server, small_api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = await revise(small_api)
    await archive(small_server)
    await set_retention(small_api, keep_revisions=3, legal_hold=True)
    await compact(small_server)
    assert await listed(small_api) == before

    # A hold that is set while a segment is rewritten holds that segment too.
    projects = small_server.rooms.projects
    assert projects.archiver is not None
    rewrite = type(projects.archiver.segments).rewrite

    async def held_meanwhile(self: Any, *args: Any) -> Any:
        replaced = await rewrite(self, *args)
        await set_retention(small_api, keep_revisions=3, legal_hold=True)
        return replaced

    with monkeypatch.context() as patched:
        patched.setattr(type(projects.archiver.segments), "rewrite", held_meanwhile)
        await set_retention(small_api, keep_revisions=3)
        await compact(small_server)
    assert await listed(small_api) == before
    segments = len(list((tmp_path / "archive").rglob("*.seg")))
    assert segments == (await stats(small_api)).segment_count
    await set_retention(small_api, keep_revisions=3)
    await compact(small_server)
    check(before, await listed(small_api))


async def test_a_segment_that_was_replaced_meanwhile_is_not_replaced(
    small_server: Server, small_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another process that erases, while this one is stopped and loses the task."""
    before = await revise(small_api)
    await archive(small_server)
    projects = small_server.rooms.projects
    assert projects.archiver is not None
    archiver, kept = projects.archiver, projects.archiver.segments.rewrite

    async def erased_meanwhile(self: Any, project: str, record: Any, change: Any) -> Any:
        replaced = await kept(project, record, change)
        other = await kept(project, record, lambda _, e: event_codec.erase(e, erasure))
        owner = archiver.task.claims.owner
        store = small_server.rooms.storage.store.archive
        if other is not None:
            assert await store.replace_segment(project, owner, other)
        return replaced

    erasure = Erasure(0, "r1", "asked for")
    with monkeypatch.context() as patched:
        patched.setattr(type(archiver.segments), "rewrite", erased_meanwhile)
        await set_retention(small_api, keep_revisions=3)
        await compact(small_server)
    now = await listed(small_api)
    assert len(now) == len(before)
    assert {e.erased.request_id for e in now if e.data_key in KEYS and e.revision <= 7} == {"r1"}
    assert await verified(small_api) == []


async def test_without_an_archive_nothing_is_removed(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words(), archive_url="none")
    async with Api.of(server) as api:
        before = await revise(api)
        await set_retention(api, keep_revisions=1)
        assert not (await api.projects.GetRetention(GetRetentionRequest(project=P))).has_archive
        assert await listed(api) == before


async def test_after_a_removal_the_state_of_the_beginning_is_compacted_too(
    small_server: Server, small_api: Api
) -> None:
    before = await revise(small_api)
    await archive(small_server)
    remove = RemoveEventsRequest(
        project=P, before=event_pb2.Position(sequence=before[25].sequence), reason="a test"
    )
    assert (await small_api.projects.RemoveEvents(remove, timeout=DEADLINE_S)).removed_count == 20
    await set_retention(small_api, keep_revisions=3)
    await compact(small_server)
    now = await listed(small_api)
    check(before[20:], now)
    data = await state(small_api, now[0].sequence)
    assert [payload for _, payload in data.values()] == [b""] * 3
    assert await verified(small_api) == []


async def test_an_export_of_it_and_an_erasure(small_server: Server, small_api: Api) -> None:
    await revise(small_api)
    await small_api.publish(event("anna", b"1", metadata={"subject": "anna"}), event("anna", b"2"))
    await archive(small_server)
    await set_retention(small_api, keep_revisions=3)
    await compact(small_server)
    await set_retention(small_api, keep_revisions=1)
    await compact(small_server)
    now = await listed(small_api)
    for form in (1, 2, 3):
        data = await exported(small_api, format=form)
        assert (await imported(small_api, data, f"copy-{form}")).imported_count == len(now)
        assert await listed(small_api, f"copy-{form}") == now
    # What is gone is not erased once more; what is left is.
    erase = EraseDataRequest(project=P, data_key="pears", request_id="r1", reason="asked for")
    assert (await small_api.projects.EraseData(erase, timeout=DEADLINE_S)).erased_count == 1
    erase = EraseDataRequest(project=P, subject="anna", request_id="r2", reason="asked for")
    await small_api.projects.EraseData(erase, timeout=DEADLINE_S)
    first, second = [e for e in await listed(small_api) if e.data_key == "anna"]
    assert first.erased.reason == "retention: keeps the last revision"
    assert second.payload == b"2"
    assert await verified(small_api) == []


async def test_limits_and_settings_of_before(small_api: Api, store: Any) -> None:
    refused = await refusal(set_retention(small_api, keep_revisions=1_000_001))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refused.message == "retention.keep_revisions: must be 0 to 1000000, not 1000001"
    # As servers wrote it that did not know the rule; and they can read what is written now.
    await store.set(
        key(P, "retention"),
        b'{"store_seconds":null,"store_events":5,"store_bytes":null,"archive_seconds":null,'
        b'"legal_hold":true}',
    )
    answer = await small_api.projects.GetRetention(GetRetentionRequest(project=P))
    assert (answer.retention.store_events, answer.retention.legal_hold) == (5, True)
    assert not answer.retention.HasField("keep_revisions")
    assert answer.effective.HasField("keep_revisions")
    assert answer.effective.keep_revisions == 0
    await set_retention(small_api, store_events=7)
    assert await store.get(key(P, "retention")) == b'{"store_events":7,"legal_hold":false}'

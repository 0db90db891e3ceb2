"""A project whose stored data are damaged fails alone, and its log says so once."""

from __future__ import annotations

from typing import Any

import pytest
from contex.v1 import event_pb2
from contex.v1 import project_service_pb2 as pb
from contex.v1.agent_service_pb2 import GetAgentContextRequest, ListDeliveriesRequest
from contex.v1.event_service_pb2 import GetEventRequest
from contex.v1.match_service_pb2 import ExportFeedbackRequest, RecordFeedbackRequest
from contex.v1.state_service_pb2 import GetHistoryRequest
from contex_server.kernel import event_codec
from contex_server.log.buckets import bucket_of
from contex_server.log.projects import REMAINS
from contex_server.log.redis.key_names import key, projects_key
from contex_server.projects.room import usage_reader
from contex_server.projects.usage import Usage, UsageMonitor
from contex_server.server import Server

from tests.canaries import CANARY, captured_logs, check_for_canaries
from tests.integration.logs import archive, exported, imported, listed, state
from tests.integration.projects.test_verification import verify
from tests.integration.support import DEADLINE_S, Api, P, event, eventually, refusal

BAD = next(f"bad{n}" for n in range(5_000) if bucket_of(f"bad{n}") == bucket_of(P))
"""A project that shares its bucket, and so its tailer, with the one that is whole."""
RAW = f"what no version wrote: {CANARY}".encode()


@pytest.fixture(autouse=True)
async def projects(small_api: Api) -> None:
    for project in (BAD, P):
        await small_api.publish(event("k"), project=project)


async def test_usage_of_the_others_is_measured_and_warned_of(
    small_server: Server, store: Any
) -> None:
    await store.hset(key(BAD, "stats"), "bytes", RAW)
    seen: list[dict[str, Usage]] = []
    opened = small_server.rooms.storage.store
    reader = usage_reader(small_server.settings, opened, small_server.rooms.projects.retentions)
    monitor = UsageMonitor(opened.projects, reader, seen.append)
    with captured_logs() as logs:
        for _ in range(3):
            await monitor.look()
        assert [set(usages) for usages in seen] == [{P}] * 3
        await store.hset(key(BAD, "stats"), "bytes", 0)
        await monitor.look()
    assert set(seen[-1]) == {P, BAD}
    assert {line["project"] for line in logs} == {BAD}
    told = [line for line in logs if "usage_unknown" in (line["event"], line.get("after"))]
    assert [line["event"] for line in told] == ["usage_unknown", "works_again"]
    check_for_canaries(logs)


async def test_a_list_has_a_damaged_project_too(small_api: Api, store: Any) -> None:
    await store.hset(key(BAD, "stats"), "bytes", RAW)
    listed = await small_api.projects.ListProjects(pb.ListProjectsRequest(), timeout=DEADLINE_S)
    found = {each.project: each.event_count for each in listed.projects}
    assert found == {BAD: 0, P: 1}


SEALED = bytes([event_codec.SEALED_TAG, 64]) + b"0" * 64
"""An event that is sealed with a key that is nowhere: the key may come back, so it is refused."""


async def test_followers_of_other_projects_go_on(small_api: Api, store: Any) -> None:
    with captured_logs() as logs:
        bad, good = [small_api.subscribe(project, data_keys=["k*"]) for project in (BAD, P)]
        await bad.live()
        await good.live()
        await store.xadd(key(BAD, "events"), {b"e": SEALED})
        assert (await bad.refusal()).reason == "KEY_UNAVAILABLE"
        for _ in range(3):
            await small_api.publish(event("k"))
        await good.count(4)
        again = small_api.subscribe(BAD, data_keys=["k*"])
        assert (await again.refusal()).reason == "KEY_UNAVAILABLE"
    assert [line["project"] for line in logs if line["event"] == "tailer_failed"] == [BAD]
    check_for_canaries(logs)


CUT = event_pb2.Event(data_key="k", payload=CANARY.encode() * 9).SerializeToString()[:-20]
"""What is missing at its end must not be taken from what comes after."""


@pytest.mark.parametrize("body", [RAW, SEALED[:30], CUT], ids=["no event", "sealed", "cut"])
@pytest.mark.parametrize("archived", [False, True])
async def test_an_event_that_is_damaged_costs_itself(
    small_api: Api, small_server: Server, store: Any, body: bytes, archived: bool
) -> None:
    with captured_logs() as logs:
        await small_api.register("a", "apples")
        everything = await small_api.subscribe(P).live()
        some = await small_api.subscribe(P, data_keys=["k*"]).live()
        agent = await small_api.listen("a").live()
        at = (await store.xadd(key(P, "events"), {b"e": body})).decode()
        await small_api.publish(event("k", b'"apples"'))
        await agent.count(1)
        live = (await everything.count(4)).events
        assert [e.revision for e in (await some.count(2)).events] == [1, 2]
        if archived:
            await archive(small_server)
        events = await listed(small_api)
        replayed = await small_api.log()
        assert events == replayed == live
        assert [e.sequence for e in events if e.event_type == "event_damaged"] == [at]
        assert events[2].erased.reason.startswith("damaged")
        got = await small_api.events.GetEvent(GetEventRequest(project=P, sequence=at))
        assert got.event == events[2]
        assert (await state(small_api, events[-1].sequence))["k"] == (
            events[-1].sequence,
            b'"apples"',
        )
        history = await small_api.states.GetHistory(GetHistoryRequest(project=P, data_key="k"))
        assert [r.event.revision for r in history.revisions] == [2, 1]
        for form in (1, 2):
            data = await exported(small_api, format=form)
            report = await imported(small_api, data, f"copy-{form}")
            assert report.imported_count == 4
            assert (await listed(small_api, f"copy-{form}"))[2] == events[2]
        for repair in (False, True):
            assert (await verify(small_api, repair=repair))[0] == [("EVENT", at)]
    check_for_canaries(logs)


async def test_the_latest_event_of_a_key_is_damaged(small_api: Api, store: Any) -> None:
    await small_api.register("a", "apples")
    await small_api.publish(event("k", b'"apples"'))
    last = (await listed(small_api))[-1].sequence
    rows = await store.xrange(key(P, "events"))
    await store.delete(key(P, "events"))
    for row, fields in rows:
        await store.xadd(key(P, "events"), {b"e": RAW} if row.decode() == last else fields, id=row)
    agent = small_api.listen("a", after_sequence="0")
    await agent.live()
    assert (await state(small_api, last))["k"][1] == CANARY.encode()
    found, _ = await verify(small_api, repair=True)
    assert [f for f in found if f[0] != "VECTOR"] == [("EVENT", last)]
    await small_api.publish(event("k", b'"apples"'))
    assert (await listed(small_api))[-1].revision == 3
    await agent.count(1)


async def test_sealed_content_that_is_damaged_costs_itself(small_api: Api, store: Any) -> None:
    await small_api.publish(event("s", b'"of anna"', metadata={"subject": "anna"}))
    row, fields = (await store.xrevrange(key(P, "events"), count=1))[0]
    body = bytearray(fields[b"e"])
    body[60] ^= 1
    await store.xdel(key(P, "events"), row)
    await store.xadd(key(P, "events"), {b"e": bytes(body)})
    await small_api.publish(event("k"))
    events = await small_api.log()
    assert [(e.data_key, e.payload) for e in events][1] == ("s", b"")
    assert events[1].erased.reason.startswith("damaged")
    assert ("EVENT", events[1].sequence) in (await verify(small_api))[0]


async def test_what_others_did_is_audited(small_api: Api, store: Any) -> None:
    await store.set(key(BAD, "audit"), RAW)
    for project in (BAD, P):
        stream = await small_api.subscribe(project).live()
        await stream.cancel()

    async def recorded() -> bool:
        return await store.xlen(key(P, "audit")) >= 2

    await eventually(recorded)


async def test_streams_of_others_are_counted(small_api: Api, store: Any) -> None:
    await store.set(key(BAD, "presence"), RAW)
    for project in (BAD, P):
        await small_api.subscribe(project).live()

    async def reported() -> bool:
        return bool(await store.hgetall(key(P, "presence")))

    await eventually(reported)


async def test_a_deletion_that_can_not_be_finished_keeps_no_other(
    small_api: Api, small_server: Server, store: Any
) -> None:
    bad, interrupted = f"{BAD}{REMAINS}never", f"{P}{REMAINS}1-0"
    for remains in (bad, interrupted):
        await store.sadd(projects_key(bucket_of(remains)), remains)
    with captured_logs() as logs:
        for _ in range(2):
            await small_server.rooms.projects.deleter._sweep()
    assert await store.sismember(projects_key(bucket_of(bad)), bad)
    assert not await store.sismember(projects_key(bucket_of(interrupted)), interrupted)
    assert [line["project"] for line in logs if line["event"] == "deletion_failed"] == [BAD]


async def test_an_import_begins_beside_one_whose_note_is_damaged(
    small_api: Api, store: Any
) -> None:
    staged = f"other~{BAD}"
    await store.sadd(projects_key(bucket_of(staged)), staged)
    await store.set(key(staged, "import"), RAW)
    report = await imported(small_api, await exported(small_api))
    assert report.imported_count == 1


async def test_nothing_is_removed_on_the_guess_of_a_damaged_retention(
    small_api: Api, small_server: Server, store: Any
) -> None:
    projects, archiver = small_api.projects, small_server.rooms.projects.archiver
    assert archiver is not None
    await store.set(key(P, "retention"), RAW)
    with captured_logs() as logs:
        for _ in range(2):
            answer = await projects.GetRetention(pb.GetRetentionRequest(project=P))
            await archiver.archive_all(P)
            await archiver.archive_due(P)
        assert answer.effective.legal_hold
        assert answer.effective.store_events > 0
        stats = await projects.GetStats(pb.GetStatsRequest(project=P))
        assert stats.archive_event_count == 1
        erase = pb.EraseDataRequest(project=P, data_key="k", request_id="r", reason="a test")
        assert (await refusal(projects.EraseData(erase))).reason == "LEGAL_HOLD"
        delete = pb.DeleteProjectRequest(project=P, request_id="r", reason="a test")
        assert (await refusal(projects.DeleteProject(delete))).reason == "LEGAL_HOLD"
        data = await exported(small_api, include=[1, 2, 3])
        assert (await imported(small_api, data)).imported_count == 1
        assert ("STATE", "retention") in (await verify(small_api))[0]
        await projects.SetRetention(pb.SetRetentionRequest(project=P, retention={}))
        assert (await projects.EraseData(erase)).erased_count == 1
    told = [line["event"] for line in logs if line.get("project") == P]
    assert told.count("retention_damaged") == told.count("works_again") == 1
    check_for_canaries(logs)


async def test_a_state_that_is_damaged_is_passed_over_and_repaired(
    small_api: Api, store: Any
) -> None:
    await store.hset(key(P, "state"), "k", RAW)
    with captured_logs() as logs:
        await small_api.register("a", "apples")
        await small_api.publish(event("other", b'"apples"'))
        await small_api.listen("a").count(1)
        assert len(await state(small_api, (await listed(small_api))[-1].sequence)) == 2
        assert ("STATE", "k") in (await verify(small_api))[0]
        await verify(small_api, repair=True)
        assert (await verify(small_api))[0] == []
    assert "state_damaged" in [line["event"] for line in logs if line.get("project") == P]
    check_for_canaries(logs)
    await small_api.publish(event("k"))
    assert (await listed(small_api))[-1].revision == 2


async def test_a_verdict_that_is_damaged_is_passed_over(small_api: Api, store: Any) -> None:
    await small_api.register("a", "apples")
    (sequence,) = await small_api.publish(event("fruit", b'"apples"'))
    judge = RecordFeedbackRequest(
        project=P, agent_id="a", sequence=sequence, useful=True, request_id="r"
    )
    await small_api.matches.RecordFeedback(judge)
    damaged = event_codec.encode("match_feedback", b'{"match": 7}', {})
    at = (await store.xadd(key(P, "events"), {b"e": damaged})).decode()
    request = ExportFeedbackRequest(project=P)
    found = [verdict async for verdict in small_api.matches.ExportFeedback(request)]
    assert [f.event.sequence for f in found] == [sequence]
    assert ("EVENT", at) in (await verify(small_api))[0]


async def test_a_note_of_a_journal_that_is_damaged_is_passed_over(
    small_api: Api, store: Any
) -> None:
    await small_api.register("a", "apples")
    (sequence,) = await small_api.publish(event("fruit", b'"apples"'))
    await small_api.listen("a").count(1)
    for fields in ({b"d": RAW}, {b"k": RAW}, {b"r": b"1-0 L 0\t", b"record": RAW}, {b"x": RAW}):
        await store.xadd(key(P, "journal:a"), fields)
    request = ListDeliveriesRequest(project=P, agent_id="a")
    answer = await small_api.agents.ListDeliveries(request)
    assert [d.sequence for d in answer.deliveries] == [sequence]
    context = await small_api.agents.GetAgentContext(
        GetAgentContextRequest(project=P, agent_id="a")
    )
    assert [d.data_key for d in context.known] == ["fruit"]

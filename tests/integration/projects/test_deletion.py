"""Projects are listed, told apart from names that nobody uses, and deleted without a trace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex.v1.agent_service_pb2 import ListDeliveriesRequest, Need
from contex.v1.audit_service_pb2 import ListRecordsRequest
from contex.v1.match_service_pb2 import MatchRequest
from contex.v1.project_service_pb2 import (
    DeleteProjectRequest,
    GetActivityRequest,
    GetProjectRequest,
    GetRetentionRequest,
    GetStatsRequest,
    ListProjectsRequest,
    Retention,
    SetRetentionRequest,
    VerifyProjectRequest,
)
from contex.v1.state_service_pb2 import GetHistoryRequest, GetStateRequest
from contex_server.log.embedded import EmbeddedValkey
from contex_server.projects.deletion import Deleter
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.logs import exported, imported
from tests.integration.support import DEADLINE_S, Api, P, Words, event, eventually, refusal


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


async def delete(api: Api, project: str = P, request_id: str = "r1", reason: str = "over") -> Any:
    request = DeleteProjectRequest(project=project, request_id=request_id, reason=reason)
    return await api.projects.DeleteProject(request, timeout=DEADLINE_S)


async def listed(api: Api, **fields: Any) -> Any:
    return await api.projects.ListProjects(ListProjectsRequest(**fields), timeout=DEADLINE_S)


async def project(api: Api, name: str = P) -> Any:
    return await api.projects.GetProject(GetProjectRequest(project=name), timeout=DEADLINE_S)


async def names_in(store: Any) -> set[str]:
    """The store's keys, but for those of what is deleted, and of no project."""
    keys = {name.decode() for name in await store.keys("*")}
    return {name for name in keys if ":p:" in name and ":p:~" not in name}


async def fill(api: Api) -> None:
    """A project with some of everything: also in the archive."""
    await api.publish(*(event(f"k{i}", b'{"text":"yellow house"}') for i in range(25)))
    await api.publish(event("anna", b'{"text":"secret"}', metadata={"subject": "anna"}))
    await api.register("reader", "yellow")
    await api.register("writer", "green")
    async with asyncio.timeout(DEADLINE_S):
        stream = api.listen("reader", after_sequence="0")
        await stream.live()
        await stream.cancel()


async def test_projects_are_listed_by_name_in_pages(api: Api) -> None:
    names = [f"p{i:02d}" for i in range(30)]
    for name in [*names, "Zebra", "shop"]:
        await api.publish(event("k"), event("l"), project=name)
    assert [p.project for p in (await listed(api)).projects] == ["Zebra", *names, "shop"]
    page = await listed(api, page_size=20, name="p*")
    assert [p.project for p in page.projects] == names[:20]
    rest = await listed(api, page_size=20, name="p*", page_token=page.next_page_token)
    assert [p.project for p in rest.projects] == names[20:]
    assert rest.next_page_token == ""
    (shop,) = (await listed(api, name="sh?p")).projects
    sequences = [e.sequence for e in await api.log("shop")]
    assert (shop.event_count, shop.first_sequence, shop.last_sequence) == (2, *sequences)
    assert shop.event_bytes > 0
    assert not (await listed(api, name="nosuch*")).projects


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("page_size", {"page_size": 1_001}),
        ("page_size", {"page_size": -1}),
        ("name", {"name": "x" * 65}),
        ("name", {"name": "x\\"}),
        ("page_token", {"page_token": "nonsense"}),
    ],
)
async def test_a_list_that_asks_for_too_much(api: Api, field: str, fields: Any) -> None:
    refused = await refusal(listed(api, **fields))
    assert refused.code == "INVALID_ARGUMENT"
    assert list(refused.fields) == [field]


async def test_a_project_that_was_never_written_to_is_not_an_empty_one(
    api: Api, store: Any
) -> None:
    reads = {
        "ListEvents": api.page(),
        "Replay": api.replay().to_end(),
        "GetState": api.states.GetState(GetStateRequest(project=P)),
        "GetHistory": api.states.GetHistory(GetHistoryRequest(project=P, data_key="k")),
        "Match": api.matches.Match(MatchRequest(project=P, questions=[Need(text="x")])),
        "GetStats": api.projects.GetStats(GetStatsRequest(project=P)),
        "GetActivity": api.projects.GetActivity(GetActivityRequest(project=P)),
        "ExportProject": exported(api),
    }
    for name, call in reads.items():
        refused = await refusal(call)
        assert (name, refused.code, refused.reason) == (name, "NOT_FOUND", "PROJECT_NOT_FOUND")
    nothing = await project(api)
    assert not nothing.exists
    assert not nothing.HasField("deletion")
    records = await api.audits.ListRecords(ListRecordsRequest(project=P))
    assert not records.records
    assert await names_in(store) == set()

    waiting = await api.subscribe().live()
    await api.publish(event("k"))
    assert (await waiting.until(lambda s: s.events)).keys == ["k"]
    await waiting.cancel()
    assert (await project(api)).exists
    assert len(await api.log()) == 1


async def test_retention_can_be_set_before_a_project_begins(api: Api) -> None:
    held = SetRetentionRequest(project=P, retention=Retention(legal_hold=True))
    await api.projects.SetRetention(held)
    assert (await api.projects.GetRetention(GetRetentionRequest(project=P))).retention.legal_hold
    before = await project(api)
    assert not before.exists
    assert before.retention.effective.legal_hold


async def test_a_project_is_told_as_a_whole(api: Api) -> None:
    await fill(api)
    told = await project(api)
    assert told.exists
    assert told.project == P
    assert told.stats == await api.projects.GetStats(GetStatsRequest(project=P))
    assert told.retention == await api.projects.GetRetention(GetRetentionRequest(project=P))
    assert told.model == "words@1#2"


async def test_nothing_is_left_of_a_deleted_project_but_its_audit(
    api: Api, small_server: Server, store: Any, tmp_path: Any
) -> None:
    await api.publish(event("other"), project="neighbour")
    await api.publish(event("other"), project=f"{P}-2")
    kept = await names_in(store)
    await fill(api)
    await small_server.rooms.projects.archiver.archive_all(P)
    assert list(tmp_path.rglob(f"{P}/*/*.seg"))
    before = (await project(api)).stats

    deleted = await delete(api, reason="the shop has closed")
    assert not deleted.duplicate
    assert deleted.deletion.event_count == before.event_count
    left = {"audit", "deletions", "events"}  # the latter empty
    assert {name.rpartition(":")[2] for name in await names_in(store) - kept} == left
    assert not list(tmp_path.rglob(f"{P}/*/*.seg"))
    assert (await refusal(api.page())).reason == "PROJECT_NOT_FOUND"
    assert [p.project for p in (await listed(api)).projects] == ["neighbour", f"{P}-2"]

    told = await project(api)
    assert not told.exists
    assert told.deletion == deleted.deletion
    assert told.deletion.reason == "the shop has closed"
    records = (await api.audits.ListRecords(ListRecordsRequest(project=P))).records
    assert "deleted the project, request r1: the shop has closed" in [r.detail for r in records]

    again = await delete(api)
    assert again.duplicate
    assert again.deletion == deleted.deletion
    refused = await refusal(delete(api, request_id="r2"))
    assert refused.reason == "PROJECT_NOT_FOUND"
    assert refused.metadata["delete_time"]


async def test_a_project_on_legal_hold_is_not_deleted(api: Api) -> None:
    await api.publish(event("k"))
    for hold in (True, False):
        retention = Retention(legal_hold=hold)
        await api.projects.SetRetention(SetRetentionRequest(project=P, retention=retention))
        if hold:
            assert (await refusal(delete(api))).reason == "LEGAL_HOLD"
            assert len(await api.log()) == 1
    assert not (await delete(api)).duplicate


async def test_a_project_of_the_same_name_starts_from_nothing(api: Api) -> None:
    await fill(api)
    stream = await api.subscribe(after_sequence="0").live()
    cursor, old = stream.cursor, stream.sequences
    await stream.cancel()
    await delete(api)

    (sequence,) = await api.publish(event("k0", b'{"text":"green"}'))
    assert [e.sequence for e in await api.log()] == [sequence]
    (first,) = await api.log()
    assert first.revision == 1
    assert sequence > old[-1]
    stats = (await project(api)).stats
    assert (stats.event_count, stats.agent_count, stats.counted_since) == (1, 0, "0-0")
    state = await api.states.GetState(GetStateRequest(project=P))
    assert [d.data_key for d in state.data] == ["k0"]
    activity = await api.projects.GetActivity(GetActivityRequest(project=P))
    assert activity.total.total == 1
    answer = await api.matches.Match(MatchRequest(project=P, questions=[Need(text="yellow")]))
    assert not answer.data
    assert (await refusal(api.listen("reader").to_end())).reason == "AGENT_NOT_FOUND"

    at_old = event_pb2.Position(sequence=old[3])
    for call in (
        api.subscribe(cursor=cursor).to_end(),
        api.replay(since=at_old).to_end(),
        api.states.GetState(GetStateRequest(project=P, as_of=at_old)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_TRIMMED")
    steps = [s async for s in api.projects.VerifyProject(VerifyProjectRequest(project=P))]
    assert steps[-1].summary.finding_count == 0


async def test_every_server_notices(
    api: Api, start_server: StartServer, valkey: EmbeddedValkey, store: Any
) -> None:
    other = await start_server(valkey.url, embedder=Words())
    await api.publish(event("k", b'{"text":"yellow house"}'))
    await api.register("reader", "yellow")
    async with Api.of(other) as elsewhere:
        following = [await at.subscribe().live() for at in (api, elsewhere)]
        listening = [
            await at.listen("reader", after_sequence="0").live() for at in (api, elsewhere)
        ]
        question = MatchRequest(project=P, questions=[Need(text="yellow")])
        for at in (api, elsewhere):
            assert [d.event.data_key for d in (await at.matches.Match(question)).data] == ["k"]
        await delete(api)
        for stream in (*following, *listening):
            refused = await stream.refusal()
            assert refused.reason == "PROJECT_NOT_FOUND"
            assert "was deleted at" in refused.message
        await eventually(lambda: _refused(elsewhere))

        # Whatever ended with the project leaves nothing in its name.
        async def nothing_is_left() -> bool:
            left = {name.rpartition(":")[2] for name in await names_in(store)}
            return left == {"audit", "deletions", "events"}

        await eventually(nothing_is_left)

        await api.publish(event("new", b'{"text":"green house"}'))
        for at in (api, elsewhere):
            assert not (await at.matches.Match(question)).data
            assert [e.data_key for e in await at.log()] == ["new"]


async def _refused(api: Api) -> bool:
    try:
        await api.page()
    except Exception:
        return True
    return False


async def test_a_deletion_that_was_interrupted_is_finished(
    api: Api, small_server: Server, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(api)
    deleter = small_server.rooms.projects.deleter

    async def stopped(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(Deleter, "_finish", stopped)
        with pytest.raises(asyncio.CancelledError):
            await small_server.rooms.projects.deleter.delete(
                P, request_id="r1", reason="over", origin=_origin()
            )
    assert (await project(api)).deletion.request_id == "r1"
    assert any("~deleted-" in name for name in await names_in(store))
    await api.publish(event("new"))
    await deleter._sweep()
    assert not any("~deleted-" in name for name in await names_in(store))
    assert [e.data_key for e in await api.log()] == ["new"]
    assert (await delete(api)).duplicate


def _origin() -> Any:
    from contex_server.kernel.model import Origin

    return Origin("somebody")


async def test_an_exported_project_can_be_deleted_and_restored(api: Api) -> None:
    await fill(api)
    events = await api.log()
    file = await exported(api)
    await delete(api)
    await imported(api, file, P)
    assert await api.log() == events
    assert (await project(api)).exists
    deliveries = ListDeliveriesRequest(project=P, sequence=events[0].sequence)
    assert not (await api.agents.ListDeliveries(deliveries)).deliveries

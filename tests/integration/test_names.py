"""Any printable name goes through everything, and comes back as it was."""

from __future__ import annotations

import io
import json
from itertools import count
from typing import Any

import contex
import pytest
from contex.v1 import (
    agent_service_pb2,
    audit_service_pb2,
    event_pb2,
    match_service_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)
from contex_server.kernel.model import Range
from contex_server.server import Server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.logs import exported, imported, requests
from tests.integration.support import (
    DEADLINE_S,
    Api,
    EventFilter,
    P,
    Refusal,
    asked,
    event,
    refusal,
)
from tests.integration.support import NewEvent as Published
from tests.printable import printable_names

NAMES = [
    *(
        "PDF&URL Tool",
        "Größen/übersicht",
        "価格/東京",
        "a  b",
        "a\u3000b",
        "*",
        "?",
        "[a-z]",
        "a\\b",
    ),
    *("\\*", "'; DEL x", '"a", b', "{a}", "e\u0301", "\u00e9", "<b>&amp;", "-x", "1 2 L 3", "%41"),
]
FORMATS = {
    name: value
    for name, value in transfer_service_pb2.ExportFormat.items()
    if not name.endswith(("UNSPECIFIED", "LEGACY_JSON", "PARQUET"))
}
_projects = count()


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


async def keys_of(api: Api, project: str, **fields: Any) -> list[str]:
    """The keys of a state, two on a page."""
    found: list[str] = []
    request = state_service_pb2.GetStateRequest(project=project, page_size=2, **fields)
    while True:
        page = await api.states.GetState(request, timeout=DEADLINE_S)
        found += [datum.data_key for datum in page.data]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def matched(api: Api, project: str, **fields: Any) -> set[str]:
    need = agent_service_pb2.Need(text="apples", threshold=0.01, max_matches=100)
    request = match_service_pb2.MatchRequest(project=project, questions=[need], **fields)
    answer = await api.matches.Match(request, timeout=DEADLINE_S)
    return {datum.event.data_key for datum in answer.data}


async def journey(api: Api, server: Server, project: str, names: list[str]) -> None:
    """Publishes data under names, with types and publishers likewise, and reads all of it."""
    agent = agent_service_pb2.RegisterAgentRequest(
        project=project,
        agent_id="eater",
        needs=asked("apples"),
        threshold=0.01,
    )
    await api.agents.RegisterAgent(agent, timeout=DEADLINE_S)
    stream = await api.listen("eater", project=project).live()
    for name in names:
        for kind in ("", name[:64].strip()):
            if not kind or kind in names or kind == name:
                given = Published(
                    data_key=name, payload=b"{}", description="apples", event_type=kind
                )
                await api.publish(given, project=project, publisher=name[:128].strip())
    log = [e for e in await api.log(project) if e.data_key]
    assert list(dict.fromkeys(e.data_key for e in log)) == names
    # The words of a key count, so that not every one is about apples.
    apples = await matched(api, project)
    assert apples <= set(names)
    if names is NAMES:
        assert apples == set(names)
        await stream.until(lambda s: set(s.keys) >= apples)
    await stream.cancel()
    known = agent_service_pb2.GetAgentContextRequest(project=project, agent_id="eater")
    context = await api.agents.GetAgentContext(known, timeout=DEADLINE_S)
    delivered = {datum.data_key for datum in context.known}
    assert set(stream.keys) <= delivered <= set(names)

    assert await keys_of(api, project) == sorted(names)
    archiver = server.rooms.projects.archiver
    assert archiver is not None
    for archived in (False, True):
        if archived:
            await archiver.archive_all(project)
        for name in names:
            glob = contex.escape_glob(name)
            assert await keys_of(api, project, data_keys=[glob]) == [name]
            assert name in await keys_of(api, project, prefix=name)
            assert await matched(api, project, data_keys=[glob]) == apples & {name}
            query = state_service_pb2.GetHistoryRequest(project=project, data_key=name, page_size=1)
            history = await api.states.GetHistory(query, timeout=DEADLINE_S)
            assert history.revisions[0].event.data_key == name
            passed = (await api.replay(project, data_keys=[glob]).to_end()).events
            assert passed == [e for e in log if e.data_key == name]
            publisher = passed[0].publisher
            passed = (await api.replay(project, publishers=[publisher]).to_end()).events
            assert passed == [e for e in log if e.publisher == publisher]
            kind = passed[-1].event_type
            passed = (await api.replay(project, event_types=[kind]).to_end()).events
            assert [e for e in passed if e.data_key] == [e for e in log if e.event_type == kind]
    await check_records(api, project, log, delivered)
    await check_files(api, project, log)


async def check_records(
    api: Api, project: str, log: list[event_pb2.Event], delivered: set[str]
) -> None:
    """The audit and what is counted name them."""
    key = log[0].data_key
    request = audit_service_pb2.ListRecordsRequest(
        project=project,
        filter=audit_service_pb2.AuditFilter(
            actions=[audit_service_pb2.AUDIT_ACTION_DELIVERED],
            data_keys=[contex.escape_glob(key)],
        ),
    )
    records = (await api.audits.ListRecords(request, timeout=DEADLINE_S)).records
    assert {record.data_key for record in records} == delivered & {key}
    for dimension, names in (
        (project_service_pb2.ACTIVITY_DIMENSION_DATA_KEY, {e.data_key for e in log}),
        (project_service_pb2.ACTIVITY_DIMENSION_PUBLISHER, {e.publisher for e in log}),
    ):
        query = project_service_pb2.GetActivityRequest(
            project=project, dimension=dimension, top=100
        )
        activity = await api.projects.GetActivity(query, timeout=DEADLINE_S)
        assert {series.name for series in activity.series} - {""} == names
        name = min(names)
        query.names.append(contex.escape_glob(name))
        activity = await api.projects.GetActivity(query, timeout=DEADLINE_S)
        assert [series.name for series in activity.series] == [name]


async def check_files(api: Api, project: str, log: list[event_pb2.Event]) -> None:
    """Files of every format hold them, and give them back."""
    for name, number in FORMATS.items():
        data = await exported(api, project, format=number)
        copy = f"{project}-{number}"
        await imported(api, data, copy)
        again = [e for e in await api.log(copy) if e.data_key]
        assert again == log, name
        assert await keys_of(api, copy) == sorted({e.data_key for e in log})
        glob = contex.escape_glob(log[0].data_key)
        some = await exported(api, project, format=number, filter=EventFilter(data_keys=[glob]))
        await imported(api, some, f"{copy}-some")
        kept = {e.data_key for e in await api.log(f"{copy}-some")}
        assert kept - {""} == {log[0].data_key}


async def test_names_that_mean_something_somewhere(api: Api, small_server: Server) -> None:
    await journey(api, small_server, P, NAMES)


@settings(
    max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(names=st.lists(printable_names(256), min_size=1, max_size=4, unique=True))
async def test_any_names(api: Api, small_server: Server, names: list[str]) -> None:
    await journey(api, small_server, f"any{next(_projects)}", names)


async def test_a_checkpoint_of_a_journal_holds_names_with_spaces(
    api: Api, small_server: Server
) -> None:
    await api.register("eater", "apples", threshold=0.01)
    stream = await api.listen("eater").live()
    names = ["a b", "a", "a b c  d", "価 格"]
    for n in range(70):
        await api.publish(*(event(name, b"%d" % n, description="apples") for name in names))
    await stream.count(4 * 70)
    await stream.cancel()
    notes = await small_server.rooms.storage.store.journals.journal(P, "eater", Range(), 1_000)
    assert sum(b"k" in note.fields for note in notes) >= 1
    request = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="eater")
    context = await api.agents.GetAgentContext(request, timeout=DEADLINE_S)
    assert {d.data_key: d.revision for d in context.known} == dict.fromkeys(names, 70)


async def test_parquet_and_the_files_of_the_audit(api: Api) -> None:
    import pyarrow.parquet

    await api.publish(*(event(name) for name in NAMES), publisher="PDF&URL Tool")
    data = await exported(api, format=transfer_service_pb2.EXPORT_FORMAT_PARQUET)
    table = pyarrow.parquet.read_table(io.BytesIO(data))
    assert table.column("data_key").to_pylist() == NAMES
    assert set(table.column("publisher").to_pylist()) == {"PDF&URL Tool"}


async def test_an_import_renames_them_and_refuses_what_is_no_name(api: Api) -> None:
    await api.publish(event("Größen/ a"), event("Größen/b"), event("c"))
    data = await exported(api)
    mapping = transfer_service_pb2.KeyMapping(from_prefix="Größen/", to_prefix="価格 ")
    await imported(api, data, "renamed", remap_keys=[mapping])
    assert await keys_of(api, "renamed") == sorted(["価格  a", "価格 b", "c"])
    mapping.to_prefix = ""
    assert (await refused(api, data, "bare", remap_keys=[mapping])).fields == ["start.remap_keys"]
    fields = {"specversion": "1.0", "id": "1", "source": "x", "type": "a", "data": 1}
    line = json.dumps({**fields, "subject": "a\nb"}).encode()
    number = transfer_service_pb2.EXPORT_FORMAT_CLOUD_EVENTS
    bad = await refused(api, line, "foreign", format=number)
    assert bad.reason == "IMPORT_MALFORMED"
    assert "printable" in bad.message


async def refused(api: Api, data: bytes, project: str, **fields: Any) -> Refusal:
    start = transfer_service_pb2.ImportStart(project=project, **fields)

    async def read() -> None:
        async for _ in api.transfers.ImportProject(requests(data, start), timeout=DEADLINE_S):
            pass

    return await refusal(read())


async def test_a_type_that_names_a_part_of_an_export(api: Api) -> None:
    """CloudEvents tell manifest and summary by their types."""
    await api.publish(event("k", event_type="dev.contex.export.manifest"))
    await api.publish(event("k", event_type="dev.contex.export.summary"))
    number = transfer_service_pb2.EXPORT_FORMAT_CLOUD_EVENTS
    await imported(api, await exported(api, format=number))
    assert await api.log("copy") == await api.log()

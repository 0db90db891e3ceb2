"""Exports and imports over the wire."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import zstandard
from contex.v1 import (
    audit_service_pb2,
    event_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)
from contex.v1.transfer_service_pb2 import (
    ExportProjectRequest,
    ImportFinish,
    ImportProjectRequest,
    ImportStart,
    KeyMapping,
    Redaction,
)
from contex_server.kernel.errors import ContexError, Reason
from contex_server.log.redis.key_names import key
from contex_server.server import Server
from contex_server.transfer import staging
from contex_server.transfer.items import Chain
from google.protobuf.duration_pb2 import Duration

from tests.integration.logs import exported, imported
from tests.integration.support import (
    DEADLINE_S,
    Api,
    ListAgentsRequest,
    P,
    Refusal,
    event,
    eventually,
    own,
    refusal,
)

NATIVE = transfer_service_pb2.EXPORT_FORMAT_NATIVE
LINES = transfer_service_pb2.EXPORT_FORMAT_JSON_LINES
CLOUD = transfer_service_pb2.EXPORT_FORMAT_CLOUD_EVENTS
PARQUET = transfer_service_pb2.EXPORT_FORMAT_PARQUET
EXACT = transfer_service_pb2.IMPORT_MODE_EXACT
REPLAY = transfer_service_pb2.IMPORT_MODE_REPLAY
PARTS = [1, 2, 3]


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


async def story(api: Api, rounds: int = 30) -> list[event_pb2.Event]:
    await api.register("eater", "apples")
    for n in range(rounds):
        some = [
            event(f"k{n % 5}", b'{"n":%d,"who":{"mail":"u%d@x"}}' % (n, n % 3)),
            event("text", b"line %d\n" % n, content_type="text/plain", description="words"),
            own("note", payload=b"\xff\x00%d" % n, content_type="application/octet-stream"),
        ]
        if n % 8 == 7:
            some.append(event(f"k{n % 3}", b"", tombstone=True))
        await api.publish(*some, publisher=f"p{n % 2}")
    await api.publish(event("fruit", b'"apples"', description="apples", metadata={"a": "b"}))
    return await api.log()


async def state(api: Api, project: str, at: str) -> Any:
    request = state_service_pb2.GetStateRequest(
        project=project, as_of=event_pb2.Position(sequence=at), page_size=1_000
    )
    answer = await api.states.GetState(request, timeout=DEADLINE_S)
    return [(d.data_key, d.sequence, d.revision, d.event) for d in answer.data]


async def stats(api: Api, project: str) -> Any:
    return await api.projects.GetStats(project_service_pb2.GetStatsRequest(project=project))


async def check_same(api: Api, events: list[event_pb2.Event], project: str = "copy") -> None:
    assert await api.log(project) == events
    for at in (0, len(events) // 2, len(events) - 1):
        sequence = events[at].sequence
        assert await state(api, project, sequence) == await state(api, P, sequence)
    one, other = await stats(api, P), await stats(api, project)
    for field in (
        "event_count",
        "event_bytes",
        "data_key_count",
        "deleted_key_count",
        "first_sequence",
        "last_sequence",
        "counted_since",
    ):
        assert getattr(one, field) == getattr(other, field), field
    request = state_service_pb2.GetHistoryRequest(project=project, data_key="k1", page_size=100)
    history = await api.states.GetHistory(request, timeout=DEADLINE_S)
    assert [r.event for r in history.revisions] == [
        e for e in reversed(events) if e.data_key == "k1"
    ]


@pytest.mark.parametrize("archived", [False, True])
async def test_a_native_export_is_imported_exactly(
    api: Api, small_server: Server, archived: bool
) -> None:
    events = await story(api)
    if archived:
        assert small_server.rooms.projects.archiver is not None
        await small_server.rooms.projects.archiver.archive_all(P)
    data = await exported(api, include=PARTS)
    report = await imported(api, data)
    assert report.imported_count == report.read_count == len(events)
    assert report.source_project == P
    assert (report.agent_count, report.format) == (1, NATIVE)
    assert report.vector_count > 0
    assert report.first_sequence == events[0].sequence
    assert report.last_sequence == events[-1].sequence
    await check_same(api, events)
    # It is a project like any other: its agents listen, and it goes on.
    stream = await api.listen("eater", "copy", after_sequence="0").live()
    assert stream.sequences == [events[-1].sequence]
    await api.publish(event("more", description="apples"), project="copy")
    await stream.count(2)
    await stream.cancel()
    await api.publish(event("k1"), project="copy")
    assert (await api.log("copy"))[-1].revision == 1 + max(
        e.revision for e in events if e.data_key == "k1"
    )


def position(event: event_pb2.Event) -> event_pb2.Position:
    return event_pb2.Position(sequence=event.sequence)


async def keep(api: Api, project: str, store_events: int) -> None:
    request = project_service_pb2.SetRetentionRequest(project=project)
    request.retention.store_events = store_events
    await api.projects.SetRetention(request, timeout=DEADLINE_S)


def objects(root: Path, project: str) -> list[str]:
    """What the archive has of a project; "staged" marks what belongs to none yet."""
    return sorted(o.name for o in (root / "archive" / project).rglob("*") if o.is_file())


@pytest.mark.parametrize("form", [NATIVE, LINES])
async def test_what_the_store_would_not_keep_goes_straight_into_the_archive(
    api: Api, small_server: Server, tmp_path: Path, form: int
) -> None:
    await api.publish(event("k0", b'"anna"', metadata={"subject": "anna"}))
    events = await story(api, 60)
    data = await exported(api, format=form)
    await keep(api, "copy", 40)
    # Nobody else archives it: what is in the archive was put there by the import.
    assert small_server.rooms.projects.archiver is not None
    await small_server.rooms.projects.archiver.close()
    report = await imported(api, data)
    assert report.imported_count == len(events)
    found = await stats(api, "copy")
    assert found.store_event_count == 40
    assert found.archive_event_count == len(events) - 40
    names = objects(tmp_path, "copy")
    assert "staged" not in names
    assert sum(name.endswith(".seg") for name in names) == found.segment_count > 0
    await check_same(api, events)
    await api.publish(event("k1"), project="copy")
    assert (await api.log("copy"))[:-1] == events


async def test_what_an_import_archived_goes_with_it(api: Api, tmp_path: Path) -> None:
    events = await story(api, 60)
    data = await exported(api)
    await keep(api, "copy", 40)
    damaged = bytearray(data)
    damaged[-10] ^= 1
    refused = await refusal(imported(api, bytes(damaged)))
    assert refused.reason == "IMPORT_MALFORMED"
    assert not await api.exists("copy")

    async def nothing() -> bool:
        return objects(tmp_path, "copy") == []

    await eventually(nothing)
    assert (await imported(api, data)).imported_count == len(events)
    # The same where they are added to what the project has, or appended as new ones.
    await keep(api, "half", 40)
    await imported(api, await exported(api, until=position(events[50])), "half")
    assert (await imported(api, data, "half")).present_count == 51
    assert await api.log("half") == events
    await keep(api, "anew", 40)
    await imported(api, data, "anew", mode=REPLAY)
    assert [e.metadata["original_sequence"] for e in await api.log("anew")] == [
        e.sequence for e in events if e.event_type != "agent_registered"
    ]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("form", [LINES, CLOUD])
async def test_lines_are_imported_exactly(api: Api, form: int, compress: bool) -> None:
    events = await story(api)
    data = await exported(api, format=form, compress=compress)
    text = (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
        if compress
        else data
    )
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == len(events) + 2
    report = await imported(api, data)
    assert (report.imported_count, report.format) == (len(events), form)
    assert await api.log("copy") == events
    await check_same(api, events)


async def test_lines_without_digests_match_when_they_are_imported_exactly(api: Api) -> None:
    events = await story(api)
    lines = [json.loads(line) for line in (await exported(api, format=LINES)).splitlines()]
    assert all("text_digest" in line for line in lines if line.get("data_key") == "text")
    chain, text = Chain(), b""
    for line in lines:
        line.pop("text_digest", None)
        if "summary" in line:
            line["summary"]["digest"] = chain.digest
        written = json.dumps(line).encode() + b"\n"
        chain.add(written)
        text += written
    assert (await imported(api, text)).imported_count == len(events)
    assert await api.log("copy") == events
    again = await imported(api, text)
    assert (again.present_count, again.imported_count) == (len(events), 0)
    found = await api.register("another", "apples", project="copy")
    assert "fruit" in [datum.event.data_key for datum in found.data]


async def test_cloud_events_are_as_the_specification_says(api: Api) -> None:
    await api.publish(event("k", b'{"a":1}', metadata={"x": "y"}), publisher="me")
    data = await exported(api, format=CLOUD)
    line = json.loads(data.splitlines()[1])
    sequence = (await api.log())[0].sequence
    assert line["specversion"] == "1.0"
    assert (line["id"], line["source"]) == (sequence, f"/contex/projects/{P}")
    assert (line["type"], line["subject"]) == ("data_published", "k")
    assert line["data"] == {"a": 1}
    assert all(
        name.islower() and name.isalnum() and len(name) <= 20
        for name in line
        if name != "data_base64"
    )


async def test_parquet_holds_every_event(api: Api) -> None:
    import pyarrow.parquet

    events = await story(api)
    table = pyarrow.parquet.read_table(io.BytesIO(await exported(api, format=PARQUET)))
    assert table.column("sequence").to_pylist() == [e.sequence for e in events]
    assert table.column("payload").to_pylist() == [e.payload for e in events]
    assert table.column("revision").to_pylist() == [e.revision for e in events]


async def test_an_export_is_a_cut_while_others_publish(api: Api) -> None:
    await story(api)
    stop = asyncio.Event()

    async def publish() -> None:
        while not stop.is_set():
            await api.publish(*[event(f"k{n}") for n in range(7)])

    publishing = asyncio.create_task(publish())
    try:
        files = [await exported(api) for _ in range(5)]
    finally:
        stop.set()
        await publishing
    events = await api.log()
    for n, data in enumerate(files):
        report = await imported(api, data, f"copy-{n}")
        copied = await api.log(f"copy-{n}")
        assert copied == events[: report.imported_count]
        # A publish of seven is in it as a whole or not at all.
        assert copied[-1].data_key in ("k6", "fruit")


async def test_an_export_is_gone_on_with(api: Api) -> None:
    events = await story(api, 60)
    for form in (NATIVE, LINES, CLOUD):
        pieces = [
            piece
            async for piece in api.transfers.ExportProject(
                ExportProjectRequest(project=P, format=form), timeout=DEADLINE_S
            )
        ]
        whole = b"".join(piece.data for piece in pieces)
        tokens = [p for p in pieces if p.resume_token]
        assert len(tokens) >= 2
        await api.publish(event("later"))
        for piece in tokens:
            rest = await _rest(api, form, piece.resume_token)
            together = whole[: piece.byte_count] + rest
            if form != NATIVE:
                assert together.splitlines()[1:-1] == whole.splitlines()[1:-1]
            else:
                # Its digest is over all of it.
                report = await imported(api, together, "copy", dry_run=True)
                assert report.read_count == len(events)


async def _rest(api: Api, form: int, token: str) -> bytes:
    request = ExportProjectRequest(project=P, format=form, resume_token=token)
    stream = api.transfers.ExportProject(request, timeout=DEADLINE_S)
    return b"".join([piece.data async for piece in stream])


async def test_ranges_and_filters_of_exports(api: Api) -> None:
    events = await story(api)
    data = await exported(
        api,
        since=event_pb2.Position(sequence=events[9].sequence),
        until=event_pb2.Position(sequence=events[59].sequence),
        filter=event_pb2.EventFilter(data_keys=["k*"]),
    )
    report = await imported(api, data)
    wanted = [e for e in events[10:60] if e.data_key.startswith("k")]
    copied = await api.log("copy")
    assert report.imported_count == len(wanted)
    assert [(e.sequence, e.data_key, e.revision, e.payload) for e in copied] == [
        (e.sequence, e.data_key, e.revision, e.payload) for e in wanted
    ]
    # Links lead to what is small_server, and nowhere else.
    by_key: dict[str, str] = {}
    for copy in copied:
        assert copy.previous_sequence == by_key.get(copy.data_key, "")
        by_key[copy.data_key] = copy.sequence


async def test_what_is_there_already_is_not_imported_again(api: Api) -> None:
    events = await story(api)
    early = await exported(api, until=event_pb2.Position(sequence=events[49].sequence))
    late = await exported(api, include=PARTS)
    assert (await imported(api, early)).imported_count == 50
    report = await imported(api, late)
    assert (report.present_count, report.imported_count) == (50, len(events) - 50)
    assert report.agent_count == 1
    await check_same(api, events)
    agents = await api.agents.ListAgents(ListAgentsRequest(project="copy"))
    assert [a.agent_id for a in agents.agents] == ["eater"]
    again = await imported(api, late)
    assert (again.present_count, again.imported_count) == (len(events), 0)
    refused = await refusal(imported(api, early))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "PROJECT_NOT_EMPTY")
    await api.publish(event("other"), project="busy")
    refused = await refusal(imported(api, late, "busy"))
    assert refused.reason == "PROJECT_NOT_EMPTY"
    assert [e.data_key for e in await api.log("busy")] == ["other"]


async def test_events_are_replayed_as_new_ones(api: Api) -> None:
    events = await story(api, 10)
    await api.publish(event("k1"), project="copy")
    report = await imported(api, await exported(api), mode=REPLAY)
    own_events = [e for e in events if e.event_type != "agent_registered"]
    assert (report.imported_count, report.skipped_count) == (len(own_events), 1)
    first, *copied = await api.log("copy")
    assert [(e.data_key, e.event_type, e.payload, e.publisher) for e in copied] == [
        (e.data_key, e.event_type, e.payload, e.publisher) for e in own_events
    ]
    assert [e.metadata["original_sequence"] for e in copied] == [e.sequence for e in own_events]
    assert report.first_sequence == copied[0].sequence
    assert report.last_sequence == copied[-1].sequence
    assert next(e.revision for e in copied if e.data_key == "k1") == first.revision + 1
    assert copied[-1].metadata["a"] == "b"


async def test_an_import_may_be_selective_and_change_what_it_imports(api: Api) -> None:
    events = await story(api, 12)
    data = await exported(api)
    report = await imported(
        api,
        data,
        filter=event_pb2.EventFilter(data_keys=["k*", "text"]),
        remap_keys=[KeyMapping(from_prefix="k", to_prefix="key/")],
        redactions=[
            Redaction(data_keys=["k*"], json_pointer="/who/mail", action=3),
            Redaction(json_pointer="/n", action=2, replacement=b"0"),
        ],
    )
    wanted = [e for e in events if e.data_key.startswith(("k", "text"))]
    assert report.imported_count == len(wanted)
    copied = await api.log("copy")
    assert report.remapped_count == sum(e.data_key.startswith("k") for e in wanted)
    assert report.redacted_count == sum(
        e.data_key.startswith("k") and bool(e.payload) for e in wanted
    )
    mails: dict[str, set[str]] = {}
    for before, after in zip(wanted, copied, strict=True):
        assert after.sequence == before.sequence
        if before.data_key == "text":
            assert after.payload == before.payload
            continue
        assert after.data_key == "key/" + before.data_key[1:]
        if before.payload:
            was, now = json.loads(before.payload), json.loads(after.payload)
            assert now["n"] == 0
            mails.setdefault(was["who"]["mail"], set()).add(now["who"]["mail"])
            assert "@" not in now["who"]["mail"]
    assert {len(found) for found in mails.values()} == {1}
    assert len({next(iter(found)) for found in mails.values()}) == len(mails)


async def test_a_dry_run_changes_nothing(api: Api) -> None:
    events = await story(api)
    data = await exported(api, include=PARTS)
    report = await imported(api, data, dry_run=True)
    assert (report.dry_run, report.imported_count) == (True, len(events))
    assert not await api.exists("copy")


async def test_what_the_older_service_returned(api: Api) -> None:
    answer = {
        "events": [
            {
                "sequence": "1700000000000-0",
                "event_type": "data_published",
                "data": {"data_key": "api", "data": {"v": 1}, "description": "the API"},
            },
            {"sequence": "1700000000001-0", "event_type": "agent_registered", "data": {"x": 1}},
            {
                "sequence": "1700000000002-0",
                "event_type": "data_published",
                "data": {"data_key": "api", "data": [1, 2]},
            },
        ],
        "count": 3,
    }
    for indent in (None, 2):
        data = json.dumps(answer, indent=indent).encode()
        report = await imported(api, data, f"old-{indent}", mode=REPLAY)
        assert (report.imported_count, report.skipped_count) == (2, 1)
        first, second = await api.log(f"old-{indent}")
        assert json.loads(first.payload) == {"v": 1}
        assert (first.description, second.revision) == ("the API", 2)
        assert second.metadata["original_sequence"] == "1700000000002-0"
    refused = await refusal(imported(api, b'{"events":[],"count":1}', mode=REPLAY))
    assert refused.reason == "IMPORT_MALFORMED"


async def test_cloud_events_of_others_are_replayed(api: Api) -> None:
    lines = [
        {
            "specversion": "1.0",
            "id": "a-1",
            "source": "/shop",
            "type": "order.placed",
            "data": {"n": 1},
        },
        {
            "specversion": "1.0",
            "id": "a-2",
            "source": "/shop",
            "type": "data_published",
            "subject": "order/7",
            "time": "2026-11-25T10:00:00Z",
            "datacontenttype": "text/plain",
            "data_base64": "aGVsbG8=",
        },
    ]
    data = b"\n".join(json.dumps(line).encode() for line in lines)
    assert (await imported(api, data, mode=REPLAY)).imported_count == 2
    first, second = await api.log("copy")
    assert (first.event_type, first.payload) == ("order.placed", b'{"n":1}')
    assert first.metadata["cloudevents_id"] == "a-1"
    assert (second.data_key, second.payload) == ("order/7", b"hello")
    refused = await refusal(imported(api, data, "exact"))
    assert refused.reason == "IMPORT_MALFORMED"


@pytest.mark.parametrize("form", [NATIVE, LINES, CLOUD])
async def test_a_damaged_file_is_refused_and_nothing_of_it_is_to_be_seen(
    api: Api, form: int
) -> None:
    await story(api, 6)
    data = await exported(api, format=form, include=[1] if form == NATIVE else [])
    step = max(1, len(data) // 25)
    places = [*range(0, len(data), step), len(data) - 1]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 0x04
        for damaged in (bytes(flipped), data[:place]):
            refused = await refusal(imported(api, damaged, "copy"))
            assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "IMPORT_MALFORMED"), place
            assert 0 <= int(refused.metadata["offset"]) <= len(data)
    if form != NATIVE:
        lines = data.splitlines(keepends=True)
        for moved in (
            [lines[0], lines[2], lines[1], *lines[3:]],
            [lines[0], *lines[2:]],
            [*lines, lines[-1]],
            [lines[1], lines[0], *lines[2:]],
        ):
            refused = await refusal(imported(api, b"".join(moved), "copy"))
            assert refused.reason == "IMPORT_MALFORMED"
    assert not await api.exists("copy")
    assert (await imported(api, data)).imported_count > 0


async def test_an_interrupted_import_is_gone_on_with(api: Api) -> None:
    events = await story(api, 60)
    data = await exported(api, format=LINES)
    for cut in (10, len(data) // 3, len(data) // 2, len(data) - 1):
        project = f"copy-{cut}"
        start = ImportStart(project=project, import_id="mine")
        offsets = []
        for _ in range(2):
            call = api.transfers.ImportProject(timeout=DEADLINE_S)
            await call.write(ImportProjectRequest(start=start))
            offset = (await call.read()).resume_offset
            offsets.append(offset)
            for at in range(offset, cut, 3_000):
                await call.write(ImportProjectRequest(data=data[at : min(at + 3_000, cut)]))
                await call.read()
            call.cancel()
            await eventually(lambda p=project: _free(api, p))  # type: ignore[misc]
        assert not await api.exists(project)
        call = api.transfers.ImportProject(timeout=DEADLINE_S)
        await call.write(ImportProjectRequest(start=start))
        offset = (await call.read()).resume_offset
        assert offset >= offsets[1] >= offsets[0] == 0
        for at in range(offset, len(data), 3_000):
            await call.write(ImportProjectRequest(data=data[at : at + 3_000]))
            await call.read()
        await call.write(ImportProjectRequest(finish=ImportFinish()))
        report = (await call.read()).report
        assert report.imported_count == len(events)
        assert await api.log(project) == events


async def test_an_import_without_an_end_is_no_success(api: Api) -> None:
    events = await story(api, 20)
    data = await exported(api, format=LINES)
    call = api.transfers.ImportProject(timeout=DEADLINE_S)
    await call.write(ImportProjectRequest(start=ImportStart(project="copy", import_id="mine")))
    await call.write(ImportProjectRequest(data=data))
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    refused = Refusal.of(caught.value)
    assert refused.reason == "INVALID_FIELD"
    assert refused.message.startswith("finish: must come last")
    assert not await api.exists("copy")
    report = await imported(api, data, "copy", import_id="mine")
    assert report.imported_count == len(events)


async def test_an_import_that_stopped_within_a_batch_is_gone_on_with(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = await story(api, 60)
    data = await exported(api, format=NATIVE)
    monkeypatch.setattr(staging, "_PART_EVENTS", 7)
    parts = 0

    def stop(place: str) -> None:
        nonlocal parts
        parts += place == "import-part-staged"
        if place == "import-part-staged" and parts == 3:
            raise ContexError(Reason.STORE_UNAVAILABLE, "the store has gone")

    monkeypatch.setattr(staging, "reached", stop)
    refused = await refusal(imported(api, data, "copy", import_id="mine"))
    assert "the store has gone" in refused.message
    report = await imported(api, data, "copy", import_id="mine")
    assert report.imported_count == len(events)
    assert parts > len(events) // 7
    assert await api.log("copy") == events


async def test_a_selective_import_is_gone_on_with(api: Api) -> None:
    """What was left out of the first part is not missed in the second."""
    events = await story(api, 60)
    data = await exported(api, format=LINES)
    start = ImportStart(
        project="copy",
        import_id="mine",
        filter=event_pb2.EventFilter(publishers=["p1"]),
        remap_keys=[KeyMapping(from_prefix="k", to_prefix="key/")],
    )
    call = api.transfers.ImportProject(timeout=DEADLINE_S)
    await call.write(ImportProjectRequest(start=start))
    await call.read()
    for at in range(0, len(data) // 2, 3_000):
        await call.write(ImportProjectRequest(data=data[at : at + 3_000]))
        await call.read()
    call.cancel()
    report = None

    async def finished() -> bool:
        nonlocal report
        again = api.transfers.ImportProject(timeout=DEADLINE_S)
        await again.write(ImportProjectRequest(start=start))
        try:
            offset = (await again.read()).resume_offset
        except grpc.aio.AioRpcError as error:
            if Refusal.of(error).reason != "IMPORT_IN_PROGRESS":
                raise
            return False  # that the call before has ended was not noted yet
        for at in range(offset, len(data), 3_000):
            await again.write(ImportProjectRequest(data=data[at : at + 3_000]))
            await again.read()
        await again.write(ImportProjectRequest(finish=ImportFinish()))
        report = (await again.read()).report
        return True

    await eventually(finished)
    wanted = [e for e in events if e.publisher == "p1"]
    assert report is not None
    assert report.imported_count == len(wanted)
    assert [e.sequence for e in await api.log("copy")] == [e.sequence for e in wanted]


async def _free(api: Api, project: str) -> bool:
    """Whether nobody works on the import any more."""
    start = ImportStart(project=project, import_id="mine")
    call = api.transfers.ImportProject(timeout=DEADLINE_S)
    await call.write(ImportProjectRequest(start=start))
    try:
        await call.read()
    except Exception:
        return False
    call.cancel()
    await asyncio.sleep(0.05)
    return True


async def test_imports_and_exports_are_audited(api: Api) -> None:
    events = await story(api, 3)
    await imported(api, await exported(api))

    async def records(project: str, action: int) -> Any:
        request = audit_service_pb2.ListRecordsRequest(
            project=project, filter=audit_service_pb2.AuditFilter(actions=[action])
        )
        return (await api.audits.ListRecords(request, timeout=DEADLINE_S)).records

    (record,) = await records("copy", audit_service_pb2.AUDIT_ACTION_IMPORTED)
    assert (record.detail, record.count) == (f"Import, exact of project {P}", len(events))

    async def noted() -> bool:
        found = await records(P, audit_service_pb2.AUDIT_ACTION_EXPORTED)
        return ("ExportProject", len(events)) in [(r.detail, r.count) for r in found]

    await eventually(noted)


async def expired(api: Api, project: str, count: int) -> list[event_pb2.Event]:
    """The log, once so many facts have expired."""
    found: list[event_pb2.Event] = []

    async def is_over() -> bool:
        found[:] = await api.log(project)
        return sum(e.event_type == "data_expired" for e in found) >= count

    await eventually(is_over)
    return found


async def test_facts_expire_where_they_are_imported(api: Api, store: Any) -> None:
    """One has expired in the file, one does afterwards, and one is valid for long."""
    second, year = Duration(seconds=1), Duration(seconds=365 * 24 * 3600)
    await api.publish(event("lasting"))
    await api.publish(event("first", valid_for=second), event("renewed", valid_for=year))
    await api.publish(event("renewed"), event("long", valid_for=year))
    await expired(api, P, 1)
    await api.publish(event("last", valid_for=second))
    events = await api.log()
    files = [await exported(api, format=form) for form in (NATIVE, LINES, CLOUD)]
    await expired(api, P, 2)
    for number, data in enumerate(files):
        await imported(api, data, f"exact-{number}")
        assert (await api.log(f"exact-{number}"))[: len(events)] == events
    # Nothing in this part may expire: a copy with an event of its own isn't extended.
    await imported(api, await exported(api, until=position(events[0])), "half")
    await imported(api, files[0], "half")
    await imported(api, files[0], "anew", mode=REPLAY)
    await imported(
        api, files[0], "renamed", remap_keys=[KeyMapping(from_prefix="last", to_prefix="end")]
    )
    for name in ("exact-0", "exact-1", "exact-2", "half", "anew"):
        log = await expired(api, name, 2)
        ended = [e.data_key for e in log if e.event_type == "data_expired"]
        assert ended == ["first", "last"]
        assert len(log) == len(events) + 1
        assert [e.valid_until for e in log[:-1]] == [e.valid_until for e in events]
        due = await store.zrange(key(name, "expiring"), 0, -1)
        assert [member.split(b" ")[1] for member in due] == [b"long"]
    assert (await expired(api, "renamed", 2))[-1].data_key == "end"
    assert not await store.keys("*~*:expiring")

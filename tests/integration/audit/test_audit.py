"""Who did what, when and from where: every action has its row, in every format."""

from __future__ import annotations

import asyncio
import csv
import io
import random
from datetime import datetime
from typing import Any

import orjson
import pyarrow.parquet
import pytest
from contex.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    event_pb2,
    event_service_pb2,
    match_service_pb2,
    state_service_pb2,
    state_service_pb2_grpc,
)
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key

from tests.conftest import StartServer
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    P,
    Refusal,
    UnregisterAgentRequest,
    Words,
    event,
    refusal,
)

BACKWARDS = event_pb2.ORDER_BACKWARDS
OPS = (("contex-identity", "ops"),)
Action = audit_service_pb2.AuditAction


def audit(api: Api) -> Any:
    return audit_service_pb2_grpc.AuditServiceStub(api.channel)


def action(name: str) -> audit_service_pb2.AuditAction.ValueType:
    return Action.Value(f"AUDIT_ACTION_{name}")


def name(record: Any) -> str:
    return Action.Name(record.action).removeprefix("AUDIT_ACTION_")


async def records(
    api: Api,
    *,
    page_size: int = 1_000,
    order: int = 0,
    since: Any = None,
    until: Any = None,
    **wanted: Any,
) -> list[Any]:
    """All pages."""
    found: list[Any] = []
    token = ""
    while True:
        request = audit_service_pb2.ListRecordsRequest(
            project=P,
            page_size=page_size,
            order=event_pb2.Order.ValueType(order),
            since=since,
            until=until,
            filter=audit_service_pb2.AuditFilter(**wanted),
            page_token=token,
        )
        response = await audit(api).ListRecords(request, timeout=DEADLINE_S)
        found += response.records
        token = response.next_page_token
        if not token:
            return found


async def until_records(api: Api, count: int, **wanted: Any) -> list[Any]:
    """Some records are written in the background."""
    async with asyncio.timeout(DEADLINE_S):
        while len(found := await records(api, **wanted)) < count:
            await asyncio.sleep(0.02)
    return found


async def exported(api: Api, form: str, **wanted: Any) -> tuple[bytes, int]:
    request = audit_service_pb2.ExportRecordsRequest(
        project=P,
        format=audit_service_pb2.AuditFormat.Value(f"AUDIT_FORMAT_{form}"),
        filter=audit_service_pb2.AuditFilter(**wanted),
    )
    pieces, count = [], 0
    async for message in audit(api).ExportRecords(request):
        pieces.append(message.data)
        count = message.record_count
        assert len(message.data) <= 1024 * 1024
    return b"".join(pieces), count


async def test_each_action_has_its_row(word_api: Api) -> None:
    api = word_api
    publish = event_service_pb2.PublishRequest(
        project=P,
        events=[event("apple", description="apples"), event("pear", description="pears")],
        request_id="first",
    )
    published = await api.events.Publish(publish, metadata=OPS)
    await api.events.Publish(publish, metadata=OPS)  # Repeated: no action.
    assert (await refusal(api.publish(event("x", b"{")))).reason == "PAYLOAD_MALFORMED"
    registered = await api.register("a", "apples")
    stream = await api.listen("a").live()
    (second,) = await api.publish(event("apple", description="apples"), publisher="build")
    await stream.count(2)
    await api.agents.Acknowledge(
        AcknowledgeRequest(project=P, agent_id="a", sequence=second), metadata=OPS
    )
    await api.matches.RecordFeedback(
        match_service_pb2.RecordFeedbackRequest(
            project=P, agent_id="a", sequence=second, useful=True, request_id="judged"
        ),
        metadata=OPS,
    )
    await api.publish(event("apple", b"", tombstone=True))
    await stream.count(3)
    await stream.cancel()
    subscription = await api.subscribe(data_keys=["apple"]).live()
    await subscription.cancel()
    await api.replay().to_end()
    states = state_service_pb2_grpc.StateServiceStub(api.channel)
    async for _ in states.StreamState(state_service_pb2.StreamStateRequest(project=P)):
        pass
    unregistered = await api.agents.UnregisterAgent(
        UnregisterAgentRequest(project=P, agent_id="a"), metadata=OPS
    )
    found = await until_records(api, 19)
    # What is noted in the background may come a little later than what is not.
    background = ("SUBSCRIBED", "UNSUBSCRIBED", "EXPORTED", "REFUSED")
    assert sum(name(r) == "SUBSCRIBED" for r in found) == 2
    (refused,) = [r for r in found if name(r) == "REFUSED"]
    assert (refused.detail, refused.count) == ("Publish: PAYLOAD_MALFORMED", 1)
    assert [name(r) for r in found if name(r) not in background] == [
        "PUBLISHED",
        "PUBLISHED",
        "REGISTERED",
        "DELIVERED",
        "DELIVERED",
        "PUBLISHED",
        "DELIVERED",
        "ACKNOWLEDGED",
        "JUDGED",
        "DELETED",
        "DELIVERED",
        "UNREGISTERED",
    ]
    apple, pear = found[:2]
    first = published.receipts[0].sequence
    assert (apple.data_key, apple.revision, apple.sequence) == ("apple", 1, first)
    assert (apple.actor, apple.actor_verified, apple.request_id) == ("ops", False, "first")
    assert apple.event_type == "data_published"
    assert apple.peer.startswith("ipv4:127.0.0.1:")
    assert "grpc-python" in apple.client
    assert pear.data_key == "pear"
    by_name = {name(r): r for r in found}
    assert by_name["REGISTERED"].agent_id == "a"
    assert by_name["REGISTERED"].sequence <= registered.sequence
    assert by_name["UNREGISTERED"].sequence == unregistered.sequence
    assert by_name["UNREGISTERED"].actor == "ops"
    answer, first_sent, live, deletion = [r for r in found if name(r) == "DELIVERED"]
    assert (answer.data_key, answer.detail, answer.stream_id) == ("apple", "answer", "")
    assert (first_sent.data_key, first_sent.detail) == ("apple", "stream, matched")
    assert (live.sequence, live.detail, live.agent_id) == (second, "stream, updated", "a")
    assert (deletion.revision, deletion.detail) == (3, "stream, deleted")
    (opened,) = [r for r in found if name(r) == "SUBSCRIBED" and r.detail == "Listen"]
    assert opened.stream_id == live.stream_id
    assert opened.peer == apple.peer
    closed = [r for r in found if name(r) == "UNSUBSCRIBED"]
    assert {r.detail for r in closed} == {"Listen", "Subscribe"}
    assert {r.stream_id for r in closed} == {r.stream_id for r in found if name(r) == "SUBSCRIBED"}
    assert by_name["ACKNOWLEDGED"].sequence == second
    assert by_name["ACKNOWLEDGED"].actor == "ops"
    judged = by_name["JUDGED"]
    assert (judged.sequence, judged.agent_id, judged.data_key) == (second, "a", "apple")
    assert (judged.request_id, judged.detail) == ("judged", "useful")
    assert [r.actor for r in found if r.sequence == second and name(r) == "PUBLISHED"] == ["build"]
    exports = {r.detail: r.count for r in found if name(r) == "EXPORTED"}
    assert exports == {"Replay": 6, "StreamState": 1}
    assert len({r.record_id for r in found}) == len(found)
    times = [r.time.ToMilliseconds() for r in found]
    assert times == sorted(times)


async def busy(api: Api) -> None:
    chance = random.Random(3)
    streams = []
    for agent_id in ("a", "b", "c"):
        await api.register(agent_id, "apples")
        streams.append(await api.listen(agent_id).live())
    for n in range(40):
        several = [event(f"k{chance.randrange(4)}", description="apples") for _ in range(n % 4 + 1)]
        await api.publish(*several, publisher=chance.choice(["x", "y"]), request_id=f"r{n}")
    for stream in streams:
        await stream.count(100)
        await stream.cancel()


async def test_pages_in_both_directions_hold_every_row_once(word_api: Api) -> None:
    api = word_api
    await busy(api)
    whole = await until_records(api, 3 + 3 + 100 + 300 + 3)
    assert len(whole) == 409
    for size in (1, 7, 100):
        if size > 1:
            assert await records(api, page_size=size) == whole
        backwards = await records(api, page_size=9 * size + 1, order=BACKWARDS)
        assert backwards == whole[::-1]
    middle = whole[200].time.ToMilliseconds()
    early = await records(api, until=event_pb2.Position(unix_ms=middle))
    late = await records(api, since=event_pb2.Position(unix_ms=middle + 1))
    assert early + late == whole


async def test_filters(word_api: Api) -> None:
    api = word_api
    await busy(api)
    whole = await until_records(api, 409)
    for wanted, passes in (
        ({"actions": [action("DELIVERED")]}, lambda r: name(r) == "DELIVERED"),
        (
            {"actions": [action("DELIVERED"), action("PUBLISHED")], "data_keys": ["k1", "k2*"]},
            lambda r: name(r) in ("DELIVERED", "PUBLISHED") and r.data_key in ("k1", "k2"),
        ),
        ({"actors": ["x"]}, lambda r: r.actor == "x"),
        ({"agent_ids": ["b"]}, lambda r: r.agent_id == "b"),
        ({"request_id": "r7"}, lambda r: r.request_id == "r7"),
        ({"data_keys": ["k3"]}, lambda r: r.data_key == "k3"),
    ):
        expected = [r for r in whole if passes(r)]
        assert expected
        assert await records(api, page_size=50, **wanted) == expected, wanted


async def test_the_formats_hold_the_same(word_api: Api) -> None:
    api = word_api
    await busy(api)
    only = {"actions": [action("PUBLISHED"), action("DELIVERED"), action("REGISTERED")]}
    whole = await records(api, **only)
    raw, count = await exported(api, "CSV", **only)
    assert count == len(whole)
    table = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    raw, _ = await exported(api, "JSON_LINES", **only)
    lines = [orjson.loads(line) for line in raw.splitlines()]
    raw, _ = await exported(api, "PARQUET", **only)
    parquet = pyarrow.parquet.read_table(io.BytesIO(raw))
    assert list(table[0]) == list(lines[0]) == parquet.column_names
    for record, row, line, cells in zip(whole, table, lines, parquet.to_pylist(), strict=True):
        assert line["record_id"] == row["record_id"] == cells["record_id"] == record.record_id
        time = datetime.fromisoformat(line["time"])
        assert round(time.timestamp() * 1000) == record.time.ToMilliseconds()
        assert cells["time"] == time
        assert row["time"] == line["time"]
        assert line["time"].endswith("Z")
        for column in ("actor", "peer", "client", "request_id", "agent_id", "data_key"):
            assert row[column] == line[column] == cells[column] == getattr(record, column)
        assert int(row["revision"]) == line["revision"] == cells["revision"] == record.revision
        verified = record.actor_verified
        assert verified == (name(record) == "DELIVERED")
        assert (row["actor_verified"], line["actor_verified"]) == (str(verified).lower(), verified)
    # Exports are actions themselves.
    done = await until_records(api, 3, actions=[action("EXPORTED")])
    assert [(r.detail, r.count) for r in done] == [("ExportRecords", len(whole))] * 3


async def test_a_spreadsheet_sees_no_formula(api: Api) -> None:
    await api.publish(event("=1+1"), event("@x"), event("-y"), event("ok"))
    raw, _ = await exported(api, "CSV", actions=[action("PUBLISHED")])
    rows = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    assert [row["data_key"] for row in rows] == ["'=1+1", "'@x", "'-y", "ok"]
    raw, _ = await exported(api, "JSON_LINES", actions=[action("PUBLISHED")])
    assert orjson.loads(raw.splitlines()[0])["data_key"] == "=1+1"


async def test_without_pyarrow_parquet_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    refused = await refusal(exported(api, "PARQUET"))
    assert (refused.code, refused.reason) == ("UNIMPLEMENTED", "FORMAT_UNAVAILABLE")
    assert refused.metadata == {"format": "parquet", "extra": "parquet"}


async def test_large_batches_are_rows_too(api: Api) -> None:
    every = []
    for n in range(3):
        every += await api.publish(*(event(f"k{i}") for i in range(1_000)), request_id=f"b{n}")
    found = await records(api, page_size=700, actions=[action("PUBLISHED")])
    assert [r.sequence for r in found] == every
    assert [r.request_id for r in found] == ["b0"] * 1_000 + ["b1"] * 1_000 + ["b2"] * 1_000
    raw, count = await exported(api, "CSV", actions=[action("PUBLISHED")])
    assert count == 3_000
    assert raw.count(b"\r\n") == 3_001


async def test_events_that_are_gone_leave_their_rows(api: Api, store: Any) -> None:

    every = [(await api.publish(event(f"k{n}"), request_id=f"r{n}"))[0] for n in range(4)]
    await store.xtrim(key(P, "events"), minid=every[2], approximate=False)
    found = await records(api)
    assert [r.sequence for r in found] == every
    assert [r.data_key for r in found] == ["", "", "k2", "k3"]
    assert [r.request_id for r in found] == ["r0", "r1", "r2", "r3"]
    assert found[0].detail == "the event can no longer be read"


async def test_records_outlive_the_server(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await api.publish(event())
        subscription = await api.subscribe().live()
        before = await until_records(api, 2)
    await server.stop()
    assert subscription is not None
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        found = await until_records(api, 3)
        assert found[:2] == before
        # The stream that the shutdown ended is told as ended.
        assert [name(r) for r in found] == ["PUBLISHED", "SUBSCRIBED", "UNSUBSCRIBED"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"filter": {"actions": [99]}}, "filter.actions[0]"),
        ({"filter": {"actions": [0]}}, "filter.actions[0]"),
        ({"filter": {"actors": ["a "]}}, "filter.actors[0]"),
        ({"filter": {"agent_ids": ["/"]}}, "filter.agent_ids[0]"),
        ({"filter": {"data_keys": ["\\"]}}, "filter.data_keys[0]"),
        ({"filter": {"request_id": "a b"}}, "filter.request_id"),
        ({"filter": {"actors": ["a"] * 33}}, "filter.actors"),
        ({"page_size": 1_001}, "page_size"),
        ({"order": 9}, "order"),
        ({"page_token": "?"}, "page_token"),
    ],
)
async def test_what_can_not_be_asked(api: Api, fields: dict[str, Any], expected: str) -> None:
    wanted = audit_service_pb2.AuditFilter(**fields.pop("filter", {}))
    request = audit_service_pb2.ListRecordsRequest(project=P, filter=wanted, **fields)
    refused: Refusal = await refusal(audit(api).ListRecords(request))
    assert refused.fields == [expected]


async def test_tokens_are_of_one_call(api: Api) -> None:
    await api.publish(event(), event())
    request = audit_service_pb2.ListRecordsRequest(project=P, page_size=1)
    token = (await audit(api).ListRecords(request)).next_page_token
    other = audit_service_pb2.ListRecordsRequest(project=P, page_token=token, order=BACKWARDS)
    assert (await refusal(audit(api).ListRecords(other))).reason == "CURSOR_INVALID"

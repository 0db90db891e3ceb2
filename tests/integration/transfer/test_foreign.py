"""Files that something else has written: what an import accepts is like any other event."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import contex
import pytest
from contex.v1 import event_pb2, project_service_pb2, state_service_pb2, transfer_service_pb2
from contex_server.log.redis import key_names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.logs import exported, imported
from tests.integration.support import DEADLINE_S, Api, P, Refusal, event, own, refusal

CLOUD = transfer_service_pb2.EXPORT_FORMAT_CLOUD_EVENTS
FORMATS = (transfer_service_pb2.EXPORT_FORMAT_NATIVE, 2, CLOUD)
REPLAY = transfer_service_pb2.IMPORT_MODE_REPLAY
_projects = count()


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


def cloud(**fields: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "a", "source": "/shop", "type": "placed", **fields}


def lines(*events: Any) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in events)


FOREIGN = [
    cloud(id="1", data={"n": 1}),
    cloud(id="2", subject="notes/1", datacontenttype="text/plain", data="hello, world"),
    cloud(id="3", subject="notes/2", datacontenttype="application/xml", data="<a>b</a>"),
    cloud(id="4", subject="notes/3", datacontenttype="image/png", data_base64="/9j/"),
    cloud(id="5", time="2026-11-25T10:00:00Z", traceparent="00-1", priority=3),
    cloud(id="6", type="data_published", subject="Größen/東京", data="a text"),
    cloud(id="7", type="data_deleted", subject="notes/1"),
]


@pytest.mark.parametrize("batch", [False, True])
async def test_cloud_events_of_others_go_round(api: Api, batch: bool) -> None:
    data = b"\xef\xbb\xbf" + json.dumps(FOREIGN, indent=1).encode() if batch else lines(*FOREIGN)
    report = await imported(api, data, P, mode=REPLAY)
    assert (report.format, report.imported_count) == (CLOUD, len(FOREIGN))
    log = await api.log()
    assert [(e.data_key, e.payload, e.content_type) for e in log] == [
        ("", b'{"n":1}', ""),
        ("notes/1", b"hello, world", "text/plain"),
        ("notes/2", b"<a>b</a>", "application/xml"),
        ("notes/3", b"\xff\xd8\xff", "image/png"),
        ("", b"", "application/octet-stream"),
        ("Größen/東京", b'"a text"', ""),
        ("notes/1", b"", ""),
    ]
    assert log[4].metadata == {
        "cloudevents_id": "5",
        "cloudevents_source": "/shop",
        "cloudevents_time": "2026-11-25T10:00:00Z",
        "cloudevents_traceparent": "00-1",
        "cloudevents_priority": "3",
    }
    again = await exported(api, format=CLOUD)
    assert json.loads(again.splitlines()[2])["data"] == "hello, world"
    await imported(api, again)
    assert await api.log("copy") == log


async def refused(api: Api, *events: Any, **fields: Any) -> Refusal:
    return await refusal(imported(api, lines(*events), "copy", mode=REPLAY, **fields))


LONG = {f"x{n}": "y" for n in range(40)}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"subject": "a\nb"}, "subject: must be 1 to 256 printable characters"),
        ({"subject": " a"}, "subject: "),
        ({"subject": "a" * 257}, "subject: "),
        ({"type": "a" * 65}, "type: must be 1 to 64 printable characters"),
        ({"type": ""}, "type: "),
        ({"type": "data_published"}, "subject: must be 1 to 256 printable characters"),
        ({"type": "data_deleted"}, "subject: "),
        ({"type": "data_deleted", "subject": "a", "data": 1}, "data: must be empty"),
        ({"contexpublisher": "a\tb"}, "contexpublisher: must be at most 128"),
        ({"datacontenttype": "text", "data": "a"}, "datacontenttype: must be a media type"),
        ({"datacontenttype": "text/xml", "data": "<a>"}, "data: "),
        ({"datacontenttype": "text/plain", "data": "x" * 1_048_577}, "data: 1048577 bytes"),
        ({"contexdescription": "x" * 4_097}, "contexdescription: must be at most 4096 bytes"),
        ({"long": "x" * 4_096}, "metadata: must be at most 4096 bytes"),
        (LONG, "metadata: must hold at most 32, not 42"),
        ({"x" * 53: "y"}, "metadata: keys must have 1 to 64 characters"),
        ({"contexmetadata": '{"subject":"a b"}'}, "metadata: the subject must be"),
        (
            {"subject": "k", "contexvaliduntil": "2126-11-28T00:00:00Z"},
            "contexvaliduntil: must be at most 315360000 seconds ahead",
        ),
        ({"contexvaliduntil": "2027-01-01T00:00:00Z"}, "contexvaliduntil: needs a data_key"),
        (
            {"type": "data_deleted", "subject": "k", "contexvaliduntil": "2027-01-01T00:00:00Z"},
            "contexvaliduntil: must be unset where data are deleted",
        ),
    ],
)
async def test_what_a_publish_would_refuse_is_refused(
    api: Api, fields: dict[str, Any], problem: str
) -> None:
    good = cloud(data=1)
    answer = await refused(api, good, cloud(**fields), good)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "IMPORT_MALFORMED")
    assert problem in answer.message
    assert answer.message.endswith("line 2)")
    assert (answer.metadata["item"], answer.metadata["offset"]) == ("2", str(len(lines(good)) + 1))
    assert not await api.exists("copy")
    # What the filter leaves out need not be right.
    if "type" in fields:
        chosen = event_pb2.EventFilter(event_types=["placed"])
        report = await imported(api, lines(good, cloud(**fields)), mode=REPLAY, filter=chosen)
        assert (report.imported_count, report.skipped_count) == (1, 1)


async def test_a_key_that_is_no_name_may_be_renamed(api: Api) -> None:
    data = lines(cloud(subject=" a", data=1), cloud(subject=" b", data=1))
    mapping = transfer_service_pb2.KeyMapping(from_prefix=" ", to_prefix="x/")
    await imported(api, data, mode=REPLAY, remap_keys=[mapping])
    assert [e.data_key for e in await api.log("copy")] == ["x/a", "x/b"]


async def test_an_export_is_held_to_the_same_names(api: Api) -> None:
    """Not of Contex, though its digest is right."""
    await api.publish(event("k"), event("k2"))
    for format in FORMATS[1:]:
        data = (await exported(api, format=format)).replace(b'"k2"', b'" k"')
        head, _, _ = data.rstrip().rpartition(b"\n")
        digest = _chain(head + b"\n")
        at = data.rindex(b'"digest":"') + 10
        data = data[:at] + digest.encode() + data[at + 64 :]
        answer = await refusal(imported(api, data))
        assert answer.reason == "IMPORT_MALFORMED"
        assert "' k' (at byte" in answer.message
        assert answer.message.endswith("line 3)")


def _chain(text: bytes) -> str:
    from contex_server.transfer.items import Chain

    chain = Chain()
    for line in text.splitlines(keepends=True):
        chain.add(line)
    return chain.digest


async def test_events_of_the_former_servers_are_data(api: Api) -> None:
    answer = {
        "events": [
            {
                "sequence": "1700000000000-0",
                "event_type": "api config_updated",
                "data": {"api config": {"v": 1}},
            },
            {
                "sequence": "1700000000001-0",
                "event_type": "data_published",
                "data": {"data_key": "api config", "data": {"v": 2}, "description": "the API"},
            },
            {
                "sequence": "1700000000002-0",
                "event_type": "data_deleted",
                "data": {"data_key": "api config"},
            },
        ],
        "count": 3,
    }
    await imported(api, json.dumps(answer).encode(), mode=REPLAY)
    log = await api.log("copy")
    assert [(e.event_type, e.data_key, e.payload) for e in log] == [
        ("data_published", "api config", b'{"v":1}'),
        ("data_published", "api config", b'{"v":2}'),
        ("data_deleted", "api config", b""),
    ]
    assert log[0].metadata["original_sequence"] == "1700000000000-0"
    answer["events"][1]["data"]["data_key"] = "a\n"  # type: ignore[index]
    bad = await refusal(imported(api, json.dumps(answer).encode(), "bad", mode=REPLAY))
    assert "data_key: must be" in bad.message
    assert bad.message.endswith("event 2)")


async def test_a_replay_may_be_replayed_though_its_metadata_are_full(api: Api) -> None:
    await api.publish(event("k", metadata={f"m{n}": "" for n in range(32)}))
    for source, project in ((P, "one"), ("one", "two")):
        await imported(api, await exported(api, source), project, mode=REPLAY)
    (again,) = await api.log("two")
    assert len(again.metadata) == 34


def nested(depth: int) -> bytes:
    return b"[" * depth + b" " * 400 + b"]" * depth


async def test_a_payload_as_deep_as_it_may_be_is_exported(api: Api) -> None:
    for depth in (249, 250):
        await api.publish(event("k", nested(depth)), own("note"))
    for depth in (251, 2_000):
        refused = await refusal(api.publish(event("k", nested(depth))))
        assert refused.reason == "PAYLOAD_MALFORMED"
        assert "events[0].payload: JSON nests deeper than 250 levels" in refused.message
    for format in FORMATS:
        await imported(api, await exported(api, format=format), f"copy-{format}")
        assert await api.log(f"copy-{format}") == await api.log()


@pytest.mark.parametrize("depth", [251, 1_000, 2_000])
async def test_a_payload_of_before_the_limit_is_exported_and_not_imported(
    api: Api, store: Any, depth: int
) -> None:
    await api.publish(event("j", b"1"))
    deep = event_pb2.Event(
        event_type="data_published", data_key="k", payload=nested(depth), revision=1
    )
    await store.xadd(key_names.key(P, "events"), {b"e": deep.SerializeToString()})
    assert [e.payload for e in await api.log()] == [b"1", nested(depth)]
    for format in FORMATS:
        data = await exported(api, format=format)
        refused = await refusal(imported(api, data, "copy"))
        assert ": JSON nests deeper than 250 levels" in refused.message
        assert refused.reason == "IMPORT_MALFORMED"


NASTY = st.sampled_from(
    ["", " ", "a\nb", "a" * 300, "東", "a\u200db", "data_published", "data_deleted", "\\*", "k"]
)
FINE = st.sampled_from(["k", "a b", "Größen/東京", "*", "\\*", "[a]", "data_published", "-x"])
TEXTS = NASTY | st.text(max_size=12)
NAMES = st.integers(0, 15).flatmap(lambda n: FINE if n else TEXTS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=6,
)
CONTENT_TYPES = st.sampled_from(
    ["", "text/plain", "application/json", "application/xml", "text/csv", "a/b"]
)
EVENTS = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": TEXTS, "source": TEXTS, "type": NAMES, "subject": NAMES},
    optional={
        "time": st.sampled_from(
            ["2026-11-25T10:00:00Z", "1950-01-01T00:00:00+01:00", "9999-12-31"]
        ),
        "contexpublisher": NAMES,
        "contexdescription": TEXTS,
        "contexmetadata": st.sampled_from(['{"subject":"anna"}', '{"a":"\\u0000"}', "{}"]),
        "extension": JSON,
    },
)
DATA = st.one_of(
    st.fixed_dictionaries({}, optional={"datacontenttype": CONTENT_TYPES}),
    st.fixed_dictionaries({"data": JSON}),
    st.fixed_dictionaries({"data": TEXTS, "datacontenttype": CONTENT_TYPES}),
    st.fixed_dictionaries(
        {"data_base64": st.sampled_from(["", "/w==", "e30="])},
        optional={"datacontenttype": CONTENT_TYPES},
    ),
)
CLOUD_EVENTS = st.builds(lambda one, data: one | data, EVENTS, DATA)
_LEGACY_DATA = st.builds(
    lambda key, value, kind: {"event_type": kind or f"{key}_updated", "data": {key: value}},
    NAMES | st.just("data_key"),
    JSON | NAMES,
    st.just("") | NAMES,
)
LEGACY = st.builds(lambda one, n: {"sequence": str(n), **one}, _LEGACY_DATA, st.integers(1, 9))


@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=st.lists(CLOUD_EVENTS, min_size=1, max_size=3)
    | st.lists(LEGACY, min_size=1, max_size=3),
    batch=st.booleans(),
)
async def test_what_is_accepted_is_an_event_like_any_other(
    api: Api, events: list[dict[str, Any]], batch: bool
) -> None:
    project = f"any{next(_projects)}"
    if "specversion" not in events[0]:
        data = json.dumps({"events": events}).encode()
    else:
        data = json.dumps(events).encode() if batch else lines(*events)
    try:
        await imported(api, data, project, mode=REPLAY)
    except Exception as error:
        answer = Refusal.of(error)  # type: ignore[arg-type]
        assert answer.reason == "IMPORT_MALFORMED", answer
        assert not await api.exists(project)
        return
    await live_through(api, project)


async def live_through(api: Api, project: str) -> None:
    """Reads, replays, exports and erases every event of a project."""
    log = await api.log(project)
    for format in FORMATS:
        data = await exported(api, project, format=format)
        await imported(api, data, f"{project}-{format}")
        assert await api.log(f"{project}-{format}") == log
    await imported(api, data, f"{project}-replayed", mode=REPLAY)
    assert [_given(e) for e in await api.log(f"{project}-replayed")] == [_given(e) for e in log]
    for one in log:
        fields = {"event_types": [one.event_type]}
        if one.publisher:
            fields["publishers"] = [one.publisher]
        if one.data_key:
            fields["data_keys"] = [contex.escape_glob(one.data_key)]
        assert one in (await api.replay(project, **fields).to_end()).events
    for key in {e.data_key for e in log if e.data_key}:
        asked = state_service_pb2.GetHistoryRequest(project=project, data_key=key, page_size=100)
        history = await api.states.GetHistory(asked, timeout=DEADLINE_S)
        assert [r.event for r in history.revisions] == [
            e for e in reversed(log) if e.data_key == key
        ]
    for field in ("data_key", "subject"):
        for value in {_named(e, field) for e in log} - {""}:
            erasure = project_service_pb2.EraseDataRequest(
                project=project, request_id=f"r{next(_projects)}", reason="asked", **{field: value}
            )
            await api.projects.EraseData(erasure, timeout=DEADLINE_S)
    after = await api.log(project)
    for one in after[: len(log)]:
        if one.data_key or _named(one, "subject"):
            assert not one.payload


def _given(one: event_pb2.Event) -> tuple[Any, ...]:
    marks = ("original_sequence", "original_time")
    metadata = {k: v for k, v in one.metadata.items() if k not in marks}
    return (one.event_type, one.data_key, one.payload, one.content_type, one.publisher, metadata)


def _named(one: event_pb2.Event, field: str) -> str:
    return one.data_key if field == "data_key" else one.metadata.get("subject", "")

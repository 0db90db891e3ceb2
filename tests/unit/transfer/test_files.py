"""Files of other sources, as their readers understand them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import zstandard
from contex_server.kernel import event_codec
from contex_server.kernel.config import Limits
from contex_server.kernel.model import Event, Sequence
from contex_server.transfer import items
from contex_server.transfer.cloud_events import CloudEventsEncoding
from contex_server.transfer.cutting import BOM, ArrayCutter, ObjectCutter
from contex_server.transfer.detection import detect, make_reader
from contex_server.transfer.items import FileFormat, MalformedFile
from contex_server.transfer.lines import LinesWriter
from hypothesis import given
from hypothesis import strategies as st

CLOUD, LEGACY, LINES = FileFormat.CLOUD_EVENTS, FileFormat.LEGACY_JSON, FileFormat.JSON_LINES


def cloud(**fields: Any) -> dict[str, Any]:
    """A CloudEvent of somebody else."""
    return {"specversion": "1.0", "id": "a", "source": "/shop", "type": "placed", **fields}


def line(**fields: Any) -> bytes:
    return json.dumps(cloud(**fields)).encode()


def read(data: bytes, format: FileFormat = CLOUD, size: int = 1 << 20) -> list[Event]:
    """The events of a file that comes in pieces of a size."""
    reader = make_reader(format, Limits())
    found: list[items.Item | None] = []
    for at in range(0, len(data), size):
        found += reader.feed(data[at : at + size])
    found += reader.finish()
    entries = [entry for item in found if isinstance(item, items.Events) for entry in item.entries]
    return [event_codec.decode(entry) for entry in entries]


@pytest.mark.parametrize(
    ("fields", "payload", "content_type"),
    [
        ({"datacontenttype": "text/plain", "data": "hello"}, b"hello", "text/plain"),
        ({"datacontenttype": "text/plain", "data": "5"}, b"5", "text/plain"),
        ({"datacontenttype": "text/plain", "data": ""}, b"", "text/plain"),
        ({"datacontenttype": "text/plain", "data": None}, b"", "text/plain"),
        (
            {"datacontenttype": "text/plain; charset=iso-8859-1", "data": "Grüße"},
            "Grüße".encode("iso-8859-1"),
            "text/plain; charset=iso-8859-1",
        ),
        (
            {"datacontenttype": "application/xml", "data": '<much wow="xml"/>'},
            b'<much wow="xml"/>',
            "application/xml",
        ),
        ({"datacontenttype": "text/xml", "data": "<a/>"}, b"<a/>", "text/xml"),
        ({"datacontenttype": "a/b+XML", "data": "<a/>"}, b"<a/>", "a/b+XML"),
        ({"data": "text"}, b'"text"', ""),
        ({"datacontenttype": "application/json", "data": "5"}, b'"5"', "application/json"),
        ({"datacontenttype": "text/json", "data": {"a": 1}}, b'{"a":1}', "text/json"),
        ({"datacontenttype": "a/b+json; v=1", "data": [1]}, b"[1]", "a/b+json; v=1"),
        ({"data": None}, b"null", ""),
        ({"data": {"n": 2**70, "s": "ä\\"}}, b'{"n":%d,"s":"\xc3\xa4\\\\"}' % 2**70, ""),
        ({"data_base64": "aGVsbG8=", "datacontenttype": "text/plain"}, b"hello", "text/plain"),
        ({"data_base64": "eyJhIjoxfQ=="}, b'{"a":1}', ""),
        ({"data_base64": "/w=="}, b"\xff", "application/octet-stream"),
        ({"data_base64": "/w==", "data": None}, b"\xff", "application/octet-stream"),
        ({}, b"", "application/octet-stream"),
        ({"datacontenttype": "text/plain"}, b"", "text/plain"),
        ({"datacontenttype": None, "subject": None, "time": None, "data": 1}, b"1", ""),
    ],
)
def test_data_are_what_their_content_type_says(
    fields: dict[str, Any], payload: bytes, content_type: str
) -> None:
    (event,) = read(line(**fields))
    assert (event.payload, event.content_type) == (payload, content_type)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"datacontenttype": "text/plain", "data": {"a": 1}}, "data: must be a string"),
        ({"datacontenttype": "text/plain; charset=us-ascii2", "data": "a"}, "datacontenttype: "),
        ({"datacontenttype": "text/plain; charset=latin1", "data": "東"}, "data: can't be encoded"),
        ({"data": 1, "data_base64": "aGVsbG8="}, "data and data_base64"),
        ({"data_base64": "???"}, "data_base64"),
        ({"time": "yesterday"}, "time: 'yesterday'"),
        ({"subject": 5}, "subject: "),
        ({"type": ["a"]}, "type: "),
        ({"specversion": "0.3"}, "specversion: '0.3'"),
        ({"specversion": None}, "specversion: ''"),
        ({"contexrevision": "-1"}, ""),
        ({"contexmetadata": "[1]"}, "contexmetadata: "),
    ],
)
def test_a_line_is_refused_by_number_and_field(fields: dict[str, Any], problem: str) -> None:
    data = line() + b"\n\n" + line(**fields)
    with pytest.raises(MalformedFile, match="line 3") as refused:
        read(data)
    assert problem in str(refused.value)
    assert (refused.value.item, refused.value.offset) == (3, len(line()) + 2)


def test_time_and_attributes_are_kept() -> None:
    (event,) = read(
        line(
            time="2018-04-05T17:31:00.123456789+02:00",
            dataschema="https://example.org/s",
            datacontenttype="application/json",
            traceparent="00-1-2-01",
            size=5,
            urgent=True,
            unset=None,
        )
    )
    assert event.metadata == {
        "cloudevents_id": "a",
        "cloudevents_source": "/shop",
        "cloudevents_time": "2018-04-05T17:31:00.123456789+02:00",
        "cloudevents_dataschema": "https://example.org/s",
        "cloudevents_datacontenttype": "application/json",
        "cloudevents_traceparent": "00-1-2-01",
        "cloudevents_size": "5",
        "cloudevents_urgent": "true",
    }
    assert event.sequence == Sequence(1522942260123, 0)


def test_a_number_for_an_id_is_no_sequence() -> None:
    (event,) = read(line(id="17", time="1969-01-01T00:00:00z"))
    assert event.sequence == Sequence(0, 0)
    (event,) = read(line(id="17", time="2018-04-05T17:31:00"))
    assert event.sequence.ms == 1522949460000
    (event,) = read(line(id="17-1", source="/contex/projects/shop"))
    assert (event.sequence, event.metadata) == (Sequence(17, 1), {})


OBJECTS = [cloud(n=n, data={"a": '}"\\', "b": [{"c": "[{\\"}]}) for n in range(5)]


def pretty(values: list[Any]) -> bytes:
    return b"\n\n".join(json.dumps(value, indent=2).encode() for value in values)


SHAPES = {
    "lines": b"\n".join(map(orjson.dumps, OBJECTS)),
    "crlf": b"\r\n".join(map(orjson.dumps, OBJECTS)) + b"\r\n",
    "objects": pretty(OBJECTS),
    "array": orjson.dumps(OBJECTS),
    "pretty": b"\n " + json.dumps(OBJECTS, indent=2).encode() + b"\n",
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_and_byte_order_marks_are_understood(
    shape: str, bom: bytes, compress: bool
) -> None:
    data = bom + SHAPES[shape]
    if compress:
        data = zstandard.compress(data)
    assert detect(data, complete=True) is CLOUD
    wanted = read(SHAPES["lines"])
    assert [e.metadata["cloudevents_n"] for e in wanted] == list("01234")
    for size in (1, 7, 1 << 20):
        events = read(data, size=size)
        assert [(e.payload, e.metadata) for e in events] == [
            (e.payload, e.metadata) for e in wanted
        ]


@pytest.mark.parametrize("shape", SHAPES)
def test_reading_goes_on_where_it_was(shape: str) -> None:
    """After every byte, as an import that was interrupted does."""
    data = SHAPES[shape]
    wanted = [e.metadata for e in read(data)]
    for cut in range(1, len(data), 11):
        reader = make_reader(CLOUD, Limits())
        found = list(reader.feed(data[:cut]))
        state = reader.state()
        if state is None:
            continue
        rest = make_reader(CLOUD, Limits())
        rest.resume(reader.offset, orjson.loads(orjson.dumps(state)))
        found += rest.feed(data[reader.offset :])
        found += rest.finish()
        entries = [e for item in found if isinstance(item, items.Events) for e in item.entries]
        assert [event_codec.decode(entry).metadata for entry in entries] == wanted


@pytest.mark.parametrize("data", [b"[]", BOM + b" [\n] "])
def test_an_empty_batch_is_a_file(data: bytes) -> None:
    assert detect(data, complete=True) is CLOUD
    assert read(data) == []


@pytest.mark.parametrize(
    "data",
    [
        b"[%s",
        b"[%s,",
        b"[%s,]",
        b"[,%s]",
        b"[%s]]",
        b"[%s] %s",
        b"[%s %s]",
        b"[1,%s]",
        b'["{",%s]',
        b"[%s,2]",
        b"%s\n}",
        b"[}%s]",
        b"[[%s]]",
        b"[%s;%s]",
        b'[%s,{"a":[}]',
        b"[{}]",
        b"[1]",
        b"[",
    ],
)
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFile):
        read(data.replace(b"%s", line()))


def test_an_event_of_a_batch_is_named_by_its_number() -> None:
    data = b"[" + line() + b",\n " + line(subject=5) + b"]"
    with pytest.raises(MalformedFile, match=r"subject: is not a string .* event 2"):
        read(data)


def test_an_event_without_an_end_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contex_server.transfer.event_json._ELSE_BYTES", 100_000)
    for start in (b"[", b'[{"a":"', b'{"a":"', b"  ", b'{"a":\n"'):

        def feed(start: bytes = start) -> Iterator[items.Item | None]:
            reader = make_reader(CLOUD, Limits(payload_bytes=1))
            for data in (start, *[b" " * 4_000] * 100):
                yield from reader.feed(data)

        with pytest.raises(MalformedFile, match="more than 100,006 bytes"):
            list(feed())


@given(st.lists(st.recursive(st.text() | st.booleans(), st.lists)), st.integers(1, 40))
def test_objects_are_cut_where_they_end(values: list[Any], size: int) -> None:
    objects = [{"a": value, "b": {}} for value in values]
    for text, cutter in (
        (json.dumps(objects, indent=1).encode(), ArrayCutter()),
        (b"\n".join(map(orjson.dumps, objects)), ObjectCutter()),
    ):
        pieces = []
        for at in range(0, len(text), size):
            pieces += cutter.feed(text[at : at + size])
        assert [orjson.loads(cutter.json(piece)) for piece in pieces] == objects
        cutter.finish()
        assert b"".join(pieces) + cutter.rest == text


PAYLOADS = [
    *(b"", b"{}", b"null", b'"a"', b"5", b"1.10", b'{ "a": 1 }', b"%d" % 2**70, b"\xff"),
    *(b"[" * 253 + b"]" * 253, b"[" * 254 + b"]" * 254, b"[" * 600 + b"]" * 600),
    *(b"hello", b'"hello"', b"<a/>", "東\0".encode(), BOM + b"a"),
]
TYPES = [
    *("", "application/json", "text/json", "text/plain", "text/plain; charset=latin1"),
    *("application/xml", "application/octet-stream", "a/b+yaml", "text/csv;charset=utf-8"),
]


@pytest.mark.parametrize("format", [CLOUD, LINES])
def test_what_is_exported_is_read_as_it_was(format: FileFormat) -> None:
    events = [
        Event(Sequence(1000, n), "note", payload=payload, content_type=content_type)
        for n, (payload, content_type) in enumerate((p, t) for p in PAYLOADS for t in TYPES)
    ]
    data = exported(events, format)
    assert read(data, format) == events
    # Without the manifest, too.
    if format is CLOUD:
        assert read(b"\n".join(data.splitlines()[1:-1])) == events


def exported(events: list[Event], format: FileFormat) -> bytes:
    writer = LinesWriter("shop", cloud=format is CLOUD, compress=False)
    data = writer.begin(items.Manifest("shop")) + writer.events(
        list(map(event_codec.entry, events))
    )
    summary = items.Summary(events=len(events), digest=writer.chain.digest)
    return data + writer.end(summary)


def test_text_is_text_in_an_export() -> None:
    encoding = CloudEventsEncoding()

    def written(payload: bytes, content_type: str) -> dict[str, Any]:
        event = Event(Sequence(1, 0), "note", payload=payload, content_type=content_type)
        return {k: v for k, v in encoding.event(event, "p").items() if k.startswith("data")}

    assert written(b"5", "text/plain") == {"datacontenttype": "text/plain", "data": "5"}
    assert written(b"<a/>", "application/xml")["data"] == "<a/>"
    assert written(b"abc", "image/png")["data_base64"] == base64.b64encode(b"abc").decode()
    assert written(b"\xff", "text/plain")["data_base64"] == "/w=="


def test_files_of_the_first_version_are_read_as_they_were_written() -> None:
    events = [
        Event(Sequence(1, n), "note", payload=payload, content_type="text/plain")
        for n, payload in enumerate([b"5", b'"a"', b"a"])
    ]
    lines = exported(events, CLOUD).splitlines(keepends=True)
    old = lines[0].replace(b'"contex_export":2', b'"contex_export":1')
    old += lines[1].replace(b'"data":"5"', b'"data":5')
    old += lines[2].replace(b'"data":"\\"a\\""', b'"data":"a"')
    old += lines[3].replace(b'"data":"a"', b'"data_base64":"YQ=="')
    chain = items.Chain()
    for one in old.splitlines(keepends=True):
        chain.add(one)
    head, summary = lines[4].split(b'"digest":"')
    assert read(old + head + b'"digest":"' + chain.digest.encode() + summary[64:]) == events


def test_a_byte_order_mark_does_not_harm_an_export() -> None:
    events = [Event(Sequence(1, 0), "note", payload=b"{}")]
    for format in (CLOUD, LINES):
        data = BOM + exported(events, format)
        assert detect(data, complete=False) is format
        assert read(data, format, size=2) == events


def legacy(*events: Any) -> bytes:
    return json.dumps({"events": events, "count": len(events)}).encode()


@pytest.mark.parametrize(
    ("kind", "data", "wanted"),
    [
        ("api_updated", {"api": {"v": 2**70}}, ("data_published", "api", b'{"v":%d}' % 2**70)),
        ("api_updated", {"api": None}, ("data_published", "api", b"null")),
        ("a_updated_updated", {"a_updated": "x"}, ("data_published", "a_updated", b'"x"')),
        ("data_key_updated", {"data_key": "x"}, ("data_published", "data_key", b'"x"')),
        ("api_updated", {"api": 1, "b": 2}, ("api_updated", "", b'{"api":1,"b":2}')),
        ("api_updated", {"other": 1}, ("api_updated", "", b'{"other":1}')),
        ("_updated", {"": 1}, ("_updated", "", b'{"":1}')),
        ("api_updated", [1], ("api_updated", "", b"[1]")),
        (
            "data_published",
            {"project_id": "p", "data_key": "api", "data": [1], "description": None},
            ("data_published", "api", b"[1]"),
        ),
        ("mine", {"data_key": "api", "data": 1}, ("mine", "api", b"1")),
        ("data_deleted", {"data_key": "api"}, ("data_deleted", "api", b"")),
        ("agent_registered", {"data_key": "x"}, ("agent_registered", "", b'{"data_key":"x"}')),
    ],
)
def test_events_of_the_former_servers(kind: str, data: Any, wanted: tuple[Any, ...]) -> None:
    file = legacy({"sequence": "1700000000000-1", "event_type": kind, "data": data})
    for bom in (b"", BOM):
        assert detect(bom + file, complete=True) is LEGACY
        (event,) = read(bom + file, LEGACY)
        assert (event.event_type, event.data_key, event.payload) == wanted
        assert event.sequence == Sequence(1700000000000, 1)


def test_an_event_of_the_former_servers_is_named_by_its_number() -> None:
    good = {"sequence": 5, "event_type": "a", "data": {}}
    for bad, problem in (
        ({**good, "event_type": 5}, "event_type: is not a string"),
        ({"event_type": "a"}, "sequence: is missing"),
        ({**good, "sequence": "x"}, "'x' is not of the form"),
        ({**good, "data": {"data_key": [1]}}, "data_key: is not a string"),
    ):
        with pytest.raises(MalformedFile, match=f"{problem}.*event 2"):
            read(legacy(good, bad), LEGACY)


def test_a_large_first_event_does_not_hide_the_format() -> None:
    start = line(data="x" * 100_000)
    assert detect(start[:70_000], complete=False) is CLOUD
    assert detect(pretty(OBJECTS)[:10], complete=False) is None
    assert detect(legacy()[:20], complete=False) is None
    assert detect(b'{\n "events": [', complete=False) is LEGACY

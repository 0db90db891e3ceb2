from __future__ import annotations

import io
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from contex import NewEvent
from contex_cli import drafts, records
from contex_cli.exits import InputError
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.cli.test_output import event

JSON, TEXT, BINARY = "application/json", "text/plain; charset=utf-8", "application/octet-stream"


@pytest.mark.parametrize(
    ("value", "content_type", "expected"),
    [
        ('{"a": 1}', None, (b'{"a": 1}', JSON)),
        ("42", None, (b"42", JSON)),
        ("null", None, (b"null", JSON)),
        ("hello", None, (b"hello", TEXT)),
        ("NaN", None, (b"NaN", TEXT)),
        ("", None, (b"", TEXT)),
        ("{broken", "text/x", (b"{broken", "text/x")),
    ],
)
def test_json_is_recognised(value: str, content_type: str | None, expected: Any) -> None:
    assert drafts.read_payload(value, content_type) == expected


@pytest.mark.parametrize("value", ['{"a": 1', "[1, 2", '  {"a": }'])
def test_broken_json_is_not_published_as_text(value: str) -> None:
    with pytest.raises(InputError, match="looks like JSON"):
        drafts.read_payload(value, None)


@pytest.mark.parametrize(
    ("name", "content", "content_type"),
    [
        ("services.yaml", b"a: 1", "application/yaml"),
        ("services.YML", b"a: 1", "application/yaml"),
        ("settings.toml", b"a = 1", "application/toml"),
        ("products.tsv", b"a\tb", "text/tab-separated-values; charset=utf-8"),
        ("x.json", b"[1]\n", JSON),
        ("x.conf", b"[1]", JSON),
        ("x.conf", b"a = 1", TEXT),
        ("x.md", b"# hi", "text/markdown; charset=utf-8"),
        ("x.csv", b"1", "text/csv; charset=utf-8"),
        ("x.png", b"\x89PNG", "image/png"),
        ("x", b"\xff\xfe", BINARY),
    ],
)
def test_a_file_is_read(tmp_path: Path, name: str, content: bytes, content_type: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert drafts.read_payload(f"@{path}", None) == (content, content_type)


def test_a_broken_json_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("oops")
    with pytest.raises(InputError, match="looks like JSON"):
        drafts.read_payload(f"@{path}", None)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(InputError, match="can't read '@/does/not/exist'"):
        drafts.read_payload("@/does/not/exist", None)


def test_a_dash_reads_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[1]\n")))
    assert drafts.read_payload("-", None) == (b"[1]\n", JSON)


def test_metadata() -> None:
    assert drafts.parse_metadata(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for entries in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(InputError, match="--meta"):
            drafts.parse_metadata(entries)


def parsed(**record: Any) -> NewEvent | None:
    return drafts.parse_line(json.dumps(record).encode())


@pytest.mark.parametrize(
    ("record", "description"),
    [
        ({}, None),
        ({"description": ""}, ""),
        ({"description": None}, ""),
        ({"description": "d"}, "d"),
        ({"sequence": "1-0", "revision": 2}, ""),
    ],
)
def test_a_line_without_a_description_keeps_the_datums(
    record: dict[str, Any], description: str | None
) -> None:
    event = parsed(data_key="k", data=1, **record)
    assert event is not None
    assert event.description == description


def test_a_line_becomes_an_event() -> None:
    assert parsed(
        data_key="k",
        data={"a": [1, "é"]},
        description="d",
        event_type="t",
        metadata={"m": "1"},
        expected_revision=3,
    ) == NewEvent(
        data_key="k",
        payload='{"a":[1,"é"]}'.encode(),
        description="d",
        event_type="t",
        content_type=JSON,
        metadata={"m": "1"},
        expected_revision=3,
    )


@pytest.mark.parametrize(
    ("record", "payload", "content_type"),
    [
        ({"data": None}, b"null", JSON),
        ({"payload": 12345678901234567890123}, b"12345678901234567890123", JSON),
        ({"payload_text": "hi"}, b"hi", TEXT),
        ({"payload_text": "<a>", "content_type": "text/html"}, b"<a>", "text/html"),
        ({"payload_base64": "/wA="}, b"\xff\x00", BINARY),
        ({"content_type": "text/plain"}, b"", "text/plain"),
    ],
)
def test_payloads_of_lines(record: dict[str, Any], payload: bytes, content_type: str) -> None:
    event = parsed(data_key="k", **record)
    assert event is not None
    assert (event.payload, event.content_type) == (payload, content_type)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"data_key":"k"}', "exactly one of"),
        (b'{"data_key":"k","content_type":"application/json"}', "exactly one of"),
        (b'{"data_key":"k","data":1,"payload":2}', "exactly one of"),
        (b'{"data_key":"k","data":NaN}', "NaN is not JSON"),
        (b'{"data_key":"k","data":"\\ud800"}', "surrogate"),
        (b'{"data_key":1,"data":1}', "data_key is not a text"),
        (b'{"data_key":"k","daat":1}', "unknown key 'daat'"),
        (b'{"data_key":"k","payload_base64":"!"}', "payload_base64"),
        (b'{"data_key":"k","payload_text":1}', "payload_text is not a text"),
        (b'{"data_key":"k","data":1,"metadata":{"a":1}}', "metadata"),
        (b'{"data_key":"k","data":1,"metadata":[1]}', "metadata"),
        (b'{"data_key":"k","data":1,"expected_revision":-1}', "expected_revision"),
        (b'{"data_key":"k","data":1,"expected_revision":true}', "expected_revision"),
        (b'{"data_key":"k","data":1,"valid_for":"1h"}', "valid_for is not a number of seconds"),
        (b'{"data_key":"k","data":1,"valid_until":"soon"}', "valid_until: 'soon' is not a time"),
        (b'{"data_key":"k","data":1,"valid_until":"2030-01-01"}', "valid_until has no time zone"),
        (b'{"data_key":"k","data":1,"valid_for":1,"valid_until":"x"}', "not together with valid_u"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        drafts.parse_line(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  \r",
        b'{"event_type":"agent_registered"}',
        b'{"event_type":"match_feedback","opaque":false}',
        b'{"event_type":"matching_model_changed"}',
        b'{"event_type":"matching_background_changed"}',
    ],
)
def test_a_line_can_publish_nothing(line: bytes) -> None:
    assert drafts.parse_line(line) is None


def test_a_line_says_how_long_a_fact_is_valid() -> None:
    def valid(**record: Any) -> tuple[Any, Any]:
        event = parsed(data_key="k", data=1, **record)
        assert event is not None
        return event.valid_for, event.valid_until

    assert valid(valid_for=1.5) == (1.5, None)
    end = "2999-01-31T10:00:00+01:00"
    assert valid(valid_until=end) == (None, datetime.fromisoformat(end))
    # One that was written by hand is left to the server, which refuses it.
    assert valid(valid_until="2020-01-31T10:00:00Z") != (None, None)


def test_a_fact_that_has_expired_since_it_was_printed_is_left_out() -> None:
    def line(revision: int) -> bytes:
        event = {"data_key": "k", "data": 1, "sequence": "1-0", "revision": revision}
        return json.dumps(event | {"valid_until": "2020-01-31T10:00:00Z"}).encode()

    left_out = Counter[str]()
    assert drafts.parse_line(line(1), left_out) is None
    # Not the fact before it, either.
    deletion = NewEvent(data_key="k", payload=None, tombstone=True)
    assert drafts.parse_line(line(2), left_out) == deletion
    assert left_out == {"expired": 2}


def test_a_deletion_becomes_a_tombstone() -> None:
    ended = ({"event_type": "data_deleted"}, {"event_type": "data_expired"})
    for record in (*ended, {"tombstone": True}):
        event = parsed(data_key="k", description="", **record)
        assert event == NewEvent(data_key="k", payload=None, tombstone=True)


@given(
    payload=st.binary(max_size=40) | st.sampled_from([b"{}", b"[1.50]", b'"a"']),
    content_type=st.sampled_from([JSON, TEXT, BINARY]),
    event_type=st.sampled_from(["data_published", "deployed"]),
)
def test_what_json_prints_can_be_published_again(
    payload: bytes, content_type: str, event_type: str
) -> None:
    assume(payload or content_type != JSON)  # which the server would not have taken
    original = event(payload=payload, content_type=content_type, event_type=event_type)
    again = drafts.parse_line(records.encode(original))
    assert again is not None
    assert again.data_key == original.data_key
    assert again.content_type == content_type
    assert again.event_type == ("" if event_type == "data_published" else event_type)
    assert again.metadata == original.metadata
    if content_type == JSON and again.payload != payload:
        assert json.loads(str(again.payload, "utf-8")) == json.loads(payload)  # type: ignore[call-overload]
    else:
        assert again.payload == payload

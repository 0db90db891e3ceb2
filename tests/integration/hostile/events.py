"""Publishes."""

from __future__ import annotations

from typing import Any

from contex_server.kernel.model import RESERVED_TYPES
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.hostile.scene import MIB
from tests.integration.hostile.table import (
    AROUND,
    BAD_METADATA,
    CASES,
    NASTY,
    UNPRINTABLE,
    Case,
    long_names,
    refuse,
)
from tests.integration.support import NewEvent, P, PublishRequest, event, own

for _name, _text in {**long_names(64), **NASTY, "slash": "a/b"}.items():
    refuse("Publish", f"request_id {_name}", "request_id", request_id=_text)
for _name, _text in {**long_names(128), **UNPRINTABLE, **AROUND}.items():
    refuse("Publish", f"publisher {_name}", "publisher", publisher=_text)
for _value in (4, 99, -1, 2**31 - 1, -(2**31)):
    refuse("Publish", f"durability {_value}", "durability", durability=_value)
refuse("Publish", "no event", "events", events=[])
refuse("Publish", "1,001 events", "events", events=[event()] * 1_001)
refuse("Publish", "100,000 events", "events", events=[NewEvent()] * 100_000)


def refuse_event(name: str, field: str, bad: NewEvent, **expect: Any) -> None:
    """A good event and a bad one are refused together, and the bad one is named."""
    refuse("Publish", name, f"events[1].{field}", expect=expect, events=[event("good"), bad])


for _name, _text in {"empty": "", **long_names(256), **UNPRINTABLE, **AROUND}.items():
    refuse_event(f"key {_name}", "data_key", event(_text))
refuse_event("key of a tombstone empty", "data_key", event("", b"", tombstone=True))
refuse_event("key bad beside an own type", "data_key", event("a ", event_type="note"))
for _name, _text in {**long_names(64), **UNPRINTABLE, **AROUND}.items():
    refuse_event(f"type {_name}", "event_type", event(event_type=_text))
for _text in sorted(RESERVED_TYPES):
    for _bad_event in (event(event_type=_text), own(_text), own(_text, tombstone=True)):
        refuse_event(
            f"type {_text} {_bad_event.data_key} {_bad_event.tombstone}",
            "event_type",
            _bad_event,
            reason="EVENT_TYPE_RESERVED",
        )
for _name, _bad_event in {
    "payload": event(tombstone=True),
    "content_type": event("k", b"", content_type="text/plain", tombstone=True),
    "event_type": event("k", b"", event_type="note", tombstone=True),
}.items():
    refuse_event(f"tombstone with {_name}", _name, _bad_event)
for _name, _text in {
    "no slash": "json",
    "empty type": "/json",
    "empty subtype": "text/",
    "two slashes": "a/b/c",
    "star": "*/*",
    "line end": "text/plain\r\nx-evil: 1",
    "trailing newline": "text/plain\n",
    "newline before parameters": "text/plain\n; charset=utf-8",
    "unicode space before parameters": "text/plain\u2028; charset=utf-8",
    "newline in parameters": "text/plain; a\nb",
    "NUL": "text/plain\0",
    "unicode": "text/plaín",
    "emoji in parameters": "text/plain; 😀",
    "one too long": "text/" + "a" * 124,
    "far too long": "text/" + "a" * 100_000,
    "long parameters": "text/plain;" + " " * 200_000,
}.items():
    refuse_event(f"content_type {_name}", "content_type", event(content_type=_text))
for _name, _text in {
    "one too long": "d" * 4_097,
    "too long in emoji": "😀" * 1_025,
    "far too long": "d" * MIB,
}.items():
    refuse_event(f"description {_name}", "description", event(description=_text))
for _name, _metadata in BAD_METADATA.items():
    refuse_event(f"metadata {_name}", "metadata", event(metadata=_metadata))
refuse_event("state without key", "expected_state", own(expected_state=1))
refuse_event("state that is none", "expected_state", event(expected_state=4))
for _length in (
    Duration(),
    Duration(seconds=-1),
    Duration(seconds=2**62),
    Duration(nanos=2**31 - 1),
):
    refuse_event(f"valid for {_length}".strip(), "valid_for", event(valid_for=_length))
for _end in (
    Timestamp(),
    Timestamp(seconds=-(2**62)),
    Timestamp(seconds=2**62),
    Timestamp(nanos=-1),
):
    refuse_event(f"valid until {_end}".strip(), "valid_until", event(valid_until=_end))
refuse_event("validity without key", "valid_for", own(valid_for=Duration(seconds=5)))
refuse_event(
    "validity of a deletion",
    "valid_until",
    event("k", b"", tombstone=True, valid_until=Timestamp(seconds=2**31)),
)
refuse_event("state and revision", "expected_state", event(expected_state=1, expected_revision=0))
refuse_event("revision without key", "expected_revision", own(expected_revision=0))
for _value in (2**53 + 1, 2**63, 2**64 - 1):
    refuse_event(f"revision {_value}", "expected_revision", event(expected_revision=_value))
CASES.append(
    Case(
        "Publish",
        "revision of somebody else",
        lambda: PublishRequest(
            project=P, events=[event("new"), event("k0", expected_revision=2**53)]
        ),
        "REVISION_CONFLICT",
        code="FAILED_PRECONDITION",
        metadata=frozenset({"data_key", "expected_revision", "actual_revision", "actual_state"}),
    )
)


refuse(
    "Publish",
    "a subject that is none",
    "events[0].metadata",
    events=[event("k", metadata={"subject": "a b"})],
)


# Payloads.
SIZES = frozenset({"size_bytes", "limit_bytes"})
for _name, _size in {"one byte too large": MIB + 1, "of 5 MB": 5_000_000}.items():
    for _type in ("", "application/octet-stream"):
        refuse_event(
            f"payload {_name} {_type}",
            "payload",
            event("k", b"1" * _size, content_type=_type),
            reason="PAYLOAD_TOO_LARGE",
            metadata=SIZES,
        )
refuse(
    "Publish",
    "batch over 8 MiB",
    "events",
    expect={"reason": "PAYLOAD_TOO_LARGE", "metadata": SIZES},
    events=[event("k", b'"%s"' % (b"x" * 1_000_000))] * 9,
)
for _name, (_payload, _type, _place) in {
    "empty": (b"", "", "line 1, column 1"),
    "a brace": (b"{", "", "line 1, column 2"),
    "on line 3": (b'{\n "a": 1,\n "b": oops\n}', "", "line 3, column 7"),
    "trailing comma": (b"[1,]", "", "line 1, column 3"),
    "NaN": (b"NaN", "", "line 1"),
    "two values": (b"1 2", "", "line 1, column 3"),
    "not UTF-8": (b'"\xff\xfe"', "", "line 1"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "", "line 1"),
    "byte order mark": (b"\xef\xbb\xbf{}", "", "line 1"),
    "lone surrogate": (rb'"\ud800"', "", "line 1"),
    "NUL": (b'"a\0b"', "", "line 1"),
    "100,000 open brackets": (b"[" * 100_000, "", "line 1"),
    "100,000 brackets": (b"[" * 100_000 + b"]" * 100_000, "", "line 1"),
    "100,000 objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "", "line 1"),
    "JSON by suffix": (b"<", "application/problem+json; v=1", "line 1, column 1"),
    "JSON in capitals": (b"<", "APPLICATION/JSON", "line 1, column 1"),
    "text not UTF-8": (b"gr\xc3\xbc\n\xc3\xbc\xff", "text/plain", "line 2, column 2"),
    "YAML": (b"a: 1\nb: [1, 2\n", "application/yaml", "line 3"),
    "TOML": (b"a = 1\nb = \n", "application/toml", "line 2, column 5"),
    "XML": (b"<a>\n<b></a>", "application/xml", "line 2, column 6"),
    "CSV": (b'a,b\n1,"2\n', "text/csv", "line"),
    "text cut off": (b"a\xc3", "text/markdown", "line 1, column 2"),
    "text of surrogates": (b"\xed\xa0\x80", "text/plain", "line 1, column 1"),
}.items():
    refuse_event(
        f"payload {_name}",
        "payload",
        event("k", _payload, content_type=_type),
        reason="PAYLOAD_MALFORMED",
        says=_place,
    )


def _bad() -> NewEvent:
    return NewEvent(data_key="a\tb", content_type="none", expected_revision=2**60)


refuse(
    "Publish",
    "several fields of several events",
    "events[0].data_key",
    events=[_bad(), NewEvent(data_key="fine"), NewEvent(event_type="a\tb")],
)

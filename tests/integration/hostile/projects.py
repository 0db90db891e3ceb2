"""Retention, removal, erasure and activity of a project."""

from __future__ import annotations

from contex.v1 import event_pb2
from contex.v1.project_service_pb2 import EraseDataRequest, Retention

from tests.integration.hostile.scene import VALID
from tests.integration.hostile.table import (
    CASES,
    FEW,
    NASTY,
    UNPRINTABLE,
    UNPRINTABLE_FEW,
    Case,
    long_names,
    nested,
    raw,
    refuse,
    some,
)
from tests.integration.support import P

# Retention.
for _field in ("store_seconds", "archive_seconds"):
    for _value in (3_155_760_001, 2**64 - 1):
        refuse(
            "SetRetention",
            f"{_field} {_value}",
            f"retention.{_field}",
            retention=Retention(**{_field: _value}),
        )
for _field, _most in {
    "store_events": 2**53,
    "store_bytes": 2**53,
    "keep_revisions": 1_000_000,
}.items():
    refuse(
        "SetRetention",
        f"{_field} too large",
        f"retention.{_field}",
        retention=Retention(**{_field: _most + 1}),
    )
raw(
    "SetRetention",
    "legal_hold that is no boolean",
    lambda: bytes(VALID["SetRetention"].SerializeToString()) + nested((2,), b"\x2a\x05abc"),
)
for _name, _text in {"empty": "", "blank": " \n", "long": "a" * 1_001}.items():
    refuse("RemoveEvents", f"reason {_name}", "reason", reason=_text)
    refuse("EraseData", f"reason {_name}", "reason", reason=_text)
    refuse("DeleteProject", f"reason {_name}", "reason", reason=_text)
for _name, _text in some({"empty": "", **long_names(128), **NASTY}, *FEW).items():
    refuse("EraseData", f"subject {_name}", "subject", subject=_text)
for _name, _text in some({"empty": "", **long_names(256), **UNPRINTABLE}, *UNPRINTABLE_FEW).items():
    refuse("EraseData", f"data_key {_name}", "data_key", data_key=_text)
for _name, _text in some({"empty": "", **long_names(64), **NASTY}, *FEW).items():
    refuse("EraseData", f"request_id {_name}", "request_id", request_id=_text)
    refuse("DeleteProject", f"request_id {_name}", "request_id", request_id=_text)
for _name, _text in {"long": "a" * 65, "NUL": "a\0b", "open": "a\\"}.items():
    refuse("ListProjects", f"name {_name}", "name", name=_text)
for _size in (-1, 1_001):
    refuse("ListProjects", f"page_size {_size}", "page_size", page_size=_size)
CASES.append(
    Case(
        "EraseData",
        "no target",
        lambda: EraseDataRequest(project=P, request_id="r", reason="x"),
        field="target",
    )
)
refuse(
    "EraseData",
    "a key that never was",
    expect={
        "reason": "DATA_KEY_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"data_key"}),
    },
    data_key="never",
)


# Activity.
for _value in (6, 99, -1, 2**31 - 1, -(2**31)):
    refuse("GetActivity", f"dimension {_value}", "dimension", dimension=_value)
for _value in (1, 59, 61, 3_599, 3_660, 2**32 - 1):
    refuse("GetActivity", f"bucket {_value}", "bucket_seconds", bucket_seconds=_value)
for _value in (101, 2**32 - 1):
    refuse("GetActivity", f"top {_value}", "top", top=_value)
for _value in (1_441, -1_441, 2**31 - 1, -(2**31)):
    refuse("GetActivity", f"offset {_value}", "utc_offset_minutes", utc_offset_minutes=_value)
for _name, _text in {"empty": "", "too long": "a" * 1_201}.items():
    refuse("GetActivity", f"names {_name}", "names[1]", dimension=2, names=["a", _text])
refuse("GetActivity", "names too many", "names", dimension=2, names=["a"] * 33)
refuse("GetActivity", "names of all together", "names", names=["a"])
refuse(
    "GetActivity",
    "more buckets than there may be",
    "bucket_seconds",
    bucket_seconds=3_600,
    since=event_pb2.Position(unix_ms=0),
)

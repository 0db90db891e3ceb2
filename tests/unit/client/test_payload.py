from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from contex import payload
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates have no UTF-8 form.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values)
def test_what_is_published_is_read_back(value: object) -> None:
    assert payload.decode(*payload.encode(value)) == value


@given(st.binary())
def test_bytes_stay_bytes(value: bytes) -> None:
    assert payload.encode(value) == (value, "application/octet-stream")
    assert payload.decode(*payload.encode(memoryview(value))) == value


@pytest.mark.parametrize(
    ("value", "content_type", "expected"),
    [
        ({"a": [1, "ü"]}, None, ('{"a":[1,"ü"]}'.encode(), "application/json")),
        ("ü", None, ("ü".encode(), "text/plain; charset=utf-8")),
        ('{"raw":1}', "application/json", (b'{"raw":1}', "application/json")),
        (b"{}", "application/json", (b"{}", "application/json")),
        ([1], "application/x+json", (b"[1]", "application/x+json")),
        (None, None, (b"null", "application/json")),
        (2**70, None, (str(2**70).encode(), "application/json")),
    ],
)
def test_encoding(value: object, content_type: str | None, expected: tuple[bytes, str]) -> None:
    assert payload.encode(value, content_type) == expected


@pytest.mark.parametrize(
    ("data", "content_type", "expected"),
    [
        (b"", "", None),
        (b"[1]", "", [1]),
        (b"[1]", "application/vnd.a+json; v=1", [1]),
        (b"\xfc", "text/plain; charset=latin-1", "ü"),
        (b"\xff", "image/png", b"\xff"),
    ],
)
def test_decoding(data: bytes, content_type: str, expected: object) -> None:
    assert payload.decode(data, content_type) == expected


class Colour(Enum):
    RED = "red"


@dataclass
class Part:
    name: str
    price: Decimal
    made: datetime


class Order(BaseModel):
    number: UUID
    when: datetime


ID = UUID("12345678-1234-5678-1234-567812345678")
NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (NOON, "2025-01-01T12:00:00+00:00"),
        (date(2025, 1, 1), "2025-01-01"),
        (time(12, 30), "12:30:00"),
        (ID, str(ID)),
        (Decimal("1.10"), "1.10"),
        (Colour.RED, "red"),
        (
            Part("bolt", Decimal("0.05"), NOON),
            {"name": "bolt", "price": "0.05", "made": "2025-01-01T12:00:00+00:00"},
        ),
        (Order(number=ID, when=NOON), {"number": str(ID), "when": "2025-01-01T12:00:00Z"}),
        ({"a": [ID, {"b": NOON.date()}]}, {"a": [str(ID), {"b": "2025-01-01"}]}),
    ],
)
def test_common_types_have_a_json_form(value: object, plain: object) -> None:
    data, content_type = payload.encode(value)
    assert (json.loads(data), content_type) == (plain, "application/json")


LOOP: list[object] = []
LOOP.append(LOOP)
DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "payload: nan has no JSON form"),
        ({"a": [1, math.inf]}, "payload.a[1]: inf has no JSON form"),
        (object(), "payload: a value of type object has no JSON form"),
        ({"a": {"b": {1, 2}}}, "payload.a.b: a value of type set has no JSON form"),
        ([b"x"], "payload[0]: a value of type bytes has no JSON form"),
        ([Part(object(), Decimal(1), NOON)], "payload[0].name: a value of type object has no"),
        ({ID: 1}, "payload: a UUID can't be a name in JSON: UUID("),
        ("a\ud800", "payload: character 1 is U+D800, half of a surrogate pair"),
        ({"a": "\udfff"}, "payload.a: character 0 is U+DFFF"),
        ({"\ud800": 1}, "payload, a name: character 0 is U+D800"),
        (LOOP, "payload: Circular reference"),
        (DEEP, "payload: nested too deeply for JSON"),
        (Part, "payload: a value of type type has no JSON form"),
    ],
)
def test_what_json_does_not_know_is_refused_by_its_place(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        payload.encode(value)

from __future__ import annotations

import math

import pytest
from contex import payload
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("value", [math.nan, [math.inf]])
def test_what_json_does_not_know_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        payload.encode(value)


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError):
        payload.encode(object())

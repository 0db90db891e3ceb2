from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from contex_server.kernel.model import BEGINNING, DATA_DELETED, DATA_PUBLISHED, Event
from contex_server.matching.delta import MinDelta, is_significant_update, parse_pointer
from hypothesis import given
from hypothesis import strategies as st


def event(payload: bytes | Any, content_type: str = "", event_type: str = DATA_PUBLISHED) -> Event:
    if not isinstance(payload, bytes):
        payload = orjson.dumps(payload)
    return Event(BEGINNING, event_type, "key", payload, content_type, "", "", 1, None, b"")


def worth(before: Any, after: Any, *pointers: str, content_type: str = "") -> bool:
    one, other = event(before, content_type), event(after, content_type)
    return is_significant_update(one, other, MinDelta(pointers))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a": 1, "b": [2]}', b'{"b":[2],"a":1}'),
        (b"1", b"1.0"),
        (b"100", b"1e2"),
        (b"0.1", b"0.10000000000000000000"),
        (b"12345678901234567890123", b"12345678901234567890123.0"),
        (b'"\\u00e9"', '"é"'.encode()),
        (b"[]", b" [ ] "),
    ],
)
def test_the_same_value_is_no_change(before: bytes, after: bytes) -> None:
    assert not worth(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"1", b"true"),
        (b"0", b"false"),
        (b"[1]", b"[true]"),
        (b'{"a": null}', b"{}"),
        (b"[1, 2]", b"[2, 1]"),
        (b"[1]", b"[1, 1]"),
        (b'"1"', b"1"),
        (b"{}", b"[]"),
        (b"12345678901234567890123", b"12345678901234567890124"),
        (b"0.12345678901234567890", b"0.12345678901234567891"),
        (b"0e-99999999999999999999", b"0"),
        (b"not json", b"not  json"),
        (b"[" * 1_000 + b"1.23456789012345678" + b"]" * 1_000, b"0"),
    ],
)
def test_another_value_is_a_change(before: bytes, after: bytes) -> None:
    assert worth(before, after)


def test_only_pointed_values_count() -> None:
    before = {"price": 5, "seen": 1, "tags": ["a", {"x/y": 1, "~": 2}]}
    assert not worth(before, before | {"seen": 2}, "/price", "/tags/0")
    assert worth(before, before | {"price": 6}, "/seen", "/price")
    assert worth(before, before | {"tags": ["a", {"x/y": 3, "~": 2}]}, "/tags/1/x~1y")
    assert not worth(before, before | {"tags": ["a", {"x/y": 3, "~": 2}]}, "/tags/1/~0")
    assert worth(before, before | {"seen": 2}, "")
    assert worth({"a": None}, {}, "/a")
    assert not worth({"b": 1}, {"b": 2}, "/a", "/a/b/c", "/b/0")


@pytest.mark.parametrize("token", ["-", "01", "2", "x", "-1", "99999999999", ""])
def test_no_element_of_an_array(token: str) -> None:
    assert not worth([1, 2], [3, 4], f"/{token}")


def test_other_formats_are_compared_by_their_bytes() -> None:
    assert worth(b"a: 1", b"a:  1", content_type="application/yaml")
    assert worth(b"a: 1\nb: 1", b"a: 1\nb: 2", "/a", content_type="application/yaml")
    assert not worth(b"a: 1", b"a: 1", "/b", content_type="application/yaml")
    assert not worth(b"{} ", b"{}", content_type="application/vnd.x+json")


def test_content_type_and_deletion_are_changes() -> None:
    delta = MinDelta(("/a",))
    text = event(b"1", "text/plain")
    assert is_significant_update(event(b"1"), text, delta)
    assert not is_significant_update(event(b"1"), event(b"1", "application/json"), delta)
    gone = event(b"", "text/plain", DATA_DELETED)
    empty = event(b"", "text/plain")
    assert is_significant_update(empty, gone, delta)
    assert is_significant_update(gone, empty, delta)
    assert not is_significant_update(gone, gone, delta)


def test_equal_bytes_are_not_parsed() -> None:
    payload = orjson.dumps([{"n": n} for n in range(100_000)])
    one, other = event(payload), event(bytes(bytearray(payload)))
    begun = time.perf_counter()
    for _ in range(100):
        assert not is_significant_update(one, other, MinDelta(("/5/n",)))
    assert time.perf_counter() - begun < 1.0  # parsing takes 20 ms each


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ()),
        ("/", ("",)),
        ("/a/b", ("a", "b")),
        ("/a~1b/~0", ("a/b", "~")),
        ("/~01", ("~1",)),
        ("//\n/", ("", "\n", "")),
    ],
)
def test_pointers(text: str, tokens: tuple[str, ...]) -> None:
    assert parse_pointer(text) == tokens


@pytest.mark.parametrize("text", ["a", "a/b", "/~", "/~2", "/a~/b", "#/a", " /a"])
def test_malformed_pointers(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        parse_pointer(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab/~", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


def tagged(value: Any) -> Any:
    """A value whose equality is JSON's."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {name: tagged(child) for name, child in value.items()}
    return [tagged(child) for child in value] if isinstance(value, list) else value


@given(JSON, JSON)
def test_a_change_is_another_value(one: Any, other: Any) -> None:
    assert worth(one, other) == (tagged(one) != tagged(other))
    assert not worth(json.dumps(one, indent=1).encode(), json.dumps(one).encode())

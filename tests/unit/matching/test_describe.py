from __future__ import annotations

import random
import re
import string
from typing import Any

import orjson
import pytest
from contex_server.matching.describe import (
    DIGEST_BYTES,
    OUTLINE_CHARS,
    PayloadMalformed,
    describe,
    text_digest,
)
from hypothesis import given
from hypothesis import strategies as st

CONFIG = {
    "base_url": "https://api.example.com/v1",
    "timeout": 30,
    "auth": {"type": "bearer", "tokenUrl": "https://auth.example.com/token"},
    "endpoints": ["users", "orders"],
    "updated_at": "2026-11-23T10:00:00Z",
}


def outline(payload: Any) -> str:
    return describe("", "", orjson.dumps(payload), "")


def test_names_description_and_outline() -> None:
    text = describe("api_config", "API endpoint and timeouts.", orjson.dumps(CONFIG), "")
    assert text == (
        "api config. API endpoint and timeouts. base url https://api.example.com/v1, timeout, "
        "auth, endpoints, updated at, type bearer, token url https://auth.example.com/token, "
        "users, orders"
    )


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("api_config", "api config"),
        ("AclApi.add_mapping", "acl api add mapping"),
        ("user/profile:prefs-v2", "user profile prefs v2"),
        ("HTTPServerConfig", "http server config"),
        ("OAuthToken", "oauth token"),
        ("sensor_12", "sensor 12"),
        ("order-8f3a9c2b41d7", "order"),
        ("___", "___"),
    ],
)
def test_key_in_words(key: str, words: str) -> None:
    assert describe(key, "", b"1", "") == words


def test_event_type_stands_in_for_the_key() -> None:
    assert describe("", "", b"{}", "", "userLoggedIn") == "user logged in"


@pytest.mark.parametrize(
    "value",
    [
        3,
        -1.5e300,
        True,
        None,
        "23.5",
        "-7",
        "93%",
        "$12.50",
        "1,234.5 kWh",
        "35 ms",
        "12GB",
        "2026-11-23",
        "2026-11-23T10:00:00.123+02:00",
        "2026-11-23 10:00:00",
        "20261123T101010Z",
        "Mon, 23 Nov 2026 22:18:18 GMT",
        "10:22:01",
        "10.0.0.1",
        "550e8400-e29b-41d4-a716-446655440000",
        "8f3a9c2b41d7",
        "0x1f",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "",
        [1, 2, 3],
        {},
    ],
    ids=repr,
)
def test_what_changes_is_left_out(value: Any) -> None:
    assert outline({"reading": value, "unit": "celsius"}) == "reading, unit celsius"


@pytest.mark.parametrize(
    "value", ["gpt-4", "v2.1.0", "OAuth2", "2FA", "/users/7", "deadbeef", "日本", "???", "a1b2"]
)
def test_names_with_digits_stay(value: str) -> None:
    assert outline({"is": value}) == f"is {value}"


def test_numbers_are_left_out_of_sentences() -> None:
    first = outline({"log": "req_8f3a9c2b41d7 failed in 35 ms at 2026-11-23T10:00:00Z (try 2)"})
    second = outline({"log": "req_0a1b2c3d4e5f failed in 1.2 s at 2027-01-02T00:00:01Z (try 17)"})
    assert first == second == "log req_ failed in at (try )"


def test_maps_by_id_describe_what_they_hold() -> None:
    ids = ("550e8400-e29b-41d4-a716-446655440000", "123e4567-e89b-12d3-a456-426614174000")
    texts = {outline({"carts": {i: {"item": "lamp"}}}) for i in ids}
    assert texts == {"carts, item lamp"}


def test_siblings_come_before_what_is_deeper() -> None:
    assert outline({"long": ["word " * 30] * 9, "port": 1}).startswith("long, port, word")


def test_repetition_is_said_once() -> None:
    users = [{"name": "Ada", "role": "admin"}, {"name": "Bob", "role": "admin"}]
    assert outline({"users": users}) == "users, name Ada, role admin, name Bob"


def test_long_strings_end_at_a_word() -> None:
    text = outline("word " * 100)
    assert len(text) <= 200
    assert text.endswith("word")


def test_only_the_first_elements_of_an_array_count() -> None:
    names = ["Ada", "Bob", "Cleo", "Dan", "Eve"]
    assert outline(names) == outline(names[:4])


@pytest.mark.parametrize("content_type", ["", "application/json", "Application/LD+JSON; a=b"])
@pytest.mark.parametrize(
    ("payload", "line", "column"),
    [
        (b"", 1, 1),
        (b'{"a":\n 1,}', 2, 3),
        (b"[" * 200_000, 1, 1026),
        (b'"\xff"', 1, 1),
        (b"NaN", 1, 1),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_malformed_json_says_where(
    content_type: str, payload: bytes, line: int, column: int
) -> None:
    with pytest.raises(PayloadMalformed, match=f"line {line}, column") as raised:
        describe("key", "", payload, content_type)
    assert (raised.value.line, raised.value.column) == (line, column)


def test_text_is_outlined_by_its_beginning() -> None:
    payload = "Über  uns:\nLampen, ".encode() + b"much more " * 1_000
    text = describe("about", "", payload, "text/plain; charset=utf-8")
    assert text.startswith("about. Über uns: Lampen, much more")
    assert len(text) <= len("about. ") + OUTLINE_CHARS


def test_malformed_text_says_where() -> None:
    with pytest.raises(PayloadMalformed) as raised:
        describe("key", "", "one\nzwölf".encode() + b"\xff", "text/markdown")
    assert (raised.value.line, raised.value.column) == (2, 6)


def test_other_types_are_not_read() -> None:
    assert describe("logo", "The logo", b"\xff\x00", "image/png") == "logo. The logo"


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 1_000 + b"]" * 1_000,
        b"{%s}" % b",".join(b'"k%d":"v%d"' % (i, i) for i in range(50_000)),
        b'"%s"' % (b"1a " * 300_000),
        b'"%s"' % (b"a" * 1_000_000),
        b"[%s]" % b",".join([b"1"] * 400_000),
        b'{"a":' * 900 + b'"x"' + b"}" * 900,
        b'{"%s":1}' % (b"aB_" * 300_000),
    ],
    ids=["deep", "wide", "words", "long", "numbers", "nested objects", "long name"],
)
def test_large_payloads_stay_bounded(payload: bytes) -> None:
    assert len(describe("", "", payload, "")) <= OUTLINE_CHARS


numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
volatile = numbers | st.booleans() | st.none()
values = st.recursive(
    volatile | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def reroll(value: Any, rng: random.Random) -> Any:
    """The same value with other numbers."""
    if isinstance(value, dict):
        return {name: reroll(child, rng) for name, child in value.items()}
    if isinstance(value, list):
        return [reroll(child, rng) for child in value]
    if isinstance(value, str):
        return value
    return rng.choice([None, True, False, rng.random() * 1e6, rng.randint(-99, 99)])


@given(values, st.text(string.ascii_letters + "_.:-", max_size=256), st.text(max_size=100))
def test_any_value_has_a_bounded_line(value: Any, key: str, description: str) -> None:
    text = describe(key, description, orjson.dumps(value), "")
    assert len(text) <= 2 * len(key) + len(description) + OUTLINE_CHARS + 4
    assert not re.search(r"[\r\n\t]", text.replace(key, "") if key == text else text)


@given(values, st.integers())
def test_numbers_do_not_change_the_text(value: Any, seed: int) -> None:
    assert outline(value) == outline(reroll(value, random.Random(seed)))


@given(st.binary(max_size=200), st.sampled_from(["", "text/csv", "image/png"]))
def test_any_bytes_are_described_or_malformed(payload: bytes, content_type: str) -> None:
    malformed: PayloadMalformed | None = None
    try:
        first = describe("key", "", payload, content_type)
    except PayloadMalformed as error:
        malformed = error
    else:
        assert first == describe("key", "", payload, content_type)
    assert malformed is None or min(malformed.line, malformed.column) >= 1


@given(st.text(max_size=2_000))
def test_any_text_is_cut(text: str) -> None:
    assert len(describe("", "", text.encode(), "text/plain")) <= OUTLINE_CHARS


def test_digest_depends_on_text_and_model() -> None:
    digests = {text_digest("a", "m"), text_digest("b", "m"), text_digest("a", "n")}
    assert len(digests) == 3
    assert {len(d) for d in digests} == {DIGEST_BYTES}
    assert text_digest("a", "m").hex() == "58d024af687dccfcb01a4b956aececb6"

from __future__ import annotations

import random
import re
import string
from typing import Any

import orjson
import pytest
from contex_server.matching.describe import DIGEST_BYTES, Description, describe, text_digest
from contex_server.matching.formats.media import Format
from contex_server.matching.formats.passages import (
    MAX_PASSAGES,
    OUTLINE_CHARS,
    PASSAGE_CHARS,
    PayloadMalformed,
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


WORDS = ["alpha", "beta", "delta", "lamp", "shade", "orange", "table", "chair", "window", "river"]


def of(payload: Any) -> Description:
    return describe("", "", orjson.dumps(payload), "")


def outline(payload: Any) -> str:
    (passage,) = of(payload).passages
    assert passage.path == ""
    return passage.text


def prose(words: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def test_names_description_and_outline() -> None:
    described = describe("api_config", "API endpoint and timeouts.", orjson.dumps(CONFIG), "")
    assert (described.title, described.summary) == ("api config", "API endpoint and timeouts")
    assert (described.format, described.truncated, described.described) == ("json", False, True)
    assert described.texts == (
        "api config. API endpoint and timeouts. base url https://api.example.com/v1, timeout, "
        "auth, endpoints, updated at, type bearer, token url https://auth.example.com/token, "
        "users, orders",
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
    described = describe(key, "", b"1", "")
    assert described.title == words
    assert described.texts == (words,)


def test_event_type_stands_in_for_the_key() -> None:
    assert describe("", "", b"{}", "", "userLoggedIn").title == "user logged in"


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


def test_what_fits_is_one_passage() -> None:
    names = [f"name{letter}" for letter in "abcdefghijklmnop"]
    assert outline(names) == ", ".join(names)
    assert outline("word " * 200) == " ".join(["word"] * 200)


def test_a_head_that_does_not_fit_is_the_beginning_of_everything() -> None:
    described = of({"people": [prose(30, i) for i in range(9)], "about": "word " * 300, "z": "end"})
    head, *_ = described.passages
    assert head.text.startswith("people, about word word")
    assert len(head.text) <= OUTLINE_CHARS
    assert head.text.count(".") == 4  # Of an array only the first elements.
    assert "z end" in head.text


def test_array_elements_share_passages() -> None:
    servers = [{"host": f"host{c}", "about": prose(20, i)} for i, c in enumerate("abcdefghijkl")]
    described = of({"servers": servers})
    assert not described.truncated
    assert [p.path for p in described.passages] == [
        "",
        "/servers/0-4",
        "/servers/5-9",
        "/servers/10-11",
    ]
    assert all(len(p.text) <= PASSAGE_CHARS for p in described.passages[1:])
    assert described.passages[1].text.startswith("servers, host hosta, about ")
    assert described.passages[2].text.startswith("host hostf, about ")


def test_large_members_have_passages_of_their_own() -> None:
    described = of(
        {
            "intro": prose(100, 1),
            "a/b": {"~c": {"text": prose(100, 2)}, "more": prose(100, 3)},
            "outro": {"x": prose(25, 4), "y": prose(25, 5)},
        }
    )
    assert [p.path for p in described.passages] == [
        "",
        "/intro",
        "/a~1b/~0c/text",
        "/a~1b/more",
        "/outro",
    ]
    assert described.texts[2].startswith("a b c text. a b, c, text ")


def test_members_of_the_outermost_object_are_named_by_the_first() -> None:
    described = of({f"field{c}": prose(30, i) for i, c in enumerate("abcdefgh")})
    assert [p.path for p in described.passages] == ["", "/fielda", "/fielde"]


def test_long_strings_are_split_at_paragraphs_and_sentences() -> None:
    paragraph = " ".join(prose(12, i) for i in range(20))
    described = of({"body": f"{paragraph}\n\n{prose(30)}"})
    _, *passages = described.passages
    assert {p.path for p in passages} == {"/body"}
    assert all(p.text.endswith(".") for p in passages)
    assert passages[0].text.startswith("body ")
    assert " ".join(p.text for p in passages).replace(",", "") == f"body {paragraph} {prose(30)}"


def test_names_alone_do_not_make_a_passage() -> None:
    described = of({"a": "x", "outer": {"inner": {"text": prose(300)}}})
    assert "/outer/inner/text" in [p.path for p in described.passages]
    assert not {"outer", "outer, inner"} & {p.text for p in described.passages}


def test_the_number_of_passages_is_bounded() -> None:
    described = of([prose(100, i) for i in range(100)])
    assert described.truncated
    assert len(described.passages) == MAX_PASSAGES
    assert described.passages[-1].path == f"/{MAX_PASSAGES - 2}"


def test_a_series_that_grows_keeps_its_digest() -> None:
    def series(points: int, readings: int) -> bytes:
        return of(
            {
                "about": prose(300),
                "points": [{"t": i, "value": i / 7, "state": "ok"} for i in range(points)],
                "readings": list(range(readings)),
                "by_id": {f"8f3a9c2b{i:04}": {"unit": "celsius"} for i in range(readings)},
            }
        ).digest()

    assert series(1, 1) == series(2, 7) == series(500, 20_000)


def test_elements_that_differ_keep_what_they_share() -> None:
    people = [{"name": c, "role": "admin", "about": prose(60, ord(c))} for c in "abcdefgh"]
    texts = " ".join(p.text for p in of(people).passages[1:])
    assert texts.count("role admin") == len(people)


@pytest.mark.parametrize("content_type", ["", "application/json", "Application/LD+JSON; a=b"])
@pytest.mark.parametrize(
    ("payload", "line", "column"),
    [
        (b"", 1, 1),
        (b'{"a":\n 1,}', 2, 3),
        (b"[" * 200_000, 1, 1),
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


def test_what_is_no_text_is_not_described() -> None:
    described = describe("logo", "The logo", b"\xff\x00", "image/png")
    assert described.texts == ("logo. The logo",)
    assert (described.format, described.described) == (Format.OPAQUE, False)
    assert describe("logo", "", b"", "image/png").described


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
def test_any_value_has_bounded_lines(value: Any, key: str, description: str) -> None:
    described = describe(key, description, orjson.dumps(value), "")
    head, *others = described.texts
    assert len(head) <= 2 * len(key) + len(description) + OUTLINE_CHARS + 4
    for text in described.texts:
        assert not re.search(r"[\r\n\t]", text)
    assert len(others) < MAX_PASSAGES


@given(values, st.integers(), st.integers(1, 40))
def test_numbers_do_not_change_the_texts(value: Any, seed: int, size: int) -> None:
    value = {"long": [f"w{prose(size * 5, i)}" for i in range(9)], "value": value}
    other = reroll(value, random.Random(seed))
    first, second = of(value), of(other)
    assert first == second
    assert first.digest() == second.digest()


def words_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(words_of, value), *map(words_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(words_of, value))
    return set(value.lower().split()) if isinstance(value, str) else set()


lettered = st.text("abcdefgh", min_size=1, max_size=9)
sentences = st.lists(lettered, max_size=60).map(" ".join)
documents = st.recursive(
    volatile | sentences,
    lambda inner: st.lists(inner) | st.dictionaries(lettered, inner),
    max_leaves=60,
)


@given(st.lists(documents, max_size=6))
def test_every_word_is_in_a_passage(value: Any) -> None:
    described = of(value)
    assert not described.truncated
    said = " ".join(p.text for p in described.passages).lower()
    assert words_of(value) <= set(re.findall(r"\w+", said))


def test_digest_depends_on_all_texts() -> None:
    def digest(*texts: str) -> bytes:
        return describe("key", "", orjson.dumps(texts), "").digest()

    long = [prose(100, i) for i in range(4)]
    digests = {digest("a"), digest("b"), digest(*long), digest(*long[:3], long[3] + " tail")}
    assert len(digests) == 4
    assert {len(d) for d in digests} == {DIGEST_BYTES}
    assert digest("a").hex() == "cbef3ee5402433b2b78d109bf2567b81"


def test_needs_and_descriptions_never_share_a_digest() -> None:
    described = describe("key", "", b"{}", "")
    assert text_digest(described.texts[0]) not in (described.digest(), text_digest("other"))
    assert text_digest("a").hex() == "2b3035409e84c2b1e6872f61b16e4093"

"""Payloads that are made to break what reads them, and any payload at all."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from contex_server.matching.describe import Description, describe
from contex_server.matching.formats.passages import (
    MAX_PASSAGES,
    OUTLINE_CHARS,
    PASSAGE_CHARS,
    PATH_CHARS,
    PayloadMalformed,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.thorough import one_of

MIB = 1 << 20
LINE = "word " * (MIB // 5)
ALIAS_BOMB = "a0: &a0 lol\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
ALIAS_TOWER = "".join(f"a{i}: &a{i} [{f'*a{i - 1}' if i else 'x'}]\n" for i in range(10_000))
MERGE_BOMB = ("base: &base {" + ", ".join(f"key{i}: v" for i in range(3_000)) + "}\n") + "".join(
    f"m{i}:\n  <<: *base\n" for i in range(3_000)
)
ENTITY_BOMB = (
    '<!DOCTYPE l [<!ENTITY a0 "lol">'
    + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 9}">' for i in range(1, 20))
    + "]><l>&a19;</l>"
)

HOSTILE = [
    ("json", "[" * 1_000 + "]" * 1_000),
    ("json", '{"a":' * 900 + '"x"' + "}" * 900),
    ("json", '{"a":' * 900 + "[" + ",".join(['"b"'] * 50_000) + "]" + "}" * 900),
    ("json", "{" + ",".join(f'"k{i}":"v{i}"' for i in range(50_000)) + "}"),
    ("json", "[" + ",".join(["1"] * 400_000) + "]"),
    ("json", "[" + ",".join(["[1]"] * 200_000) + "]"),
    ("json", '"' + "1a " * 300_000 + '"'),
    ("json", '"' + "1," * 500_000 + 'x"'),
    ("json", '"' + "a" * MIB + '"'),
    ("json", '{"' + "aB_" * 300_000 + '":1}'),
    ("json", '{"' + "aB_" * 300_000 + '":["' + LINE + '"]}'),
    ("yaml", "{a: " * 5_000),
    ("yaml", "[" * MIB),
    ("yaml", "- " * 100_000),
    ("yaml", "? " * 100_000),
    ("yaml", ALIAS_BOMB),
    ("yaml", ALIAS_TOWER),
    ("yaml", MERGE_BOMB),
    ("yaml", "a: &a [*a, *a]"),
    ("yaml", "[" + "a," * (MIB // 2) + "]"),
    ("yaml", LINE),
    ("toml", "a = " + "[" * 100_000),
    ("toml", "a" + ".a" * 40_000 + " = 1"),
    ("toml", '"a"' + " . 'a'" * 40_000 + " = 1"),
    ("toml", "[" + "a." * 15 + "a]\n" + "".join(f"k{i} = 1\n" for i in range(50_000))),
    ("toml", f"a = '{LINE}'"),
    ("toml", "a = 1\n" * (2 * MIB // 6)),
    ("csv", "a," * (MIB // 2)),
    ("csv", "a" * MIB),
    ("csv", '"' * (MIB - 1)),
    ("csv", 'a,"b"' + "c" * MIB),
    ("csv", "abc,def\n" * (MIB // 8)),
    ("csv", "\n" * MIB),
    ("xml", "<a>" * (MIB // 3)),
    ("xml", "<a>x" * 250 + LINE + "</a>" * 250),
    ("xml", "<a>" + "<b/>" * (MIB // 4) + "</a>"),
    ("xml", "<a " + " ".join(f"k{i}='v'" for i in range(100_000)) + "/>"),
    ("xml", ENTITY_BOMB),
    ("xml", "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"),
    ("markdown", LINE),
    ("markdown", "# a\n" * (MIB // 4)),
    ("markdown", "# " + "a" * MIB),
    ("markdown", "*a_ " * (MIB // 4)),
    ("markdown", "[" * 4_000 + "\n\n" + "[" * MIB),
    ("markdown", "|a" * 20_000 + "|\n" + "|-" * 20_000 + "|\n" + "|x\n" * 30_000),
    ("markdown", "> " * 50_000),
    ("markdown", "- " * 50_000),
    ("text", "a" * MIB),
    ("text", "\n \n" * (MIB // 3)),
    ("text", "\0" * MIB),
    ("html", "<script>" * (MIB // 8)),
    ("html", "<a " * (MIB // 3)),
    ("html", "&" * MIB),
]
TYPES = {
    "json": "application/json",
    "yaml": "application/yaml",
    "toml": "application/toml",
    "xml": "application/xml",
    "unknown": "application/octet-stream",
    "default": "",
    "tsv": "text/tab-separated-values",
}


def media_type(name: str) -> str:
    return TYPES.get(name, f"text/{name}")


def attempt(payload: bytes, content_type: str) -> Description | None:
    try:
        return describe("key", "", payload, content_type)
    except PayloadMalformed as error:
        malformed = error
    assert min(malformed.line, malformed.column) >= 1
    return None


def check_bounds(described: Description) -> None:
    head, *others = described.passages
    assert head.path == ""
    assert len(head.text) <= OUTLINE_CHARS
    assert len(others) < MAX_PASSAGES
    for passage in others:
        assert 0 < len(passage.text) <= PASSAGE_CHARS * 5 // 4
        assert len(passage.path) <= PATH_CHARS
        assert passage.text == " ".join(passage.text.split())
    assert all(described.texts)
    described.digest().hex()


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        pytest.param(name, text, marks=() if number % 4 == 0 else pytest.mark.thorough)
        for number, (name, text) in enumerate(HOSTILE)
    ],
    ids=[f"{name}-{text[:12]!r}" for name, text in HOSTILE],
)
def test_hostile_payloads_stay_bounded(name: str, payload: str) -> None:
    encoded = payload.encode()
    for content_type in (media_type(name), "application/octet-stream"):
        started = time.process_time()
        described = attempt(encoded, content_type)
        assert time.process_time() - started < 5  # 0.6 s at most on an idle machine.
        if described:
            check_bounds(described)


@pytest.mark.parametrize("payload", one_of(ALIAS_BOMB, MERGE_BOMB, ALIAS_TOWER))
def test_aliases_take_no_memory(payload: str) -> None:
    tracemalloc.start()
    try:
        described = describe("", "", payload.encode(), "text/yaml")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert described.truncated
    assert peak < 64 * MIB


def test_entities_are_refused() -> None:
    with pytest.raises(PayloadMalformed, match="may not declare entities"):
        describe("", "", ENTITY_BOMB.encode(), "text/xml")


names = st.sampled_from([*TYPES, "csv", "markdown", "plain", "html"])
charsets = st.sampled_from(["", "", "", "; charset=utf-16", "; charset=latin1", "; charset=x"])
SNIPPETS = [
    *"{}[]()<>\"'&*!?|:;,=-#`\\ \t\r\n\0/.@é漢1a",
    *("---\n", "\n\n", "# ", "a: ", "- ", "? ", "&a ", "*a ", "<<: ", "!a ", "\ufeff", "word "),
    *("<a>", "</a>", "<!--", "<![CDATA[", "<?xml ", "<script>", "&lt;", "&#0;", "<!DOCTYPE a"),
    *("```\n", "| a | b |\n|-|-|\n", "](", "![", "a = ", "[a]\n", "[[a]]\n", '"""', "a."),
]
snippets = st.lists(st.sampled_from(SNIPPETS), max_size=40).map(lambda s: "".join(s).encode())


@given(st.binary(max_size=200) | snippets, names, charsets)
def test_any_payload_is_described_or_malformed(payload: bytes, name: str, charset: str) -> None:
    described = attempt(payload, media_type(name) + charset)
    if described is None:
        assert name != "unknown"
    else:
        check_bounds(described)
        assert described == attempt(payload, media_type(name) + charset)


@given(st.text(max_size=2_000), st.sampled_from(["plain", "markdown", "html"]))
def test_any_text_is_described(text: str, name: str) -> None:
    described = attempt(text.encode(), f"text/{name}")
    assert described
    check_bounds(described)


words = st.text("abcdefgh", min_size=1, max_size=9)
paragraphs = st.lists(words, max_size=150).map(" ".join)


@given(st.lists(paragraphs, max_size=20), st.sampled_from(["plain", "markdown", "csv", "yaml"]))
def test_every_word_is_in_a_passage(texts: list[str], name: str) -> None:
    if name == "csv":
        payload = "".join(f'"{text}"\n' for text in texts)
    elif name == "yaml":
        payload = "".join(f"- '{text}'\n" for text in texts)
    else:
        payload = "\n\n".join(texts)
    described = attempt(payload.encode(), media_type(name))
    assert described
    assert not described.truncated
    said = " ".join(passage.text for passage in described.passages).split()
    assert set(payload.replace('"', " ").replace("'", " ").split()) - {"-"} <= {
        word.strip(",;") for word in said
    }

"""CSV, Markdown, plain text, and what a payload of an unknown type is taken for."""

from __future__ import annotations

import orjson
import pytest
from contex_server.matching.describe import Description, describe
from contex_server.matching.formats.passages import (
    MAX_PASSAGES,
    OUTLINE_CHARS,
    PASSAGE_CHARS,
    PayloadMalformed,
)

PRODUCTS = """\
sku,productName,colour,price,updatedAt
8f3a9c2b41d7,"Desk lamp, small",red,12.50,2026-11-23
0a1b2c3d4e5f,"Floor
lamp",,99.00,2026-11-24,extra cell

550e8400,Shade,blue
"""

README = """\
---
author: Ada
---
Before any heading.

# Lamp *shop*

Sells [lamps](https://lamps.example) and `shades`.

## Install

1. Get it:

   ```sh
   pip install lamp-shop
   ```

2. Run it ![logo](logo.png)

### Linux

Needs **glibc** 2.31.

## Reference

| option | meaning |
|--------|---------|
| port   | where it listens |
| limit  | 30 |

Setext
------

<p>Some <b>HTML</b></p>

## Empty
"""


def of(payload: str | bytes, content_type: str) -> Description:
    return describe("", "", payload.encode() if isinstance(payload, str) else payload, content_type)


def outline(payload: str | bytes, content_type: str) -> str:
    (passage,) = of(payload, content_type).passages
    return passage.text


def test_csv() -> None:
    assert of(PRODUCTS, "text/csv").format == "csv"
    assert outline(PRODUCTS, "text/csv; charset=utf-8; header=present") == (
        "sku, product name, colour, price, updated at; product name Desk lamp, small, colour red; "
        "product name Floor lamp, extra cell; product name Shade, colour blue"
    )


@pytest.mark.parametrize(
    ("payload", "content_type", "words"),
    [
        ("", "text/csv", ""),
        ("name;town\nAda;Oslo", "text/csv", "name, town; name Ada, town Oslo"),
        ("name\ttown\nAda\tOslo", "text/csv", "name, town; name Ada, town Oslo"),
        ('a\tb\n"x\ty, z', "text/tab-separated-values", 'a, b; a "x, b y, z'),
        ("\ufeffname,n\r\nAda,1\r\n", "text/csv", "name, n; name Ada"),
        ("1,Ada\n2,Bob", "text/csv", "Ada; Bob"),
        ("1,2\n3,4", "text/csv", ""),
        ("a,b\n1,2\n3,4", "text/csv", "a, b"),
        (f"a\n{'x ' * 300}", "text/csv", f"a; a {'x ' * 300}".strip()),
    ],
)
def test_tables(payload: str, content_type: str, words: str) -> None:
    assert outline(payload, content_type) == words


def test_csv_passages_are_rows() -> None:
    rows = "".join(f"lamp {c},{'shade ' * 30},1\n" for c in "abcdefghij")
    described = of(f"name,about,price\n{rows}", "text/csv")
    assert [p.path for p in described.passages] == ["", "rows 2-5", "rows 6-9", "rows 10-11"]
    assert described.passages[0].text.startswith("name, about, price; name lamp a, about shade")
    assert described.passages[2].text.startswith("name lamp e, about shade")
    assert described.texts[2] == described.passages[2].text


def test_measurements_can_be_appended_to_csv() -> None:
    def digest(rows: int) -> bytes:
        return of(
            "time,station,value\n"
            + "".join(f"2026-11-23T10:00:{i % 60:02},Oslo,{i / 7}\n" for i in range(rows)),
            "text/csv",
        ).digest()

    assert digest(1) == digest(2) == digest(1_000) == digest(100_000)


def test_a_header_that_does_not_fit_is_in_passages() -> None:
    header = ",".join(f"column{a}{b}" for a in "abcdefghijklmnop" for b in "abcdefghijklmnop")
    described = of(f"{header}\n1,2\n", "text/csv")
    assert {p.path for p in described.passages[1:]} == {"row 1"}
    assert "columnpp" in described.passages[-1].text


def test_markdown() -> None:
    assert of(README, "text/markdown").format == "markdown"
    assert outline(README, "text/x-markdown") == (
        "author: Ada Before any heading. Lamp shop: Sells lamps and shades. Install: Get it: "
        "pip install lamp-shop Run it logo Linux: Needs glibc Reference: option, meaning port, "
        "where it listens limit Setext: Some HTML Empty."
    )


def test_markdown_sections_are_passages() -> None:
    described = of(README.replace("Needs", "word " * 300 + "\n\nNeeds"), "text/markdown")
    assert [p.path for p in described.passages] == [
        "",
        "",
        "Lamp shop",
        "Lamp shop > Install",
        "Lamp shop > Install > Linux",
        "Lamp shop > Install > Linux",
        "Lamp shop > Reference",
        "Lamp shop > Setext",
        "Lamp shop > Empty",
    ]
    head, lead, *_, linux, reference, setext, empty = (p.text for p in described.passages)
    assert head.startswith(
        "Lamp shop, Install, Linux, Reference, Setext, Empty. author: Ada Before any heading. "
        "Sells lamps and shades."
    )
    assert len(head) <= OUTLINE_CHARS
    assert lead == "author: Ada Before any heading."
    assert linux.endswith("word Needs glibc")
    assert reference == "option, meaning port, where it listens limit"
    assert (setext, empty) == ("Some HTML", "Empty")
    assert described.texts[6] == f"Lamp shop, Reference. {reference}"


def test_many_short_sections_share_passages() -> None:
    sections = "".join(
        f"## Part {c}{d}\n\nSays {c}.\n\n" for c in "abcdefghij" for d in "klmnopqrst"
    )
    described = of(f"# Book\n\n{sections}", "text/markdown")
    assert not described.truncated
    assert 1 < len(described.passages) < MAX_PASSAGES
    assert {p.path for p in described.passages[1:]} == {"Book"}
    assert "Part jt: Says j." in described.passages[-1].text


def test_text() -> None:
    assert (
        outline("Über  uns:\nLampen, 12\n\nund mehr", "text/plain") == "Über uns: Lampen, und mehr"
    )
    described = of("Über  uns:\nLampen, " + "much more " * 900, "text/x-log; charset=utf-8")
    head, first, *_ = described.passages
    assert described.format == "text"
    assert head.text.startswith("Über uns: Lampen, much more")
    assert PASSAGE_CHARS < len(head.text) <= OUTLINE_CHARS
    assert first.path == "paragraph 1"


def test_text_passages_are_paragraphs() -> None:
    paragraphs = [f"Paragraph {c}. {'word ' * 60}" for c in "abcdefg"]
    described = of(" \n \n".join(paragraphs), "text/plain")
    assert [p.path for p in described.passages] == [
        "",
        "paragraphs 1-2",
        "paragraphs 3-4",
        "paragraphs 5-6",
        "paragraph 7",
    ]
    assert described.passages[1].text.startswith("Paragraph a. word")


def test_html_is_the_text_in_it() -> None:
    page = (
        "<!DOCTYPE html><html><head><title>Lamps</title><script>let x = '<p>';</script></head>"
        "<body><h1>Our lamps</h1><p>Red &amp; <b>bl</b>ue</p><p>5 < 6</body></html>"
    )
    for content_type in ("text/html", "application/octet-stream"):
        assert outline(page, content_type) == "Lamps Our lamps Red & blue"


@pytest.mark.parametrize(
    ("content_type", "payload", "line", "column"),
    [
        ("text/plain", "one\nzwölf".encode() + b"\xff", 2, 6),
        ("text/markdown", b"\xef\xbb\xbfab\xff", 1, 3),
        ("text/plain; charset=utf-16", "a\nb".encode("utf-16") + b"x", 2, 2),
        ("text/csv", 'a,b\nü,"x"y\n1,2', 2, 6),
        ("text/csv", 'a,b\n1,"x""y\nfoo\n', 2, 3),
        ("text/csv", 'a,"b\nc",d\n1,"b\nc"d,2', 4, 3),
        ("text/csv", "1,2\n" * 100_000 + '"', 100_001, 1),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malformed_says_where(
    content_type: str, payload: str | bytes, line: int, column: int
) -> None:
    with pytest.raises(PayloadMalformed) as raised:
        of(payload, content_type)
    assert (raised.value.line, raised.value.column) == (line, column)


@pytest.mark.parametrize(
    ("payload", "format"),
    [
        ('{"a": "b"}', "json"),
        (" [1, 2]\n", "json"),
        ('{"a": ', "text"),
        ("[section]\nkey = value", "text"),
        ('<?xml version="1.0"?><a>b</a>', "xml"),
        ("<a><b/></a>", "xml"),
        ("<a> is not closed", "text"),
        ("# Title\n\nWords.", "markdown"),
        ("Words.\n\n## Title\n\nWords.", "markdown"),
        ("#!/bin/sh\n# comment\nls", "text"),
        ("---\na: b\n", "yaml"),
        ("name: Ada\nroles:\n  - admin\n# comment\nage: 7\n", "yaml"),
        ("Note: this is a sentence", "text"),
        ("Note: one\nand another line", "text"),
        ("a: b\nc: [", "text"),
        (PRODUCTS, "text"),
        ("name,town\nAda,Oslo\nBob,Bergen\n", "csv"),
        ("name\tn\nAda\t1\nBob\t2\n", "csv"),
        ("Yes, it is.\nNo, it is not.\nWell, who knows.", "text"),
        ("Just words.", "text"),
        ("\ufeffJust words.", "text"),
        ("", "text"),
        ("with a \0", "opaque"),
        ("\x01\x02\x03", "opaque"),
        ("grün".encode("latin-1"), "opaque"),
        (bytes(range(256)), "opaque"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_detection(payload: str | bytes, format: str) -> None:
    for content_type in ("application/octet-stream", "model/vnd.lamp", "nonsense"):
        described = of(payload, content_type)
        assert described.format == format
        assert described.described == (format != "opaque")


def test_a_charset_that_is_not_known_is_opaque() -> None:
    assert of("words", "text/plain; charset=klingon").format == "opaque"
    assert of("grün".encode("latin-1"), "application/x-lamp; charset=latin1").format == "text"
    assert of(orjson.dumps("grün"), "application/json; charset=klingon").format == "json"

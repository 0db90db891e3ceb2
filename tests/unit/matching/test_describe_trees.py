"""YAML, TOML and XML: trees like JSON, read by parsers of their own."""

from __future__ import annotations

import pytest
from contex_server.matching.describe import Description, describe
from contex_server.matching.formats.passages import PayloadMalformed

OPENAPI = """\
openapi: 3.1.0
info:
  title: Lamp shop
  version: 1.4.2
  description: >
    Orders and stock
    of a lamp shop.
servers:
  - url: https://api.lamps.example/v1
paths:
  /orders/{orderId}:
    get: &get
      summary: Reads an order
      deprecated: no
      responses:
        200: {description: The order}
        404: {description: No such order}
    head:
      <<: *get
      summary: Whether there is an order
"""

POM = """\
<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0"
         xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
         xsi:schemaLocation="http://maven.apache.org/POM/4.0.0 maven-4.0.0.xsd">
  <modelVersion>4.0.0</modelVersion>
  <!-- not described -->
  <artifactId>lamp-shop</artifactId>
  <dependencies>
    <dependency scope="test"><artifactId>junit</artifactId><version>4.13</version></dependency>
    <dependency><artifactId>guava</artifactId></dependency>
  </dependencies>
  <description>Sells <b>lamps</b> &amp; shades<![CDATA[ <cheaply>]]>.</description>
</project>
"""

TOML = """\
title = "Lamp shop"
[owner]
name = "Ada"
since = 2026-11-23T10:00:00Z
[servers.alpha]
ip = "10.0.0.1"
role = "frontend"
[[jobs]]
name = "billing"
every_s = 30
[[jobs]]
name = "shipping"
"""


def of(payload: str | bytes, content_type: str) -> Description:
    return describe("", "", payload.encode() if isinstance(payload, str) else payload, content_type)


def outline(payload: str | bytes, content_type: str) -> str:
    (passage,) = of(payload, content_type).passages
    return passage.text


@pytest.mark.parametrize(
    "content_type",
    ["application/yaml", "application/x-yaml", "text/yaml; charset=utf-8", "Application/X+YAML"],
)
def test_yaml(content_type: str) -> None:
    assert of(OPENAPI, content_type).format == "yaml"
    assert outline(OPENAPI, content_type) == (
        "openapi, info, servers, paths, title Lamp shop, version, description Orders and stock of "
        "a lamp shop., orders {order id}, url https://api.lamps.example/v1, get, head, summary "
        "Reads an order, deprecated, responses, summary Whether there is an order, "
        "description The order, description No such order"
    )


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("", ""),
        ("# nothing", ""),
        ("just words", "just words"),
        ("\ufeffname: Ada", "name Ada"),
        ("a: 1_000\nb: .inf\nc: ~\nd: yes\ne: 2026-11-23 10:00:00", "a, b, c, d, e"),
        ('a: "yes"\nb: !!str no', "a yes, b no"),
        ("a: !!python/object/apply:os.system [ls]\nb: !lamp {colour: red}", "a, b, ls, colour red"),
        ("a: !!binary aGVsbG8gd29ybGQ=", "a"),
        ("one: x\n---\ntwo: y\n...\n---\n- z\n", "one x, two y, z"),
        ("? [deep, key]\n: value", "value, deep, key"),
        ("a: &x one\n*x : two", "a one, one two"),
        ("a: &x {b: one}\nc: *x", "a, c, b one"),
        ("a: &x [*x, one]", "a, one"),
        ("a: &x one\na: &x two\nb: *x", "a two, b two"),
    ],
)
def test_yaml_scalars_tags_and_documents(payload: str, words: str) -> None:
    assert outline(payload, "text/yaml") == words


def test_yaml_passages_have_pointers() -> None:
    items = "".join(
        f"  - name: lamp{c}\n    about: {f'shade{c} ' * 50}\n    price: 12\n" for c in "abcdef"
    )
    described = of(f"shop/lamps:\n{items}", "text/yaml")
    assert [p.path for p in described.passages] == [
        "",
        "/shop~1lamps/0-1",
        "/shop~1lamps/2-3",
        "/shop~1lamps/4-5",
    ]
    assert described.texts[1].startswith("shop lamps. shop lamps, name lampa, about shadea shadea")


def test_toml() -> None:
    assert of(TOML, "application/toml").format == "toml"
    assert outline(TOML, "text/x-toml") == (
        "title Lamp shop, owner, servers, jobs, name Ada, since, alpha, ip, role frontend, "
        "name billing, every s, name shipping"
    )


def test_xml() -> None:
    assert of(POM, "application/xml").format == "xml"
    assert outline(POM, "application/vnd.maven+xml") == (
        "project, model version, artifact id lamp-shop, dependencies, "
        "description Sells lamps & shades <cheaply>., dependency, scope test, "
        "artifact id junit, version, artifact id guava"
    )


def test_xml_passages_have_paths() -> None:
    books = "".join(
        f"<book><title>Lamp {c}</title><about>{f'shade{c} ' * 45}</about></book>" for c in "abcdef"
    )
    described = of(
        f"<catalog><name>Books</name>{books}<note>{'end ' * 150}</note></catalog>", "text/xml"
    )
    assert [p.path for p in described.passages] == [
        "",
        "/catalog",
        "/catalog/book[3-4]",
        "/catalog/book[5-6]",
        "/catalog/note",
    ]
    assert described.texts[2].startswith("catalog book. book, title Lamp c, about shadec")


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        ("<a>grün</a>".encode("latin-1"), "text/xml; charset=iso-8859-1"),
        ("<?xml version='1.0' encoding='latin-1'?><a>grün</a>".encode("latin-1"), "text/xml"),
        ("<a>grün</a>".encode("utf-16"), "text/xml"),
        ("<a>grün</a>".encode("utf-16-be"), 'text/xml; charset="UTF-16BE"'),
        ("a: grün".encode("utf-16"), "text/yaml; charset=utf-16"),
        ("a = 'grün'".encode("latin-1"), "application/toml; charset=latin1"),
    ],
)
def test_charsets(payload: bytes, content_type: str) -> None:
    assert outline(payload, content_type) == "a grün"


@pytest.mark.parametrize(
    ("content_type", "payload", "line", "column"),
    [
        ("text/yaml", "a: b\n c: d: e\n", 2, 3),
        ("text/yaml", "ü: ['ü', }", 1, 10),
        ("text/yaml", "a: b\nc: *nowhere", 2, 4),
        ("text/yaml", "ü: b\nü: \0", 2, 4),
        ("text/yaml", "a: !x!y z", 1, 4),
        ("text/yaml", "a: 'b", 1, 6),
        ("text/yaml", "[" * 100_000, 1, 257),
        ("text/yaml", "- " * 100_000, 1, 513),
        ("application/toml", "ü", 1, 1),
        ("application/toml", 'a = "ü" b', 1, 9),
        ("application/toml", "a = 1\r\nb = [1,\r\n", 3, 1),
        ("application/toml", "a = 1\na = 2", 2, 6),
        ("application/toml", "a = " + "[" * 10_000, 1, 1),
        ("application/toml", "a = " + "9" * 5_000, 1, 1),
        ("application/toml", "x = 1\n" + "a." * 40_000 + "a = 1", 2, 1),
        ("application/xml", "", 1, 1),
        ("application/xml", "words", 1, 1),
        ("application/xml", "<a>\n <ü>x</y></a>", 2, 8),
        ("application/xml", "<a>&nbsp;</a>", 1, 4),
        ("application/xml", "<a>\0</a>", 1, 4),
        ("application/xml", "<a>" * 300, 1, 769),
        ("application/xml", '<!DOCTYPE a [\n<!ENTITY b "c">]><a>&b;</a>', 2, 12),
        ("application/xml", "<?xml version='1.0' encoding='klingon'?><a/>", 1, 31),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malformed_says_where(content_type: str, payload: str, line: int, column: int) -> None:
    with pytest.raises(PayloadMalformed) as raised:
        of(payload, content_type)
    assert (raised.value.line, raised.value.column) == (line, column)
    assert str(raised.value).endswith(f"(line {line}, column {column})")

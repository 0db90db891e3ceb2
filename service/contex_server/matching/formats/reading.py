"""Reading a payload in the format that it has or seems to have.

The readers of other formats than JSON are imported with the first payload that needs them.
"""

from __future__ import annotations

from typing import Any

import orjson

from contex_server.matching.formats.media import Format, Media, decode, media
from contex_server.matching.formats.passages import Content, Passage, PayloadMalformed
from contex_server.matching.formats.tree import NamePlace, describe_tree, pointer, small_outline

JSON_NESTING = 250
"""Maximum depth of JSON. orjson writes 254 levels, and answers and exports put a payload into up to
four of their own."""
_NOTHING = Content((Passage("", ""),))
_WRITTEN_LEVELS = 254
_TOO_DEEP = "depth limit"
_HTML = ("<!doctype html", "<html")


def read(payload: bytes, kind: Media) -> tuple[Format, Content]:
    """Puts a payload into words; returns its format, too.

    Raises:
        PayloadMalformed: It is not what its content type says. Without one it is opaque at worst.
    """
    if kind.format is Format.JSON:
        return Format.JSON, read_json(payload)
    if kind.encoding is None:
        return _opaque(payload)
    if kind.format is Format.XML:
        return Format.XML, _xml(payload, kind.encoding)
    if kind.format is not None:
        return _text(decode(payload, kind.encoding), kind.format, kind)
    return _detected(payload, kind)


def read_json(payload: bytes) -> Content:
    """Puts JSON into words."""
    return describe_tree(_load_json(payload), pointer)


def outline_json(payload: bytes) -> str | None:
    """The only passage of JSON that is small; None of other JSON.

    Raises:
        PayloadMalformed: It is not JSON.
    """
    return small_outline(_load_json(payload))


def _load_json(payload: bytes) -> Any:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        if _TOO_DEEP in error.msg:
            raise _nests_too_deep() from None
        raise PayloadMalformed(f"not valid JSON: {error.msg}", error.lineno, error.colno) from None
    _check_json_nesting(payload, value)
    return value


def nests_json(payload: bytes, content_type: str) -> bool:
    """Whether a payload is JSON that may nest too deep: it is enough to count what opens."""
    return _opens_much(payload) and media(content_type).format is Format.JSON


def check_nesting(payload: bytes) -> None:
    """Checks how deep JSON nests; not whether it is JSON.

    Raises:
        PayloadMalformed: Deeper than `JSON_NESTING`.
    """
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        if _TOO_DEEP in error.msg:
            raise _nests_too_deep() from None
        return
    _check_json_nesting(payload, value)


def _opens_much(payload: bytes) -> bool:
    if len(payload) <= 2 * JSON_NESTING:
        return False
    return payload.count(b"[") + payload.count(b"{") > JSON_NESTING


def _nests_too_deep() -> PayloadMalformed:
    return PayloadMalformed(f"JSON nests deeper than {JSON_NESTING} levels", 1, 1)


def _check_json_nesting(payload: bytes, value: Any) -> None:
    if not _opens_much(payload):
        return
    for _ in range(_WRITTEN_LEVELS - JSON_NESTING):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise _nests_too_deep() from None


def _detected(payload: bytes, kind: Media) -> tuple[Format, Content]:
    from contex_server.matching.formats.detect import candidates

    try:
        text = decode(payload, kind.encoding or "")
    except PayloadMalformed:
        return _opaque(payload)
    for format in candidates(text):
        try:
            if format is Format.XML:
                return format, _xml(payload, kind.encoding or "")
            return _text(text, format, kind)
        except PayloadMalformed:
            continue
    return _opaque(payload)


def _text(text: str, format: Format, kind: Media) -> tuple[Format, Content]:
    if format is Format.JSON:
        return format, read_json(text.encode())
    if format is Format.YAML:
        from contex_server.matching.formats.yaml import load_yaml

        return format, _tree(*load_yaml(text))
    if format is Format.CSV:
        from contex_server.matching.formats.csv import describe_csv

        return format, describe_csv(text, tabs=kind.subtype == "tab-separated-values")
    if format is Format.MARKDOWN:
        from contex_server.matching.formats.markdown import describe_markdown

        return format, describe_markdown(text)
    if format is Format.TOML:
        from contex_server.matching.formats.toml import TOML_CHARS, load_toml

        if len(text) <= TOML_CHARS:
            return format, _tree(load_toml(text), True)
    from contex_server.matching.formats.text import HTML_CHARS, describe_text, without_tags

    if kind.subtype == "html" or text[:100].lstrip().lower().startswith(_HTML):
        shown = describe_text(without_tags(text[:HTML_CHARS]))
        return Format.TEXT, shown._replace(truncated=shown.truncated or len(text) > HTML_CHARS)
    return Format.TEXT, describe_text(text)


def _xml(payload: bytes, encoding: str) -> Content:
    from contex_server.matching.formats.xml import load_xml, xpath

    return _tree(*load_xml(payload, encoding), xpath)


def _tree(value: Any, complete: bool, path: NamePlace = pointer) -> Content:
    content = describe_tree(value, path)
    return content if complete else content._replace(truncated=True)


def _opaque(payload: bytes) -> tuple[Format, Content]:
    # An empty payload is described completely by no words.
    return Format.OPAQUE if payload else Format.TEXT, _NOTHING

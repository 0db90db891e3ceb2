"""Media types: which format a payload is in, and which encoding."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from contex_server.matching.formats.passages import PayloadMalformed


class Format(StrEnum):
    """How a payload was read."""

    JSON = "json"
    YAML = "yaml"
    TOML = "toml"
    CSV = "csv"
    XML = "xml"
    MARKDOWN = "markdown"
    TEXT = "text"
    OPAQUE = "opaque"


class Media(NamedTuple):
    """A content type."""

    format: Format | None  # that it names
    subtype: str  # the part after the slash, in lower case
    encoding: str | None  # Python's name for the charset; "" if none is given, None if unsupported


_FORMATS = {
    "": Format.JSON,
    "application/json": Format.JSON,
    "application/yaml": Format.YAML,
    "application/x-yaml": Format.YAML,
    "text/yaml": Format.YAML,
    "text/x-yaml": Format.YAML,
    "application/toml": Format.TOML,
    "text/toml": Format.TOML,
    "text/x-toml": Format.TOML,
    "text/csv": Format.CSV,
    "text/tab-separated-values": Format.CSV,
    "application/xml": Format.XML,
    "text/xml": Format.XML,
    "text/markdown": Format.MARKDOWN,
    "text/x-markdown": Format.MARKDOWN,
}
_SUFFIXES = {"json": Format.JSON, "yaml": Format.YAML, "xml": Format.XML}

# A table, since codecs.lookup imports whatever module it is asked for.
_ENCODINGS = {
    "": "",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "iso-8859-1": "iso-8859-1",
    "latin-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}


@lru_cache(maxsize=1_024)
def media(content_type: str) -> Media:
    """Parses a content type; never fails."""
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charset = ""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            charset = value.strip().strip("\"'")
    _, _, subtype = media_type.partition("/")
    format = _FORMATS.get(media_type) or _SUFFIXES.get(subtype.rpartition("+")[2])
    if format is None or ("+" not in subtype and media_type not in _FORMATS):
        format = Format.TEXT if media_type.startswith("text/") else None
    return Media(format, subtype, _ENCODINGS.get(charset))


def decode(payload: bytes, encoding: str) -> str:
    """The payload's text, without a byte order mark.

    Raises:
        PayloadMalformed: It is not in the encoding, which is UTF-8 if it is empty.
    """
    encoding = encoding or "utf-8"
    try:
        text = payload.decode(encoding)
    except UnicodeDecodeError as error:
        before = payload[: error.start].decode(encoding, "replace").removeprefix("\ufeff")
        raise malformed_at(f"not valid {encoding.upper()}", before) from None
    return text.removeprefix("\ufeff")


def malformed_at(problem: str, before: str) -> PayloadMalformed:
    """The error for a problem that comes after the text `before`."""
    line_start = before.rfind("\n") + 1
    return PayloadMalformed(problem, before.count("\n") + 1, len(before) - line_start + 1)

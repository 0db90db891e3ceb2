"""Detects the format of a payload of unknown type."""

from __future__ import annotations

import re
from collections.abc import Iterator

from contex_server.matching.formats.csv import delimiter, is_header, read_rows
from contex_server.matching.formats.media import Format
from contex_server.matching.formats.passages import PayloadMalformed

_XML = re.compile(r"\s*<(?:\?xml\s|[A-Za-z_][\w:.-]*[\s/>])")
_HEADING = re.compile(r"(?:\A|\n[ \t]*\r?\n)#{1,6} +\S[^\n]*(?:\n[ \t]*\r?(?=\n)|\Z)")
_YAML = re.compile(r"(?:%YAML|---[ \t]*\r?\n)")
_YAML_LINE = re.compile(r"[A-Za-z_][\w.-]*:(?: \S.*)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x9f]")

_LINES = 20
_CHARS = 8_192
_CHARS_PER_CONTROL = 100
_MIN_ROWS = 3


def candidates(text: str) -> Iterator[Format]:
    """The formats that a text may be in, the likeliest first; none if it is not text.

    Its beginning decides, so the rest may turn out to be malformed. Plain text is the last.
    """
    start = text[:_CHARS]
    controls = len(_CONTROL.findall(start))
    if "\0" in text or controls * _CHARS_PER_CONTROL > len(start):
        return
    if start.lstrip()[:1] in ("{", "["):
        yield Format.JSON
    if _XML.match(start):
        yield Format.XML
    if _HEADING.search(start):
        yield Format.MARKDOWN
    # The last line may be cut off.
    lines = start.splitlines()[: None if len(text) <= len(start) else -1][:_LINES]
    if _is_yaml(start, lines):
        yield Format.YAML
    if _is_csv(lines):
        yield Format.CSV
    yield Format.TEXT


def _is_yaml(start: str, lines: list[str]) -> bool:
    if _YAML.match(start):
        return True
    outer = [line for line in lines if line and line[0] not in " #-"]
    return (
        len(lines) > 1
        and bool(outer)
        and all(_YAML_LINE.fullmatch(line.rstrip()) for line in outer)
    )


def _is_csv(lines: list[str]) -> bool:
    if len(lines) < _MIN_ROWS:
        return False
    separator = delimiter(lines[0])
    try:
        rows = list(read_rows("\n".join(lines), separator))
    except PayloadMalformed:
        return False
    columns = len(rows[0])
    return (
        columns > 1
        and is_header(rows[0])
        and all(len(row) == columns for row in rows)
        # A sentence has a space after its comma.
        and not any(cell.startswith(" ") for row in rows for cell in row)
    )

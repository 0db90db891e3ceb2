"""CSV and TSV: a header, and what the rows say under it."""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Literal

from contex_server.matching.formats.media import malformed_at
from contex_server.matching.formats.passages import (
    OUTLINE_CHARS,
    PASSAGE_CHARS,
    VALUES_READ,
    Content,
    Parts,
    numbered,
)
from contex_server.matching.words import READ_CHARS, STRING_CHARS, in_words, lines, pieces

_DELIMITERS = ",;\t|"
_SEPARATOR = "; "

csv.field_size_limit(1 << 30)  # A cell may be as long as a payload.


def describe_csv(text: str, *, tabs: bool = False) -> Content:
    """Puts a table into words: of each row, "column value" for every cell that has words.

    The first row is the header if none of its cells are numbers and the like. A row that repeats
    an earlier one is left out, so that measurements can be appended.

    Args:
        text: The table, delimited by whichever delimiter is most frequent in its first line.
        tabs: It is TSV, which has no quotes.

    Raises:
        PayloadMalformed: A quoted cell doesn't end, or something follows it.
    """
    rows = read_rows(text, "\t" if tabs else delimiter(text), quotes=not tabs)
    columns: list[str] = []
    parts = Parts()
    seen: set[tuple[str, ...]] = set()
    budget = VALUES_READ
    in_head = 0
    for number, cells in enumerate(rows, 1):
        if len(cells) > VALUES_READ:
            del cells[VALUES_READ:]
            parts.truncated = True
        if number == 1 and is_header(cells):
            columns = [in_words(cell) for cell in cells]
            header = ", ".join([name for name in columns if name])
            parts.add(number, lines(header, PASSAGE_CHARS), 0)
            in_head = len(parts) if len(header) <= OUTLINE_CHARS else 0
            continue
        budget -= 1 + len(cells)
        if budget < 0 or parts.full:
            parts.truncated = True
            break
        if any(len(cell) > READ_CHARS for cell in cells):
            parts.truncated = True
        texts = tuple(_row(columns, cells))
        if texts and texts not in seen:
            seen.add(texts)
            parts.add(number, texts, 0)
    deque(rows, maxlen=0)  # The rest may be malformed.
    return numbered(parts, _SEPARATOR, "row", in_head=in_head)


def delimiter(text: str) -> str:
    """The delimiter that is most frequent in the first line."""
    end = text.find("\n", 0, VALUES_READ)
    first = text[: end if end >= 0 else VALUES_READ]
    return max(_DELIMITERS, key=first.count)


def is_header(cells: Sequence[str]) -> bool:
    """Whether a row's cells can be names of columns."""
    return any(cells) and all(
        not cell or (len(cell) <= STRING_CHARS and in_words(cell)) for cell in cells
    )


def read_rows(text: str, delimiter: str, *, quotes: bool = True) -> Iterator[list[str]]:
    """The rows of a table.

    Raises:
        PayloadMalformed: While iterating; where a quoted cell is opened that doesn't end, or
            where one has ended and something follows.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    source = _Lines(text)
    reader = csv.reader(source, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        row_start = source.position
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = text[row_start : source.position]
            at = _problem(row, delimiter)
            raise malformed_at(f"not valid CSV: {error}", text[: row_start + at]) from None


class _Lines:
    """The lines of a text, and where the last one read ends."""

    def __init__(self, text: str) -> None:
        self._lines = iter(StringIO(text, newline=""))
        self.position = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.position += len(line)
        return line


def _problem(row: str, delimiter: str) -> int:
    """Where in a row its quoting breaks: csv says only that it does."""
    if not _is_followed(row, delimiter):
        *_, last = next(csv.reader(StringIO(row, newline=""), delimiter=delimiter))
        return len(row) - len(last) - last.count('"') - 1
    return bisect_left(
        range(len(row)), True, key=lambda end: _is_followed(row[: end + 1], delimiter)
    )


def _is_followed(row: str, delimiter: str) -> bool:
    """Whether something follows a quoted cell's end."""
    try:
        next(csv.reader(StringIO(row, newline=""), delimiter=delimiter, strict=True), None)
    except csv.Error as error:
        return not str(error).startswith("unexpected end")
    return False


def _row(columns: Sequence[str], cells: Sequence[str]) -> Iterator[str]:
    texts: list[str] = []
    for index, cell in enumerate(cells):
        words = " ".join(pieces(cell, PASSAGE_CHARS)) if cell else ""
        if words:
            name = columns[index] if index < len(columns) else ""
            texts.append(f"{name} {words}" if name else words)
    yield from lines(", ".join(texts), PASSAGE_CHARS)

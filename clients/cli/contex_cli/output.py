"""How commands print: JSON lines for programs, tables and lines for people."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeAlias, TypeVar

from contex_cli.exits import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from contex import Erasure, Event, MatchedEvent, MatchKind
    from rich.console import Console
    from rich.table import Column
    from rich.table import Table as Table
    from rich.text import Text as Text

T = TypeVar("T")
Columns: TypeAlias = Mapping[str, str | Callable[[T], Any]]
"""By heading: the name of an attribute, or what makes the value of an item."""
_PIPE_COLUMNS = 1_000_000
"""A line in a pipe is never wrapped or cut."""


class _Bounds(NamedTuple):
    """How narrow a table may become.

    Attributes:
        text: Characters that a column of texts keeps, if it has any as long.
        word: Longer words are broken.
        columns: So many stay, if they are not in `_EXPENDABLE`.
    """

    text: int
    word: int
    columns: int


_BOUNDS = (_Bounds(16, 32, sys.maxsize), _Bounds(8, 16, 2), _Bounds(8, 8, 1))
"""One after the other, until a table has room."""
_LEAST_PAYLOAD = 30
_EXPENDABLE = (
    *("", "stem", "version", "licence", "from", "registered", "acknowledged", "publisher", "type"),
    *("how", "lexical", "cosine", "over time", "sent", "published", "detail", "time", "path"),
    *("valid until", "first", "last", "size"),
)
"""Columns that are left out of a table that is too wide, in this order."""
_NUMBERS = {
    *("rev", "score", "threshold", "cosine", "lexical", "value", "weight", "log-odds", "hit"),
    *("events", "data", "share", "matches", "after"),
}
_ONE_LINE = ("", "sequence", "time", "valid until", "size", "payload")
_WHERE_GIVEN = ("valid until",)
"""Columns of tables in which one of the items has a value there."""
ENDED = {"data_deleted": "(deleted)", "data_expired": "(expired)"}
"""What is shown in place of the payload that an event of these types does not have."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def print_json(value: object) -> None:
    """Prints one object as one line, without flushing."""
    from contex_cli.records import encode

    sys.stdout.buffer.write(encode(value))


def flush() -> None:
    sys.stdout.flush()


class Status:
    """A line on stderr, where that is a terminal, which the next one replaces."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty() and not error_console().is_dumb_terminal
        self._text = ""

    def show(self, text: str) -> None:
        """Shows a text; an empty one makes room for other output."""
        if self.is_shown and text != self._text:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or _PIPE_COLUMNS
            cut = shortened(text, width - 1)
            sys.stderr.write(f"\r\x1b[K{cut}")
            sys.stderr.flush()
            self._text = text


@contextmanager
def open_file(file: str) -> Iterator[BinaryIO]:
    """Opens a file that gets its name when everything is in it; "-" is stdout.

    After an error, what had the name before is still there. A symlink is followed; a device or a
    pipe is written into.
    """
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    from pathlib import Path

    from contex.files import replaced_file

    path = replaced_file(file)
    if path is None:
        with _open(Path(file)) as stream:
            yield stream
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with _open(part) as stream:
            yield stream
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise InputError(f"can't write {str(path)!r}: {error.strerror}") from None


@cache
def console() -> Console:
    """Where tables go."""
    return _console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)


@cache
def error_console() -> Console:
    """Where progress and remarks go: stderr."""
    return _console(stderr=True)


def _console(**settings: Any) -> Console:
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            """Lets the command end as after any other write; rich would exit with 1."""
            raise

    return Piped(highlight=False, **settings)


def say(*parts: str | Text | tuple[str, str], cut: bool = False) -> None:
    """Prints a line of texts as they are, and of texts with their style.

    `cut` cuts the line to the width of the terminal instead of wrapping it.
    """
    from rich.text import Text

    how: Any = {"no_wrap": True, "overflow": "ellipsis", "crop": True} if cut else {}
    console().print(Text.assemble(*parts), **how)


def say_lines(lines: Iterable[str | Text], indent: str = "") -> None:
    for line in lines:
        say(indent, line)


def remark(text: str) -> None:
    error_console().print(text, markup=False, emoji=False)


def styled(text: str, style: str = "") -> Text:
    """Text as it is, without markup."""
    from rich.text import Text

    return Text(text, style=style)


def cell(text: str, limit: int | None = None) -> Any:
    """Foreign text in a table: no markup, no controls."""
    return styled(plain(text, limit))


def table(*headings: str, title: str | None = None) -> Table:
    """An empty table; columns whose names are in `_NUMBERS` are aligned to the right."""
    from rich import box
    from rich.table import Table

    result = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for heading in headings:
        number = heading in _NUMBERS
        result.add_column(
            heading,
            justify="right" if number else "left",
            no_wrap=number or heading in _ONE_LINE,
            overflow="ellipsis" if heading == "payload" else "fold",
        )
    return result


def table_of(
    items: Iterable[T], columns: Columns[T], style: Callable[[T], str] | None = None
) -> Table:
    """A table with a row for each item.

    `columns` has, by their headings, the name of an attribute or what makes the value. Times,
    scores and foreign text are printed as everywhere, styled text as it is; a list takes a row for
    each of its elements.
    """
    items = list(items)
    makers = {
        heading: attrgetter(column) if isinstance(column, str) else column
        for heading, column in columns.items()
    }
    for heading in _WHERE_GIVEN:
        if heading in makers and not any(map(makers[heading], items)):
            del makers[heading]
    result = table(*makers)
    for item in items:
        values = (make(item) for make in makers.values())
        lists = (value if isinstance(value, list) else [value] for value in values)
        for row in zip_longest(*lists, fillvalue=""):
            result.add_row(*map(_cell, row), style=style and style(item))
    return result


def show_table(items: Sequence[T], columns: Columns[T], nothing: str = "") -> None:
    if items or not nothing:
        print_table(table_of(items, columns))
    else:
        console().print(nothing)


def print_table(table: Table) -> None:
    """Prints a table without spaces at the ends of lines.

    A terminal that is too narrow for it gets it without the least important columns.
    """
    printer = console()
    left_out = _fit(table, printer)
    with printer.capture() as captured:
        printer.print(table)
    sys.stdout.write(re.sub(r" +$", "", captured.get(), flags=re.MULTILINE))
    if left_out:
        remark(f"too wide for {printer.width} columns, left out: {', '.join(left_out)}")


def _fit(table: Table, printer: Console) -> list[str]:
    """Gives each column the width at which no word is broken, or its own; returns what had to go.

    Left to itself rich narrows columns to single letters. Where even the important columns have no
    room, texts are cut shorter and words broken, before the last columns go, too.
    """
    from rich.measure import measure_renderables

    options = printer.options.update(width=_PIPE_COLUMNS)
    measured: dict[int, tuple[int, int]] = {}  # the longest word, and all of it
    for column in table.columns:
        shown = [column.header, *column.cells] if table.show_header else [*column.cells]
        word, whole = measure_renderables(printer, options, shown or [""])
        measured[id(column)] = word, whole

    def least(column: Column) -> int:
        word, whole = measured[id(column)]
        if column.no_wrap:
            return min(whole, bounds.text) if column.overflow == "ellipsis" else whole
        return min(whole, max(bounds.text, min(word, bounds.word)))

    def is_too_wide() -> bool:
        # Between columns there are three spaces, and one at each end.
        return sum(least(column) + 3 for column in table.columns) > printer.width + 1

    left_out: list[str] = []

    def leave_out(column: Column) -> None:
        table.columns.remove(column)
        left_out.append(str(column.header) or "bars")

    bounds = _BOUNDS[0]
    for heading in _EXPENDABLE:
        for column in [column for column in table.columns[1:] if column.header == heading]:
            if is_too_wide() and len(table.columns) > 2:
                leave_out(column)
    for bounds in _BOUNDS:
        while is_too_wide() and len(table.columns) > bounds.columns and table.show_header:
            leave_out(table.columns[-1])
        if not is_too_wide():
            break
    if is_too_wide():  # rather wrapped than cut without a mark
        for column in table.columns:
            column.no_wrap, column.overflow = False, "fold"
    left = max(printer.width + 1 - sum(least(column) + 3 for column in table.columns), 0)
    for index, column in enumerate(table.columns):
        narrow, whole = least(column), measured[id(column)][1]
        column._index, column.width = index, narrow + min(whole - narrow, left)
        left -= column.width - narrow
    return left_out


def _cell(value: Any) -> Any:
    from datetime import datetime

    from contex_cli.times import rfc3339

    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, float):
        return f"{value:.2f}"
    return cell(str(value)) if isinstance(value, str | int) else value


def show_rows(rows: Mapping[str, Any]) -> None:
    result = table_of(rows.items(), {"": lambda row: row[0], " ": lambda row: row[1]})
    result.show_header = False
    print_table(result)


# Controls, and the marks that reorder or break lines: they must not reach a terminal.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _escaped(text: str) -> str:
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


_BREAKS = re.compile(r"\s*[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")


def plain(text: str, limit: int | None = None) -> str:
    """Text on one line, of at most `limit` characters and columns, that can't steer a terminal."""
    text = text if limit is None else text[: 4 * limit]
    text = _escaped(_BREAKS.sub(" ", text).strip())
    return text if limit is None else shortened(text, limit)


def printable(line: str) -> str:
    """A line with its spaces kept, that can't steer a terminal."""
    return _escaped(line.expandtabs(4))


def told_apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with two digits, or as many more as show which is larger."""
    digits = next((d for d in range(2, 17) if f"{one:.{d}f}" != f"{other:.{d}f}"), 2)
    return f"{one:.{digits}f}", f"{other:.{digits}f}"


def width_of(text: str) -> int:
    """How many columns of a terminal a line takes: some characters take two, some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, limit: int) -> str:
    """Text of at most as many characters, and columns."""
    if max(len(text), width_of(text)) <= limit:
        return text
    text = text[: limit - 1]
    if width_of(text) >= limit:
        from rich.cells import set_cell_size

        text = set_cell_size(text, limit - 1)
    return text + "…"


def counted(count: int, thing: str) -> str:
    """How many there are of a thing, which is given in the singular: "1 datum", "2,000 data"."""
    plural = {"datum": "data", "delivery": "deliveries"}.get(thing, f"{thing}s")
    return f"{count:,} {thing if count == 1 else plural}"


def size_text(size_bytes: int) -> str:
    """Bytes in the unit in which they have up to four digits before the point."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return counted(size_bytes, "byte") if unit == "bytes" else f"{size:,.1f} {unit}"


def payload_preview(event: Event, limit: int = 60) -> str:
    if event.erased is not None:
        return erasure_text(event.erased, limit)
    if not event.payload:
        return ENDED.get(event.event_type, "")
    text = event.payload[: 8 * limit].decode(errors="replace")
    if "\ufffd" in text[:limit]:
        return f"({counted(len(event.payload), 'byte')} of {plain(event.content_type, 40)})"
    return plain(text, limit)


def erasure_text(erasure: Erasure, limit: int = 60) -> str:
    """What is shown in place of an erased payload."""
    from contex_cli.times import rfc3339

    by = (
        f"erased by request {plain(erasure.request_id)} because"
        if erasure.request_id
        else "removed by"
    )
    text = f"{by} {plain(erasure.reason)}, at {rfc3339(erasure.time)}"
    return f"({shortened(text, limit)})"


def payload_lines(event: Event) -> list[str]:
    """The whole payload: JSON indented, other text as it is, of bytes only the size."""
    import json

    if event.erased is not None:
        return [erasure_text(event.erased, 1_000)]

    from contex_cli.records import is_json

    if is_json(event.content_type):
        with suppress(ValueError, RecursionError):
            # Unlike orjson it keeps integers of any size.
            value = json.loads(event.payload)
            text = json.dumps(value, ensure_ascii=False, indent=2)
            return list(map(printable, text.split("\n")))
    try:
        text = event.payload.decode()
    except UnicodeDecodeError:
        return [payload_preview(event)]
    return list(map(printable, text.rstrip("\n").split("\n")))


def event_line(event: Event, limit: int = 100, path: str = "") -> str:
    """An event as one line for people; see `event_parts`."""
    return "  ".join(event_parts(event, limit, path))


class _Published(Protocol):
    @property
    def publisher(self) -> str: ...

    @property
    def claimed_publisher(self) -> str: ...


def publisher_text(published: _Published) -> str:
    """Who published something: who was proved, and the name that it gave itself."""
    name = plain(published.publisher)
    return (
        f"{name} as {plain(published.claimed_publisher)}" if published.claimed_publisher else name
    )


def event_parts(event: Event, limit: int = 100, path: str = "") -> list[str]:
    """An event for people: time, sequence, key and revision, path, type, validity, payload."""
    from contex_cli.times import rfc3339

    parts = [event.time.strftime("%H:%M:%S.%f")[:-3], event.sequence]
    if event.data_key:
        parts.append(f"{plain(event.data_key)} r{event.revision}")
    if path:
        parts.append(f"at {plain(path, 60)}")
    if event.event_type != "data_published":
        parts.append(plain(event.event_type))
    if event.publisher:
        parts.append(f"by {publisher_text(event)}")
    preview = payload_preview(event, limit)
    if event.valid_until is not None:
        parts.append(f"until {rfc3339(event.valid_until)}")
    if preview and preview not in ENDED.values():
        parts.append(preview)
    return parts


def matched_line(matched: MatchedEvent, limit: int = 80) -> str:
    """A matched event as one line for people; see `matched_parts`."""
    return "  ".join(matched_parts(matched, limit))


def matched_parts(matched: MatchedEvent, limit: int = 80) -> list[str]:
    """A matched event for people: what it tells of its datum, if it was delivered to an agent, its
    score and the need that it met best, if it met any, then the event.
    """
    parts = [] if matched.kind is None else [kind_text(matched.kind)]
    path = ""
    if matched.matches:
        best = max(matched.matches, key=lambda match: match.score)
        more = f" (+{len(matched.matches) - 1})" if len(matched.matches) > 1 else ""
        parts.append(f"{matched.score:.2f}  {plain(best.need, 50)}{more}  ←")
        path = best.path
    return [*parts, *event_parts(matched.event, limit, path)]


def kind_text(kind: MatchKind) -> str:
    """What a delivery tells of its datum, in one word."""
    return kind.name.lower()


def print_parts(parts: Sequence[str]) -> None:
    """Prints parts as one line; on a terminal as lines that fit, so that the last is seen."""
    if not sys.stdout.isatty():
        sys.stdout.write("  ".join(parts) + "\n")
        return
    for line in fitted_lines(parts, os.get_terminal_size().columns):
        sys.stdout.write(line + "\n")


def fitted_lines(parts: Sequence[str], width: int) -> list[str]:
    """Joins parts to lines of at most `width`; a part is cut only where it has a line's rest."""
    lines = [""]
    for number, part in enumerate(parts, 1):
        joined = f"{lines[-1]}  {part}" if lines[-1] else part
        is_last = number == len(parts)
        room = width - width_of(lines[-1]) - 2
        if width_of(joined) <= width or not lines[-1] or (is_last and room >= _LEAST_PAYLOAD):
            lines[-1] = shortened(joined, width)
        else:
            lines.append(shortened(f"      {part}", width))
    return lines


def print_line(line: str) -> None:
    """Prints a line for people, cut to the width of the terminal if it is one."""
    if sys.stdout.isatty():
        line = shortened(line, os.get_terminal_size().columns)
    sys.stdout.write(line + "\n")

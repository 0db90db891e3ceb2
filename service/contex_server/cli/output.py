"""How commands print: JSON lines for programs, tables and lines for people."""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from contex_server.cli.records import is_json, rfc3339

if TYPE_CHECKING:
    from contex import Event, MatchedEvent
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_PIPE_COLUMNS = 160
_ELLIPSIS = "…"


# --- for programs


def print_json(record: dict[str, Any]) -> None:
    """Prints one object as one line, and flushes neither stdout nor its text layer."""
    sys.stdout.buffer.write(encode_json(record))


def encode_json(record: dict[str, Any]) -> bytes:
    """One object as one line, its end included."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def flush() -> None:
    """Sends what was printed on its way.

    Raises:
        BrokenPipeError: Nobody reads any more.
    """
    sys.stdout.flush()


# --- for people


@cache
def console() -> Console:
    """Where tables go. A pipe gets a fixed width instead of the 80 columns of no terminal."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_PIPE_COLUMNS)


@cache
def error_console() -> Console:
    """Where progress and remarks go: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def styled(text: str, style: str = "") -> Text:
    """Text as it is, without markup."""
    from rich.text import Text

    return Text(text, style=style)


def assembled(*parts: str | Text | tuple[str, str]) -> Text:
    """A line of parts: texts as they are, and texts with their style."""
    from rich.text import Text

    return Text.assemble(*parts)


def print_cut(text: str | Text) -> None:
    """Prints a line as it is, cut to the width of the terminal."""
    console().print(
        styled(text) if isinstance(text, str) else text,
        no_wrap=True,
        overflow="ellipsis",
        crop=True,
    )


def table(*columns: str, title: str | None = None, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; `numbers` names the columns that are aligned to the right."""
    from rich import box
    from rich.table import Table

    result = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        number = column in numbers
        result.add_column(
            column,
            justify="right" if number else "left",
            no_wrap=number or column in ("sequence", "time", "rev"),
            overflow="ellipsis" if number else "fold",
        )
    return result


# Controls, and the marks that reorder or break lines: they must not reach a terminal.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str, limit: int | None = None) -> str:
    """Text on one line, at most `limit` characters, that can't steer a terminal."""
    if limit is not None:
        text = text[: 4 * limit]
    text = _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", " ".join(text.split()))
    return text if limit is None or len(text) <= limit else text[: limit - 1] + _ELLIPSIS


def printable(line: str) -> str:
    """A line with its spaces kept, that can't steer a terminal."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", line.expandtabs(4))


def payload_preview(event: Event, limit: int = 60) -> str:
    """The payload in a few characters."""
    if not event.payload:
        return "(deleted)" if event.event_type == "data_deleted" else ""
    text = event.payload[: 8 * limit].decode(errors="replace")
    if "\ufffd" in text[:limit]:
        return f"({len(event.payload):,} bytes of {plain(event.content_type, 40)})"
    return plain(text, limit)


def payload_lines(event: Event) -> list[str]:
    """The whole payload: JSON set out over lines, other text as it is, of bytes only the size."""
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
    """An event as one line for people: time, sequence, key and revision, path, type, payload."""
    parts = [event.time.strftime("%H:%M:%S.%f")[:-3], event.sequence]
    if event.data_key:
        parts.append(f"{plain(event.data_key)} r{event.revision}")
    if path:
        parts.append(f"at {plain(path, 60)}")
    if event.event_type != "data_published":
        parts.append(plain(event.event_type))
    if event.publisher:
        parts.append(f"by {plain(event.publisher)}")
    preview = payload_preview(event, limit)
    if preview and preview != "(deleted)":
        parts.append(preview)
    return "  ".join(parts)


def matched_line(matched: MatchedEvent, limit: int = 80) -> str:
    """A matched event as one line for people: with its score, the need it met best, and where."""
    best = max(matched.matches, key=lambda match: match.score)
    more = f" (+{len(matched.matches) - 1})" if len(matched.matches) > 1 else ""
    return f"{matched.score:.2f}  {plain(best.need, 50)}{more}  ←  " + event_line(
        matched.event, limit, best.path
    )


def print_line(line: str) -> None:
    """Prints a line for people, cut to the width of the terminal if it is one."""
    if sys.stdout.isatty():
        columns = console().width
        line = line if len(line) <= columns else line[: columns - 1] + _ELLIPSIS
    sys.stdout.write(line + "\n")


def events_table(events: list[Event]) -> Table:
    """Events for people."""
    result = table("sequence", "time", "data key", "rev", "type", "publisher", "payload")
    for event in events:
        result.add_row(
            event.sequence,
            rfc3339(event.time),
            cell(event.data_key),
            str(event.revision or ""),
            cell(event.event_type),
            cell(event.publisher),
            cell(payload_preview(event)),
        )
    return result


def cell(text: str, limit: int | None = None) -> Any:
    """Foreign text in a table: no markup, no controls."""
    from rich.text import Text

    return Text(plain(text, limit))

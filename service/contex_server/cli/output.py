"""What commands print: JSON lines with stable keys for programs, tables and lines for people.

Keys of an event: sequence, time (RFC 3339, UTC), event_type, data_key, revision,
previous_sequence, publisher, description, content_type, metadata, and one of payload (the JSON
value), payload_text and payload_base64, or none where there is no payload. A matched event also
has score, matches (need_index, need, score, cosine, threshold, model) and payload_omitted.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from contex import Agent, Event, Match, MatchedEvent
    from rich.console import Console
    from rich.table import Table

JSON_CONTENT_TYPE = "application/json"
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


def event_record(event: Event) -> dict[str, Any]:
    """An event under its stable JSON keys."""
    record: dict[str, Any] = {
        "sequence": event.sequence,
        "time": rfc3339(event.time),
        "event_type": event.event_type,
        "data_key": event.data_key,
        "revision": event.revision,
        "previous_sequence": event.previous_sequence,
        "publisher": event.publisher,
        "description": event.description,
        "content_type": event.content_type or JSON_CONTENT_TYPE,
        "metadata": dict(event.metadata),
    }
    record.update(_payload_entry(event))
    return record


def matched_record(matched: MatchedEvent) -> dict[str, Any]:
    """A matched event under its stable JSON keys."""
    return {
        **event_record(matched.event),
        "score": matched.score,
        "matches": [match_record(match) for match in matched.matches],
        "payload_omitted": matched.payload_omitted,
    }


def match_record(match: Match) -> dict[str, Any]:
    """One reason of a match under its stable JSON keys."""
    return {
        "need_index": match.need_index,
        "need": match.need,
        "score": match.score,
        "cosine": match.cosine,
        "threshold": match.threshold,
        "model": match.model,
    }


def agent_record(agent: Agent) -> dict[str, Any]:
    """A registration under its stable JSON keys."""
    return {
        "agent_id": agent.agent_id,
        "needs": list(agent.needs),
        "threshold": agent.threshold,
        "max_matches": agent.max_matches,
        "registered_time": rfc3339(agent.registered_time),
        "updated_time": rfc3339(agent.updated_time),
        "acknowledged_sequence": agent.acknowledged_sequence,
    }


def rfc3339(time: datetime) -> str:
    """UTC with milliseconds, as `--since` reads it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_json(content_type: str) -> bool:
    """Whether a payload of this type is JSON; an empty type is."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("", JSON_CONTENT_TYPE) or media_type.endswith("+json")


def _payload_entry(event: Event) -> dict[str, Any]:
    if not event.payload:
        return {}
    if is_json(event.content_type):
        try:
            orjson.loads(event.payload)
        except orjson.JSONDecodeError:
            pass
        else:
            return {"payload": _json_fragment(event.payload)}
    try:
        return {"payload_text": event.payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(event.payload).decode()}


def _json_fragment(payload: bytes) -> orjson.Fragment:
    """The payload as it is, so that numbers keep all their digits, but on one line."""
    if b"\n" in payload or b"\r" in payload:
        # orjson would turn integers beyond 64 bits into floats.
        payload = json.dumps(json.loads(payload), ensure_ascii=False).encode()
    return orjson.Fragment(payload)


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


def payload_preview(event: Event, limit: int = 60) -> str:
    """The payload in a few characters."""
    if not event.payload:
        return "(deleted)" if event.event_type == "data_deleted" else ""
    text = event.payload[: 8 * limit].decode(errors="replace")
    if "\ufffd" in text[:limit]:
        return f"({len(event.payload):,} bytes of {plain(event.content_type, 40)})"
    return plain(text, limit)


def event_line(event: Event, limit: int = 100) -> str:
    """An event as one line for people: time, sequence, key and revision, type, payload."""
    parts = [event.time.strftime("%H:%M:%S.%f")[:-3], event.sequence]
    if event.data_key:
        parts.append(f"{plain(event.data_key)} r{event.revision}")
    if event.event_type != "data_published":
        parts.append(plain(event.event_type))
    if event.publisher:
        parts.append(f"by {plain(event.publisher)}")
    preview = payload_preview(event, limit)
    if preview and preview != "(deleted)":
        parts.append(preview)
    return "  ".join(parts)


def matched_line(matched: MatchedEvent, limit: int = 80) -> str:
    """A matched event as one line for people: with its score and the need it met best."""
    best = max(matched.matches, key=lambda match: match.score)
    more = f" (+{len(matched.matches) - 1})" if len(matched.matches) > 1 else ""
    return f"{matched.score:.2f}  {plain(best.need, 50)}{more}  ←  " + event_line(
        matched.event, limit
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

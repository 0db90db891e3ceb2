"""What commands print: JSON lines with stable keys for programs, tables and lines for people.

Keys of an event: sequence, time (RFC 3339, UTC), event_type, data_key, revision,
previous_sequence, publisher, description, content_type, metadata, opaque, and one of payload (the
JSON value), payload_text and payload_base64, or none where there is no payload. A matched event
also has score, matches, payload_omitted, backfilled, and context where `--format` asked for it.

Keys of a match: need_index, need, score, cosine, threshold, model, path, passage,
background_mean, background_deviation, standing, lexical, share, background_passages,
background_sequence, scorer.

Keys of an agent: agent_id, needs, need_specs (text, threshold, max_matches, exclude: what
`--needs-file` reads), threshold, max_matches, min_delta (payload_changed, json_pointers; or null),
registered_time, updated_time, acknowledged_sequence. `register` and `agents update` add sequence,
cursor, data (matched events) and context.

`match`: questions, sequence, data (matched events), context. A context is null or has format,
text, tokens, token_counter and omitted (data_key, sequence, score, tokens).

`explain`: matched, verdict, score, threshold, log_odds, contributions (name, value, weight,
log_odds), terms (word, stem, weight, hit), passages (path, text, score, cosine, lexical), rank,
data_count, match, event.

`backtest`: a line for each matched event, then one with the key summary: events_judged,
events_matched, data_keys_matched, updates_held_back, needs (need, threshold, events_matched,
events_at_threshold: from "0.05" to "0.95").

`feedback give`: sequence. `feedback export`: need, useful, comment, agent_id, time,
feedback_sequence, then of the judged event sequence, data_key, revision, description,
content_type and the payload as above, then the keys of its match but need_index.

`matching`: model, configured_model, texts_embedded, texts_total, data_indexed, passages_indexed,
needs_indexed, index_bytes, scorer, default_threshold.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from contex import (
        Agent,
        BacktestSummary,
        Context,
        Event,
        Explanation,
        Feedback,
        Match,
        MatchAnswer,
        MatchedEvent,
        MatchingStatus,
        Need,
        Registration,
    )
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
        "opaque": event.opaque,
    }
    record.update(_payload_entry(event))
    return record


def matched_record(matched: MatchedEvent) -> dict[str, Any]:
    """A matched event under its stable JSON keys."""
    record = {
        **event_record(matched.event),
        "score": matched.score,
        "matches": [match_record(match) for match in matched.matches],
        "payload_omitted": matched.payload_omitted,
        "backfilled": matched.backfilled,
    }
    if matched.context:
        record["context"] = matched.context
    return record


def match_record(match: Match) -> dict[str, Any]:
    """One reason of a match under its stable JSON keys."""
    return asdict(match)


def agent_record(agent: Agent) -> dict[str, Any]:
    """A registration under its stable JSON keys."""
    return {
        "agent_id": agent.agent_id,
        "needs": list(agent.needs),
        "threshold": agent.threshold,
        "max_matches": agent.max_matches,
        "need_specs": [need_record(need) for need in agent.need_specs],
        "min_delta": asdict(agent.min_delta) if agent.min_delta is not None else None,
        "registered_time": rfc3339(agent.registered_time),
        "updated_time": rfc3339(agent.updated_time),
        "acknowledged_sequence": agent.acknowledged_sequence,
    }


def need_record(need: Need) -> dict[str, Any]:
    """A need with its options, as `--needs-file` reads it."""
    return {
        "text": need.text,
        "threshold": need.threshold,
        "max_matches": need.max_matches,
        "exclude": list(need.exclude_data_keys),
    }


def registration_record(registration: Registration) -> dict[str, Any]:
    """What a registration brings, under its stable JSON keys."""
    return {
        **agent_record(registration.agent),
        "sequence": registration.sequence,
        "cursor": registration.cursor,
        "data": [matched_record(datum) for datum in registration.data],
        "context": context_record(registration.context),
    }


def answer_record(answer: MatchAnswer) -> dict[str, Any]:
    """What answers some questions, under its stable JSON keys."""
    return {
        "questions": list(answer.questions),
        "sequence": answer.sequence,
        "data": [matched_record(datum) for datum in answer.data],
        "context": context_record(answer.context),
    }


def context_record(context: Context | None) -> dict[str, Any] | None:
    """Data written out, under their stable JSON keys."""
    return None if context is None else asdict(context)


def explanation_record(explanation: Explanation) -> dict[str, Any]:
    """A score taken apart, under its stable JSON keys."""
    return {
        "matched": explanation.matched,
        "verdict": explanation.verdict,
        "score": explanation.match.score,
        "threshold": explanation.match.threshold,
        "log_odds": explanation.log_odds,
        "contributions": list(map(asdict, explanation.contributions)),
        "terms": list(map(asdict, explanation.terms)),
        "passages": list(map(asdict, explanation.passages)),
        "rank": explanation.rank,
        "data_count": explanation.data_count,
        "match": match_record(explanation.match),
        "event": event_record(explanation.event),
    }


def summary_record(
    summary: BacktestSummary, needs: list[tuple[str, float]], thresholds: Sequence[float]
) -> dict[str, Any]:
    """What a backtest found, under its stable JSON keys; `needs` are texts and thresholds."""
    return {
        "summary": {
            "events_judged": summary.events_judged,
            "events_matched": summary.events_matched,
            "data_keys_matched": summary.data_keys_matched,
            "updates_held_back": summary.updates_held_back,
            "needs": [
                {
                    "need": text,
                    "threshold": threshold,
                    "events_matched": found.events_matched,
                    "events_at_threshold": {
                        f"{at:.2f}": count
                        for at, count in zip(thresholds, found.events_at_threshold, strict=False)
                    },
                }
                for (text, threshold), found in zip(needs, summary.needs, strict=False)
            ],
        }
    }


def feedback_record(feedback: Feedback) -> dict[str, Any]:
    """A judgement with what was judged, under its stable JSON keys."""
    event, match = feedback.event, match_record(feedback.match)
    del match["need_index"]
    record = {
        "need": feedback.need,
        "useful": feedback.useful,
        "comment": feedback.comment,
        "agent_id": feedback.agent_id,
        "time": rfc3339(feedback.time),
        "feedback_sequence": feedback.sequence,
        "sequence": event.sequence,
        "data_key": event.data_key,
        "revision": event.revision,
        "description": event.description,
        "content_type": event.content_type or JSON_CONTENT_TYPE,
    }
    record.update(_payload_entry(event))
    return {**match, **record}


def status_record(status: MatchingStatus) -> dict[str, Any]:
    """How a project is matched, under its stable JSON keys."""
    return asdict(status)


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

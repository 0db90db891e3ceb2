"""Events to publish, made of arguments, files and JSON lines."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import contex
import orjson

from contex_cli.exits import InputError
from contex_cli.records import JSON_CONTENT_TYPE, is_json

TEXT_CONTENT_TYPE = "text/plain; charset=utf-8"
BINARY_CONTENT_TYPE = "application/octet-stream"


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


_PAYLOADS: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "data": (_json_bytes, JSON_CONTENT_TYPE),
    "payload": (_json_bytes, JSON_CONTENT_TYPE),
    "payload_text": (str.encode, TEXT_CONTENT_TYPE),
    "payload_base64": (partial(base64.b64decode, validate=True), BINARY_CONTENT_TYPE),
}
"""By the key of a line: how its value becomes a payload, and of which type."""
_LINE_KEYS = {
    *("data_key", "description", "event_type", "metadata", "content_type", *_PAYLOADS),
    *("tombstone", "expected_revision", "expected_state", "valid_for", "valid_until"),
    # Printed by `--json` too, and ignored, so that its output can be piped in.
    *("sequence", "time", "revision", "previous_sequence", "publisher", "opaque", "score"),
    *("matches", "payload_omitted", "backfilled", "kind", "context", "deleted", "erased"),
}
# What the service itself writes about agents, feedback, matching and erasures.
_SERVICE_TYPES = {
    *("agent_registered", "agent_unregistered", "match_feedback", "matching_model_changed"),
    *("matching_background_changed", "data_erased"),
}
_ENDED = ("data_deleted", "data_expired")
# Python's own table has these from 3.14 on, or not at all.
_SUFFIXES = {
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".toml": "application/toml",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".xml": "application/xml",
}


def parse_metadata(entries: Iterable[str]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise InputError(f"--meta {entry!r} is not of the form key=value")
        if key in metadata:
            raise InputError(f"--meta {key!r} is given twice")
        metadata[key] = value
    return metadata


def read_payload(value: str, content_type: str | None) -> tuple[bytes, str]:
    """The payload that VALUE, `-` or `@file` names, and its content type.

    Without a content type JSON is recognised, then the file's suffix, then text.
    """
    name = None
    try:
        if value.startswith("@") and Path(value[1:]).is_dir():
            raise InputError(f"{value[1:]!r} is a folder; publish its files with --dir {value[1:]}")
        if value == "-":
            payload = sys.stdin.buffer.read()
        elif value.startswith("@"):
            name = value[1:]
            payload = Path(name).read_bytes()
        else:
            payload = value.encode()
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"can't read {value!r}: {error}") from None
    if content_type is not None:
        return payload, content_type
    return payload, guess_content_type(payload, name)


def guess_content_type(payload: bytes, file_name: str | None) -> str:
    """By the suffix of a file, then by what it holds. An empty file is an empty text."""
    guessed = None
    if file_name:
        suffix = PurePath(file_name).suffix.lower()
        guessed = _SUFFIXES.get(suffix) or mimetypes.guess_type(file_name)[0]
    if guessed and not is_json(guessed):
        return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
    if guessed and not payload:
        raise InputError(
            f"{file_name!r} is empty, which is not JSON; "
            "to publish an empty text, add --content-type text/plain"
        )
    try:
        payload.decode()
    except UnicodeDecodeError:
        return BINARY_CONTENT_TYPE
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        if guessed or payload.lstrip()[:1] in (b"{", b"["):
            raise InputError(
                f"the value looks like JSON but is not: {error}; "
                "to publish it as text, add --content-type text/plain"
            ) from None
        return TEXT_CONTENT_TYPE
    return JSON_CONTENT_TYPE


def parse_line(line: bytes, left_out: Counter[str] | None = None) -> contex.NewEvent | None:
    """One line of a bulk publish as an event; None where a line publishes nothing.

    An object with data_key, one of data (or payload), payload_text and payload_base64, and
    optionally description, event_type, content_type, metadata, tombstone, expected_revision or
    expected_state, and valid_for or valid_until.
    Without a description the datum keeps the one that it has. What `contex replay --json` and
    `contex state --json` print is understood too: what ended a datum becomes a tombstone, while
    summaries, erased events and what the service wrote about agents, feedback and models are left
    out. So is a fact that has expired since, or it would last for good: `left_out["expired"]`
    counts those. Where it had replaced another, it is a tombstone, lest that one returns.
    """
    if not line.strip():
        return None
    try:
        record = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        raise InputError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError("not a JSON object")
    if record.keys() == {"summary"}:
        return None
    unknown = sorted(record.keys() - _LINE_KEYS)
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}")
    event_type = _text(record, "event_type")
    if event_type in _SERVICE_TYPES or record.get("erased"):
        return None
    metadata, revision = record.get("metadata") or {}, record.get("expected_revision")
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError("metadata is not an object of texts")
    if revision is not None and (type(revision) is not int or revision < 0):
        raise InputError("expected_revision is not a number from 0")
    try:
        state = contex.KeyState(text) if (text := _text(record, "expected_state")) else None
    except ValueError:
        raise InputError("expected_state is not absent, present or deleted") from None
    tombstone = bool(record.get("tombstone")) or event_type in _ENDED
    validity = _validity(record)
    if not tombstone and "sequence" in record and _has_passed(validity):
        if left_out is not None:
            left_out["expired"] += 1
        if record.get("revision") in (None, 1):
            return None
        return contex.NewEvent(_text(record, "data_key"), None, tombstone=True)
    payload, content_type = (None, None) if tombstone else _line_payload(record)
    description: str | None = _text(record, "description")
    if not description and (tombstone or not {"description", "sequence"} & record.keys()):
        # A line that `--json` printed has none because the event has none.
        description = None
    return contex.NewEvent(
        data_key=_text(record, "data_key"),
        payload=payload,
        description=description,
        event_type="" if event_type in ("data_published", *_ENDED) else event_type,
        content_type=None if tombstone else _text(record, "content_type") or content_type,
        metadata=metadata,
        tombstone=tombstone,
        expected_revision=revision,
        expected_state=state,
        **validity,
    )


def _validity(record: dict[str, Any]) -> dict[str, Any]:
    length, end = record.get("valid_for"), _text(record, "valid_until")
    if length is not None:
        if isinstance(length, bool) or not isinstance(length, int | float):
            raise InputError("valid_for is not a number of seconds")
        if end:
            raise InputError("valid_for: not together with valid_until")
        return {"valid_for": length}
    if not end:
        return {}
    try:
        time = datetime.fromisoformat(end)
    except ValueError:
        raise InputError(f"valid_until: {end!r:.40} is not a time as in RFC 3339") from None
    if time.tzinfo is None:
        raise InputError("valid_until has no time zone")
    return {"valid_until": time}


def _has_passed(validity: dict[str, Any]) -> bool:
    end = validity.get("valid_until")
    return end is not None and end <= datetime.now(UTC)


def _line_payload(record: dict[str, Any]) -> tuple[bytes, str]:
    given = [key for key in _PAYLOADS if key in record]
    content_type = _text(record, "content_type")
    if not given and content_type and not is_json(content_type):
        return b"", content_type  # as `--json` prints an empty payload
    if len(given) != 1:
        raise InputError("needs exactly one of data, payload, payload_text and payload_base64")
    (key,) = given
    encode, content_type = _PAYLOADS[key]
    if encode is not _json_bytes and not isinstance(record[key], str):
        raise InputError(f"{key} is not a text")
    try:
        return encode(record[key]), content_type
    except UnicodeEncodeError:
        raise InputError(f"{key} holds half of a surrogate pair") from None
    except ValueError as error:
        raise InputError(f"{key}: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str | None):
        raise InputError(f"{key} is not a text")
    return value or ""

"""What commands print for programs: values of the client as JSON, under stable keys.

A value is an object of its fields; times are RFC 3339 in UTC, names of enumerations in lower
case. The exceptions are in `_SHAPES`. docs/guide/json.md lists the keys.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from contex_cli.times import rfc3339

if TYPE_CHECKING:
    from contex import AuditRecord, Datum, Event, Explanation, Feedback, MatchedEvent, Patch

JSON_CONTENT_TYPE = "application/json"
_OPTIONS = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_APPEND_NEWLINE
)


def encode(value: object) -> bytes:
    """A value of the client, or plain data with some in it, as one line of JSON with its end."""
    return orjson.dumps(value, _plain, _OPTIONS)


def record(value: Any) -> dict[str, Any]:
    """A value of the client as an object whose values may still be values of the client."""
    shape = _SHAPES.get(type(value).__name__, _fields)
    return shape(value)


def is_json(content_type: str) -> bool:
    """Whether a payload of this type is JSON; an empty type is."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("", JSON_CONTENT_TYPE) or media_type.endswith("+json")


def json_or_text(text: str) -> Any:
    """JSON as it is; other text as a string."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return json_fragment(text.encode())


def json_fragment(payload: bytes) -> orjson.Fragment:
    """JSON as it is, so that numbers keep all their digits, but on one line."""
    if b"\n" in payload or b"\r" in payload:
        # orjson would turn integers beyond 64 bits into floats.
        payload = json.dumps(json.loads(payload), ensure_ascii=False).encode()
    return orjson.Fragment(payload)


def _plain(value: Any) -> Any:
    """What orjson can't write by itself."""
    if is_dataclass(value):
        return record(value)
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON form: {type(value).__name__}")


def _fields(value: Any) -> dict[str, Any]:
    return picked(value, *(field.name for field in fields(value)))


def picked(value: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _merged(name: str, *added: str) -> Callable[[Any], dict[str, Any]]:
    """A shape in which the record of one field takes its place, and properties are added."""

    def shape(value: Any) -> dict[str, Any]:
        values = _fields(value)
        return record(values.pop(name)) | picked(value, *added) | values

    return shape


def _event(event: Event) -> dict[str, Any]:
    values = picked(
        event,
        *("sequence", "time", "event_type", "data_key", "revision", "previous_sequence"),
        *("publisher", "description", "content_type", "metadata", "opaque"),
    )
    values["content_type"] = event.content_type or JSON_CONTENT_TYPE
    if event.claimed_publisher:
        values["claimed_publisher"] = event.claimed_publisher
    if event.valid_until is not None:
        values["valid_until"] = event.valid_until
    return values | _payload(event)


def _payload(event: Event) -> dict[str, Any]:
    if event.erased is not None:
        return {"erased": event.erased}
    if not event.payload:
        return {}
    if is_json(event.content_type):
        try:
            orjson.loads(event.payload)
        except orjson.JSONDecodeError:
            pass
        else:
            return {"payload": json_fragment(event.payload)}
    try:
        return {"payload_text": event.payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(event.payload).decode()}


def _matched(matched: MatchedEvent) -> dict[str, Any]:
    values = _merged("event", "score")(matched)
    for name in ("context", "context_omitted", "kind"):
        if not values[name]:
            del values[name]
    return values


def _datum(datum: Datum) -> dict[str, Any]:
    if datum.event is None:
        return picked(datum, "data_key", "sequence", "revision", "deleted")
    return _event(datum.event) | picked(datum, "deleted", "payload_omitted")


def _patch(patch: Patch) -> dict[str, Any]:
    """The one form that it has; none where the payloads are equal."""
    if patch.omitted is not None:
        return {"omitted": patch.omitted}
    if patch.json_patch is not None:
        return {"json_patch": json_fragment(patch.json_patch.encode())}
    return {"unified_diff": patch.unified_diff} if patch.unified_diff is not None else {}


def _explanation(explanation: Explanation) -> dict[str, Any]:
    match = explanation.need_match
    added = {"score": match.score, "threshold": match.threshold, "log_odds": explanation.log_odds}
    return _fields(explanation) | added


def _feedback(feedback: Feedback) -> dict[str, Any]:
    event = feedback.event
    values = _fields(feedback) | {"feedback_sequence": feedback.sequence}
    values |= picked(event, "sequence", "data_key", "revision", "description")
    match = record(values.pop("need_match"))
    del values["event"], match["need_index"]
    content_type = event.content_type or JSON_CONTENT_TYPE
    return match | values | {"content_type": content_type} | _payload(event)


def _audit_record(audited: AuditRecord) -> dict[str, Any]:
    values = _fields(audited)  # in the order of an export's columns
    record_id = values.pop("record_id")
    return values | {"action": audited.action.name, "record_id": record_id}


_SHAPES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "AuditRecord": _audit_record,
    "Datum": _datum,
    "Event": _event,
    "Explanation": _explanation,
    "Feedback": _feedback,
    "HeldBack": _merged("data"),
    "MatchedEvent": _matched,
    "Need": lambda need: {
        **picked(need, "text", "threshold", "max_matches"),
        "exclude": need.exclude_data_keys,
        "filter": None if need.filter is None else need.filter.written(),
        "id": need.id,
    },
    "ParkedDelivery": _merged("matched"),
    "Patch": _patch,
    "Registration": _merged("agent"),
    "Revision": _merged("event"),
}
"""Values of the client that are not printed as they are."""

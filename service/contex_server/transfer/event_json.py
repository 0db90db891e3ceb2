"""Events, manifests and summaries as JSON objects with Contex's own fields.

A manifest is {"contex_export": 1, …}; events have the fields of `contex.v1.Event`; a summary is
{"summary": {…}}. A payload is written as JSON in "payload" if that gives back exactly the same
bytes, otherwise in "payload_base64".
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import orjson

from contex_server.kernel.config import Limits
from contex_server.kernel.model import Erasure, Event, Sequence
from contex_server.state.moments import rfc3339
from contex_server.transfer.items import Manifest, Summary

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ELSE_BYTES = 1024 * 1024
"""What the other fields of an event take, with a good margin."""
_LONG_NUMBER = re.compile(rb"\d{19}")
"""Integers of more than 64 bits are floats to orjson."""


class JsonEncoding:
    """Contex's own fields.

    Attributes:
        fields: What the fields of events are called, where not as in `contex.v1.NewEvent`.
        version: Of the file that is written or read, as its manifest says.
    """

    VERSIONS: ClassVar[tuple[int, ...]] = (1,)
    fields: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self.version = self.VERSIONS[-1]

    def manifest(self, manifest: Manifest) -> dict[str, Any]:
        """A manifest as an object."""
        return {"contex_export": self.version, **asdict(manifest)}

    def event(self, record: Event, project: str) -> dict[str, Any]:
        """An event as an object."""
        fields: dict[str, Any] = {
            "sequence": str(record.sequence),
            "event_type": record.event_type,
            "data_key": record.data_key,
            "content_type": record.content_type,
            "description": record.description,
            "publisher": record.publisher,
            "metadata": record.metadata,
            "revision": record.revision,
            "previous_sequence": str(record.previous_sequence or ""),
            "text_digest": record.text_digest.hex(),
            "opaque": record.opaque,
            "erased": write_erasure(record.erased),
            "valid_until": write_time(record.valid_until_ms),
        }
        fields = {name: value for name, value in fields.items() if value}
        return {**fields, **write_payload(record.payload, "payload")}

    def summary(self, summary: Summary) -> dict[str, Any]:
        """A summary as an object."""
        return {"summary": asdict(summary)}

    def read(self, fields: dict[str, Any]) -> Manifest | Summary | Event:
        """Reads an object.

        Raises:
            ValueError, KeyError, TypeError: It is not valid.
        """
        if "contex_export" in fields:
            if fields["contex_export"] not in self.VERSIONS:
                raise ValueError(f"version {fields['contex_export']!r:.20}")
            self.version = fields["contex_export"]
            return Manifest.of_json(fields)
        if "summary" in fields:
            return Summary(**fields["summary"])
        return Event(
            sequence=Sequence.parse(fields["sequence"]),
            event_type=read_text(fields, "event_type"),
            data_key=read_text(fields, "data_key"),
            payload=read_payload(fields, "payload"),
            content_type=read_text(fields, "content_type"),
            description=read_text(fields, "description"),
            publisher=read_text(fields, "publisher"),
            metadata=read_texts(fields.get("metadata", {}), "metadata"),
            revision=_number(fields.get("revision", 0)),
            previous_sequence=read_sequence(fields.get("previous_sequence", "")),
            text_digest=bytes.fromhex(read_text(fields, "text_digest")),
            opaque=fields.get("opaque", False) is True,
            erased=read_erasure(fields.get("erased")),
            valid_until_ms=read_time(fields, "valid_until"),
        )


def line_bytes(limits: Limits) -> int:
    """The largest JSON of one event: a payload is written with 6 bytes for a character at most."""
    return 6 * limits.payload_bytes + _ELSE_BYTES


def check_values(text: bytes, limits: Limits) -> None:
    """Checks that JSON has no more values than the largest payload may have: in memory each is
    many times what it takes as text.

    Raises:
        ValueError: It has more.
    """
    limit = limits.payload_bytes + _ELSE_BYTES
    if len(text) > limit and sum(map(text.count, (b",", b"[", b"{"))) > limit:
        raise ValueError(f"more than {limit:,} values")


def loads(text: bytes) -> Any:
    """Reads JSON, with integers of any length.

    Raises:
        ValueError, RecursionError: It is not JSON, or too deeply nested.
    """
    if _LONG_NUMBER.search(text):
        return json.loads(text, parse_constant=_no_number)
    return orjson.loads(text)


def dumps(value: Any) -> bytes:
    """Writes what `loads` read.

    Raises:
        ValueError, RecursionError: It can't be written.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def write_erasure(erasure: Erasure | None) -> dict[str, Any]:
    """An erasure as an object; empty if there is none."""
    if erasure is None:
        return {}
    return {
        "time": rfc3339(erasure.unix_ms),
        "request_id": erasure.request_id,
        "reason": erasure.reason,
        "payload_digest": erasure.digest.hex(),
    }


def read_erasure(fields: dict[str, Any] | None) -> Erasure | None:
    """Reads what `write_erasure` wrote."""
    if not fields:
        return None
    when = datetime.fromisoformat(read_text(fields, "time"))
    digest = bytes.fromhex(read_text(fields, "payload_digest"))
    unix_ms = round(when.timestamp() * 1000)
    return Erasure(unix_ms, read_text(fields, "request_id"), read_text(fields, "reason"), digest)


def write_time(unix_ms: int | None) -> str:
    """A time as text; "" if there is none."""
    return "" if unix_ms is None else rfc3339(unix_ms)


def read_time(fields: dict[str, Any], name: str) -> int | None:
    """Reads what `write_time` wrote; a time without a zone is in UTC."""
    text = read_text(fields, name)
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(f"{name}: {text!r:.40} is not a time as in RFC 3339") from None
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    return max(0, since // timedelta(milliseconds=1))


def write_payload(payload: bytes, name: str) -> dict[str, Any]:
    """A payload as the field of this name, if JSON gives back the same bytes, else in base64."""
    if not payload:
        return {}
    try:
        value = orjson.loads(payload)
        # As a field: nesting has a limit.
        if value is not None and orjson.dumps({name: value}) == b'{"%s":%s}' % (
            name.encode(),
            payload,
        ):
            return {name: value}
    except (ValueError, TypeError):
        pass  # No JSON; or nested deeper than it can be written.
    return write_bytes(payload, name)


def write_bytes(payload: bytes, name: str) -> dict[str, Any]:
    """A payload in base64."""
    return {f"{name}_base64": base64.b64encode(payload).decode()}


def read_payload(fields: dict[str, Any], name: str) -> bytes:
    """Reads what `write_payload` wrote."""
    if f"{name}_base64" in fields:
        try:
            return base64.b64decode(fields[f"{name}_base64"], validate=True)
        except (ValueError, TypeError):
            raise ValueError(f"{name}_base64: is not base64") from None
    return dumps(fields[name]) if name in fields else b""


def read_text(fields: dict[str, Any], name: str) -> str:
    """A field that is a string; "" if there is none."""
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise TypeError(f"{name}: is not a string")
    return value


def read_texts(value: Any, name: str) -> dict[str, str]:
    """An object of strings."""
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError(f"{name}: is not an object of strings")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError("revision: is not a number")
    return value


def read_sequence(text: Any) -> Sequence | None:
    """A sequence; None if it is ""."""
    return Sequence.parse(text) if text else None

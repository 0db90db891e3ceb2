"""Events, manifests and summaries as JSON objects: Contex's own fields, and CloudEvents 1.0.

Contex's own: a manifest, {"contex_export": 1, …}; events with the fields of `contex.v1.Event`; a
summary, {"summary": {…}}. A payload is written as JSON in "payload" if that gives back exactly the
same bytes, otherwise in "payload_base64".

CloudEvents (https://github.com/cloudevents/spec): manifest and summary are events of the types
"dev.contex.export.manifest" and "dev.contex.export.summary".
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from contex_server.kernel.model import Erasure, Event, Sequence
from contex_server.state.moments import rfc3339
from contex_server.transfer.items import Manifest, Summary

MANIFEST_TYPE = "dev.contex.export.manifest"
SUMMARY_TYPE = "dev.contex.export.summary"
_VERSION = 1
_SOURCE = "/contex/projects/"


class JsonEncoding:
    """Contex's own fields."""

    def manifest(self, manifest: Manifest) -> dict[str, Any]:
        """A manifest as an object."""
        return {"contex_export": _VERSION, **asdict(manifest)}

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
            "erased": _erased(record.erased),
        }
        fields = {name: value for name, value in fields.items() if value}
        return {**fields, **_payload(record.payload, "payload")}

    def summary(self, summary: Summary) -> dict[str, Any]:
        """A summary as an object."""
        return {"summary": asdict(summary)}

    def read(self, fields: dict[str, Any]) -> Manifest | Summary | Event:
        """Reads an object.

        Raises:
            ValueError, KeyError, TypeError: It is not valid.
        """
        if "contex_export" in fields:
            if fields["contex_export"] != _VERSION:
                raise ValueError(f"version {fields['contex_export']!r:.20}")
            return Manifest.of_json(fields)
        if "summary" in fields:
            return Summary(**fields["summary"])
        return Event(
            sequence=Sequence.parse(fields["sequence"]),
            event_type=_text(fields, "event_type"),
            data_key=_text(fields, "data_key"),
            payload=_bytes(fields, "payload"),
            content_type=_text(fields, "content_type"),
            description=_text(fields, "description"),
            publisher=_text(fields, "publisher"),
            metadata=_texts(fields.get("metadata", {})),
            revision=_number(fields.get("revision", 0)),
            previous_sequence=_optional_sequence(fields.get("previous_sequence", "")),
            text_digest=bytes.fromhex(_text(fields, "text_digest")),
            opaque=fields.get("opaque", False) is True,
            erased=_erasure(fields.get("erased")),
        )


class CloudEventsEncoding(JsonEncoding):
    """CloudEvents."""

    def manifest(self, manifest: Manifest) -> dict[str, Any]:
        head = self._head("manifest", manifest.project, MANIFEST_TYPE, manifest.created)
        return {**head, "data": super().manifest(manifest)}

    def event(self, record: Event, project: str) -> dict[str, Any]:
        fields = self._head(
            str(record.sequence), project, record.event_type, rfc3339(record.sequence.ms)
        )
        if record.data_key:
            fields["subject"] = record.data_key
        if record.content_type:
            fields["datacontenttype"] = record.content_type
        extensions = {
            "contexrevision": str(record.revision) if record.revision else "",
            "contexprevious": str(record.previous_sequence or ""),
            "contexdigest": record.text_digest.hex(),
            "contexdescription": record.description,
            "contexpublisher": record.publisher,
            "contexmetadata": orjson.dumps(record.metadata).decode() if record.metadata else "",
            "contexopaque": record.opaque,
            "contexerased": orjson.dumps(_erased(record.erased)).decode() if record.erased else "",
        }
        fields.update({name: value for name, value in extensions.items() if value})
        return {**fields, **_payload(record.payload, "data")}

    def summary(self, summary: Summary) -> dict[str, Any]:
        head = self._head("summary", "", SUMMARY_TYPE, "")
        return {**head, "data": asdict(summary)}

    def read(self, fields: dict[str, Any]) -> Manifest | Summary | Event:
        if not str(fields["specversion"]).startswith("1."):
            raise ValueError(f"CloudEvents {fields['specversion']!r:.20}")
        kind = _text(fields, "type")
        # An event that a publisher gave such a type has a sequence for an id.
        if kind == MANIFEST_TYPE and fields.get("id") == "manifest":
            return super().read(fields["data"])
        if kind == SUMMARY_TYPE and fields.get("id") == "summary":
            return Summary(**fields["data"])
        metadata = _text(fields, "contexmetadata")
        erased = _text(fields, "contexerased")
        return Event(
            sequence=_cloud_sequence(fields),
            event_type=kind,
            data_key=_text(fields, "subject"),
            payload=_bytes(fields, "data"),
            content_type=_text(fields, "datacontenttype"),
            description=_text(fields, "contexdescription"),
            publisher=_text(fields, "contexpublisher"),
            metadata=_texts(orjson.loads(metadata)) if metadata else _foreign(fields),
            revision=int(_text(fields, "contexrevision") or 0),
            previous_sequence=_optional_sequence(_text(fields, "contexprevious")),
            text_digest=bytes.fromhex(_text(fields, "contexdigest")),
            opaque=fields.get("contexopaque", False) is True,
            erased=_erasure(orjson.loads(erased)) if erased else None,
        )

    def _head(self, name: str, project: str, kind: str, time: str) -> dict[str, Any]:
        fields = {"specversion": "1.0", "id": name, "source": f"{_SOURCE}{project}", "type": kind}
        return {**fields, "time": time} if time else fields


def _erased(erasure: Erasure | None) -> dict[str, Any]:
    if erasure is None:
        return {}
    return {
        "time": rfc3339(erasure.unix_ms),
        "request_id": erasure.request_id,
        "reason": erasure.reason,
        "payload_digest": erasure.digest.hex(),
    }


def _erasure(fields: dict[str, Any] | None) -> Erasure | None:
    if not fields:
        return None
    when = datetime.fromisoformat(_text(fields, "time"))
    digest = bytes.fromhex(_text(fields, "payload_digest"))
    unix_ms = round(when.timestamp() * 1000)
    return Erasure(unix_ms, _text(fields, "request_id"), _text(fields, "reason"), digest)


def _payload(payload: bytes, name: str) -> dict[str, Any]:
    if not payload:
        return {}
    try:
        value = orjson.loads(payload)
    except ValueError:
        value = None
    if value is not None and orjson.dumps(value) == payload:
        return {name: value}
    return {f"{name}_base64": base64.b64encode(payload).decode()}


def _bytes(fields: dict[str, Any], name: str) -> bytes:
    if f"{name}_base64" in fields:
        return base64.b64decode(fields[f"{name}_base64"], validate=True)
    return orjson.dumps(fields[name]) if name in fields else b""


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise TypeError(f"{name} is not a string")
    return value


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError("metadata is not an object of strings")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError("revision is not a number")
    return value


def _optional_sequence(text: Any) -> Sequence | None:
    return Sequence.parse(text) if text else None


def _cloud_sequence(fields: dict[str, Any]) -> Sequence:
    """The id if it is a sequence, else the time, else now."""
    try:
        return Sequence.parse(_text(fields, "id"))
    except ValueError:
        time = _text(fields, "time")
        when = datetime.fromisoformat(time) if time else datetime.now(UTC)
        return Sequence(int(when.timestamp() * 1000), 0)


def _foreign(fields: dict[str, Any]) -> dict[str, str]:
    """The attributes of a foreign event, as metadata."""
    attributes = {name: fields[name] for name in ("source", "id", "dataschema") if fields.get(name)}
    if str(attributes.get("source", "")).startswith(_SOURCE):
        return {}
    return {f"cloudevents_{name}": str(value)[:500] for name, value in attributes.items()}

"""Events, manifests and summaries as CloudEvents 1.0 in JSON, and those of other sources.

See https://github.com/cloudevents/spec, spec.md and formats/json-format.md. Manifest and summary
are events of the types "dev.contex.export.manifest" and "dev.contex.export.summary".

Version 1 of the files had as `data` every payload that is JSON, whatever its content type said; in
version 2 a text is a string there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson

from contex_server.kernel.model import DELETIONS, Event, Sequence
from contex_server.matching.formats.media import Format, media
from contex_server.state.moments import rfc3339
from contex_server.transfer.event_json import (
    JsonEncoding,
    dumps,
    read_erasure,
    read_payload,
    read_sequence,
    read_text,
    read_texts,
    read_time,
    write_bytes,
    write_erasure,
    write_payload,
    write_time,
)
from contex_server.transfer.items import Manifest, Summary

MANIFEST_TYPE = "dev.contex.export.manifest"
SUMMARY_TYPE = "dev.contex.export.summary"
_SOURCE = "/contex/projects/"
_BINARY = "application/octet-stream"
_UTF_8 = ("", "utf-8")
_EVENT_FIELDS = {
    *("specversion", "type", "subject", "datacontenttype", "data", "data_base64"),
    *("contexrevision", "contexprevious", "contexdigest", "contexdescription"),
    *("contexpublisher", "contexmetadata", "contexopaque", "contexerased", "contexvaliduntil"),
}
"""The attributes that an event has a field for."""


class CloudEventsEncoding(JsonEncoding):
    """CloudEvents."""

    VERSIONS = (1, 2)
    fields: ClassVar[Mapping[str, str]] = {
        "data_key": "subject",
        "event_type": "type",
        "payload": "data",
        "content_type": "datacontenttype",
        "description": "contexdescription",
        "publisher": "contexpublisher",
        "valid_until": "contexvaliduntil",
    }

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
            "contexerased": (
                orjson.dumps(write_erasure(record.erased)).decode() if record.erased else ""
            ),
            "contexvaliduntil": write_time(record.valid_until_ms),
        }
        fields.update({name: value for name, value in extensions.items() if value})
        return {**fields, **_write_data(record.payload, record.content_type)}

    def summary(self, summary: Summary) -> dict[str, Any]:
        head = self._head("summary", "", SUMMARY_TYPE, "")
        return {**head, "data": asdict(summary)}

    def read(self, fields: dict[str, Any]) -> Manifest | Summary | Event:
        # An attribute that is null is one that is not set.
        data = {"data": fields["data"]} if "data" in fields else {}
        fields = {name: value for name, value in fields.items() if value is not None} | data
        version = read_text(fields, "specversion")
        if not version.startswith("1."):
            raise ValueError(f"specversion: {version!r:.20} is not 1.0")
        kind = read_text(fields, "type")
        # An event that a publisher gave such a type has a sequence for an id.
        if kind == MANIFEST_TYPE and fields.get("id") == "manifest":
            return super().read(fields["data"])
        if kind == SUMMARY_TYPE and fields.get("id") == "summary":
            return Summary(**fields["data"])
        own = _own_sequence(fields)
        metadata = {} if own is not None else _other_attributes(fields)
        if contex_metadata := read_text(fields, "contexmetadata"):
            metadata |= read_texts(orjson.loads(contex_metadata), "contexmetadata")
        content_type = read_text(fields, "datacontenttype")
        payload = self._payload(fields, content_type)
        if own is None and kind not in DELETIONS and _is_unlabelled(payload, content_type, fields):
            if content_type:
                metadata["cloudevents_datacontenttype"] = content_type
            content_type = _BINARY
        erased = read_text(fields, "contexerased")
        return Event(
            sequence=_sequence_of_time(fields) if own is None else own,
            event_type=kind,
            data_key=read_text(fields, "subject"),
            payload=payload,
            content_type=content_type,
            description=read_text(fields, "contexdescription"),
            publisher=read_text(fields, "contexpublisher"),
            metadata=metadata,
            revision=int(read_text(fields, "contexrevision") or 0),
            previous_sequence=read_sequence(read_text(fields, "contexprevious")),
            text_digest=bytes.fromhex(read_text(fields, "contexdigest")),
            opaque=fields.get("contexopaque", False) is True,
            erased=read_erasure(orjson.loads(erased)) if erased else None,
            valid_until_ms=read_time(fields, "contexvaliduntil"),
        )

    def _payload(self, fields: dict[str, Any], content_type: str) -> bytes:
        if fields.get("data") is None and ("data_base64" in fields or not _is_json(content_type)):
            fields.pop("data", None)  # Some write null for no data.
        if "data" in fields and "data_base64" in fields:
            raise ValueError("data and data_base64: an event has one of them")
        if "data" not in fields or self.version == 1 or _is_json(content_type):
            return read_payload(fields, "data")
        data, encoding = fields["data"], media(content_type).encoding
        if not isinstance(data, str):
            raise TypeError(f"data: must be a string, being {content_type!r:.60}")
        if encoding is None:
            raise ValueError(f"datacontenttype: {content_type!r:.60} has an unknown charset")
        try:
            return data.encode(encoding or "utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"data: can't be encoded in {encoding}") from None

    def _head(self, name: str, project: str, kind: str, time: str) -> dict[str, Any]:
        fields = {"specversion": "1.0", "id": name, "source": f"{_SOURCE}{project}", "type": kind}
        return {**fields, "time": time} if time else fields


def _is_json(content_type: str) -> bool:
    """Whether `data` is JSON by its content type, as the specification has it."""
    return not content_type or media(content_type).subtype.rpartition("+")[2] == "json"


def _is_unlabelled(payload: bytes, content_type: str, fields: dict[str, Any]) -> bool:
    """Whether a payload is not what its content type says because it is none at all, or because
    there is no content type."""
    if not payload:
        return media(content_type).format in (Format.JSON, Format.XML)
    if content_type or "data_base64" not in fields:
        return False
    try:
        orjson.loads(payload)
    except ValueError:
        return True
    return False


def _write_data(payload: bytes, content_type: str) -> dict[str, Any]:
    if not payload or _is_json(content_type):
        return write_payload(payload, "data")
    kind = media(content_type)
    if kind.format is not None and kind.encoding in _UTF_8:
        try:
            return {"data": payload.decode()}
        except UnicodeDecodeError:
            pass
    return write_bytes(payload, "data")


def _own_sequence(fields: dict[str, Any]) -> Sequence | None:
    """The sequence of an event that Contex has written; None if something else has."""
    if not read_text(fields, "source").startswith(_SOURCE):
        return None
    try:
        return Sequence.parse(read_text(fields, "id"))
    except ValueError:
        return None


def _sequence_of_time(fields: dict[str, Any]) -> Sequence:
    """The first sequence of the event's time, or of now."""
    text = read_text(fields, "time")
    try:
        when = datetime.fromisoformat(text.upper()) if text else datetime.now(UTC)
    except ValueError:
        raise ValueError(f"time: {text!r:.40} is not a time as in RFC 3339") from None
    seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return Sequence(max(0, int(seconds * 1000)), 0)


def _other_attributes(fields: dict[str, Any]) -> dict[str, str]:
    """The attributes that an event has no field for, as metadata."""
    return {
        f"cloudevents_{name}": value if isinstance(value, str) else dumps(value).decode()
        for name, value in fields.items()
        if name not in _EVENT_FIELDS
    }

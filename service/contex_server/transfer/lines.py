"""JSON lines and CloudEvents: an object a line, compressed or not.

JSON lines: a manifest, {"contex_export": 1, …}; the events, their fields named as in
`contex.v1.Event`; a summary, {"summary": {…}}. A payload stands as JSON in "payload" where it
is JSON and exactly these bytes come back, else in "payload_base64".

CloudEvents 1.0 (https://github.com/cloudevents/spec): manifest and summary are events of the
types "dev.contex.export.manifest" and "dev.contex.export.summary".

The digest is that of the chain over the lines before the summary, line feeds included, however
they are compressed: SHA-256 over the digest before (32 zero bytes at first) and the line.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import zstandard

from contex_server.kernel import event_codec
from contex_server.kernel.blocks import packed
from contex_server.kernel.model import Entry, Erasure, Record, Sequence
from contex_server.state.moments import rfc3339
from contex_server.transfer.items import (
    Chain,
    Events,
    EventsOnly,
    Item,
    MalformedFile,
    Manifest,
    Summary,
)

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MANIFEST_TYPE = "dev.contex.export.manifest"
SUMMARY_TYPE = "dev.contex.export.summary"
_VERSION = 1
_MAX_LINE = 32 * 1024 * 1024
_PIECE = 1024
"""So few compressed bytes at a time become at most 32 MiB."""
_TOGETHER = 500


class _Shape:
    """How events and what is around them are written as objects."""

    def manifest(self, manifest: Manifest) -> dict[str, Any]:
        return {"contex_export": _VERSION, **manifest.to_json()}

    def event(self, record: Record, project: str) -> dict[str, Any]:
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
        return {"summary": asdict(summary)}

    def read(self, fields: dict[str, Any]) -> Manifest | Summary | Record:
        """Reads an object; ValueError, KeyError or TypeError where it is none."""
        if "contex_export" in fields:
            if fields["contex_export"] != _VERSION:
                raise ValueError(f"version {fields['contex_export']!r:.20}")
            return Manifest.of_json(fields)
        if "summary" in fields:
            return Summary(**fields["summary"])
        return Record(
            sequence=Sequence.parse(fields["sequence"]),
            event_type=_text(fields, "event_type"),
            data_key=_text(fields, "data_key"),
            payload=_bytes(fields, "payload"),
            content_type=_text(fields, "content_type"),
            description=_text(fields, "description"),
            publisher=_text(fields, "publisher"),
            metadata=_texts(fields.get("metadata", {})),
            revision=_number(fields.get("revision", 0)),
            previous_sequence=_place(fields.get("previous_sequence", "")),
            text_digest=bytes.fromhex(_text(fields, "text_digest")),
            opaque=fields.get("opaque", False) is True,
            erased=_erasure(fields.get("erased")),
        )


class _CloudShape(_Shape):
    def manifest(self, manifest: Manifest) -> dict[str, Any]:
        head = self._head("manifest", manifest.project, MANIFEST_TYPE, manifest.created)
        return {**head, "data": super().manifest(manifest)}

    def event(self, record: Record, project: str) -> dict[str, Any]:
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

    def read(self, fields: dict[str, Any]) -> Manifest | Summary | Record:
        if not str(fields["specversion"]).startswith("1."):
            raise ValueError(f"CloudEvents {fields['specversion']!r:.20}")
        kind = _text(fields, "type")
        if kind == MANIFEST_TYPE:
            return super().read(fields["data"])
        if kind == SUMMARY_TYPE:
            return Summary(**fields["data"])
        metadata = _text(fields, "contexmetadata")
        erased = _text(fields, "contexerased")
        return Record(
            sequence=_cloud_sequence(fields),
            event_type=kind,
            data_key=_text(fields, "subject"),
            payload=_bytes(fields, "data"),
            content_type=_text(fields, "datacontenttype"),
            description=_text(fields, "contexdescription"),
            publisher=_text(fields, "contexpublisher"),
            metadata=_texts(orjson.loads(metadata)) if metadata else _foreign(fields),
            revision=int(_text(fields, "contexrevision") or 0),
            previous_sequence=_place(_text(fields, "contexprevious")),
            text_digest=bytes.fromhex(_text(fields, "contexdigest")),
            opaque=fields.get("contexopaque", False) is True,
            erased=_erasure(orjson.loads(erased)) if erased else None,
        )

    def _head(self, name: str, project: str, kind: str, time: str) -> dict[str, Any]:
        fields = {
            "specversion": "1.0",
            "id": name,
            "source": f"/contex/projects/{project}",
            "type": kind,
        }
        return {**fields, "time": time} if time else fields


class LinesWriter(EventsOnly):
    """See `Writer`.

    Args:
        cloud: Writes CloudEvents.
        compress: Compresses each piece by itself.
    """

    def __init__(self, *, cloud: bool, compress: bool) -> None:
        self.chain = Chain()
        self.items = 0
        self.project = ""
        self._shape = _CloudShape() if cloud else _Shape()
        self._compress = compress

    def begin(self, manifest: Manifest) -> bytes:
        """See `Writer.begin`."""
        self.project = manifest.project
        return self._lines([self._shape.manifest(manifest)])

    def events(self, entries: SequenceOf[Entry]) -> bytes:
        """See `Writer.events`."""
        return self._lines(
            [self._shape.event(event_codec.record(entry), self.project) for entry in entries]
        )

    def end(self, summary: Summary) -> bytes:
        """See `Writer.end`."""
        return self._lines([self._shape.summary(replace(summary, digest=self.chain.digest))])

    def _lines(self, objects: list[dict[str, Any]]) -> bytes:
        lines = [orjson.dumps(fields) + b"\n" for fields in objects]
        for line in lines:
            self.chain.add(line)
        self.items += len(lines)
        data = b"".join(lines)
        if not self._compress:
            return data
        return packed(data)


class LinesReader:
    """See `Reader`.

    Args:
        cloud: Reads CloudEvents, also such as were not exported here.
    """

    def __init__(self, *, cloud: bool) -> None:
        self.offset = 0
        self.item = 0
        self.ended = False
        self._cloud = cloud
        self._shape = _CloudShape() if cloud else _Shape()
        self._chain = Chain()
        self._exported = False
        self._line = bytearray()
        self._begun = False
        self._inflate: Any = None
        self._taken = 0
        self._inside = False
        """Whether a compressed frame was begun and has not ended."""

    def feed(self, data: bytes) -> Iterator[Item]:
        """See `Reader.feed`."""
        if not self._begun and data:
            self._begun = True
            if self._inflate is None and data.startswith(ZSTD_MAGIC[: len(data)]):
                self._inflate = zstandard.ZstdDecompressor().decompressobj()
        if self._inflate is None:
            yield from self._feed_text(data)
            return
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            while piece:
                try:
                    text = self._inflate.decompress(piece)
                except zstandard.ZstdError as error:
                    raise self._malformed(f"compression: {error}") from error
                rest = self._inflate.unused_data
                self._taken += len(piece) - len(rest)
                self._inside = not self._inflate.eof
                yield from self._feed_text(text, compressed=True)
                if self._inflate.eof:
                    self._inflate = zstandard.ZstdDecompressor().decompressobj()
                    if not self._line:
                        self.offset += self._taken
                        self._taken = 0
                piece = rest

    def _feed_text(self, text: bytes, *, compressed: bool = False) -> Iterator[Item]:
        *lines, rest = text.split(b"\n")
        entries: list[Entry] = []
        for line in lines:
            whole = bytes(self._line) + line + b"\n"
            self._line.clear()
            item = self._read(whole)
            if not compressed:
                self.offset += len(whole)
            if isinstance(item, Entry):
                entries.append(item)
                if len(entries) < _TOGETHER:
                    continue
            if entries:
                yield Events(entries)
                entries = []
            if item is not None and not isinstance(item, Entry):
                yield item
        if entries:
            yield Events(entries)
        self._line += rest
        if len(self._line) > _MAX_LINE:
            raise self._malformed("a line that is longer than any")

    def finish(self) -> Iterator[Item]:
        """See `Reader.finish`."""
        if self._inside:
            raise self._malformed("the file is cut off")
        if self._line.strip():
            if self._exported:
                raise self._malformed("the file is cut off")
            # A file of somebody else's need not end with a line feed.
            item = self._read(bytes(self._line))
            self._line.clear()
            if isinstance(item, Entry):
                yield Events([item])
        if self._exported and not self.ended:
            raise self._malformed("the file is cut off")

    def state(self) -> dict[str, Any] | None:
        """See `Reader.state`."""
        if self._taken or not self.offset:
            return None
        return {
            "item": self.item,
            "chain": self._chain.digest,
            "ended": self.ended,
            "exported": self._exported,
            "compressed": self._inflate is not None,
        }

    def resume(self, offset: int, state: Mapping[str, Any]) -> None:
        """See `Reader.resume`."""
        self.offset = offset
        self.item = state["item"]
        self.ended = state["ended"]
        self._chain = Chain(bytes.fromhex(state["chain"]))
        self._exported = state["exported"]
        self._begun = True
        if state["compressed"]:
            self._inflate = zstandard.ZstdDecompressor().decompressobj()

    def _read(self, line: bytes) -> Item | Entry | None:
        if not line.strip():
            return None
        try:
            fields = orjson.loads(line)
            if not isinstance(fields, dict):
                raise TypeError("no object")
            read = self._shape.read(fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._malformed(f"a line that can't be read: {error!s:.100}") from error
        if self.ended:
            raise self._malformed("something after the end")
        if isinstance(read, Manifest):
            if self.item:
                raise self._malformed("a manifest that is not the first line")
            self._exported = True
        elif not self._exported and not self._cloud:
            raise self._malformed("no manifest")
        if isinstance(read, Summary):
            if read.digest != self._chain.digest:
                raise self._malformed("other content than its digest says")
            self.ended = True
        self._chain.add(line)
        self.item += 1
        return event_codec.entry(read) if isinstance(read, Record) else read

    @property
    def exported(self) -> bool:
        """Whether the file was exported here, and not made by somebody else."""
        return self._exported

    def _malformed(self, problem: str) -> MalformedFile:
        return MalformedFile(problem, self.offset, self.item + 1)


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
        raise TypeError(f"{name} is no string")
    return value


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError("metadata is no object of strings")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError("revision is no number")
    return value


def _place(text: Any) -> Sequence | None:
    return Sequence.parse(text) if text else None


def _cloud_sequence(fields: dict[str, Any]) -> Sequence:
    """The id, if it is one of ours; else the time, if there is one."""
    try:
        return Sequence.parse(_text(fields, "id"))
    except ValueError:
        time = _text(fields, "time")
        when = datetime.fromisoformat(time) if time else datetime.now(UTC)
        return Sequence(int(when.timestamp() * 1000), 0)


def _foreign(fields: dict[str, Any]) -> dict[str, str]:
    """What an event of somebody else's says of itself, as metadata."""
    kept = {name: fields[name] for name in ("source", "id", "dataschema") if fields.get(name)}
    if str(kept.get("source", "")).startswith("/contex/projects/"):
        return {}
    return {f"cloudevents_{name}": str(value)[:500] for name, value in kept.items()}

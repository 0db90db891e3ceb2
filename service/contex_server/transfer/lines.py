"""Files with a JSON object a line, compressed or not; see `event_json` for the objects.

The digest is a `Chain` over the uncompressed lines before the summary, including line feeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

import orjson
import zstandard

from contex_server.kernel import event_codec
from contex_server.kernel.blocks import packed
from contex_server.kernel.model import Entry, Event
from contex_server.transfer.event_json import CloudEventsEncoding, JsonEncoding
from contex_server.transfer.items import Events, Item, Manifest, Reader, Summary, Writer

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_LINE = 32 * 1024 * 1024
_PIECE = 1024
"""Compressed bytes decompressed at a time: at most 32 MiB come out."""
_BATCH = 500


class LinesWriter(Writer):
    """Writes lines, or CloudEvents; if compressed, each piece is a frame of its own."""

    def __init__(self, project: str, *, cloud: bool, compress: bool) -> None:
        super().__init__()
        self._project = project
        self._encoding = CloudEventsEncoding() if cloud else JsonEncoding()
        self._compress = compress

    def begin(self, manifest: Manifest) -> bytes:
        return self._lines([self._encoding.manifest(manifest)])

    def events(self, entries: SequenceOf[Entry]) -> bytes:
        return self._lines(
            [self._encoding.event(event_codec.decode(entry), self._project) for entry in entries]
        )

    def end(self, summary: Summary) -> bytes:
        return self._lines([self._encoding.summary(summary)])

    def _lines(self, objects: list[dict[str, Any]]) -> bytes:
        lines = [orjson.dumps(fields) + b"\n" for fields in objects]
        for line in lines:
            self.chain.add(line)
        self.items += len(lines)
        data = b"".join(lines)
        return packed(data) if self._compress else data


class LinesReader(Reader):
    """Reads lines, or CloudEvents including foreign ones."""

    def __init__(self, *, cloud: bool) -> None:
        super().__init__()
        self._cloud = cloud
        self._encoding = CloudEventsEncoding() if cloud else JsonEncoding()
        self._line = bytearray()
        self._started = False
        self._inflate: Any = None
        self._consumed = 0
        self._in_frame = False
        """Whether a compressed frame has begun and not ended."""

    def feed(self, data: bytes) -> Iterator[Item]:
        if not self._started and data:
            self._started = True
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
                    raise self.malformed(f"compression: {error}") from error
                rest = self._inflate.unused_data
                self._consumed += len(piece) - len(rest)
                self._in_frame = not self._inflate.eof
                yield from self._feed_text(text, compressed=True)
                if self._inflate.eof:
                    self._inflate = zstandard.ZstdDecompressor().decompressobj()
                    if not self._line:
                        self.offset += self._consumed
                        self._consumed = 0
                piece = rest

    def _feed_text(self, text: bytes, *, compressed: bool = False) -> Iterator[Item]:
        *lines, rest = text.split(b"\n")
        entries: list[Entry] = []
        for ending in lines:
            line = bytes(self._line) + ending + b"\n"
            self._line.clear()
            item = self._read(line)
            if not compressed:
                self.offset += len(line)
            if isinstance(item, Entry):
                entries.append(item)
                if len(entries) < _BATCH:
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
            raise self.malformed(f"a line of more than {_MAX_LINE >> 20} MiB")

    def finish(self) -> Iterator[Item]:
        if self._in_frame:
            raise self.malformed("the file is truncated")
        if self._line.strip():
            if self.exported:
                raise self.malformed("the file is truncated")
            # A foreign file need not end with a line feed.
            item = self._read(bytes(self._line))
            self._line.clear()
            if isinstance(item, Entry):
                yield Events([item])
        if self.exported and not self.ended:
            raise self.malformed("the file is truncated")

    def state(self) -> dict[str, Any] | None:
        if self._consumed or not self.offset:
            return None
        compressed = self._inflate is not None
        return {**(super().state() or {}), "exported": self.exported, "compressed": compressed}

    def resume(self, offset: int, state: Mapping[str, Any]) -> None:
        super().resume(offset, state)
        self.exported = state["exported"]
        self._started = True
        if state["compressed"]:
            self._inflate = zstandard.ZstdDecompressor().decompressobj()

    def _read(self, line: bytes) -> Item | Entry | None:
        if not line.strip():
            return None
        try:
            fields = orjson.loads(line)
            if not isinstance(fields, dict):
                raise TypeError("not an object")
            read = self._encoding.read(fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.malformed(f"an invalid line: {error!s:.100}") from error
        if self.ended:
            raise self.malformed("data after the summary")
        if isinstance(read, Manifest):
            if self.item:
                raise self.malformed("a manifest after the first line")
            self.exported = True
        elif not self.exported and not self._cloud:
            raise self.malformed("the manifest is missing")
        if isinstance(read, Summary):
            if read.digest != self.chain.digest:
                raise self.malformed("the content does not match the digest")
            self.ended = True
        self.chain.add(line)
        self.item += 1
        return event_codec.entry(read) if isinstance(read, Event) else read

"""Files with a JSON object a line, compressed or not; see `event_json` and `cloud_events` for the
objects.

The digest is a `Chain` over the uncompressed lines before the summary, including line feeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.blocks import packed
from contex_server.kernel.config import Limits
from contex_server.kernel.inflating import MAGIC, Inflater
from contex_server.kernel.model import Entry, Event
from contex_server.kernel.right_of_way import giving
from contex_server.transfer.cloud_events import CloudEventsEncoding
from contex_server.transfer.cutting import BOM, LineCutter, cutter_for, resumed
from contex_server.transfer.event_json import JsonEncoding, check_values, line_bytes, loads
from contex_server.transfer.items import (
    Chain,
    Events,
    Item,
    Manifest,
    Place,
    Reader,
    Summary,
    Turn,
    Writer,
)

_BATCH = 500
_BATCH_BYTES = 1024 * 1024
_BLANK_BYTES = 64 * 1024
_FREE_ITEMS = 100_000
"""A compressed file holds no more lines than this and one a byte."""
_INVALID = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)
"""What is raised where fields are not what they should be."""


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
            [
                self._encoding.event(event_codec.decode(entry), self._project)
                for entry in giving(entries)
            ]
        )

    def end(self, summary: Summary) -> bytes:
        return self._lines([self._encoding.summary(summary)])

    def _lines(self, objects: list[dict[str, Any]]) -> bytes:
        lines = [orjson.dumps(fields) + b"\n" for fields in giving(objects)]
        for line in giving(lines):
            self.chain.add(line)
        self.items += len(lines)
        data = b"".join(lines)
        return packed(data) if self._compress else data


class LinesReader(Reader):
    """Reads lines, or CloudEvents including foreign ones, which may be a JSON array, too."""

    noun = "line"

    def __init__(self, limits: Limits, *, cloud: bool) -> None:
        super().__init__()
        self._limits = limits
        self._cloud = cloud
        self._encoding = CloudEventsEncoding() if cloud else JsonEncoding()
        self.fields = self._encoding.fields
        self._cutter: LineCutter | None = None
        self._start = bytearray()
        """The beginning of the text, until its shape is known."""
        self._started = False
        self._inflater: Inflater | None = None
        self._passed = 0
        """Of the inflater's bytes, those before `offset`."""
        self._blank = 0
        """White space since the last line."""

    def feed(self, data: bytes) -> Iterator[Item | None]:
        if not self._started and data:
            self._started = True
            if self._inflater is None and data.startswith(MAGIC[: len(data)]):
                self._inflater = Inflater()
        if self._inflater is None:
            yield from self._feed_text(data)
            return
        steps = self._inflater.feed(data)
        while True:
            try:
                text = next(steps)
            except StopIteration:
                return
            except ValueError as error:
                raise self.malformed(f"compression: {error}") from error
            yield from self._feed_text(text)
            ended = not self._inflater.in_frame
            if ended and self._cutter is not None and not self._cutter.rest:
                self.offset += self._inflater.taken - self._passed
                self._passed = self._inflater.taken

    def _feed_text(self, text: bytes) -> Iterator[Item | None]:
        text = self._begun(text)
        if self._cutter is None:
            return
        turn, size = Turn(), 0
        entries, places = list[Entry](), list[Place]()
        for piece in self._cutter.feed(text):
            place = Place(self.offset, self.item + 1)
            item = self._read(piece) if piece else None
            if self._inflater is None:
                self.offset += len(piece)
            over = turn.over()
            if isinstance(item, Entry):
                entries.append(item)
                places.append(place)
                size += len(item.body)
                over |= len(entries) >= _BATCH or size >= _BATCH_BYTES
                item = None
            if entries and (over or item is not None):
                yield Events(entries, places)
                entries, places, size = [], [], 0
            elif over:
                yield None
            if item is not None:
                yield item
            if over:
                turn.begin()
        if entries:
            yield Events(entries, places)
        self._check_rest(self._cutter.rest)

    def _begun(self, text: bytes, *, complete: bool = False) -> bytes:
        """The text, with what came before its shape was known; b"" until it is known."""
        if self._cutter is not None:
            return text
        looked = len(self._start)
        self._start += text
        if self._cloud:
            self._cutter = cutter_for(self._start, looked, complete=complete)
        else:
            self._cutter = LineCutter()
        if self._cutter is None:
            self._check_rest(self._start)
            return b""
        self.noun = self._cutter.noun
        text, self._start = bytes(self._start), bytearray()
        return text

    def _pass_blank(self, size: int) -> None:
        self.item += 1
        self._blank += size
        if self._blank > _BLANK_BYTES:
            raise self.malformed(f"more than {_BLANK_BYTES >> 10} KiB of white space")

    def _check_rest(self, rest: bytes | bytearray) -> None:
        limit = line_bytes(self._limits)
        if len(rest) > limit:
            raise self.malformed(f"more than {limit:,} bytes")

    def finish(self) -> Iterator[Item | None]:
        if self._inflater is not None and self._inflater.in_frame:
            raise self.malformed("the file is truncated")
        if self._cutter is None:
            text = self._begun(b"", complete=True)
            yield from self._feed_text(text)
        assert self._cutter is not None
        try:
            last = self._cutter.finish()
        except ValueError as error:
            raise self.malformed(str(error)) from None
        if last.strip():
            if self.exported:
                raise self.malformed("the file is truncated")
            # A foreign file need not end with a line feed.
            place = Place(self.offset, self.item + 1)
            item = self._read(last)
            self._cutter.rest.clear()
            if isinstance(item, Entry):
                yield Events([item], [place])
        if self.exported and not self.ended:
            raise self.malformed("the file is truncated")

    def state(self) -> dict[str, Any] | None:
        inflater = self._inflater
        passed = inflater is None or inflater.taken == self._passed
        if not passed or not self.offset or self._cutter is None:
            return None
        return {
            **(super().state() or {}),
            "exported": self.exported,
            "compressed": inflater is not None,
            "shape": self._cutter.shape,
            "version": self._encoding.version,
        }

    def resume(self, offset: int, state: Mapping[str, Any]) -> None:
        super().resume(offset, state)
        self.exported = state["exported"]
        self._started = True
        if state["compressed"]:
            self._inflater = Inflater()
        # States of earlier versions have neither.
        self._cutter = resumed(state.get("shape", "lines"))
        self.noun = self._cutter.noun
        self._encoding.version = state.get("version", 1)

    def _read(self, piece: bytes) -> Item | Entry | None:
        if not self.item:
            piece = piece.removeprefix(BOM)
        assert self._cutter is not None
        self._check_rest(piece)
        if self._inflater is not None:
            compressed = self.offset + self._inflater.taken - self._passed
            if self.item > _FREE_ITEMS + compressed:
                raise self.malformed(
                    f"more than {_FREE_ITEMS:,} {self.noun}s in {compressed:,} bytes"
                )
        try:
            text = self._cutter.json(piece)
            if not text:
                self._pass_blank(len(piece))
                return None
            self._blank = 0
            check_values(text, self._limits)
            fields = orjson.loads(text) if self.exported else loads(text)
            if not isinstance(fields, dict):
                raise TypeError("not an object")
            read = self._encoding.read(fields)
            item = event_codec.entry(read) if isinstance(read, Event) else read
        except KeyError as error:
            raise self.malformed(f"{error.args[0]!s:.60}: is missing") from error
        except _INVALID as error:
            raise self.malformed(f"an invalid {self.noun}: {error!s:.200}") from error
        if self.ended:
            raise self.malformed("data after the summary")
        if isinstance(read, Manifest):
            if self.chain != Chain():
                raise self.malformed(f"a manifest after the first {self.noun}")
            self.exported = True
        elif not self.exported and not self._cloud:
            raise self.malformed("the manifest is missing")
        if isinstance(read, Summary):
            if read.digest != self.chain.digest:
                raise self.malformed("the content does not match the digest")
            self.ended = True
        self.chain.add(piece)
        self.item += 1
        return item

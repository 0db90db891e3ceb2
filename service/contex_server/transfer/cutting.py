"""Cuts a text into pieces with a JSON object each, as it comes in: each byte is looked at once.

The pieces, joined, are the text, so that their lengths say where in it each begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

import orjson

BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*")
_OUTSIDE = re.compile(rb'["{}]')
_IN_STRING = re.compile(rb'"|\\.', re.DOTALL)
_LOOK_BYTES = 64 * 1024
_OPENINGS = 16
_LOOKS = 10_000
"""Braces and quotes in a few milliseconds."""


class LineCutter:
    """A JSON object a line.

    Attributes:
        shape: What it cuts, as checkpoints store it.
        noun: What a piece is called.
        rest: The beginning of the next piece.
    """

    shape = "lines"
    noun = "line"

    def __init__(self) -> None:
        self.rest = bytearray()

    def feed(self, text: bytes) -> Iterator[bytes]:
        """The pieces that are complete with this text; b"" where it has been looked at for a
        while without."""
        *lines, rest = text.split(b"\n")
        for ending in lines:
            line = bytes(self.rest) + ending + b"\n"
            self.rest.clear()
            yield line
        self.rest += rest

    def json(self, piece: bytes) -> bytes:
        """The JSON in the next piece; b"" if it has none.

        Raises:
            ValueError: Something else is in it, too.
        """
        return piece if piece.strip() else b""

    def finish(self) -> bytes:
        """The last piece, at the end of the text; b"" if there is none.

        Raises:
            ValueError: The text is not complete.
        """
        return bytes(self.rest)


class ObjectCutter(LineCutter):
    """JSON objects one after the other, however they are broken into lines.

    Args:
        started: Whether some were cut already.
    """

    shape = "objects"
    noun = "event"
    _first = _between = _last = _none = b""
    """What is before the first object, between two, after the last one, and if there is none."""

    def __init__(self, *, started: bool = False) -> None:
        super().__init__()
        self._started = started
        self._at = self._depth = 0
        self._quoted = False

    def feed(self, text: bytes) -> Iterator[bytes]:
        self.rest += text
        looked = 0
        while found := (_IN_STRING if self._quoted else _OUTSIDE).search(self.rest, self._at):
            self._at = found.end()
            looked += 1
            if looked % _LOOKS == 0:
                yield b""
            match found[0]:
                case b'"':
                    self._quoted = not self._quoted
                case b"{":
                    self._depth += 1
                case b"}":
                    self._depth -= 1
                    if not self._depth:
                        piece = bytes(self.rest[: self._at])
                        del self.rest[: self._at]
                        self._at = 0
                        yield piece
        # Of an escape, the first half may have come alone.
        self._at = max(self._at, len(self.rest) - self._quoted)

    def json(self, piece: bytes) -> bytes:
        at = piece.index(b"{")
        before = piece[:at].removeprefix(b"" if self._started else BOM).strip(_BLANK)
        if before != (self._between if self._started else self._first):
            raise ValueError(f"{before[:20]!r} before an object")
        self._started = True
        return piece[at:]

    def finish(self) -> bytes:
        rest = bytes(self.rest).removeprefix(b"" if self._started else BOM)
        if b"".join(rest.split()) != (self._last if self._started else self._none):
            raise ValueError("the file is truncated, or something follows the last object")
        return b""


class ArrayCutter(ObjectCutter):
    """A JSON array of objects."""

    shape = "array"
    _first, _between, _last, _none = b"[", b",", b"]", b"[]"


class MemberCutter(ObjectCutter):
    """The objects of the array that is one member of a JSON object.

    The object without them is `rest` at the end.

    Args:
        name: That of the member.
    """

    _first, _between = b"", b","

    def __init__(self, name: str) -> None:
        super().__init__()
        self._opening = re.compile(rb'"%s"[ \t\r\n]*:[ \t\r\n]*\[' % name.encode())
        self._head: bytes | None = None
        self._tail = bytearray()
        self.started_at = 0
        """Where the array begins."""

    def feed(self, text: bytes) -> Iterator[bytes]:
        if self._head is None:
            text = self._begun(text)
        if self._head is None:
            return
        if self._tail:
            self._tail += self.rest + text
            self.rest.clear()
            self._check(self._tail)
            return
        for piece in super().feed(text):
            if self._tail or piece.lstrip(_BLANK).startswith(b"]"):
                self._tail += piece
                self._check(self._tail)
            else:
                yield piece

    def _begun(self, text: bytes) -> bytes:
        """What follows the beginning of the array; b"" if it has not begun."""
        self.rest += text
        looked = bytes(self.rest[:_LOOK_BYTES])
        for found in islice(self._opening.finditer(looked), _OPENINGS):
            head = looked[: found.end()]
            try:
                orjson.loads(head.removeprefix(BOM) + b"]}")
            except ValueError:
                continue  # In a string, or in another object.
            self._head, self.started_at = head.removeprefix(BOM), len(head)
            after = bytes(self.rest[len(head) :])
            self.rest.clear()
            return after
        self._check(self.rest)
        return b""

    def _check(self, rest: bytearray) -> None:
        if len(rest) > _LOOK_BYTES:
            raise ValueError(f"more than {_LOOK_BYTES >> 10} KiB besides the objects")

    def finish(self) -> bytes:
        return (self._head or b"") + bytes(self._tail + self.rest)


def resumed(shape: str) -> LineCutter:
    """What cuts the rest of a text that was cut before."""
    match shape:
        case "objects":
            return ObjectCutter(started=True)
        case "array":
            return ArrayCutter(started=True)
    return LineCutter()


def cutter_for(start: bytearray, new_from: int, *, complete: bool) -> LineCutter | None:
    """What cuts a text of objects with this beginning, or None if more of it is needed.

    Args:
        start: The beginning.
        new_from: What is before this byte was not enough.
        complete: Whether it is the whole text.
    """
    found = _BEGINNING.match(start)
    assert found is not None
    at = found.end()
    undecided = at == len(start) or (len(start) < len(BOM) and BOM.startswith(start))
    if undecided and not complete and len(start) < _LOOK_BYTES:
        return None
    if start[at : at + 1] == b"[":
        return ArrayCutter()
    if start[at : at + 1] != b"{":
        return LineCutter()
    end = start.find(b"\n", max(at, new_from))
    if end < 0:
        # Whoever ends a file with its only line leaves nothing to tell apart.
        return LineCutter() if complete else None
    try:
        orjson.loads(bytes(start[at:end]))
    except ValueError:
        return ObjectCutter()
    return LineCutter()

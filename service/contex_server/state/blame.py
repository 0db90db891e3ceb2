"""Which event set each part of a datum: values of JSON, lines of other text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from contex_server.kernel.model import DATA_DELETED, Event
from contex_server.matching.formats.media import Format, media
from contex_server.matching.payload_values import text_of
from contex_server.state.json_values import is_same, parse_all_digits, write
from contex_server.state.line_diff import lines, opcodes
from contex_server.state.patch import escape

PARTS = 10_000
"""Maximum number of parts."""
_ABSENT = object()
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class BlamedPart:
    """A part of a datum.

    Attributes:
        path: A JSON pointer, or a line number.
        value: As JSON, or the line.
        event: The event that set it.
    """

    path: str
    value: str
    event: Event


class Blame(Protocol):
    """Attributes the parts of a datum to events, which are added from the newest back.

    Attributes:
        complete: Whether it has all parts, not only the first `PARTS`.
    """

    complete: bool

    @property
    def open(self) -> int:
        """Number of parts that may be older than the events added."""

    def add(self, before: Event) -> None:
        """Adds the event before the one that was added last."""

    def parts(self) -> list[BlamedPart]:
        """All parts; open ones are attributed to the last event added."""


def blame(event: Event) -> Blame:
    """Starts with the datum's newest event, which is not a deletion."""
    kind = media(event.content_type)
    if kind.format is Format.JSON:
        try:
            return _JsonBlame(event)
        except (ValueError, RecursionError):
            pass
    return _TextBlame(event)


class _JsonBlame:
    """By JSON pointer: a value is from the oldest event since which it has been unchanged."""

    def __init__(self, event: Event) -> None:
        self._event = event
        leaves = list(islice(_leaves(parse_all_digits(event.payload)), PARTS + 1))
        self._leaves = leaves[:PARTS]
        self.complete = len(leaves) <= PARTS
        self._set_by: list[Event | None] = [None] * len(self._leaves)
        self._open = dict(enumerate(self._leaves))

    @property
    def open(self) -> int:
        return len(self._open)

    def add(self, before: Event) -> None:
        value: Any = _ABSENT
        if before.event_type != DATA_DELETED and media(before.content_type).format is Format.JSON:
            if before.payload == self._event.payload:
                self._event = before
                return
            try:
                value = parse_all_digits(before.payload)
            except (ValueError, RecursionError):
                value = _ABSENT
        for index in [i for i, (path, leaf) in self._open.items() if not _has(value, path, leaf)]:
            self._set_by[index] = self._event
            del self._open[index]
        self._event = before

    def parts(self) -> list[BlamedPart]:
        return [
            BlamedPart(
                "".join(f"/{escape(str(token))}" for token in path), write(leaf), by or self._event
            )
            for (path, leaf), by in zip(self._leaves, self._set_by, strict=True)
        ]


def _leaves(value: Any) -> Iterator[tuple[Path, Any]]:
    """Scalars and empty objects and arrays, in the order of the document."""
    waiting: list[tuple[Path, Iterator[tuple[str | int, Any]]]] = []
    path: Path = ()
    while True:
        if value and type(value) is dict:
            waiting.append((path, iter(value.items())))
        elif value and type(value) is list:
            waiting.append((path, enumerate(value)))
        else:
            yield path, value
        while waiting:
            path, children = waiting[-1]
            child = next(children, None)
            if child is not None:
                path, value = (*path, child[0]), child[1]
                break
            waiting.pop()
        else:
            return


def _has(value: Any, path: Path, leaf: Any) -> bool:
    for token in path:
        kind = type(value)
        if kind is dict and type(token) is str:
            value = value.get(token, _ABSENT)
        elif kind is list and type(token) is int and token < len(value):
            value = value[token]
        else:
            return False
    return is_same(value, leaf)


class _TextBlame:
    """By line; lines keep their event while others come and go around them.

    Binary data are one part.
    """

    def __init__(self, event: Event) -> None:
        self._event = event
        text = _text(event)
        found = [""] if text is None else lines(text)
        self._lines = found[:PARTS]
        self.complete = len(found) <= PARTS
        self._binary = text is None
        self._set_by: list[Event | None] = [None] * len(self._lines)
        self._before = found
        self._payload = event.payload
        # The index of each open line in the text that was added last.
        self._places = {place: place for place in range(len(self._lines))}

    @property
    def open(self) -> int:
        return len(self._places)

    def add(self, before: Event) -> None:
        text = None if before.event_type == DATA_DELETED else _text(before)
        if before.event_type != DATA_DELETED and before.payload == self._payload:
            pass
        elif text is None or self._binary:
            self._settle(self._places)
        else:
            older = lines(text)
            kept: dict[int, int] = {}
            for tag, a, b, c, _ in opcodes(older, self._before):
                if tag == "equal":
                    kept.update(zip(range(c, c + b - a), range(a, b), strict=True))
            self._settle({line: p for line, p in self._places.items() if p not in kept})
            self._places = {line: kept[place] for line, place in self._places.items()}
            self._before = older
        self._event, self._payload = before, before.payload

    def _settle(self, places: dict[int, int]) -> None:
        for line in list(places):
            self._set_by[line] = self._event
            del self._places[line]

    def parts(self) -> list[BlamedPart]:
        if self._binary:
            return [BlamedPart("", "", self._set_by[0] or self._event)]
        return [
            BlamedPart(str(number), line.removesuffix("\n"), by or self._event)
            for number, (line, by) in enumerate(zip(self._lines, self._set_by, strict=True), 1)
        ]


def _text(event: Event) -> str | None:
    return text_of(event.payload, media(event.content_type))

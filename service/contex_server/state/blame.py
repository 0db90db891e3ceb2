"""Which event set each part of a datum: values of JSON, lines of other text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from contex_server.kernel.model import Event
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


class Blame:
    """Attributes the parts of a datum to events, which are added from the newest back.

    Attributes:
        complete: Whether it has all parts, not only the first `PARTS`.
    """

    def __init__(self, event: Event, values: list[Any]) -> None:
        self.complete = len(values) <= PARTS
        self._event = event
        """The event that was added last."""
        self._values = values[:PARTS]
        self._set_by: list[Event | None] = [None] * len(self._values)
        self._open = {index: index for index in range(len(self._values))}
        """Each part that may be older, and its index in the event that was added last."""

    @property
    def open(self) -> int:
        """Number of parts that may be older than the events added."""
        return len(self._open)

    def add(self, before: Event) -> None:
        """Adds the event before the one that was added last."""
        if before.deletes:
            self._settle(self._open)
        else:
            self._compare(before)
        self._event = before

    def parts(self) -> Iterator[BlamedPart]:
        """All parts; open ones are attributed to the last event added.

        One by one, for a path repeats the names that it leads through: all of them may be many
        times as long as the document.
        """
        for index, (value, by) in enumerate(zip(self._values, self._set_by, strict=True)):
            yield BlamedPart(*self._written(index, value), by or self._event)

    def _compare(self, before: Event) -> None:
        """Settles the parts that an event does not have."""
        raise NotImplementedError

    def _written(self, index: int, value: Any) -> tuple[str, str]:
        """Path and value of a part."""
        raise NotImplementedError

    def _settle(self, indexes: Iterable[int]) -> None:
        for index in list(indexes):
            self._set_by[index] = self._event
            del self._open[index]


def blame(event: Event) -> Blame:
    """Starts with the datum's newest event, which is not a deletion."""
    if media(event.content_type).format is Format.JSON:
        try:
            return _JsonBlame(event)
        except (ValueError, RecursionError):
            pass
    return _TextBlame(event)


class _JsonBlame(Blame):
    """By JSON pointer: a value is from the oldest event since which it has been unchanged."""

    def __init__(self, event: Event) -> None:
        super().__init__(event, list(islice(_leaves(parse_all_digits(event.payload)), PARTS + 1)))

    def _compare(self, before: Event) -> None:
        value: Any = _ABSENT
        if media(before.content_type).format is Format.JSON:
            if before.payload == self._event.payload:
                return
            with suppress(ValueError, RecursionError):
                value = parse_all_digits(before.payload)
        self._settle(index for index in self._open if not _has(value, *self._values[index]))

    def _written(self, index: int, value: Any) -> tuple[str, str]:
        path, leaf = value
        return "".join(f"/{escape(str(token))}" for token in path), write(leaf)


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


class _TextBlame(Blame):
    """By line; lines keep their event while others come and go around them.

    Binary data are one part.
    """

    def __init__(self, event: Event) -> None:
        text = _text(event)
        self._binary = text is None
        self._lines = [""] if text is None else lines(text)
        """Those of the event that was added last."""
        super().__init__(event, self._lines)

    def _compare(self, before: Event) -> None:
        if before.payload == self._event.payload:
            return
        text = _text(before)
        if text is None or self._binary:
            self._settle(self._open)
            return
        older = lines(text)
        kept: dict[int, int] = {}
        for tag, a, b, c, _ in opcodes(older, self._lines):
            if tag == "equal":
                kept.update(zip(range(c, c + b - a), range(a, b), strict=True))
        self._settle(line for line, place in self._open.items() if place not in kept)
        self._open = {line: kept[place] for line, place in self._open.items()}
        self._lines = older

    def _written(self, index: int, value: Any) -> tuple[str, str]:
        return "" if self._binary else str(index + 1), value.removesuffix("\n")


def _text(event: Event) -> str | None:
    return text_of(event.payload, media(event.content_type))

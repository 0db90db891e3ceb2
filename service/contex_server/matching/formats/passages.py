"""Passages: the parts of a payload that are embedded on their own.

Every format turns a payload into *parts*, the smallest pieces worth naming, in document
order. Parts are packed into passages here, alike for all formats: as full as possible, and
broken where the document's own structure breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

OUTLINE_CHARS = 1_200
"""About the 256 tokens that the default model reads."""
PASSAGE_CHARS = 800
"""Less than an outline, since title and path are added."""
MAX_PASSAGES = 64
CAPACITY = (MAX_PASSAGES - 1) * PASSAGE_CHARS
"""More characters than this can't be in passages, so no more are collected."""
VALUES_READ = 50_000
"""Maximum number of values of a payload (scalars, elements, cells) read for passages."""
NESTING = 256
"""Maximum depth of YAML and XML; their readers take time quadratic in it."""
PATH_CHARS = 200

INNER = 1 << 30
"""The level of a break within a text: any other is better."""


class PayloadMalformed(ValueError):
    """The payload is not what its content type says; line and column, in characters, are from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"{problem} (line {line}, column {column})")
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a datum that is embedded on its own.

    Attributes:
        path: Where in the payload. "" for the head, and for what stands under no name. A JSON
            pointer for JSON, YAML and TOML: "/servers/3", or a run of array elements,
            "/servers/3-7". "Heading > Sub heading" for Markdown, "rows 2-9" for CSV,
            "/catalog/book[3]" for XML, "paragraphs 3-5" for text.
        text: Its own words in one line, without title and summary; the head's is the
            outline and may be empty.
    """

    path: str
    text: str


class Content(NamedTuple):
    """A payload put into words."""

    passages: tuple[Passage, ...]  # at least one; the first is the head
    truncated: bool = False  # whether some of the payload is in no passage


class Part(NamedTuple):
    """The smallest piece that a passage is made of, at most `PASSAGE_CHARS` long."""

    place: Any  # where in the payload, in the format's own terms
    text: str
    level: int  # how deep the document's structure breaks before it; 0 is the outermost
    opens: bool = False  # whether it is only the name of what follows


class Parts(list[Part]):
    """Parts in document order, as many as passages can hold, and whether there was more."""

    def __init__(self) -> None:
        super().__init__()
        self.chars = 0
        self.truncated = False

    @property
    def full(self) -> bool:
        """Whether further parts could not be in a passage."""
        return self.chars > CAPACITY

    def add(self, place: Any, texts: Iterable[str], level: int, *, opens: bool = False) -> None:
        """Appends the pieces of one text."""
        for text in texts:
            if self.full:
                self.truncated = True
                return
            self.append(Part(place, text, level, opens))
            self.chars += len(text)
            level = INNER

    def drop(self, start: int) -> None:
        """Drops the parts from `start` on."""
        self.chars -= sum(len(part.text) for part in self[start:])
        del self[start:]


def pack(parts: Iterable[Part], separator: str) -> Iterator[list[Part]]:
    """Groups neighbours into passages of at most `PASSAGE_CHARS`.

    A full passage is broken at the outermost break in its last three quarters, or the latest of
    several; the rest starts the next passage. A name that opens something stays with it, even if
    the passage becomes a quarter longer.
    """
    group: list[Part] = []
    chars = 0
    for part in parts:
        while group and chars + len(part.text) > PASSAGE_CHARS:
            if chars <= PASSAGE_CHARS // 4 and all(opening.opens for opening in group):
                break
            end = _break(group, part, len(separator))
            yield group[:end]
            group = group[end:]
            chars = sum(len(other.text) + len(separator) for other in group)
        group.append(part)
        chars += len(part.text) + len(separator)
    if group:
        yield group


def _break(group: Sequence[Part], following: Part, separator_chars: int) -> int:
    end, level, chars = len(group), following.level, 0
    for index, part in enumerate(group):
        if chars >= PASSAGE_CHARS // 4 and (part.level, -index) < (level, -end):
            end, level = index, part.level
        chars += len(part.text) + separator_chars
    while end > 1 and group[end - 1].opens:
        end -= 1
    return end


def content(
    head: str,
    groups: Iterable[Sequence[Part]],
    separator: str,
    path: Callable[[Sequence[Part]], str],
    *,
    truncated: bool,
) -> Content:
    """The head and a passage for each group of `pack`, up to `MAX_PASSAGES`.

    `path` names the place of a group; `truncated` is whether the payload has more than the groups.
    """
    passages = [Passage("", head)]
    for group in groups:
        if len(passages) == MAX_PASSAGES:
            truncated = True
            break
        passages.append(Passage(path(group), separator.join([part.text for part in group])))
    return Content(tuple(passages), truncated)


def numbered(parts: Parts, separator: str, unit: str, *, in_head: int = 0) -> Content:
    """The head and passages of parts whose places are numbers.

    `unit` is what is numbered: "row" makes the paths "row 2" and "rows 2-9". The first `in_head`
    parts are in the head only, unless all are.
    """

    def path(group: Sequence[Part]) -> str:
        first, last = group[0].place, group[-1].place
        return f"{unit} {first}" if first == last else f"{unit}s {first}-{last}"

    head, complete = leading((part.text for part in parts), separator)
    groups = () if complete else pack(parts[in_head:], separator)
    return content(head, groups, separator, path, truncated=parts.truncated)


def leading(texts: Iterable[str], separator: str, chars: int = OUTLINE_CHARS) -> tuple[str, bool]:
    """The beginning of the texts, and whether it is all of them.

    Each text is at most `PASSAGE_CHARS` long, and the last may end at a word within it.
    """
    taken: list[str] = []
    room = chars
    for text in texts:
        if len(text) > room:
            head, space, _ = text[: max(room, 0) + 1].rpartition(" ")
            if space:
                taken.append(head)
            return separator.join(taken), False
        taken.append(text)
        room -= len(text) + len(separator)
    return separator.join(taken), True

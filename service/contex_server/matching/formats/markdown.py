"""Markdown: sections under their headings, read by CommonMark's rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from contex_server.matching.formats.passages import (
    INNER,
    MAX_PASSAGES,
    OUTLINE_CHARS,
    PASSAGE_CHARS,
    PATH_CHARS,
    Content,
    Part,
    Parts,
    Passage,
    content,
    leading,
    pack,
)
from contex_server.matching.formats.text import without_tags
from contex_server.matching.words import READ_CHARS, cut, lines, phrase, pieces

_MARKUP = re.compile(r"[\\`*_\[\]<&!~]")
_INLINE_CHARS = 4_096
"""Longer paragraphs keep their markup: parsing it takes quadratic time."""
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_HEADINGS_CHARS = OUTLINE_CHARS * 2 // 3
_BLOCK_LEVEL = 7  # Within all six levels of headings.


@dataclass(slots=True)
class _Section:
    """The text between two headings."""

    trail: tuple[str, ...] = ()  # its heading, after those that it is under
    blocks: list[list[str]] = field(default_factory=list)  # words of paragraphs, items, rows, code
    has_sections: bool = False  # the next heading is under this one


def describe_markdown(text: str) -> Content:
    """Puts a Markdown document into words, section by section.

    A section is a passage, or several if it is long; only if there are too many sections do
    neighbours share one.
    """
    sections = _sections(text[:READ_CHARS])
    whole = _whole(sections)
    truncated = whole.truncated or len(text) > READ_CHARS
    head, complete = leading((part.text for part in whole), " ")
    if complete:
        return Content((Passage("", head),), truncated)
    groups = [group for section in sections for group in pack(_alone(section), " ")]
    if len(groups) >= MAX_PASSAGES:
        groups = list(pack(whole, " "))
    else:
        truncated = len(text) > READ_CHARS
    return content(_head(sections), groups, " ", _path, truncated=truncated)


def _whole(sections: Sequence[_Section]) -> Parts:
    """All sections, each with its heading before it."""
    parts = Parts()
    for section in sections:
        level = len(section.trail)
        heading = phrase(section.trail[-1]) if section.trail else ""
        if heading:
            ending = ":" if section.blocks else "."
            parts.add(section.trail, lines(heading + ending, PASSAGE_CHARS), level)
            level = INNER
        for block in section.blocks:
            parts.add(section.trail, block, level)
            level = _BLOCK_LEVEL
    return parts


def _alone(section: _Section) -> Parts:
    """A section whose heading is in its path."""
    parts = Parts()
    for block in section.blocks:
        parts.add(section.trail, block, _BLOCK_LEVEL)
    if not (section.blocks or section.has_sections) and section.trail:
        parts.add(section.trail, pieces(section.trail[-1], PASSAGE_CHARS), 0)
    return parts


def _head(sections: Sequence[_Section]) -> str:
    """The list of headings, and the beginning of what is under them."""
    headings = dict.fromkeys(phrase(section.trail[-1]) for section in sections if section.trail)
    headings.pop("", None)
    listed, _ = leading(headings, ", ", _HEADINGS_CHARS)
    room = OUTLINE_CHARS - len(listed) - 2
    texts = (text for section in sections for block in section.blocks for text in block)
    beginning, _ = leading(texts, " ", room)
    return ". ".join([text for text in (listed, beginning) if text])


def _path(group: Sequence[Part]) -> str:
    trail = [
        heading
        for heading, other in zip(group[0].place, group[-1].place, strict=False)
        if heading == other
    ]
    # Neighbours under no common heading get the first heading of the first.
    return cut(" > ".join(trail or group[0].place[:1]), PATH_CHARS)


def _sections(text: str) -> list[_Section]:
    section = _Section()
    sections = [section]
    front = _FRONT_MATTER.match(text)
    if front:
        _add(section, front[1])
        text = text[front.end() :]
    parser = _parser()
    environment: dict[str, Any] = {}
    levels: list[int] = []
    cells: list[str] | None = None
    heading = 0
    for token in parser.parse(text, environment):
        kind = token.type
        if kind == "heading_open":
            heading = int(token.tag[1:])
        elif kind == "tr_open":
            cells = []
        elif kind == "tr_close":
            _add(section, ", ".join(cells or ()))
            cells = None
        elif kind in ("fence", "code_block"):
            _add(section, token.content)
        elif kind == "html_block":
            _add(section, without_tags(token.content))
        elif kind == "inline":
            words = _inline(parser, token.content, environment)
            if heading:
                depth = sum(level < heading for level in levels)
                trail = section.trail[:depth]
                section.has_sections = depth == len(section.trail)
                section = _Section((*trail, " ".join(words.split()) or "#" * heading))
                sections.append(section)
                levels[depth:] = [heading]
                heading = 0
            elif cells is None:
                _add(section, words)
            elif cell := phrase(words):
                cells.append(cell)
    return sections


def _add(section: _Section, text: str) -> None:
    if texts := pieces(text, PASSAGE_CHARS):
        section.blocks.append(texts)


@cache
def _parser() -> MarkdownIt:
    # Inline markup is parsed apart, and only where there is some.
    return MarkdownIt("commonmark").enable("table").disable("inline")


def _inline(parser: MarkdownIt, text: str, environment: dict[str, Any]) -> str:
    """The text of a paragraph without its markup."""
    if len(text) > _INLINE_CHARS or not _MARKUP.search(text):
        return text
    tokens: list[Token] = []
    parser.inline.parse(text, parser, environment, tokens)
    return "".join(_texts(tokens))


def _texts(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            yield " "
        elif token.type in ("text", "code_inline", "image"):
            yield token.content  # An image's is its alternative text.

"""Plain text, and HTML as the text in it."""

from __future__ import annotations

import html
import re

from contex_server.matching.formats.passages import PASSAGE_CHARS, Content, Parts, numbered
from contex_server.matching.words import READ_CHARS, paragraphs, pieces

HTML_CHARS = 1 << 20
"""Maximum length of a page that is searched for text."""

_HIDDEN = re.compile(r"<(/?)(?:script|style|template)\b[^<>]*>", re.IGNORECASE)
_BLOCK = re.compile(
    r"</?(?:address|article|aside|blockquote|body|br|dd|div|dl|dt|figure|footer|form|h[1-6]|head|"
    r"header|hr|li|main|nav|ol|p|pre|section|table|title|tr|ul)\b[^<>]*>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-z!?][^<>]*>", re.IGNORECASE)


def describe_text(text: str) -> Content:
    """Puts plain text into words, paragraph by paragraph."""
    parts = Parts()
    for number, paragraph in enumerate(paragraphs(text), 1):
        parts.add(number, pieces(paragraph, PASSAGE_CHARS), 0)
        if parts.full:
            break
    if parts.full or len(text) > READ_CHARS:
        parts.truncated = True
    return numbered(parts, " ", "paragraph")


def without_tags(text: str) -> str:
    """Roughly the text that a browser shows; blocks become paragraphs."""
    shown: list[str] = []
    start = hidden = 0
    for tag in _HIDDEN.finditer(text):
        if not hidden:
            shown.append(text[start : tag.start()])
        hidden = not tag[1]
        start = tag.end()
    if not hidden:
        shown.append(text[start:])
    return html.unescape(_TAG.sub("", _BLOCK.sub("\n\n", " ".join(shown))))

"""Reduces names and texts to the words that matching compares.

Whatever changes without changing what a datum is *about* (numbers, timestamps, ids) is left
out, so that a gauge that moves keeps its text, its digest and its embedding.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from contex_server.matching.scripts import MARKS, UNSPACED

STRING_CHARS = 200
"""Names are read up to here; longer texts are not cached."""
READ_CHARS = 131_072
"""Texts are read up to here: all that passages hold, and as much again of numbers and markup."""

_SEPARATORS = re.compile(r"[\s_./:\-@#$=~%\\\[\]\u3001\u3002\u3008-\u3011\u30fb]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])")
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[^\W\d_]")
_SENTENCE_END = re.compile(
    r"[.!?…\u061f\u06d4](?=\s)"
    # Those of East Asia, India, Burma, Ethiopia and Cambodia, which need no space.
    r"|[\u3002\uff01\uff0e\uff1f\uff61\u0964\u0965\u104a\u104b\u1362\u17d4\u17d5]"
)
_CLOSING = "\u3001\u3002\u3009\u300b\u300d\u300f\u3011\uff01\uff09\uff0c\uff1a\uff1b\uff1f"
"""What may follow a letter of a script without spaces, and begins no line."""
_CLOSES = re.compile(f"[{MARKS}{_CLOSING}]")
_UNSPACED_END = re.compile(f"[{UNSPACED}{_CLOSING}]")
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")

_VOLATILE = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        \d{4}-\d\d-\d\d (?:[T\ ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?\ ?(?:Z|[+-]\d\d:?\d\d)?)?
      | \d{4}[\u5e74\ub144]\ ?\d{1,2}[\u6708\uc6d4]\ ?\d{1,2}[\u65e5\uc77c]
        (?:\ ?\d{1,2}(?::\d\d){1,2})?
      | \d{8}T\d{4,6}Z?
      | (?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\ )?
        \d{1,2}[\ -](?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*[\ -]\d{2,4}
        (?:\ \d\d:\d\d(?::\d\d)?\ ?(?:GMT|UTC|[+-]\d{4})?)?
      | [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}
      | 0x[0-9a-f]+
      | (?=[a-f]*\d)[0-9a-f]{8,}
      | (?=(?:[a-z]*\d){3})[a-z0-9]{16,}
    )(?![A-Za-z0-9])
    |
    # A number that stands alone, with its unit; "gpt-4", "v2.1" and "/users/7" are names.
    (?<![^\s()\[\]{}"'<>=:,;|~\u3001-\u3011\uff08\uff0c\uff1a\uff1b])
    [-+$€£¥]?\d[\d.,:/+%-]*(?:e[-+]?\d+)?
    \ ?(?:%|(?:ns|us|µs|ms|s|sec|min|h|[kmgt]?i?b|[kmg]?hz|°?[cf]|k?wh?|z)(?![A-Za-z0-9]))?
    (?![^\s()\[\]{}"'<>=:,;|~.!?%\u3001-\u3011\uff01\uff09\uff0c\uff1b\uff1f])
    """,
    re.VERBOSE | re.IGNORECASE,
)


def in_words(name: str) -> str:
    """An identifier as words: "apiConfig.base_url" is "api config base url"."""
    return short_in_words(name if len(name) <= STRING_CHARS else name[:STRING_CHARS])


@lru_cache(maxsize=16_384)
def short_in_words(name: str) -> str:
    """`in_words` of at most `STRING_CHARS`: cached, and without a call in between."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    return _SEPARATORS.sub(" ", _HUMP.sub(" ", without_volatile(name))).strip().lower()


def phrase(text: str) -> str:
    """The text in one line without what is volatile, read up to `READ_CHARS`."""
    if len(text) <= STRING_CHARS:
        return short_phrase(text)
    return without_volatile(text if len(text) <= READ_CHARS else cut(text, READ_CHARS))


def without_volatile(text: str) -> str:
    """The text in one line, without timestamps, ids and numbers that stand alone."""
    if _DIGIT.search(text):
        text = _VOLATILE.sub(" ", text)
        if not _LETTER.search(text):
            return ""
    return " ".join(text.split())


short_phrase = lru_cache(maxsize=16_384)(without_volatile)
"""`phrase` of at most `STRING_CHARS`: cached, and without a call in between."""


def cut(text: str, chars: int) -> str:
    """The beginning of a text, up to a word's end."""
    if len(text) <= chars:
        return text
    end = _word_end(text, chars)
    return text[:end] if end >= 0 else text[:chars]


def _word_end(text: str, chars: int) -> int:
    """The last place up to `chars` where a word ends; -1 if there is none."""
    space = text.rfind(" ", 0, chars + 1)
    if not text.isascii():
        for end in range(chars, max(space, 0), -1):
            if _UNSPACED_END.match(text, end - 1) and not _CLOSES.match(text, end):
                return end
    return space


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs between blank lines, read up to `READ_CHARS`."""
    text = text[:READ_CHARS]
    start = 0
    for blank in _BLANK_LINES.finditer(text):
        if blank.start() > start:
            yield text[start : blank.start()]
        start = blank.end()
    if start < len(text):
        yield text[start:]


def pieces(text: str, chars: int) -> list[str]:
    """The words of a text in lines of at most `chars`.

    Lines end where a paragraph does, or else a sentence, a word, or at worst anywhere.
    """
    if len(text) <= chars:
        words = phrase(text)
        return [words] if words else []
    return [piece for paragraph in paragraphs(text) for piece in lines(phrase(paragraph), chars)]


def lines(text: str, chars: int) -> Iterator[str]:
    """Splits one line into lines of at most `chars`, at the ends of sentences if it can."""
    start = 0
    while len(text) - start > chars:
        window = text[start : start + chars + 1]
        end = max((found.end() for found in _SENTENCE_END.finditer(window)), default=0)
        if end < chars // 4 or end > chars:
            end = _word_end(window, chars)
        if end <= 0:
            end = chars
        yield text[start : start + end].rstrip()
        start += end
        while text[start : start + 1] == " ":
            start += 1
    if start < len(text):
        yield text[start:]

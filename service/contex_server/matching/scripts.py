"""How scripts write words: which leave out the spaces, and which marks belong to a letter.

Python's regular expressions know neither Unicode's scripts nor its categories, so the ranges are
here, each written as it stands in a character class.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain, starmap

HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
BOPOMOFO = "\u3105-\u312f\u31a0-\u31bf"
HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff"
THAI = "\u0e01-\u0e3a\u0e40-\u0e4e"
LAO = "\u0e81-\u0ecf\u0edc-\u0edf"
BURMESE = "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"
KHMER = "\u1780-\u17d3\u17d7\u17dc\u17dd"
UNSPACED = HAN + KANA + BOPOMOFO + THAI + LAO + BURMESE + KHMER
"""Scripts that put no spaces between words."""
UNDIVIDED = UNSPACED + HANGUL
"""Scripts whose spaces don't tell the words of a language: what English says with a preposition
hangs at Korean nouns."""

LATIN_OR_GREEK = (
    "A-Za-z\u00c0-\u02af\u0370-\u03ff\u1d00-\u1dbf\u1e00-\u1fff\u2c60-\u2c7f\ua722-\ua7ff"
)
CYRILLIC = "\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f"
GREEK = "\u0370-\u03ff\u1f00-\u1fff"
ARABIC = "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff"
DEVANAGARI = "\u0900-\u097f"
TAMIL = "\u0b80-\u0bff"

_BLOCKS_WITH_MARKS = (
    (0x0300, 0x1E00), (0x20D0, 0x2100), (0x2CE0, 0x2E00), (0x302A, 0x3030), (0x3099, 0x309B),
    (0xA660, 0xAC00), (0xFB1E, 0xFB1F), (0xFE20, 0xFE30), (0x10A00, 0x11FFF), (0x16AF0, 0x17000),
    (0x1E000, 0x1E950),
)  # fmt: skip


def _marks() -> str:
    marks = [
        code
        for code in chain.from_iterable(starmap(range, _BLOCKS_WITH_MARKS))
        if unicodedata.category(chr(code))[0] == "M"
    ]
    starts = [code for code, before in zip(marks, [0, *marks], strict=False) if code != before + 1]
    ends = [code for code, after in zip(marks, [*marks[1:], 0], strict=True) if code != after - 1]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


MARKS = _marks()
"""Combining marks, which `\\w` leaves out: vowels and tones, in the scripts that write them so."""

# Accents and points without which a text is still read: those of Latin and Greek, of the
# Russian letter yo, of Hebrew and of Arabic. In other scripts, a mark makes another letter.
_OPTIONAL = re.compile(
    rf"(?<=[{LATIN_OR_GREEK}])[\u0300-\u036f]+|(?<=[\u0415\u0435])\u0308"
    "|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]+|[\u0640\u064b-\u0652\u0670]+"
)
# What stands inside words and is no part of them: hyphens for line ends, joiners, and what
# chooses among the forms of a sign.
_INVISIBLE = re.compile("[\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]+")

# A consonant with what is written around it: vowels before and after it, marks, and a consonant
# below it. Other characters are one letter each.
_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4"
_AFTER = "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3\u0ebd"
_STACKED = "[\u1039\u17d2][\u1000-\u102a\u1780-\u17b3]"
_SOUTH_EAST_ASIAN = re.compile(f"[{THAI}{LAO}{BURMESE}{KHMER}]")
_LETTER = re.compile(rf"[{_BEFORE}]?.(?:{_STACKED}|[{MARKS}{_AFTER}])*", re.DOTALL)


def folded(text: str) -> str:
    """The text in Unicode's plain forms, without marks that make no other letter."""
    if text.isascii():
        return text
    text = _OPTIONAL.sub("", unicodedata.normalize("NFKD", _INVISIBLE.sub("", text)))
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def letters(run: str) -> list[str]:
    """The letters of a run in `UNDIVIDED`, each with its marks."""
    if run.isalnum() and not _SOUTH_EAST_ASIAN.search(run):  # no marks, which are neither
        return list(run)
    return _LETTER.findall(run)

"""Globs over data keys: "*" stands for any run of characters, "?" for any one, and what follows a
backslash for itself.

Not by regular expressions: to compile 32 globs takes the event loop 135 ms, and memory for as long
as they are cached. This takes less than 1 ms, and no glob is exponential or quadratic.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

_PARTS = re.compile(r"\\(.)|(.)", re.DOTALL)
_ANY = "\0"
"""Stands for any one character in a parsed glob: names have no control characters."""

_Glob = tuple[str, ...]
"""What is between the stars of a glob."""


def match(globs: frozenset[str], data_key: str) -> bool:
    """Whether a data key fits one of some globs."""
    if not globs:
        return False
    literals, beginnings, others = _parsed(globs)
    if data_key in literals or data_key.startswith(beginnings):
        return True
    return any(_fits(glob, data_key) for glob in others)


def literal(glob: str) -> str:
    """What every text that fits begins with."""
    parts = takewhile(lambda part: part[2] not in ("*", "?"), _PARTS.finditer(glob))
    return "".join(part[1] or part[2] for part in parts)


def exact(glob: str) -> str | None:
    """The one text that fits; None where there may be several."""
    parsed = _parse(glob)
    return parsed[0] if len(parsed) == 1 and _ANY not in parsed[0] else None


def ending(glob: str) -> str:
    """What every text that fits ends with, after the last star; "" also where that has a "?"."""
    last = _parse(glob)[-1]
    return "" if _ANY in last else last


def longest(glob: str) -> str:
    """The longest text between two stars that every text that fits contains; "" if there is none
    without a "?"."""
    return max((part for part in _parse(glob) if _ANY not in part), key=len, default="")


def overlap(glob: str, other: str) -> bool:
    """Whether some text fits both."""
    first, second = _symbols(glob), _symbols(other)
    row = [True] + [False] * len(second)
    for j, symbol in enumerate(second):
        row[j + 1] = row[j] and symbol == "*"
    for one in first:
        above, row = row, [row[0] and one == "*"]
        for j, symbol in enumerate(second):
            if one == "*" or symbol == "*":
                fits = above[j + 1] or row[j]
            else:
                fits = above[j] and (one == symbol or _ANY in (one, symbol))
            row.append(fits)
    return row[-1]


def _symbols(glob: str) -> list[str]:
    """Characters, with `_ANY` for "?", and "*" for a star; one that stands for itself is "**"."""
    symbols: list[str] = []
    for number, part in enumerate(_parse(glob)):
        symbols += ["*"] * bool(number)
        symbols += ["**" if character == "*" else character for character in part]
    return symbols


class _Globs(NamedTuple):
    """Several globs: texts, beginnings of texts such as "a*", and all others."""

    literals: frozenset[str]
    beginnings: tuple[str, ...]
    others: tuple[_Glob, ...]


@lru_cache(maxsize=512)
def _parsed(globs: frozenset[str]) -> _Globs:
    literals, beginnings, others = list[str](), list[str](), list[_Glob]()
    for glob in map(_parse, globs):
        if _ANY in glob[0] or glob[1:] not in ((), ("",)):
            others.append(glob)
        else:
            (beginnings if len(glob) == 2 else literals).append(glob[0])
    return _Globs(frozenset(literals), tuple(beginnings), tuple(others))


def _parse(glob: str) -> _Glob:
    if "\\" not in glob:
        return tuple(glob.replace("?", _ANY).split("*"))
    texts = [""]
    for part in _PARTS.finditer(glob):
        if part[2] == "*":
            texts.append("")
        else:
            texts[-1] += _ANY if part[2] == "?" else part[1] or part[2]
    return tuple(texts)


def _fits(glob: _Glob, text: str) -> bool:
    first, last = glob[0], glob[-1]
    if len(glob) == 1:
        return len(text) == len(first) and _is_at(first, text, 0)
    end = len(text) - len(last)
    place = len(first)
    if place > end or not _is_at(first, text, 0) or not _is_at(last, text, end):
        return False
    for part in glob[1:-1]:
        place = _find(part, text, place, end)
        if place < 0:
            return False
        place += len(part)
    return True


def _is_at(part: str, text: str, place: int) -> bool:
    if _ANY not in part:
        return text.startswith(part, place)
    there = text[place : place + len(part)]
    return all(one in (_ANY, other) for one, other in zip(part, there, strict=True))


def _find(part: str, text: str, start: int, end: int) -> int:
    """The first place of a part; -1 if there is none.

    With "?", by the bits of a number: the nth is set where the first n characters of the part end
    (Baeza-Yates and Gonnet, "A New Approach to Text Searching", 1992).
    """
    if _ANY not in part:
        return text.find(part, start, end)
    anywhere, places = 0, dict[str, int]()
    for index, character in enumerate(part):
        if character == _ANY:
            anywhere |= 1 << index
        else:
            places[character] = places.get(character, 0) | 1 << index
    begun, whole = 0, 1 << len(part) - 1
    for index in range(start, end):
        begun = (begun << 1 | 1) & (places.get(text[index], 0) | anywhere)
        if begun & whole:
            return index - len(part) + 1
    return -1

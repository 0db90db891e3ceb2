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

_STAR = "\1"
"""Stands for any run of characters in a glob that is read as a text."""

_Glob = tuple[str, ...]
"""What is between the stars of a glob."""


def match(globs: frozenset[str], data_key: str) -> bool:
    """Whether a data key fits one of some globs."""
    return bool(globs) and _parsed(globs).fit(data_key)


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


def covers(glob: str, other: str) -> bool:
    """Whether every text that fits the other glob fits this one.

    False also where that is not seen: never wrongly True. Linear but for "?" between stars.
    """
    return glob == other or _fits(_ordered(glob), _STAR.join(_ordered(other)))


def overlap(glob: str, other: str) -> bool:
    """Whether some text fits both. Exact, in one step for each character of the first at most.

    Between the stars of both there is room for all of what is between: then only how they begin
    and end counts. Otherwise, what has been read of the other glob when `glob` is read up to some
    character are the bits of a number, as in `_find`.
    """
    one, two = _parse(glob), _parse(other)
    if len(one) > 1 and len(two) > 1:
        return _agree(one[0], two[0]) and _agree(one[-1][::-1], two[-1][::-1])
    for literal, others in ((one, two), (two, one)):
        if len(literal) == 1 and _ANY not in literal[0]:
            return _fits(others, literal[0])
    text = _STAR.join(_ordered(other))
    stars, singles = _places(text, _STAR), _places(text, _ANY)
    any_one = ((1 << len(text)) - 1) & ~stars
    literals = {c: _places(text, c) | singles for c in set(text) - {_STAR, _ANY}}
    reached = 1 | (stars & 1) << 1
    for character in _STAR.join(_ordered(glob)):
        if character == _STAR:
            lowest = reached & -reached
            reached = (1 << len(text) + 1) - lowest
            continue
        fitting = any_one if character == _ANY else literals.get(character, singles)
        reached = reached & stars | (reached & fitting) << 1
        reached |= (reached & stars) << 1
        if not reached:
            return False
    return bool(reached >> len(text) & 1)


def intersect(glob: str, other: str) -> frozenset[str]:
    """Globs that what fits both fits, and nothing else: of two that only overlap, and of which
    neither is a text with a star behind it, none."""
    if covers(glob, other):
        return frozenset({other})
    if covers(other, glob):
        return frozenset({glob})
    for first, second in ((glob, other), (other, glob)):
        start = exact(first[:-1]) if first.endswith("*") else None
        # An odd number of backslashes makes the star stand for itself.
        if start is not None and exact(first) is None:
            return _that_begin_with(start, second)
    return frozenset()


def _that_begin_with(start: str, glob: str) -> frozenset[str]:
    """Globs for what fits one and begins with a text."""
    text = _STAR.join(_ordered(glob))
    places = {0, 1} if text.startswith(_STAR) else {0}
    for character in start:
        moved = {place for place in places if text[place : place + 1] == _STAR}
        moved |= {p + 1 for p in places if text[p : p + 1] in (_ANY, character)}
        places = moved | {p + 1 for p in moved if text[p : p + 1] == _STAR}
    found = {_written(start) + _written(text[place:]) for place in places}
    return _widest(found)


def _widest(globs: set[str]) -> frozenset[str]:
    """The same without those that others cover."""
    kept: list[str] = []
    for glob in sorted(globs, key=lambda glob: (len(glob), glob)):
        if not any(covers(other, glob) for other in kept):
            kept = [other for other in kept if not covers(glob, other)] + [glob]
    return frozenset(kept)


def _written(text: str) -> str:
    """A glob, from characters that stand for themselves, `_ANY` and `_STAR`."""
    names = {_STAR: "*", _ANY: "?", "*": "\\*", "?": "\\?", "\\": "\\\\"}
    return "".join(names.get(character, character) for character in text)


def _agree(some: str, other: str) -> bool:
    """Whether a text may begin with both."""
    if _ANY not in some and _ANY not in other:
        return some.startswith(other) or other.startswith(some)
    pairs = zip(some, other, strict=False)
    return all(one == another or _ANY in (one, another) for one, another in pairs)


def _places(text: str, character: str) -> int:
    """A number with the bits set of the places where a text has a character."""
    return sum(1 << place for place, other in enumerate(text) if other == character)


class Globs(NamedTuple):
    """Several globs: texts, beginnings of texts such as "a*", and all others."""

    literals: frozenset[str]
    beginnings: tuple[str, ...]
    others: tuple[_Glob, ...]

    @classmethod
    def of(cls, globs: frozenset[str]) -> Globs:
        """Parses them."""
        literals, beginnings, others = list[str](), list[str](), list[_Glob]()
        for glob in map(_parse, globs):
            if _ANY in glob[0] or glob[1:] not in ((), ("",)):
                others.append(glob)
            else:
                (beginnings if len(glob) == 2 else literals).append(glob[0])
        return cls(frozenset(literals), tuple(beginnings), tuple(others))

    def fit(self, text: str) -> bool:
        """Whether a text fits one of them."""
        if text in self.literals or text.startswith(self.beginnings):
            return True
        return any(_fits(glob, text) for glob in self.others)


@lru_cache(maxsize=512)
def _parsed(globs: frozenset[str]) -> Globs:
    return Globs.of(globs)


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


@lru_cache(maxsize=4_096)
def _ordered(glob: str) -> _Glob:
    """A glob in which what stands for any one character comes before a star, not behind it, and no
    two stars follow each other: the same texts fit."""
    text = _STAR.join(_parse(glob))
    return tuple(_WILD.sub(_in_order, text).split(_STAR))


_WILD = re.compile(f"[{_ANY}{_STAR}]+")


def _in_order(run: re.Match[str]) -> str:
    return _ANY * run[0].count(_ANY) + (_STAR if _STAR in run[0] else "")


def _fits(glob: _Glob, text: str) -> bool:
    """Whether a text fits. A `_STAR` in it fits nothing but a star, so that all fits for which the
    text stands as a glob."""
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
    if _STAR in there:
        return False
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
        fitting = places.get(text[index], 0) | anywhere if text[index] != _STAR else 0
        begun = (begun << 1 | 1) & fitting
        if begun & whole:
            return index - len(part) + 1
    return -1

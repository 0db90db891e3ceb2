"""Texts compared by lines, with bounded work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

_CONTEXT = 3
_LINES = 5_000
_PAIRS = 200_000
"""Between the first and the last difference of two texts so many lines are compared at most,
with so many equal pairs; what is more is replaced as a whole. About a second at worst."""
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_NO_NEWLINE = "\\ No newline at end of file\n"

Opcode = tuple[str, int, int, int, int]
"""As difflib's: equal, replace, delete or insert, and the two ranges of lines."""


def lines(text: str) -> list[str]:
    """The lines of a text, with their line feeds. Nothing else ends a line."""
    return _LINE.findall(text)


def opcodes(before: Sequence[str], after: Sequence[str]) -> list[Opcode]:
    """What leads from some lines to others."""
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    old, new = len(before) - end, len(after) - end
    found: list[Opcode] = [("equal", 0, start, 0, start)] if start else []
    one, other = before[start:old], after[start:new]
    if not _is_affordable(one, other):
        found.append(("replace", start, old, start, new))
    elif one or other:
        matcher = SequenceMatcher(None, one, other, autojunk=False)
        found += [
            (tag, a + start, b + start, c + start, d + start)
            for tag, a, b, c, d in matcher.get_opcodes()
        ]
    if end:
        found.append(("equal", old, len(before), new, len(after)))
    return found


def _is_affordable(one: Sequence[str], other: Sequence[str]) -> bool:
    if len(one) + len(other) > _LINES:
        return False
    counts = Counter(other)
    return sum(counts[line] for line in one) <= _PAIRS


def unified_diff(before: str, after: str) -> str:
    """A unified diff without file names, with three lines of context."""
    one, other = lines(before), lines(after)
    return "".join(
        part for hunk in _hunks(opcodes(one, other)) for part in _written(hunk, one, other)
    )


def _hunks(codes: list[Opcode]) -> Iterator[list[Opcode]]:
    """Changes with their context; those that share context are one hunk."""
    hunk: list[Opcode] = []
    for index, (tag, a, b, c, d) in enumerate(codes):
        if tag != "equal":
            hunk.append((tag, a, b, c, d))
            continue
        first, last = index == 0, index == len(codes) - 1
        if first or last or b - a > 2 * _CONTEXT:
            if not first:
                size = min(_CONTEXT, b - a)
                yield [*hunk, ("equal", a, a + size, c, c + size)]
            size = min(_CONTEXT, b - a)
            hunk = [] if last else [("equal", b - size, b, d - size, d)]
        else:
            hunk.append((tag, a, b, c, d))
    if any(code[0] != "equal" for code in hunk):
        yield hunk


def _written(hunk: list[Opcode], before: list[str], after: list[str]) -> Iterator[str]:
    old = _range(hunk[0][1], hunk[-1][2])
    new = _range(hunk[0][3], hunk[-1][4])
    yield f"@@ -{old} +{new} @@\n"
    for tag, a, b, c, d in hunk:
        if tag == "equal":
            yield from _marked(" ", before[a:b])
        else:
            yield from _marked("-", before[a:b])
            yield from _marked("+", after[c:d])


def _range(start: int, end: int) -> str:
    """A range of lines as diffs name it: an empty one by the line before."""
    size = end - start
    if size == 1:
        return str(start + 1)
    return f"{start + 1 if size else start},{size}"


def _marked(mark: str, some: Sequence[str]) -> Iterator[str]:
    for line in some:
        yield mark + line
        if not line.endswith("\n"):
            yield "\n" + _NO_NEWLINE

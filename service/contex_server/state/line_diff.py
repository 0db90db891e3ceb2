"""Line diffs with bounded work."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import Match, SequenceMatcher

_CONTEXT = 3
_WORK = 4_000_000
"""Pairs of lines compared between anchors, a second at worst; the rest is replaced as a whole."""
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_NO_NEWLINE = "\\ No newline at end of file\n"

Block = tuple[int, int, int]
"""Equal lines: where they start on both sides, and their number."""
Opcode = tuple[str, int, int, int, int]
"""As in difflib: equal, replace, delete or insert, and the two ranges of lines."""


def lines(text: str) -> list[str]:
    """The lines of a text with their line feeds; no other character ends a line."""
    return _LINE.findall(text)


def opcodes(before: Sequence[str], after: Sequence[str]) -> Sequence[Opcode]:
    """The edits from some lines to others.

    Anchors on lines that are unique on both sides (patience diff); difflib compares what is
    between them, within a limit on the work.
    """
    return _Matcher(before, after).get_opcodes()


class _Matcher(SequenceMatcher[str]):
    """What difflib derives from equal blocks, for those of `_blocks`, joined where they touch."""

    def __init__(self, before: Sequence[str], after: Sequence[str]) -> None:
        super().__init__()  # Without the lines, which it would index.
        self._matches: list[Match] = []
        last = Match(0, 0, 0)
        for a, b, size in _blocks(before, after):
            if self._matches and (last.a + last.size, last.b + last.size) == (a, b):
                last = Match(last.a, last.b, last.size + size)
                self._matches[-1] = last
            else:
                last = Match(a, b, size)
                self._matches.append(last)
        self._matches.append(Match(len(before), len(after), 0))

    def get_matching_blocks(self) -> list[Match]:
        return self._matches


def _blocks(before: Sequence[str], after: Sequence[str]) -> Iterator[Block]:
    """The equal blocks, in order."""
    end = _common(reversed(before), reversed(after))
    start = min(_common(before, after), min(len(before), len(after)) - end)
    if start:
        yield 0, 0, start
    work = _WORK
    i = j = start
    old, new = len(before) - end, len(after) - end
    for a, b in (*_anchors(before[start:old], after[start:new], start), (old, new)):
        one, other = before[i:a], after[j:b]
        cost = len(one) * len(other)
        if cost:
            affordable = cost <= work
            work -= cost if affordable else 0
            yield from ((x + i, y + j, size) for x, y, size in _matched(one, other, affordable))
        if a < old or b < new:
            yield a, b, 1
        i, j = a + 1, b + 1
    if end:
        yield old, new, end


def _matched(one: Sequence[str], other: Sequence[str], affordable: bool) -> Iterator[Block]:
    if affordable:
        blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
        yield from (block for block in blocks if block.size)
        return
    start = _common(one, other)
    if start:
        yield 0, 0, start
    end = min(_common(reversed(one), reversed(other)), min(len(one), len(other)) - start)
    if end:
        yield len(one) - end, len(other) - end, end


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """The length of the common prefix."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _anchors(one: Sequence[str], other: Sequence[str], offset: int) -> list[tuple[int, int]]:
    """The longest common subsequence of lines that are unique on both sides."""
    counts, others = Counter(one), Counter(other)
    places = {line: place for place, line in enumerate(other) if others[line] == 1}
    pairs = [
        (place, places[line])
        for place, line in enumerate(one)
        if counts[line] == 1 and line in places
    ]
    lasts: list[int] = []
    """The smallest last place of an increasing run, by its length."""
    ends: list[int] = []
    before: list[int] = []
    for index, (_, place) in enumerate(pairs):
        length = bisect_left(lasts, place)
        before.append(ends[length - 1] if length else -1)
        if length == len(lasts):
            lasts.append(place)
            ends.append(index)
        else:
            lasts[length], ends[length] = place, index
    anchors: list[tuple[int, int]] = []
    at = ends[-1] if ends else -1
    while at >= 0:
        anchors.append((pairs[at][0] + offset, pairs[at][1] + offset))
        at = before[at]
    return anchors[::-1]


def unified_diff(before: str, after: str) -> str:
    """A unified diff without file names, with three lines of context."""
    one, other = lines(before), lines(after)
    hunks = _Matcher(one, other).get_grouped_opcodes(_CONTEXT)
    return "".join(part for hunk in hunks for part in _written(hunk, one, other))


def _written(hunk: Sequence[Opcode], before: list[str], after: list[str]) -> Iterator[str]:
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
    """A range in the notation of diffs: an empty one is named by the line before."""
    size = end - start
    if size == 1:
        return str(start + 1)
    return f"{start + 1 if size else start},{size}"


def _marked(mark: str, some: Sequence[str]) -> Iterator[str]:
    for line in some:
        yield mark + line
        if not line.endswith("\n"):
            yield "\n" + _NO_NEWLINE

"""Bars of block characters, which say the same in colour, without it, and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_RISING = " ▁▂▃▄▅▆▇█"
_FULL, _LIGHT, _RIGHT_HALF, _RIGHT_EIGHTH = "█", "░", "▐", "▕"
_AXIS, _MARK = "│", "┃"


def bar(share: float, width: int) -> str:
    """A bar from the left of `share`, 0 to 1, padded to `width`. What is not 0 is always seen."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return (_FULL * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def marked_bar(share: float, mark: float, width: int) -> str:
    """A bar from the left with a mark across it where `mark`, 0 to 1, lies."""
    place = min(int(min(max(mark, 0.0), 1.0) * width), width - 1)
    drawn = bar(share, width)
    return drawn[:place] + _MARK + drawn[place + 1 :]


def signed_bar(value: float, scale: float, width: int) -> str:
    """A bar to the left or right of an axis, `2 * width + 1` characters; `scale` fills a side."""
    share = min(abs(value) / scale, 1.0) if scale > 0 else 0.0
    if value >= 0:
        return " " * width + _AXIS + bar(share, width)
    # There are no eighths that begin at the right, only a half and a thin line.
    full, half = divmod(round(share * width * 2), 2)
    left = (_RIGHT_HALF if half else "") + _FULL * full
    return (left or _RIGHT_EIGHTH).rjust(width) + _AXIS + " " * width


def part_bar(part: float, whole: float, scale: float, width: int) -> str:
    """A light bar for a whole, of which the part is filled."""
    cells = round(min(whole / scale, 1.0) * width) if scale > 0 else 0
    if whole > 0:
        cells = max(cells, 1)
    filled = round(cells * min(part / whole, 1.0)) if whole > 0 else 0
    return (_FULL * filled + _LIGHT * (cells - filled)).ljust(width)


def fitted(counts: Sequence[int], width: int) -> list[int]:
    """Counts side by side in at most `width` columns: neighbours are added up, or columns doubled.

    Every column stands for the same number of counts; only the last may stand for fewer.
    """
    if len(counts) > width:
        each = -(-len(counts) // width)
        return [sum(counts[i : i + each]) for i in range(0, len(counts), each)]
    each = width // len(counts) if counts else 0
    return [count for count in counts for _ in range(each)]


def columns(counts: Sequence[int], height: int = 1) -> list[str]:
    """A column of eighths for each count, in lines from the top: the highest fills it.

    What is not 0 is always seen.
    """
    full, highest = height * 8, max(counts, default=0)
    levels = [max(round(count / highest * full), 1) if count else 0 for count in counts]
    return [
        "".join(_RISING[min(max(level - 8 * line, 0), 8)] for level in levels)
        for line in reversed(range(height))
    ]

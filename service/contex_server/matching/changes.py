"""What changes of data and searches over them are, under any rule."""

from __future__ import annotations

from dataclasses import dataclass

from contex_server.kernel.model import Match
from contex_server.matching.encoding import Encoding

SearchResult = list[tuple[str, tuple[Match, ...]]]
"""Data keys, each with its matches."""


@dataclass(frozen=True, slots=True)
class TextChange:
    """The texts that a change of a datum added and removed, each with its serial."""

    added: tuple[int, Encoding] | None = None
    removed: tuple[int, Encoding] | None = None


NO_CHANGE = TextChange()


def best_first(matches: list[Match]) -> tuple[Match, ...]:
    """Matches by score, then by need."""
    return tuple(sorted(matches, key=lambda match: (-match.score, match.need_index)))

"""Globs over data keys: "*" stands for any run of characters, "?" for any one, and what follows a
backslash for itself."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from itertools import takewhile

_PARTS = re.compile(r"\\(.)|(.)", re.DOTALL)


def match(globs: frozenset[str], data_key: str) -> bool:
    """Whether a data key fits one of some globs."""
    return bool(globs) and _compiled(globs).fullmatch(data_key) is not None


def literal(glob: str) -> str:
    """What every text that fits begins with."""
    parts = takewhile(lambda part: part[2] not in ("*", "?"), _PARTS.finditer(glob))
    return "".join(part[1] or part[2] for part in parts)


@lru_cache(maxsize=4_096)
def _compiled(globs: frozenset[str]) -> re.Pattern[str]:
    """One pattern for several globs; fnmatch's are atomic, so no glob is exponential."""
    return re.compile("|".join(fnmatch.translate(_as_fnmatch(glob)) for glob in sorted(globs)))


def _as_fnmatch(glob: str) -> str:
    """The same in the language of fnmatch, which has sets of characters, and escapes by them."""
    return "".join(
        part[2] if part[2] in ("*", "?") else _in_set(part[1] or part[2])
        for part in _PARTS.finditer(glob)
    )


def _in_set(character: str) -> str:
    return f"[{character}]" if character in "*?[" else character

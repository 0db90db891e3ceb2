"""Globs over data keys: "*" stands for any run of characters, "?" for any one."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache


def match(globs: frozenset[str], data_key: str) -> bool:
    """Whether a data key fits one of some globs."""
    return bool(globs) and _compiled(globs).fullmatch(data_key) is not None


@lru_cache(maxsize=4_096)
def _compiled(globs: frozenset[str]) -> re.Pattern[str]:
    """One pattern for several globs; fnmatch's are atomic, so no glob is exponential."""
    return re.compile("|".join(map(fnmatch.translate, sorted(globs))))

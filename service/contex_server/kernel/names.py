"""Names that clients choose: which characters they have, and how many."""

from __future__ import annotations

import re
from collections.abc import Sequence

from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field

_FIRST = {"": "", "a letter": "(?=[A-Za-z])", "a letter or digit": "(?=[A-Za-z0-9])"}


class Name:
    """Checks names of one kind, and returns them; `limit` says in words what they must be.

    Args:
        field: The request's field, unless a call says otherwise.
        low: Fewest characters.
        high: Most characters.
        characters: Those allowed, with spaces between them; "-" only as the last one.
        first: What the first one must be, in words.

    Raises:
        ContexError: INVALID_FIELD, with the field and its limit.
    """

    def __init__(self, field: str, low: int, high: int, characters: str, first: str = "") -> None:
        allowed = characters.replace(" ", "")
        self._field = field
        self._pattern = re.compile(f"{_FIRST[first]}[{allowed}]{{{low},{high}}}")
        self.limit = f"{low} to {high}" if low else f"at most {high}"
        self.limit += f" characters of {characters}" + (f", {first} first" if first else "")

    def __call__(self, value: str, field: str = "") -> str:
        """Checks one."""
        if not self._pattern.fullmatch(value):
            raise invalid_field(field or self._field, f"must be {self.limit}; got {_short(value)}")
        return value

    def fits(self, value: str) -> bool:
        """Whether it is such a name."""
        return self._pattern.fullmatch(value) is not None

    def all_of(self, values: Sequence[str], field: str, limits: Limits) -> frozenset[str]:
        """Checks the entries of a filter."""
        if len(values) > limits.filter_entries:
            limit = f"must hold at most {limits.filter_entries}, not {len(values)}"
            raise invalid_field(field, limit)
        return frozenset(self(value, f"{field}[{index}]") for index, value in enumerate(values))


PROJECT = Name("project", 1, 64, "A-Z a-z 0-9 _ . -", "a letter or digit")
IDENTITY = Name("contex-identity", 0, 128, "A-Z a-z 0-9 _ . : / @ + -")
"""By which a client names itself, in a header of this name."""


def _short(value: str) -> str:
    return repr(value) if len(value) <= 48 else f"{value[:32]!r}… ({len(value)} characters)"

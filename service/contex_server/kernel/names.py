"""Names that clients choose: which characters they have, and how many."""

from __future__ import annotations

import re
from collections.abc import Sequence

from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, invalid_field

# Controls, separators of lines, surrogates and noncharacters; and what is invisible and hides or
# reorders text. By ranges, not by categories: what a name is must not change with Python's tables.
_UNPRINTABLE = "".join(
    (
        r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f",
        r"\ud800-\udfff\ufdd0-\ufdef\ufeff\ufff9-\ufffb\U000e0000-\U000e007f",
        *(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(17)),
    )
)
_EDGE = r"\s\u200c\u200d"
"""What a name neither begins nor ends with: white space, and what joins characters."""
_FIRST = {"": "", "a letter": "(?=[A-Za-z])", "a letter or digit": "(?=[A-Za-z0-9])"}


class Name:
    """Checks names of one kind, and returns them; `limit` says in words what they must be, and
    `high` how many characters they may have.

    These have few characters; `PrintableName` is for the others.

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
        self._field, self.high = field, high
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
        with Checks() as check:
            names = [check(self, value, f"{field}[{i}]") for i, value in enumerate(values)]
        return frozenset(names)


class PrintableName(Name):
    """Names of any printable text. They are compared as they are: nothing is normalised.

    Args:
        part: Whether it is a part of a name, which may begin and end with anything.
    """

    def __init__(self, field: str, low: int, high: int, *, part: bool = False) -> None:
        self._field, self._low, self.high = field, low, high
        start, end = ("", "") if part else (f"(?![{_EDGE}])", f"(?<![{_EDGE}])")
        self._pattern = re.compile(f"{start}[^{_UNPRINTABLE}]{{{low},{high}}}{end}")
        self.limit = f"{low} to {high}" if low else f"at most {high}"
        self.limit += " printable characters"
        if not part:
            self.limit += ", without white space around them"

    def __call__(self, value: str, field: str = "") -> str:
        """Checks one."""
        # Most names are ASCII, and sooner checked without the pattern.
        ascii_ = value.isascii() and value.isprintable() and " " not in value
        if ascii_ and self._low <= len(value) <= self.high:
            return value
        return super().__call__(value, field)


class Glob(PrintableName):
    """Globs over such names; see `kernel.globs`."""

    def __init__(self, field: str, low: int, high: int) -> None:
        super().__init__(field, low, high, part=True)
        self._low = high + 1  # Always by the pattern: a backslash is not just another character.
        self._pattern = re.compile(
            rf"(?=[^{_UNPRINTABLE}]{{{low},{high}}}\Z)(?:[^\\]|\\.)*", re.DOTALL
        )
        self.limit += r", a \ before another one"


PROJECT = Name("project", 1, 64, "A-Z a-z 0-9 _ . -", "a letter or digit")
IDENTITY = PrintableName("contex-identity", 0, 128)
"""By which a client names itself, in a header of this name."""
PROVED_IDENTITY = PrintableName("identity", 1, 128)
DATA_KEY = PrintableName("data_key", 1, 256)
EVENT_TYPE = PrintableName("event_type", 1, 64)
TYPE_PREFIX = PrintableName("event_type_prefixes", 1, EVENT_TYPE.high, part=True)
PUBLISHER = PrintableName("publisher", 0, 128)
AGENT_ID = Name("agent_id", 1, 128, "A-Z a-z 0-9 _ . : / @ + -", "a letter or digit")
KEY_GLOB = Glob("data_keys", 1, 512)
AGENT_GLOB = Glob("agent_ids", 1, 128)
SUBJECT_NAME = Name("subject", 1, 128, "A-Z a-z 0-9 _ . : / @ + -")
"""The person whose data an event holds."""


def _short(value: str) -> str:
    return repr(value) if len(value) <= 48 else f"{value[:32]!r}… ({len(value)} characters)"

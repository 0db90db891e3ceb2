"""TOML, by the standard library."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from contex_server.matching.formats.media import malformed_at
from contex_server.matching.formats.passages import PayloadMalformed

TOML_CHARS = 1 << 20
"""Longer documents are described as plain text: tomllib reads about 4 MB a second."""

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_LONG_KEY = re.compile(
    r"""(?<![\w."'-])(?:(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16}"""
)
"""tomllib takes time quadratic in the parts of a dotted key: seconds for 10,000."""


def load_toml(text: str) -> Any:
    """The tree of a TOML document.

    Raises:
        PayloadMalformed: It is not TOML, nests too deeply, or has a key of more than 16 parts.
    """
    long_key = _LONG_KEY.search(text)
    if long_key:
        raise malformed_at("TOML key of too many parts", text[: long_key.start()])
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise PayloadMalformed("TOML is nested too deeply", 1, 1) from None
    except ValueError as error:  # Also what int() says of thousands of digits.
        message = str(error)
        position = _POSITION.search(message)
        problem = f"not valid TOML: {_POSITION.sub('', message)}"
        if position is None:
            raise PayloadMalformed("not valid TOML: number too long", 1, 1) from None
        if position[1] is None:
            raise malformed_at(problem, text.replace("\r\n", "\n")) from None
        raise PayloadMalformed(problem, int(position[1]), int(position[2])) from None

"""Payloads as plain values, to be compared or written in another notation."""

from __future__ import annotations

import base64
import json
import math
import tomllib
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from contex_server.matching.formats.media import Format, Media, decode, media
from contex_server.matching.formats.passages import PayloadMalformed

NESTING = 100
"""Deeper nesting stays text, since the writers of YAML and TOON recurse."""

_INTEGER_DIGITS = 640
"""Python may be configured to refuse longer ones, since reading them is quadratic."""

# Numbers that a double may not hold have many digits, or a large exponent. Maps every byte to its
# role in a number and searches for those patterns: 20 times as fast as a regular expression.
_OF_NUMBERS = bytes(
    ord("0" if c in b"0123456789." else "e" if c in b"eE" else "-" if c in b"+-" else " ")
    for c in range(256)
)
_MANY_DIGITS = b"0" * 16


class LongInteger(int):
    """An integer that may exceed 64 bits, marked for the writers."""


def plain_value(payload: bytes, content_type: str) -> Any:
    """A payload as a value of JSON's types, without loss.

    Returns:
        For JSON its value; numbers that neither 64 bits nor a double hold are a LongInteger or a
        Decimal. For YAML and TOML the value without comments; dates, and numbers that JSON would
        write differently, are strings as written. The text of everything else, of YAML with tags
        or aliases, and of what nests deeper than `NESTING`. {"base64": …, "content_type": …} for
        binary data.
    """
    kind = media(content_type)
    if kind.format is Format.JSON:
        try:
            value = orjson.loads(payload)
            if _is_shallow(value):
                return exact_json(payload) if may_be_inexact(payload) else value
        except ValueError:
            pass
    text = text_of(payload, kind)
    if text is None:
        return {"base64": base64.b64encode(payload).decode(), "content_type": content_type}
    if kind.format is Format.YAML:
        # Imported with the first such payload: it takes a server's start 100 ms.
        from contex_server.matching.plain_yaml import from_yaml

        return from_yaml(text)
    if kind.format is Format.TOML:
        return _from_toml(text)
    return text


def text_of(payload: bytes, kind: Media) -> str | None:
    """The payload decoded from its charset, by default UTF-8; None if it is not text."""
    try:
        return decode(payload, kind.encoding or "")
    except PayloadMalformed:
        return None


def may_be_inexact(payload: bytes) -> bool:
    """Whether JSON may contain numbers that doubles do not hold exactly."""
    shape = payload.translate(_OF_NUMBERS)
    return _MANY_DIGITS in shape or b"e000" in shape or b"e-000" in shape


def exact_json(payload: bytes) -> Any:
    """The value of JSON with all digits of its numbers: int and Decimal, no float.

    Raises:
        ValueError: It nests too deep, or a number's exponent has more than 18 digits.
    """
    try:
        return json.loads(payload, parse_int=_integer, parse_float=Decimal)
    except (RecursionError, InvalidOperation) as error:
        raise ValueError(f"JSON that can't be read exactly: {error!r}") from None


def _integer(digits: str) -> int | Decimal:
    if len(digits) < 20:
        return int(digits)
    return LongInteger(digits) if len(digits) <= _INTEGER_DIGITS else Decimal(digits)


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(NESTING):
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                below.extend(node.values())
            elif type(node) is list:
                below.extend(node)
        if not below:
            return True
        level = below
    return False


def _from_toml(text: str) -> Any:
    try:
        value = tomllib.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if _is_shallow(value) and _is_json(value) else text


def _is_json(value: Any) -> bool:
    """Whether all scalars have types of JSON (no dates)."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as node:
                waiting.extend(node.values())
            case list() as node:
                waiting.extend(node)
            case str() | bool():
                pass
            case int() as number if -(2**63) <= number < 2**63:
                pass
            case float() as number if math.isfinite(number):
                pass
            case _:
                return False
    return True

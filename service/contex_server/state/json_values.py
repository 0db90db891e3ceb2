"""JSON as Python values that are equal if the JSON is, and that are written back unchanged."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import orjson

from contex_server.matching.payload_values import may_be_inexact

_SAFE_DIGITS = 18


class Number:
    """A number as its digits, since Python would round or refuse it."""

    __slots__ = ("digits",)

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __eq__(self, other: object) -> bool:
        return type(other) is Number and self.digits == other.digits

    def __hash__(self) -> int:
        return hash(self.digits)


def parse(one: bytes, other: bytes) -> tuple[Any, Any]:
    """The values of two JSON documents, to be compared with each other. Don't modify them.

    If one of them has a number that a double may not hold, then long integers and all numbers
    with a point or an exponent are a `Number`.

    Raises:
        ValueError: One is not JSON, or nests too deep.
    """
    first, second = _parsed(one), _parsed(other)
    if first is None or second is None:
        return parse_all_digits(one), parse_all_digits(other)
    return first[0], second[0]


@lru_cache(maxsize=4)
def _parsed(payload: bytes) -> tuple[Any] | None:
    """The value, unless a double may not hold it. Cached: histories compare each payload twice."""
    return None if may_be_inexact(payload) else (orjson.loads(payload),)


def parse_all_digits(payload: bytes) -> Any:
    """The value of JSON, comparable with others that this function parsed.

    Raises:
        ValueError: It is not JSON, or nests too deep.
    """
    try:
        return json.loads(payload, parse_int=_integer, parse_float=Number)
    except RecursionError as error:
        raise ValueError("nests too deep") from error


def _integer(digits: str) -> int | Number:
    return int(digits) if len(digits) <= _SAFE_DIGITS else Number(digits)


def write(value: Any) -> str:
    """The value as JSON.

    Raises:
        ValueError: It nests deeper than 250 levels.
    """
    try:
        return orjson.dumps(value, default=_digits).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from error


def _digits(value: Any) -> orjson.Fragment:
    return orjson.Fragment(value.digits)


def is_same(one: Any, other: Any) -> bool:
    """Equality as in Python, except that 1, 1.0 and true are three values."""
    kind = type(one)
    if kind is not type(other) or one != other:
        return False
    if kind is dict:
        return all(is_same(value, other[name]) for name, value in one.items())
    if kind is list:
        return all(map(is_same, one, other))
    return True

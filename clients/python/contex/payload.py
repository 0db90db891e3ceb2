"""Turns Python values into payload bytes and back, by media type."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from .wire import utf8

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


def encode(payload: object, content_type: str | None = None) -> tuple[bytes, str]:
    """Encodes a payload for publishing.

    Args:
        payload: Bytes are taken as they are, a `str` is encoded as UTF-8, anything else
            becomes compact JSON. There `datetime`, `date` and `time` become ISO 8601 text, `UUID`
            and `Decimal` text, an `Enum` its value, a dataclass an object of its fields, and a
            pydantic model what its `model_dump(mode="json")` returns.
        content_type: Media type; by default the one that goes with the Python type.

    Returns:
        The bytes and their media type.

    Raises:
        ValueError: It contains something without a JSON form, such as NaN or a set, or text that
            is not Unicode; the message says where.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload), content_type or BINARY
    if isinstance(payload, str):
        return utf8(payload, "payload"), content_type or TEXT
    try:
        return _ENCODER.encode(payload).encode(), content_type or JSON
    except RecursionError:
        raise ValueError("payload: nested too deeply for JSON") from None
    except (TypeError, ValueError) as error:
        raise ValueError(_first_fault(payload) or f"payload: {error}") from error


def _first_fault(payload: object) -> str | None:
    try:
        return _fault(payload, "payload")
    except RecursionError:  # it contains itself
        return None


def _plain(value: object) -> object:
    """What stands in JSON for a value that JSON doesn't know.

    Raises:
        TypeError: Nothing does.
    """
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case UUID() | Decimal():
            return str(value)
        case Enum():
            return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, type) and callable(dump := getattr(value, "model_dump", None)):
        dumped: object = dump(mode="json")
        return dumped
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
)


def _fault(value: Any, place: str) -> str | None:
    """What of a value that was refused has no JSON form, and where; None if nothing is found."""
    match value:
        case str():
            try:
                utf8(value, place)
            except ValueError as error:
                return str(error)
            return None
        case None | bool() | int():
            return None
        case float():
            return None if math.isfinite(value) else f"{place}: {value} has no JSON form"
        case list() | tuple():
            parts = ((f"{place}[{index}]", item) for index, item in enumerate(value))
            return next(filter(None, (_fault(item, where) for where, item in parts)), None)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str | int | float | None):
                    return f"{place}: a {type(key).__name__} can't be a name in JSON: {key!r}"
                if fault := _fault(key, f"{place}, a name") or _fault(item, f"{place}.{key}"):
                    return fault
            return None
    try:
        return _fault(_plain(value), place)
    except (TypeError, ValueError) as error:
        return f"{place}: {error}"


def decode(payload: bytes, content_type: str) -> object:
    """Decodes a payload: JSON to a value, `text/*` to a `str`, other types to the bytes.

    An empty JSON payload, such as a deletion's, is `None`.

    Raises:
        ValueError: The payload is not what its media type says.
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower() or JSON
    if media_type == JSON or media_type.endswith("+json"):
        return json.loads(payload) if payload else None
    if media_type.startswith("text/"):
        return payload.decode(_charset(parameters))
    return payload


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"') or "utf-8"
    return "utf-8"

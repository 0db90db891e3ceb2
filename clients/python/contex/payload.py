"""Turns Python values into payload bytes and back, by media type."""

from __future__ import annotations

import json

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


def encode(payload: object, content_type: str | None = None) -> tuple[bytes, str]:
    """Encodes a payload for publishing.

    Args:
        payload: Bytes are taken as they are, a `str` is encoded as UTF-8, anything else
            becomes compact JSON.
        content_type: Media type; by default the one that goes with the Python type.

    Returns:
        The bytes and their media type.

    Raises:
        TypeError: The value has no JSON form.
        ValueError: It contains NaN or an infinity, which JSON does not have.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload), content_type or BINARY
    if isinstance(payload, str):
        return payload.encode(), content_type or TEXT
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(), content_type or JSON


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

"""The text that stands for an event in matching.

A describing text is the data key in words, the publisher's description, and an outline of
the payload: its field names and short strings. Whatever changes without changing what the
datum is *about* (numbers, booleans, nulls, timestamps, ids) is left out, so that a gauge
that moves keeps its text, its digest and its embedding.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal

import orjson

OUTLINE_CHARS = 1_200
"""The default model reads 256 tokens, which is about as much."""
STRING_CHARS = 200
FIELDS_PER_OBJECT = 64
ELEMENTS_PER_ARRAY = 4
VALUES = 512
"""How many values of a payload are looked at, whatever its shape."""

DIGEST_BYTES = 16

_SEPARATORS = re.compile(r"[\s_./:\-@#$=~%\\]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])")
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[^\W\d_]")

_VOLATILE = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        \d{4}-\d\d-\d\d (?:[T\ ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?\ ?(?:Z|[+-]\d\d:?\d\d)?)?
      | \d{8}T\d{4,6}Z?
      | (?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\ )?
        \d{1,2}[\ -](?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*[\ -]\d{2,4}
        (?:\ \d\d:\d\d(?::\d\d)?\ ?(?:GMT|UTC|[+-]\d{4})?)?
      | [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}
      | 0x[0-9a-f]+
      | (?=[a-f]*\d)[0-9a-f]{8,}
      | (?=(?:[a-z]*\d){3})[a-z0-9]{16,}
    )(?![A-Za-z0-9])
    |
    # A number that stands alone, with its unit; "gpt-4", "v2.1" and "/users/7" are names.
    (?<![^\s()\[\]{}"'<>=:,;|~])
    [-+$€£¥]?\d[\d.,:/+%-]*(?:e[-+]?\d+)?
    \ ?(?:%|(?:ns|us|µs|ms|s|sec|min|h|[kmgt]?i?b|[kmg]?hz|°?[cf]|k?wh?|z)(?![A-Za-z0-9]))?
    (?![^\s()\[\]{}"'<>=:,;|~.!?%])
    """,
    re.VERBOSE | re.IGNORECASE,
)


class PayloadMalformed(ValueError):
    """The payload is not what its content type says.

    Attributes:
        line: Where, from 1.
        column: Where in that line, from 1.
    """

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"{problem} (line {line}, column {column})")
        self.line = line
        self.column = column


def describe(
    data_key: str, description: str, payload: bytes, content_type: str, event_type: str = ""
) -> str:
    """Says in words what an event is about.

    Args:
        data_key: Name of the datum; if it is empty the event type takes its place.
        description: The publisher's words, taken whole.
        payload: The fact. JSON and text are outlined, anything else is ignored.
        content_type: Media type of the payload; empty means JSON.
        event_type: The event's type.

    Returns:
        One line, at most the lengths of the key's words and the description and
        `OUTLINE_CHARS` together; the same for every payload that differs only in numbers,
        booleans, nulls, timestamps and ids. Some 5 µs for a small JSON object.

    Raises:
        PayloadMalformed: The payload is not JSON, or not UTF-8, but should be.
    """
    kind = _kind(content_type)
    if kind == "json":
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise PayloadMalformed(
                f"not valid JSON: {error.msg}", error.lineno, error.colno
            ) from None
        outline = _outline(value)
    elif kind == "text":
        outline = _leading(_decode(payload))
    else:
        outline = ""
    if description:
        description = " ".join(description.split()).rstrip(".")
    parts = (_words(data_key or event_type), description, outline)
    return ". ".join([part for part in parts if part]) or data_key or event_type


def text_digest(text: str, model_id: str) -> bytes:
    """Identifies a text under a model: the two have one embedding.

    Returns:
        `DIGEST_BYTES` bytes of BLAKE2b.
    """
    return blake2b(f"{model_id}\0{text}".encode(), digest_size=DIGEST_BYTES).digest()


@lru_cache(maxsize=1_024)
def _kind(content_type: str) -> Literal["json", "text", "opaque"]:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/json") or media_type.endswith("+json"):
        return "json"
    return "text" if media_type.startswith("text/") else "opaque"


def _decode(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        line_start = payload.rfind(b"\n", 0, error.start) + 1
        raise PayloadMalformed(
            "not valid UTF-8",
            payload.count(b"\n", 0, error.start) + 1,
            len(payload[line_start : error.start].decode()) + 1,
        ) from None


def _outline(value: Any) -> str:
    """Field names and short strings of a parsed JSON value.

    Level by level, so that a long first field does not crowd out its siblings and no depth
    overflows the stack.
    """
    parts: dict[str, None] = {}
    room = OUTLINE_CHARS
    budget = VALUES
    waiting: deque[tuple[str, Any]] = deque([("", value)])
    while waiting and budget:
        name, child = waiting.popleft()
        budget -= 1
        part = _name(name) if name else ""
        kind = type(child)
        if kind is str:
            phrase = _phrase(child if len(child) <= STRING_CHARS else _cut(child, STRING_CHARS))
            if phrase:
                part = f"{part} {phrase}" if part else phrase
        elif (kind is dict or kind is list) and len(waiting) < budget:
            waiting.extend(_children(child))
        if part and part not in parts:
            room -= len(part) + 2
            if room < 0:
                break
            parts[part] = None
    return ", ".join(parts)


def _children(container: Any) -> Iterable[tuple[str, Any]]:
    if type(container) is dict:
        return islice(container.items(), FIELDS_PER_OBJECT)
    return (("", element) for element in islice(container, ELEMENTS_PER_ARRAY))


def _leading(text: str) -> str:
    return _without_volatile(_cut(text, OUTLINE_CHARS))


def _name(name: str) -> str:
    return _words(name if len(name) <= STRING_CHARS else name[:STRING_CHARS])


@lru_cache(maxsize=16_384)
def _words(name: str) -> str:
    """An identifier as words: "apiConfig.base_url" is "api config base url"."""
    name = _without_volatile(name)
    return _SEPARATORS.sub(" ", _HUMP.sub(" ", name)).strip().lower()


@lru_cache(maxsize=16_384)
def _phrase(text: str) -> str:
    return _without_volatile(text)


def _without_volatile(text: str) -> str:
    """The text in one line, without timestamps, ids and numbers that stand alone."""
    if _DIGIT.search(text):
        text = _VOLATILE.sub(" ", text)
        if not _LETTER.search(text):
            return ""
    return " ".join(text.split())


def _cut(text: str, chars: int) -> str:
    """The beginning of a text, up to a word's end."""
    if len(text) <= chars:
        return text
    head, space, _ = text[: chars + 1].rpartition(" ")
    return head if space else text[:chars]

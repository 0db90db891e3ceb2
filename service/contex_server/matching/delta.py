"""When an update says something new to an agent."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import orjson

from contex_server.kernel.model import Event, MinDelta
from contex_server.matching.formats.media import Format, media
from contex_server.matching.payload_values import exact_json, may_be_inexact

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_ABSENT = object()


@lru_cache(maxsize=4_096)
def parse_pointer(text: str) -> tuple[str, ...]:
    """The reference tokens of a JSON pointer (RFC 6901); none for the whole document.

    Raises:
        ValueError: It is malformed.
    """
    if _POINTER.fullmatch(text) is None:
        if text[0] != "/":
            raise ValueError('must be empty or begin with "/"')
        raise ValueError('"~" must be followed by 0 or 1')
    return tuple([part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]])


def is_significant_update(previous: Event, event: Event, delta: MinDelta) -> bool:
    """Whether an update changes enough of its datum to be pushed.

    A deletion, the return from one, and another content type always count. JSON is compared by
    value: white space, the order of names and the notation of numbers don't matter, and absent is
    not null. Any other payload is compared by its bytes. Equal bytes are never parsed. The pointers
    of `delta` are valid.
    """
    if previous.deletes != event.deletes:
        return True
    if _content_type(previous) != _content_type(event):
        return True
    if previous.payload == event.payload:
        return False
    if media(event.content_type).format is not Format.JSON:
        return True
    try:
        before, after = orjson.loads(previous.payload), orjson.loads(event.payload)
        if may_be_inexact(previous.payload) or may_be_inexact(event.payload):
            # With all their digits: either has more than a double holds.
            before, after = exact_json(previous.payload), exact_json(event.payload)
    except ValueError:
        return True
    pointers = delta.json_pointers or ("",)
    return not all(
        _is_same(_at(before, tokens), _at(after, tokens)) for tokens in map(parse_pointer, pointers)
    )


def _content_type(event: Event) -> str:
    return event.content_type.lower() or "application/json"


def _at(value: Any, tokens: tuple[str, ...]) -> Any:
    for token in tokens:
        if type(value) is dict:
            value = value.get(token, _ABSENT)
        elif type(value) is list and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return _ABSENT
    return value


def _is_same(before: Any, after: Any) -> bool:
    """Equality of JSON: as Python's, but that true is not 1."""
    waiting = [(before, after)]
    while waiting:
        one, other = waiting.pop()
        kind = type(one)
        if kind is dict or kind is list or kind is bool:
            if kind is not type(other):
                return False
        elif type(other) is bool:
            return False
        if kind is dict:
            if one.keys() != other.keys():
                return False
            waiting.extend([(child, other[name]) for name, child in one.items()])
        elif kind is list:
            if len(one) != len(other):
                return False
            waiting.extend(zip(one, other, strict=True))
        elif one != other:
            return False
    return True

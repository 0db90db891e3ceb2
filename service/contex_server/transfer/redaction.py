"""Renames data keys and redacts payloads."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from contex_server.kernel.model import EventFilter


class RedactionAction(IntEnum):
    """The numbers are those of `contex.v1.RedactionAction`."""

    REMOVE = 1
    REPLACE = 2
    HASH = 3


@dataclass(frozen=True, slots=True)
class Redaction:
    """A value to redact.

    Attributes:
        keys: The data keys of the payloads.
        path: The parts of its JSON pointer; "*" stands for every element or member.
        replacement: The new value, for REPLACE.
    """

    keys: EventFilter
    path: tuple[str, ...]
    action: RedactionAction
    replacement: Any = None


@dataclass(frozen=True, slots=True)
class KeyMapping:
    """Replaces the prefix of data keys."""

    from_prefix: str
    to_prefix: str


def remap_key(data_key: str, mappings: Iterable[KeyMapping]) -> str:
    """The data key, renamed by the first mapping that applies."""
    for mapping in mappings:
        if data_key.startswith(mapping.from_prefix):
            return mapping.to_prefix + data_key[len(mapping.from_prefix) :]
    return data_key


def redact(data_key: str, payload: bytes, redactions: Iterable[Redaction], salt: bytes) -> bytes:
    """The payload with values redacted; the same object if there are none, or it is not JSON."""
    applicable = [r for r in redactions if r.keys.admits_key(data_key)]
    if not applicable or not payload:
        return payload
    try:
        holder = [json.loads(payload)]
    except (ValueError, RecursionError):
        return payload
    changed = [_apply(holder, ("0", *r.path), r, salt) for r in applicable]
    if not any(changed):
        return payload
    return json.dumps(holder[0], ensure_ascii=False, separators=(",", ":")).encode()


def _apply(value: Any, path: tuple[str, ...], redaction: Redaction, salt: bytes) -> bool:
    part, *rest = path
    if isinstance(value, dict):
        places: list[Any] = list(value) if part == "*" else [part] if part in value else []
    elif isinstance(value, list):
        places = list(range(len(value))) if part == "*" else _index(part, value)
    else:
        return False
    if rest:
        # Not any(): every place has to be visited.
        return sum(_apply(value[place], tuple(rest), redaction, salt) for place in places) > 0
    for place in places:
        match redaction.action:
            case RedactionAction.REPLACE:
                value[place] = redaction.replacement
            case RedactionAction.HASH:
                value[place] = _hashed(value[place], salt)
            case RedactionAction.REMOVE if isinstance(value, dict):
                del value[place]
            case RedactionAction.REMOVE:
                value[place] = None
    return bool(places)


def _index(part: str, value: list[Any]) -> list[int]:
    return [int(part)] if part.isascii() and part.isdigit() and int(part) < len(value) else []


def _hashed(value: Any, salt: bytes) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()[:16]

"""Filters of needs as they are stored, told apart and shown to people."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import orjson

from contex_server.kernel.model import EventFilter
from contex_server.matching.describe import DIGEST_BYTES

_MOST_WORDS = 1_000
"""Characters of a filter that is written out, as many as a need in words may have."""
_LISTS = ("event_types", "data_keys", "publishers", "type_prefixes")


def encode_filter(wanted: EventFilter) -> dict[str, Any]:
    """A filter as JSON: the parts that it has, each in order, so that equal ones look alike."""
    parts: dict[str, Any] = {name: sorted(getattr(wanted, name)) for name in _LISTS}
    parts["metadata"] = dict(sorted(wanted.metadata))
    parts["without_service"] = wanted.without_service
    return {name: part for name, part in parts.items() if part}


def decode_filter(record: dict[str, Any]) -> EventFilter:
    """Reads what `encode_filter` wrote.

    Raises:
        ValueError: It has a part that this version doesn't know: without it, too much would pass.
        AttributeError, TypeError: It is nothing that `encode_filter` wrote.
    """
    if type(record) is not dict:
        raise TypeError("a filter is an object")
    parts = dict(record)
    lists = {name: parts.pop(name, []) for name in _LISTS}
    metadata, without_service = parts.pop("metadata", {}), parts.pop("without_service", False)
    if parts:
        raise ValueError(f"a filter has no {min(parts)!r}")
    texts = [
        *metadata.keys(),
        *metadata.values(),
        *(text for each in lists.values() for text in each),
    ]
    if not all(type(each) is list for each in lists.values()) or type(without_service) is not bool:
        raise TypeError("a part of a filter is of another type")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a part of a filter is no text")
    return EventFilter(
        frozenset(lists["event_types"]),
        frozenset(lists["data_keys"]),
        frozenset(lists["publishers"]),
        type_prefixes=tuple(sorted(lists["type_prefixes"])),
        metadata=frozenset(metadata.items()),
        without_service=without_service,
    )


def filter_digest(wanted: EventFilter) -> bytes:
    """BLAKE2b of a filter; never equals that of a need in words, or of a description."""
    stored = orjson.dumps(encode_filter(wanted), option=orjson.OPT_SORT_KEYS)
    return blake2b(stored, digest_size=DIGEST_BYTES, person=b"filter").digest()


def filter_words(wanted: EventFilter) -> str:
    """A filter written out, as clients and commands do: `key=orders/*, type=order.paid`."""
    lists = {
        "key": wanted.data_keys,
        "type": wanted.event_types,
        "type-prefix": wanted.type_prefixes,
        "publisher": wanted.publishers,
        "meta": [f"{key}={value}" for key, value in wanted.metadata],
    }
    parts = [f"{name}={value}" for name, values in lists.items() for value in sorted(values)]
    if wanted.without_service:
        parts.append("no-service-events")
    words = ", ".join(parts) or "everything"
    return words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 1]}…"

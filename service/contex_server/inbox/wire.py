"""What an agent is told of an event, as bytes: `contex.v1.MatchedEvent` without its `event`.

They are made out of an inbox's entry as it is stored, by joining: what stays the same of a need is
made once. Making the messages takes ten times as long. `tests/unit/inbox/test_wire.py` holds it to
the real parser.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from contex.v1 import event_pb2

from contex_server.inbox.entry import COSINES, SHARES, UNKNOWN_VERSION, Head, Version
from contex_server.kernel.model import Change
from contex_server.kernel.protobuf import field, varint
from contex_server.matching.describe import Description

_MATCHES = 2 << 3 | 2
_PAYLOAD_OMITTED = bytes([3 << 3, 1])
_KINDS = {change: bytes([6 << 3, change]) for change in Change}
_MATCH_PARTS, _MATCH_PATH, _MATCH_PASSAGE = (number << 3 | 2 for number in (4, 5, 6))

_DOUBLE = 1
_SCORE = 3 << 3 | _DOUBLE
_COSINE, _MEAN, _DEVIATION, _STANDING, _USUAL, _COVERAGE, _EXPECTED, _LEXICAL, _SHARE = (
    number << 3 | _DOUBLE for number in (1, 4, 5, 6, 12, 13, 14, 7, 11)
)
_NUMBERS = struct.Struct("<" + 7 * "Bd")
"""Of ScoreParts, what differs from match to match."""
_RELATIVE_NUMBERS = struct.Struct("<" + 2 * "Bd")
_NUMBER = struct.Struct("<Bd")


def told(
    head: Head,
    texts: Mapping[str, str],
    versions: Mapping[int, Version],
    quotes: Mapping[int, bytes],
    *,
    omitted: bool = False,
) -> bytes:
    """What an entry tells.

    Args:
        texts: The words of needs by id.
        versions: What decisions were made by.
        quotes: The `quote` of each passage that decided.
        omitted: The event's payload is left out.
    """
    parts = [_KINDS[head.change]]
    if omitted:
        parts.append(_PAYLOAD_OMITTED)
    for raw, index in head.exact:
        parts.append(_exact(raw, index, texts.get(raw.hex(), "")))
    if head.worded:
        by = versions.get(head.version, UNKNOWN_VERSION)
        parts += [_worded(need, texts, by, quotes) for need in head.worded]
    return b"".join(parts)


@lru_cache(maxsize=4_096)
def _exact(raw: bytes, index: int, text: str) -> bytes:
    match = event_pb2.Match(need_index=index, need=text, score=1.0, need_id=raw.hex())
    return field(_MATCHES, match.SerializeToString())


def _worded(
    need: tuple[Any, ...],
    texts: Mapping[str, str],
    by: Version,
    quotes: Mapping[int, bytes],
) -> bytes:
    raw, index, score, passage, cosine, standing, mean, deviation, *rest = need
    usual, coverage, expected, threshold, *relative = rest
    text = texts.get(raw.hex(), "")
    start = _start(raw, index, text, threshold, by, len(relative))
    numbers = _NUMBERS.pack(
        _COSINE,
        COSINES[cosine],
        _MEAN,
        COSINES[mean],
        _DEVIATION,
        SHARES[deviation],
        _STANDING,
        round(standing, 3),
        _USUAL,
        COSINES[usual],
        _COVERAGE,
        SHARES[coverage],
        _EXPECTED,
        SHARES[expected],
    )
    if relative:
        lexical, share = relative
        numbers += _RELATIVE_NUMBERS.pack(_LEXICAL, round(lexical, 4), _SHARE, round(share, 3))
    score_field = _NUMBER.pack(_SCORE, round(score, 6))
    content = b"".join((start, numbers, score_field, quotes.get(passage, b"")))
    return field(_MATCHES, content)


def quote(description: Description, passage: int) -> bytes:
    """The fields of `contex.v1.Match` that quote a passage."""
    quoted = description.quoted(passage)
    path = field(_MATCH_PATH, quoted.path.encode()) if quoted.path else b""
    return path + field(_MATCH_PASSAGE, quoted.text.encode())


@lru_cache(maxsize=4_096)
def _start(
    raw: bytes, index: int, text: str, threshold: float, by: Version, relative: int
) -> bytes:
    """A match of a need up to the numbers of its parts, which follow."""
    match = event_pb2.Match(need_index=index, need=text, need_id=raw.hex())
    parts = event_pb2.ScoreParts(
        threshold=round(threshold, 6),
        model=by.model,
        scorer=by.scorer,
        background_passages=by.data,
        background_sequence="0" if by.background == "0-0" else by.background,
    ).SerializeToString()
    size = len(parts) + _NUMBERS.size + (_RELATIVE_NUMBERS.size if relative else 0)
    return match.SerializeToString() + bytes([_MATCH_PARTS]) + varint(size) + parts
